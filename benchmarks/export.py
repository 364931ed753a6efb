"""What exporting costs: a whole registry in one job, and writing a model with its head.

    python benchmarks/export.py --jobs           # 500 registered models, 5 of them poisoned
    python benchmarks/export.py --jobs --quick   # 40 of them
    python benchmarks/export.py --write          # appending a head to 100 MB; a new head at 2 GB

Numbers go to benchmarks/results/export_jobs.json and export_write.json, with the load of the
machine while they were taken: on one that is busy with other things, scaling is measured too low.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx import TensorProto, helper

from thresher import Decision

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
sys.path.insert(0, str(ROOT / "tests"))  # the registry of many models that the tests use

TIME_LIMIT_S = 60
MEMORY_LIMIT_MB = 1200


def measure_jobs(*, num_models: int, num_scaling: int, repeats: int) -> dict[str, Any]:
    """Return what a job costs on a registry that is made for it."""
    with tempfile.TemporaryDirectory(prefix="thresher-benchmark-") as temporary:
        folder = Path(temporary)
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder / 'mlflow.db'}"
        start = time.perf_counter()
        poisoned = _make_registry(folder, num_models)
        found: dict[str, Any] = {
            "models": num_models,
            "poisoned": poisoned,
            "seconds_to_make_the_registry": _rounded(time.perf_counter() - start),
        }
        print(f"{num_models} models registered in {found['seconds_to_make_the_registry']} s")
        found["scaling"] = _scaling(folder, num_scaling, repeats)
        everything = _job(folder, "models", "--jobs", "2")
        found["all"] = _without_versions(everything)
        failed = {v["name"]: v["cause"] for v in everything["versions"] if v["status"] == "failed"}
        found["all"]["failed"] = failed
        found["all"]["ok"] = sorted(failed) == sorted(poisoned)
        print(f"all, --jobs 2: {everything['counts']} in {everything['wall_s']} s; failed {failed}")
        again = [
            _job(folder, "models", "--jobs", "2", "--filter", "name LIKE 'model-%'")
            for _ in range(repeats)
        ]
        found["again"] = {
            "counts": again[0]["counts"],
            "wall_s": [run["wall_s"] for run in again],
            "median_wall_s": statistics.median(run["wall_s"] for run in again),
            "goal_s": 30,
        }
        print(f"again: {again[0]['counts']} in {found['again']['wall_s']} s (goal: under 30)")
    return found


def _make_registry(folder: Path, num_models: int) -> dict[str, str]:
    """Register the models; return the poisoned ones' names with what is wrong with each."""
    from support.many import EATS, EXITS, HANGS, Registry
    from thresher.registry import connect

    connect().create_experiment("tests", artifact_location=(folder / "artifacts").as_uri())
    registry = Registry(num_rows=150)
    registry.add("bad-conversion", is_frozen=True)
    registry.add("bad-parity", logits_are_off=True)
    registry.add("bad-hangs", runs=HANGS)
    registry.add("bad-memory", runs=EATS)
    registry.add("bad-exit", runs=EXITS)
    for k in range(num_models - 5):
        registry.add(f"model-{k:04d}")
    return {
        "bad-conversion": "frozen batch axis",
        "bad-parity": "logged logits are not the program's",
        "bad-hangs": "never ends",
        "bad-memory": "eats memory",
        "bad-exit": "ends its worker",
    }


def _scaling(folder: Path, num_scaling: int, repeats: int) -> dict[str, Any]:
    """Return how much faster two workers are than one, on models that are good.

    The time in which workers import torch and convert their first model is a constant, which 500
    models hide and a subset does not; it is told, and left out of the steady rate.
    """
    runs: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
    for repeat in range(repeats):
        for workers in (1, 2):
            run = _job(
                folder,
                f"scaling-{workers}-{repeat}",
                *("--jobs", str(workers), "--filter", f"name LIKE 'model-{_prefix(num_scaling)}'"),
            )
            runs[workers].append(_without_versions(run) | {"steady_per_s": _steady(run)})
            print(
                f"--jobs {workers}: {run['counts']} in {run['wall_s']} s, "
                f"{_steady(run)} versions a second once warm, load {run['load']}"
            )

    def median(workers: int, key: str) -> float:
        return statistics.median(run[key] for run in runs[workers])

    return {
        "runs": {str(workers): found for workers, found in runs.items()},
        "wall_ratio": _rounded(median(1, "wall_s") / median(2, "wall_s")),
        "steady_ratio": _rounded(median(2, "steady_per_s") / median(1, "steady_per_s")),
        "goal": 1.7,
    }


