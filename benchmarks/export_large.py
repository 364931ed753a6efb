"""How much memory an export takes, against the size of the weights.

Makes a network of linear layers of a given size, logs it as MLflow does (pt2), and in a process of
its own converts it, appends the head and writes it; in another it proves parity on a few rows::

    python benchmarks/export_large.py --gb 0.5
    python benchmarks/export_large.py --gb 2.5     above protobuf's limit of 2 GB; needs 8 GB

Prints peak memory above what the imports take, and writes ``benchmarks/results/export_large.json``
(a line for each size); exits with 1 above 2.5 times the weights.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results" / "export_large.json"
MOST = 2.5
"""Peak memory may be this many times the weights."""

WIDTH, NUM_LABELS, NUM_ROWS = 4096, 8, 16
LAYER_BYTES = 4 * WIDTH * WIDTH


def make(folder: Path, num_layers: int) -> None:
    """Write ``model.pt2`` and rows with torch's logits."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(num_layers):
        layers += [nn.Linear(WIDTH, WIDTH, bias=False), nn.ReLU()]
    network = nn.Sequential(*layers, nn.Linear(WIDTH, NUM_LABELS)).eval()
    rows = torch.randn(NUM_ROWS, WIDTH)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.export.export(
            network, (rows[:3],), dynamic_shapes=[{0: torch.export.Dim.AUTO}]
        )
        np.savez(folder / "rows.npz", x=rows.numpy(), logits=network(rows).numpy())
        torch.export.save(program, folder / "model.pt2")


def convert(folder: Path, precision: str) -> None:
    from thresher_export.convert import convert, load_program
    from thresher_export.head import append_decision_head
    from thresher_export.onnx_file import save_model
    from thresher_export.precision import check_precision, lower_precision

    begin = Peak()
    program = load_program(folder / "model.pt2")
    model = lower_precision(convert(program), check_precision(precision))
    save_model(append_decision_head(model, decision()), folder / "model.onnx")
    begin.tell()


def prove(folder: Path) -> None:
    from thresher.evaluation import EvaluationSplit
    from thresher_export import prove_parity
    from thresher_export.convert import load_program

    with np.load(folder / "rows.npz") as file:
        rows = EvaluationSplit(
            inputs={"input": file["x"]},
            targets_NL=np.zeros_like(file["logits"]),
            logits_NL=file["logits"],
        )
    begin = Peak()
    program = load_program(folder / "model.pt2")
    (name,) = program.graph_signature.user_inputs
    rows = EvaluationSplit(
        inputs={name: rows.inputs["input"]}, targets_NL=rows.targets_NL, logits_NL=rows.logits_NL
    )
    report = prove_parity(
        program, folder / "model.onnx", decision(), {"test": rows}, max_batch_size=8
    )
    report.raise_if_failed("benchmark")
    begin.tell()


def decision() -> Any:
    from thresher import Decision

    return Decision(labels=[f"label {k}" for k in range(NUM_LABELS)], thresholds=[0.5] * NUM_LABELS)


class Peak:
    """Peak memory from here on: all of it, and what no file backs (a mapped file costs no swap)."""

    def __init__(self) -> None:
        import onnxruntime  # noqa: F401 -- what the imports take is not counted
        import torch.onnx  # noqa: F401

        self._start, self._before, self._anonymous = time.perf_counter(), self._now(), 0
        self._at_start, self._done = self._before[1], threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    @staticmethod
    def _now() -> tuple[int, int]:
        """Return resident and anonymous memory in bytes."""
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        found = dict(line.split(":", 1) for line in lines)
        return tuple(1024 * int(found[key].split()[0]) for key in ("VmRSS", "RssAnon"))  # type: ignore[return-value]

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            self._anonymous = max(self._anonymous, self._now()[1])

    def tell(self) -> None:
        """Print peaks and time as JSON."""
        self._done.set()
        self._thread.join()
        peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(
            json.dumps(
                {
                    "peak_bytes": peak - self._before[0],
                    "anonymous_bytes": self._anonymous - self._at_start,
                    "seconds": time.perf_counter() - self._start,
                }
            )
        )


def in_process(*arguments: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, __file__, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    if done.returncode:
        sys.exit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1]) if done.stdout else {}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gb", type=float, default=0.5)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    num_layers = max(1, round(given.gb * 1e9 / LAYER_BYTES))
    if given.step:
        step, folder = given.step[0], Path(given.step[1])
        steps = {
            "make": lambda: make(folder, num_layers),
            "convert": lambda: convert(folder, given.precision),
            "prove": lambda: prove(folder),
        }
        steps[step]()
        return
    weights = num_layers * LAYER_BYTES
    with tempfile.TemporaryDirectory() as folder:
        options = ("--gb", str(given.gb), "--precision", given.precision, "--step")
        in_process(*options, "make", folder)
        found = {"convert": in_process(*options, "convert", folder)}
        files = {p.name: p.stat().st_size for p in Path(folder).glob("model.onnx*")}
        if given.precision == "fp32":
            found["prove"] = in_process(*options, "prove", folder)
    key = f"{weights / 1e9:.2f} GB, {given.precision}"
    row: dict[str, Any] = {"weights_bytes": weights, "files": files}
    for step, figures in found.items():
        row[step] = {**figures, "times_weights": figures["peak_bytes"] / weights}
        print(
            f"{key}: {step}: {figures['seconds']:.1f} s, peak {row[step]['times_weights']:.2f} "
            f"times the weights (without mapped files "
            f"{figures['anonymous_bytes'] / weights:.2f})"
        )
    known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({**known, key: row}, indent=1) + "\n", encoding="utf-8")
    if any(row[step]["times_weights"] > MOST for step in found):
        sys.exit(f"peak memory is above {MOST} times the weights")


if __name__ == "__main__":
    main()
