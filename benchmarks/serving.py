"""How fast the embedded Triton answers, and what that is of what it could be at most.

    python benchmarks/serving.py --quick               one short round of each, without peers
    python benchmarks/serving.py                       medians of 3 rounds (about 10 minutes)
    python benchmarks/serving.py --only memory load    some parts; the others stay as they were

Within a part every round measures all servers in turn, so that a slower moment hits all alike. The
load comes from h2load (scripts/install-h2load.sh), on the same machine. Each figure is printed with
its limit. Every part is written to ``benchmarks/results/serving.json`` when it is done, and from
there to docs/serving-speed.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from against import worktree
from in_process import in_process
from load import Endpoint, Figures, answer, grpc_endpoint, measure, median
from page import put
from peer_servers import PEERS, json_endpoint, started
from serving_networks import CASES, Case, larger_networks, publish, small_network
from serving_report import goals, markdown, report
from serving_servers import Served, floor, publish_floor, publish_small, served
from tritonclient.grpc import InferenceServerClient

from thresher_serving import find_runtime

PAGE = Path(__file__).parents[1] / "docs" / "serving-speed.md"
RESULTS = Path(__file__).parent / "results" / "serving.json"
BEFORE = "ac9bf2d"
"""The last commit whose backend ran models in Python processes."""
LOADS = 5

Run = Callable[[], Figures]


class Bench:
    """The servers of one run, each started when the first part asks for it."""

    def __init__(self, folder: Path, stack: ExitStack, *, quick: bool) -> None:
        self.folder, self.quick = folder, quick
        self.rounds, self.seconds = (1, 1.0) if quick else (3, 4.0)
        self._stack = stack
        self._started: dict[str, Any] = {}
        self.models = folder / "models"

    def say(self, text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)

    def _once(self, name: str, start: Callable[[], Any]) -> Any:
        if name not in self._started:
            self.say(f"starting {name}")
            self._started[name] = start()
        return self._started[name]

    def own(self) -> Served:
        """Return `thresher serve` of this tree, with all networks."""

        def start() -> Served:
            publish({"small": small_network(), **larger_networks()}, self.models)
            return self._stack.enter_context(served(self.models, self.folder / "own"))

        found: Served = self._once("thresher", start)
        return found

    def floor_url(self) -> str:
        def start() -> str:
            root = self.folder / "floor-models"
            publish({"small": small_network()}, root)
            publish_floor(root, like="small")
            return self._stack.enter_context(floor(root, self.folder / "floor"))

        url: str = self._once("the floor", start)
        return url

    def tree_before(self) -> Path:
        tree: Path = self._once(
            f"a worktree of {BEFORE}", lambda: self._stack.enter_context(worktree(BEFORE))
        )
        return tree

    def models_before(self) -> Path:
        def start() -> Path:
            publish_small(tree, self.folder / "models-before")
            return self.folder / "models-before"

        tree = self.tree_before()
        root: Path = self._once(f"the export of {BEFORE}", start)
        return root

    def before(self) -> Served:
        tree, root = self.tree_before(), self.models_before()
        found: Served = self._once(
            f"thresher of {BEFORE}",
            lambda: self._stack.enter_context(served(root, self.folder / "before", tree=tree)),
        )
        return found

    def peer(self, name: str, case: Case) -> Endpoint | None:
        """Return the request to a peer; None, with a line, where it does not start."""
        (peer,) = (peer for peer in PEERS if peer.name == name)

        def start() -> str | None:
            file = self.models / "small" / "1" / "model.onnx"
            try:
                return self._stack.enter_context(started(peer, self.folder / name, file))
            except (RuntimeError, OSError) as error:
                self.say(f"{name} is left out: {error}")
                return None

        address: str | None = self._once(name, start)
        if address is None:
            return None
        if peer.is_grpc:
            return grpc_endpoint(address, "small", case.inputs, ())
        return json_endpoint(address, case.inputs["x"])


def checked(bench: Bench, case: Case, name: str, endpoint: Endpoint) -> None:
    """Raise unless a server's answer is the one that ONNX Runtime gives in this process."""
    if not endpoint.is_grpc:
        return  # JSON: json_endpoint has looked at the answer
    got = answer(endpoint)
    file = bench.models / case.model / "1" / "model.onnx"
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
    probabilities, labels = session.run(["probabilities", "labels"], case.inputs)
    if name == "floor":
        probabilities, labels = np.zeros_like(probabilities), np.zeros_like(labels)
    right = np.allclose(got["probabilities"], probabilities, atol=1e-5)
    near = np.abs(probabilities - 0.5) < 1e-5
    if not right or ("labels" in got and not np.array_equal(got["labels"] | near, labels | near)):
        raise RuntimeError(f"{name}, {case.name}: the answer is wrong")