def _prefix(num_scaling: int) -> str:
    """Return the pattern of the first 10 or 100 models."""
    return {10: "000_", 100: "00__"}[num_scaling]


def _steady(run: dict[str, Any]) -> float:
    """Return versions a second after each worker's first."""
    warm = run["finished_at"][run["workers"] - 1 :]
    return _rounded((len(warm) - 1) / (warm[-1] - warm[0])) if len(warm) > 1 else float("nan")


def _job(folder: Path, models: str, *options: str) -> dict[str, Any]:
    """Run `thresher export --all` as a user does; return its report and times."""
    command = [sys.executable, "-m", "thresher", "export", "--all", "--log-json", "--report", "job"]
    command += ["--time-limit", str(TIME_LIMIT_S), "--memory-limit", str(MEMORY_LIMIT_MB)]
    start, load, cpu = time.perf_counter(), os.getloadavg()[0], os.times()
    process = subprocess.Popen(
        [*command, "--repository", models, *options],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    lines = (json.loads(line) for line in process.stderr if line.startswith("{"))
    finished_at = [time.perf_counter() for line in lines if line["event"] == "version_finished"]
    process.wait()
    report: dict[str, Any] = json.loads((folder / "job.json").read_text())
    after = os.times()
    used = after.children_user + after.children_system - cpu.children_user - cpu.children_system
    return {
        **report,
        "finished_at": finished_at,
        "exit_code": process.returncode,
        "wall_s": _rounded(time.perf_counter() - start),
        "cpu_s": _rounded(used),
        "load": [_rounded(load), _rounded(os.getloadavg()[0])],
    }


def _without_versions(run: dict[str, Any]) -> dict[str, Any]:
    keys = ("counts", "wall_s", "cpu_s", "load", "exit_code", "workers", "workers_replaced")
    return {key: run[key] for key in keys}


def measure_writing(*, megabytes: int, repeats: int) -> dict[str, Any]:
    """Return what appending and replacing a head cost beside a plain load and save.

    Each side loads a logits model from a file and writes the result to another, in turn. Where
    there is memory that is a file system, the source lies there: on one and the same, thresher
    would link the weights rather than write them. Replacing does link them.
    """
    import onnx

    from thresher_export import append_decision_head, replace_decision_head
    from thresher_export.onnx_file import load_model, save_model

    labels = [f"label-{k}" for k in range(28)]
    decision = Decision(labels=labels, thresholds=[0.4] * 28)
    other = Decision(labels=labels, thresholds=[0.6] * 28)
    times: dict[str, list[float]] = {"plain": [], "append": [], "replace": []}
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 -- a benchmark
    with (
        tempfile.TemporaryDirectory(prefix="thresher-benchmark-") as temporary,
        tempfile.TemporaryDirectory(prefix="thresher-benchmark-", dir=memory) as elsewhere,
    ):
        source = Path(elsewhere) / "model.onnx"
        save_model(_logits_model(megabytes, len(labels)), source)
        for repeat in range(repeats):
            folders = {what: Path(temporary) / f"{what}-{repeat}" for what in times}
            for folder in folders.values():
                folder.mkdir()

            def plain() -> None:
                model = onnx.load(source)
                target = folders["plain"] / "model.onnx"  # noqa: B023 -- called at once
                onnx.save(model, target, save_as_external_data=True, location="model.onnx.data")

            def append() -> None:
                model = append_decision_head(load_model(source), decision)
                save_model(model, folders["append"] / "model.onnx")  # noqa: B023

            def replace() -> None:
                model = load_model(folders["append"] / "model.onnx")  # noqa: B023
                save_model(
                    replace_decision_head(model, other),
                    folders["replace"] / "model.onnx",  # noqa: B023
                )

            for what, run in (("plain", plain), ("append", append), ("replace", replace)):
                start = time.perf_counter()
                run()
                times[what].append(_rounded(time.perf_counter() - start))
    medians = {what: statistics.median(taken) for what, taken in times.items()}
    found = {
        "megabytes": megabytes,
        "seconds": times,
        "median_s": medians,
        "append_ratio": _rounded(medians["append"] / medians["plain"]),
        "goal_append_ratio": 1.5,
        "goal_replace_s": 1.0,
    }
    print(
        f"{megabytes} MB: load + save {medians['plain']} s, with a head {medians['append']} s "
        f"({found['append_ratio']}x), new head on the same body {medians['replace']} s"
    )
    return found


def _logits_model(megabytes: int, num_labels: int) -> ir.Model:
    """Return a logits network whose weights fill so much, in layers of 16 MB."""
    width = 2048
    num_layers = max(1, megabytes * 10**6 // (4 * width * width))
    rng = np.random.default_rng(0)
    nodes, tensors = [], []
    previous = "features"
    for k in range(num_layers):
        weight = rng.normal(size=(width, width)).astype(np.float32)
        tensors.append(ir.tensor(weight, name=f"weight_{k}"))
        nodes.append(helper.make_node("MatMul", [previous, f"weight_{k}"], [f"hidden_{k}"]))
        previous = f"hidden_{k}"
    last = rng.normal(size=(width, num_labels)).astype(np.float32)
    tensors.append(ir.tensor(last, name="last"))
    nodes.append(helper.make_node("MatMul", [previous, "last"], ["logits"]))
    names = [tensor.name for tensor in tensors]
    graph = helper.make_graph(
        nodes,
        "network",
        [
            helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", width]),
            *(helper.make_tensor_value_info(str(n), TensorProto.FLOAT, [1]) for n in names),
        ],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", num_labels])],
    )
    opsets = [helper.make_opsetid("", 20)]
    model = ir.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=10))
    # weights never pass through protobuf, which ends at 2 GB
    values = {value.name: value for value in model.graph.inputs[1:]}
    del model.graph.inputs[1:]
    for tensor in tensors:
        value = values[tensor.name]
        value.const_value, value.shape = tensor, ir.Shape(tensor.shape)
        model.graph.register_initializer(value)
    return model


