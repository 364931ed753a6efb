"""How fast F1 thresholds are found for every label, and in how much memory.

Exact and streaming engines against a loop over scikit-learn's ``precision_recall_curve`` and
against NumPy's argsort of the matrix alone, on the same rows in the same run::

    python benchmarks/thresholds.py --quick          100,000 rows x 100 labels
    python benchmarks/thresholds.py                  and 1,000,000 x 1,000 (10 GB of memory)
    python benchmarks/thresholds.py --real yeast     and a real data set's scores

On 1,000,000 x 1,000 the two peers run on a sample of labels and are scaled; the table says so.
Prints a table and writes ``benchmarks/results/thresholds.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
from sklearn.metrics import precision_recall_curve

from thresher.decision import sigmoid
from thresher.scores import ScoreHistograms
from thresher_training.decisions import best_cuts, parse_objective
from thresher_training.decisions.streamed import best_cuts_of_histograms

RESULTS = Path(__file__).resolve().parent / "results" / "thresholds.json"
CHUNK = 1 << 15
PEER_LABELS = 20
F1 = parse_objective("f1")


def peak_bytes(what: Callable[[], Any]) -> tuple[Any, int | None]:
    """Return what a call gives, and by how much it raised the resident memory at its peak."""

    def resident(key: str) -> int:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))

    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak starts anew
        before = resident("VmRSS")
    except OSError:
        return what(), None
    found = what()
    return found, resident("VmHWM") - before


def timed(what: Callable[[], Any], repeats: int) -> tuple[Any, float, int | None]:
    """Return what a call gives, its best time in seconds, and its peak memory in the first run."""
    start = time.perf_counter()
    found, peak = peak_bytes(what)
    best = time.perf_counter() - start
    for _ in range(repeats - 1):
        start = time.perf_counter()
        found = what()
        best = min(best, time.perf_counter() - start)
    return found, best, peak


def random_rows(num_rows: int, num_labels: int) -> tuple[Any, Any]:
    """Return logits float32 and targets uint8, both [N, L]; 1 to 30 % of a label are positive."""
    rng = np.random.default_rng(0)
    share_L = rng.uniform(0.01, 0.3, num_labels).astype(np.float32)
    logits = np.empty((num_rows, num_labels), dtype=np.float32)
    targets = np.empty((num_rows, num_labels), dtype=np.uint8)
    for row in range(0, num_rows, CHUNK):
        rows = slice(row, row + CHUNK)
        shape = logits[rows].shape
        targets[rows] = rng.random(shape, dtype=np.float32) < share_L
        rng.standard_normal(out=logits[rows], dtype=np.float32)
        logits[rows] *= np.float32(1.5)
        logits[rows] += 2 * targets[rows].astype(np.float32) - np.float32(2)
    return logits, targets


def curve_loop(scores: Any, targets: Any) -> list[float]:
    """Return each label's best F1 by scikit-learn."""
    best = []
    for at in range(scores.shape[1]):
        precision, recall, _ = precision_recall_curve(targets[:, at], scores[:, at])
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        best.append(float(f1.max()))
    return best


def stream(logits: Any, targets: Any) -> Any:
    histograms = ScoreHistograms.empty(logits.shape[1])
    for row in range(0, len(logits), CHUNK):
        histograms.update(logits[row : row + CHUNK], targets[row : row + CHUNK])
    return best_cuts_of_histograms(histograms, F1)


