"""ONNX Runtime by itself, batch after batch, in processes without a server.

python benchmarks/in_process.py MODEL.onnx INPUTS.npz --seconds 4 --threads 1
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort
from load import Figures

__all__ = ["in_process"]

WARM_UP_S = 0.5


def in_process(
    file: Path,
    inputs: dict[str, np.ndarray],
    *,
    seconds: float,
    processes: int = 1,
    threads: int = 0,
) -> Figures:
    """Return the batches a second of some processes at once, all together.

    Args:
        file: The model.
        inputs: One batch by input.
        seconds: How long is measured.
        processes: How many processes compute at the same time.
        threads: Of each; 0 takes a thread a core.
    """
    with tempfile.TemporaryDirectory() as temporary:
        batch = Path(temporary) / "batch.npz"
        np.savez(batch, allow_pickle=False, **inputs)
        command = [sys.executable, __file__, str(file), str(batch)]
        command += [f"--seconds={seconds}", f"--threads={threads}"]
        started = [
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)
        ]
        printed = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise RuntimeError(f"{' '.join(command)} failed")
    found = [json.loads(line) for line in printed]
    return Figures(
        per_s=sum(one["per_s"] for one in found),
        p50_ms=max(one["p50_ms"] for one in found),
        p99_ms=max(one["p99_ms"] for one in found),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("inputs")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--threads", type=int, required=True)
    given = parser.parse_args()
    inputs = dict(np.load(given.inputs))
    options = ort.SessionOptions()
    options.intra_op_num_threads = given.threads
    session = ort.InferenceSession(given.model, options, providers=["CPUExecutionProvider"])
    outputs = ["probabilities", "labels"]
    end = time.perf_counter() + WARM_UP_S
    while time.perf_counter() < end:
        session.run(outputs, inputs)
    took = []
    end = time.perf_counter() + given.seconds
    while (start := time.perf_counter()) < end:
        session.run(outputs, inputs)
        took.append(time.perf_counter() - start)
    p50, p99 = np.percentile(took, [50, 99]) * 1000
    figures = Figures(per_s=len(took) / sum(took), p50_ms=float(p50), p99_ms=float(p99))
    print(json.dumps(dataclasses.asdict(figures)))


if __name__ == "__main__":
    main()