def _rounded(value: float) -> float:
    return round(value, 3)


def _write(name: str, found: Any) -> None:
    machine = {"cpus": os.cpu_count(), "python": platform.python_version()}
    content = {"machine": machine, "load": [round(x, 2) for x in os.getloadavg()], **found}
    path = RESULTS / name
    path.write_text(json.dumps(content, indent=1) + "\n")
    print(path.relative_to(ROOT))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", action="store_true", help="a whole registry")
    parser.add_argument("--write", action="store_true", help="writing a model with its head")
    parser.add_argument("--repeats", type=int, help="runs of which medians are told")
    parser.add_argument("--quick", action="store_true", help="less of it, in about two minutes")
    asked = parser.parse_args()
    if not (asked.jobs or asked.write):
        parser.error("say what is measured: --jobs, --write")
    if asked.write:
        sizes = (100,) if asked.quick else (100, 2100)
        _write("export_write.json", {
            "sizes": [measure_writing(megabytes=size, repeats=asked.repeats or 3) for size in sizes]
        })  # fmt: skip
    if asked.jobs:
        if asked.quick:
            found = measure_jobs(num_models=40, num_scaling=10, repeats=asked.repeats or 1)
        else:
            found = measure_jobs(num_models=500, num_scaling=100, repeats=asked.repeats or 3)
        _write("export_jobs.json", found)


if __name__ == "__main__":
    main()
