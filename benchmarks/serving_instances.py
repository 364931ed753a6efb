"""Which number of instances, and of threads in each, serves a network best on this machine.

    python benchmarks/serving_instances.py --quick
    python benchmarks/serving_instances.py           medians of 3 rounds (about 12 minutes)

Every setting is a model of its own in one `thresher serve`; each round asks all in turn. What
export writes by default was chosen from this table. Requests per second, and p99 in ms.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from load import Figures, answer, grpc_endpoint, measure, median
from serving_networks import Case, larger_networks, publish, small_network
from serving_servers import served

from thresher_export.triton_options import TritonOptions

SETTINGS = [(count, threads) for count in (1, 2, 4) for threads in (1, 0)]
"""Instances, and threads in each; 0 takes one a core."""
LOADS = {"small": ((1, 32), (64, 8)), "digits": ((1, 32), (64, 4)), "MiniLM": ((1, 32), (32, 4))}
"""Rows in a request and clients, by network."""


def name_of(network: str, count: int, threads: int) -> str:
    return f"{network}-{count}-{threads}"


def publish_all(root: Path, networks: list[str]) -> None:
    models = {"small": small_network()}
    if set(networks) - {"small"}:
        models |= larger_networks()
    for network in networks:
        for count, threads in SETTINGS:
            config = {"parameters": {"intra_op_thread_count": str(threads)}}
            options = TritonOptions(instance_count=count, config=config)
            publish({name_of(network, count, threads): models[network]}, root, options=options)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--networks", nargs="+", default=list(LOADS), choices=LOADS)
    given = parser.parse_args()
    rounds, seconds = (1, 1.0) if given.quick else (3, 3.0)
    with tempfile.TemporaryDirectory(prefix="thresher-instances-") as folder:
        publish_all(Path(folder) / "models", given.networks)
        with served(Path(folder) / "models", Path(folder) / "run") as server:
            for network in given.networks:
                for rows, clients in LOADS[network]:
                    case = Case(network, rows, clients)
                    endpoints = {
                        setting: grpc_endpoint(server.url, name_of(network, *setting), case.inputs)
                        for setting in SETTINGS
                    }
                    found: dict[tuple[int, int], list[Figures]] = {one: [] for one in SETTINGS}
                    for number in range(rounds):
                        print(f"{case.name}, round {number + 1}", file=sys.stderr, flush=True)
                        for setting, endpoint in endpoints.items():
                            answer(endpoint)
                            found[setting].append(
                                measure(endpoint, clients=clients, seconds=seconds)
                            )
                    for (count, threads), runs in found.items():
                        middle = median(runs)
                        print(
                            f"{case.name:14}  {count} x {threads or 'all'} threads  "
                            f"{middle.per_s:9,.1f}/s  p99 {middle.p99_ms:7.2f} ms",
                            flush=True,
                        )


if __name__ == "__main__":
    main()