def measure_case(bench: Bench, case: Case) -> dict[str, Any]:
    """Return what each server does in a case, the median of the rounds."""
    file = bench.models / case.model / "1" / "model.onnx"
    endpoints = {"thresher": grpc_endpoint(bench.own().url, case.model, case.inputs)}
    runs: dict[str, Run] = {}
    if case.model == "small":
        endpoints["floor"] = grpc_endpoint(bench.floor_url(), "floor", case.inputs)
        endpoints["before"] = grpc_endpoint(bench.before().url, "small", case.inputs)
        if case.rows == 1 and not bench.quick:
            for peer in PEERS:
                if (endpoint := bench.peer(peer.name, case)) is not None:
                    endpoints[peer.name] = endpoint
        runs["arithmetic"] = lambda: in_process(
            file, case.inputs, seconds=bench.seconds / 2, processes=os.cpu_count() or 1, threads=1
        )
    else:
        runs["in process"] = lambda: in_process(file, case.inputs, seconds=bench.seconds)
    for name, endpoint in endpoints.items():
        checked(bench, case, name, endpoint)
        runs[name] = lambda endpoint=endpoint: measure(  # type: ignore[misc]
            endpoint, clients=case.clients, seconds=bench.seconds
        )
    found: dict[str, list[Figures]] = {name: [] for name in runs}
    for number in range(bench.rounds):
        for name, run in runs.items():
            found[name].append(run())
            figures = found[name][-1]
            bench.say(f"{case.name}, round {number + 1}, {name}: {figures.per_s:,.0f}/s")
    for name, endpoint in endpoints.items():
        checked(bench, case, name, endpoint)
    _none_failed(bench.own().url)
    return {
        name: {**dataclasses.asdict(median(some)), "runs_per_s": [one.per_s for one in some]}
        for name, some in found.items()
    }


def _none_failed(url: str) -> None:
    """Raise if the server counted a failed request: h2load does not see gRPC's status."""
    with InferenceServerClient(url) as client:
        statistics_of = client.get_inference_statistics()
    for model in statistics_of.model_stats:
        if failed := model.inference_stats.fail.count:
            raise RuntimeError(f"{model.name}: {failed} requests failed")


def measure_memory(bench: Bench) -> dict[str, float]:
    """Return the MiB that `thresher serve` of both trees takes with one small model, after load."""
    case = CASES["small 1 x 32"]
    root = bench.folder / "one-model"
    publish({"small": small_network()}, root)
    trees = {"thresher": (root, None), "before": (bench.models_before(), bench.tree_before())}
    found: dict[str, list[float]] = {name: [] for name in trees}
    for number in range(bench.rounds):
        for name, (models, tree) in trees.items():
            options = {} if tree is None else {"tree": tree}
            with served(models, bench.folder / f"memory-{name}-{number}", **options) as server:
                endpoint = grpc_endpoint(server.url, "small", case.inputs)
                measure(endpoint, clients=case.clients, seconds=1)
                found[name].append(server.pss_mib())
                bench.say(f"memory of {name}: {found[name][-1]:.1f} MiB")
    return {name: statistics.median(some) for name, some in found.items()}


def measure_load(bench: Bench) -> dict[str, float]:
    """Return the seconds that a load of the small network takes in a server that is up."""
    took = []
    with InferenceServerClient(bench.own().url) as client:
        for _ in range(LOADS):
            client.unload_model("small")
            while _state(client, "small") != "UNAVAILABLE":
                time.sleep(0.01)
            start = time.perf_counter()
            client.load_model("small")
            took.append(time.perf_counter() - start)
            answer(grpc_endpoint(bench.own().url, "small", CASES["small 1 x 32"].inputs))
    bench.say(f"load of the small network: {', '.join(f'{one:.3f}' for one in took)} s")
    return {"seconds": statistics.median(took)}


def _state(client: InferenceServerClient, name: str) -> str:
    index = client.get_model_repository_index().models
    (state,) = {model.state for model in index if model.name == name}
    return str(state)


def measure_live(bench: Bench) -> dict[str, Any]:
    """Return the seconds from a registered version to its first answer; see serving_live.py."""
    from serving_live import seconds_to_live

    return seconds_to_live(bench.folder / "live", rounds=bench.rounds, say=bench.say)


PARTS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    **{name: lambda bench, case=case: measure_case(bench, case) for name, case in CASES.items()},  # type: ignore[misc]
    "memory": measure_memory,
    "load": measure_load,
    "live": measure_live,
}


@contextmanager
def bench_of(*, quick: bool) -> Iterator[Bench]:
    with tempfile.TemporaryDirectory(prefix="thresher-serving-") as folder, ExitStack() as stack:
        yield Bench(Path(folder), stack, quick=quick)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one short round; writes nothing")
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", default=list(PARTS))
    given = parser.parse_args()
    results: dict[str, Any] = {}
    if RESULTS.is_file() and not given.quick:
        results = json.loads(RESULTS.read_text())
    with bench_of(quick=given.quick) as bench:
        if (load := os.getloadavg()[0]) > 1:
            bench.say(f"Warning: load average {load:.1f}: other programs take part of the machine")
        for name in given.only:
            results[name] = PARTS[name](bench)
            results[name]["date"] = datetime.datetime.now(datetime.UTC).date().isoformat()
            if not given.quick:
                results["machine"] = machine()
                RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(report(results))
    if not given.quick:
        write_page(results)
        sys.exit(not all(goal.is_met for goal in goals(results)))


def machine() -> dict[str, str]:
    """Return what a figure depends on, besides the code."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    (model, *_) = re.findall(r"model name\s*: (.*)", cpuinfo) or [platform.machine()]
    h2load = subprocess.run(["h2load", "--version"], capture_output=True, text=True, check=False)
    return {
        f"{os.cpu_count()} cores": model,
        "Triton": find_runtime().version,
        "ONNX Runtime": ort.__version__,
        "Python": platform.python_version(),
        "h2load": h2load.stdout.strip().removeprefix("h2load "),
    }


def write_page(results: dict[str, Any]) -> None:
    speeds, reached = markdown(results)
    dates = sorted({results[name]["date"] for name in PARTS if name in results})
    when = " to ".join(dict.fromkeys((dates[0], dates[-1])))
    about = ", ".join([when, *(f"{name} {value}" for name, value in results["machine"].items())])
    put(PAGE, "serving", f"{about}.\n\n{reached}\n\n{speeds}")


if __name__ == "__main__":
    main()
