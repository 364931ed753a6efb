"""Which number of instances, and of threads in each, serves a network best on this machine.

    python benchmarks/serving_instances.py --quick
    python benchmarks/serving_instances.py           medians of 3 rounds (about 9 minutes)

Every setting is a model of its own in one `thresher serve`; each round asks all in turn. What
export writes by default was chosen from this table, which goes to docs/serving-speed.md: requests
per second.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from load import Figures, answer, grpc_endpoint, measure, median
from page import put, table
from serving_networks import Case, larger_networks, publish, small_network
from serving_servers import served

from thresher_export.triton_options import TritonOptions

PAGE = Path(__file__).parents[1] / "docs" / "serving-speed.md"
SETTINGS = [(count, threads) for count in (1, 2, 4) for threads in (1, 0)]
"""Instances, and threads in each; 0 takes one a core."""
LOADS = {"small": ((1, 32), (64, 8)), "digits": ((1, 32), (64, 4)), "MiniLM": ((1, 32), (32, 4))}
"""Rows in a request and clients, by network."""


def name_of(network: str, count: int, threads: int) -> str:
    return f"{network}-{count}-{threads}"


def publish_all(root: Path) -> None:
    models = {"small": small_network(), **larger_networks()}
    for network in LOADS:
        for count, threads in SETTINGS:
            config = {"parameters": {"intra_op_thread_count": str(threads)}}
            options = TritonOptions(instance_count=count, config=config)
            publish({name_of(network, count, threads): models[network]}, root, options=options)


def measured(url: str, case: Case, *, rounds: int, seconds: float) -> dict[str, Figures]:
    """Return the medians of each setting, by its words."""
    endpoints = {
        setting: grpc_endpoint(url, name_of(case.model, *setting), case.inputs)
        for setting in SETTINGS
    }
    found: dict[tuple[int, int], list[Figures]] = {setting: [] for setting in SETTINGS}
    for number in range(rounds):
        print(f"{case.name}, round {number + 1}", file=sys.stderr, flush=True)
        for setting, endpoint in endpoints.items():
            answer(endpoint)  # an error would be counted as an answer
            found[setting].append(measure(endpoint, clients=case.clients, seconds=seconds))
    return {
        f"{count} x {threads or 'all'}": median(runs) for (count, threads), runs in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one short round; writes nothing")
    given = parser.parse_args()
    rounds, seconds = (1, 1.0) if given.quick else (3, 3.0)
    rows = []
    with tempfile.TemporaryDirectory(prefix="thresher-instances-") as folder:
        publish_all(Path(folder) / "models")
        with served(Path(folder) / "models", Path(folder) / "run") as server:
            for network, loads in LOADS.items():
                for num_rows, clients in loads:
                    case = Case(network, num_rows, clients)
                    found = measured(server.url, case, rounds=rounds, seconds=seconds)
                    for setting, one in found.items():
                        print(
                            f"{case.name:14}  {setting:8} {one.per_s:9,.1f}/s  "
                            f"p99 {one.p99_ms:7.2f} ms",
                            flush=True,
                        )
                    rows.append([case.name, *(f"{one.per_s:,.0f}" for one in found.values())])
    if not given.quick:
        put(PAGE, "serving_instances", table(["instances x threads of each", *found], rows))


if __name__ == "__main__":
    main()