def measure(name: str, logits: Any, targets: Any, *, repeats: int) -> dict[str, Any]:
    """Return one case's figures; logits become probabilities in place."""
    num_rows, num_labels = logits.shape
    peers = num_labels if num_rows * num_labels <= 10**8 else PEER_LABELS
    factor = num_labels / peers
    streamed, stream_s, stream_peak = timed(lambda: stream(logits, targets), repeats)
    for row in range(0, num_rows, CHUNK):
        logits[row : row + CHUNK] = sigmoid(logits[row : row + CHUNK])
    scores = logits
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    exact, one_s, exact_peak = timed(lambda: best_cuts(scores, targets, F1, num_threads=1), repeats)
    _, all_s, all_peak = timed(
        lambda: best_cuts(scores, targets, F1, num_threads=num_cores), repeats
    )
    sample = slice(0, peers)
    best, loop_s, _ = timed(lambda: curve_loop(scores[:, sample], targets[:, sample]), 1)
    _, sort_s, _ = timed(lambda: np.argsort(scores[:, sample], axis=0), 1)
    np.testing.assert_allclose(exact.value_L[sample], best, atol=1e-12)
    assert (exact.value_L <= streamed.upper_L + 1e-12).all()
    loop_s, sort_s = loop_s * factor, sort_s * factor
    rows = [
        ("scikit-learn loop", 1, loop_s, None),
        ("NumPy argsort alone", 1, sort_s, None),
        ("exact", 1, one_s, exact_peak),
        ("exact", num_cores, all_s, all_peak),
        ("streaming", 1, stream_s, stream_peak),
    ]
    return {
        "case": name,
        "rows": num_rows,
        "labels": num_labels,
        "peers_measured_on_labels": peers,
        "largest_f1_shortfall_of_streaming": float((exact.value_L - streamed.cuts.value_L).max()),
        "largest_bound_of_streaming": float((streamed.upper_L - streamed.cuts.value_L).max()),
        "engines": [
            {
                "engine": engine,
                "threads": threads,
                "seconds": round(seconds, 4),
                "times_the_loop": round(loop_s / seconds, 2),
                "peak_mb_beyond_input": None if peak is None else round(peak / 1e6, 1),
            }
            for engine, threads, seconds, peak in rows
        ],
    }


def show(case: dict[str, Any]) -> None:
    """Print one case as a table."""
    print(f"\n{case['case']}: {case['rows']:,} rows x {case['labels']:,} labels")
    print(f"{'engine':22}{'threads':>8}{'seconds':>10}{'speed-up':>10}{'peak MB':>10}")
    for row in case["engines"]:
        peak = "-" if row["peak_mb_beyond_input"] is None else f"{row['peak_mb_beyond_input']:.0f}"
        figures = f"{row['seconds']:>10.3f}{row['times_the_loop']:>9.1f}x{peak:>10}"
        print(f"{row['engine']:22}{row['threads']:>8}{figures}")
    if case["peers_measured_on_labels"] < case["labels"]:
        print(
            f"loop and argsort: measured on {case['peers_measured_on_labels']} labels, and scaled"
        )
    print(
        f"streaming: F1 at most {case['largest_f1_shortfall_of_streaming']:.5f} below exact, "
        f"stated bound at most {case['largest_bound_of_streaming']:.5f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="leave 1,000,000 x 1,000 out")
    parser.add_argument(
        "--real", nargs="+", default=[], help="real data sets too: yeast, delicious, ..."
    )
    parser.add_argument("--output", type=Path, default=RESULTS, help="where the JSON goes")
    arguments = parser.parse_args()
    cases = []
    sizes = [(100_000, 100)] if arguments.quick else [(100_000, 100), (1_000_000, 1_000)]
    for num_rows, num_labels in sizes:
        repeats = 3 if num_rows <= 100_000 else 1
        cases.append(measure("random", *random_rows(num_rows, num_labels), repeats=repeats))
        show(cases[-1])
    for name in arguments.real:
        from real_data import scored

        rows = scored(name)
        logits = rows.tune_logits_NL.copy()
        cases.append(measure(name, logits, rows.tune_targets_NL, repeats=3))
        show(cases[-1])
    machine = {
        "cpu_cores": os.cpu_count(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scikit_learn": sklearn.__version__,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(
        json.dumps({"machine": machine, "cases": cases}, indent=2) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
