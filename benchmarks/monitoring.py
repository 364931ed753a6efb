"""How often `thresher monitor` raises an alarm for nothing, what it finds, and how long it takes.

    python benchmarks/monitoring.py [--windows 1000] [--output FILE]

False alarms: windows and validation drawn from one distribution, a new validation for each window;
then one validation for all. ``skewed`` features are log-normal and large, so that they are compared
by their means. Power: the share of windows in which a label's changed rate, or a moved feature, is
found. Prints tables and writes ``benchmarks/results/monitoring.json``; exits with 1 if alarms are
more than chance allows at the stated rate.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy
from scipy import stats

from thresher.observations import Observations
from thresher_serving.monitoring import Window, compare

RESULTS = Path(__file__).parent / "results" / "monitoring.json"
ALPHA = 0.01

CASES: list[dict[str, Any]] = [
    {"labels": 3, "features": 6, "validation": 150, "window": 1_000},
    {"labels": 10, "features": 4, "validation": 500, "window": 10_000},
    {"labels": 50, "features": 20, "validation": 2_000, "window": 5_000},
    {"labels": 200, "features": 2, "validation": 5_000, "window": 1_000},
    {"labels": 10, "features": 20, "validation": 150, "window": 5_000, "features_are": "skewed"},
    {"labels": 10, "features": 20, "validation": 2_000, "window": 5_000, "features_are": "skewed"},
]
"""Rates of labels go from 1 in 2,000 to 1 in 2."""


def draw(
    rng: np.random.Generator,
    num_rows: int,
    rates_L: npt.NDArray[np.float64],
    num_features: int,
    *,
    skewed: bool = False,
    shift: float = 0.0,
) -> Window:
    """Return a window of independent rows; ``shift`` moves feature 0.

    Scores are two heaps, of rows with the label and of rows without.
    """
    shape = (num_rows, len(rates_L))
    logits_NL = np.where(rng.random(shape) < rates_L, 1.5, -1.5) + np.tanh(rng.normal(size=shape))
    x = rng.normal(size=(num_rows, num_features))
    x[:, :1] += shift
    if skewed:
        x = 1e5 * np.exp(x)
    logits_NL = logits_NL.astype(np.float32)
    seen = Observations.of(logits_NL, logits_NL > 0, {"x": x.astype(np.float32)})
    labels = tuple(f"label {at}" for at in range(len(rates_L)))
    return Window(name="window", model="m", version=1, labels=labels, observations=seen)


def false_alarms(
    case: dict[str, Any], num_windows: int, seed: int, *, shared: int
) -> dict[str, Any]:
    """Return how many windows were raised, and for what; so many windows share a validation."""
    rng = np.random.default_rng(seed)
    rates_L = np.geomspace(5e-4, 0.5, case["labels"])
    is_skewed = case.get("features_are") == "skewed"
    alarms, kinds = 0, dict.fromkeys(("rate", "scores", "feature", "rejects"), 0)
    baseline = None
    for number in range(num_windows):
        if baseline is None or number % shared == 0:
            baseline = draw(rng, case["validation"], rates_L, case["features"], skewed=is_skewed)
        window = draw(rng, case["window"], rates_L, case["features"], skewed=is_skewed)
        moved = compare(window, baseline, alpha=ALPHA).moved
        alarms += bool(moved)
        for kind in {finding.kind for finding in moved}:
            kinds[kind] += 1
    return {
        **case,
        "windows_for_each_validation": shared,
        "windows": num_windows,
        "alarms": alarms,
        "rate": alarms / num_windows,
        "by_kind": kinds,
        "most_by_chance": int(stats.binom.isf(1e-3, num_windows, ALPHA)),
    }


def power(num_windows: int) -> list[dict[str, Any]]:
    """Return the share of windows in which something planted among 50 labels is found."""
    found = []
    rng = np.random.default_rng(99)
    rates_L = np.geomspace(5e-4, 0.5, 50)
    for validation, window in ((500, 2_000), (2_000, 10_000), (10_000, 100_000)):
        for at, factor in ((22, 2.0), (22, 1.5), (38, 1.5), (38, 1.2), (0, 5.0)):
            moved_L = rates_L.copy()
            moved_L[at] *= factor
            hits = 0
            for _ in range(num_windows):
                drift = compare(
                    draw(rng, window, moved_L, 2), draw(rng, validation, rates_L, 2), alpha=ALPHA
                )
                hits += any(finding.name == f"label {at}" for finding in drift.moved)
            what = f"a rate of {rates_L[at]:.2%} times {factor:g}"
            found.append({"planted": what, "validation": validation, "window": window})
            found[-1]["found"] = hits / num_windows
        for shift in (0.1, 0.2, 0.4):
            hits = 0
            for _ in range(num_windows):
                drift = compare(
                    draw(rng, window, rates_L, 2, shift=shift),
                    draw(rng, validation, rates_L, 2),
                    alpha=ALPHA,
                )
                hits += any(finding.name == "x[0]" for finding in drift.moved)
            what = f"a feature moved by {shift:g} sd"
            found.append({"planted": what, "validation": validation, "window": window})
            found[-1]["found"] = hits / num_windows
    return found


def seconds() -> list[dict[str, Any]]:
    """Return how long a comparison takes, best of three."""
    rng = np.random.default_rng(0)
    found = []
    for num_labels, num_features in ((50, 100), (1_000, 1_000), (10_000, 100)):
        rates_L = np.geomspace(5e-4, 0.5, num_labels)
        window, baseline = (draw(rng, 500, rates_L, num_features) for _ in range(2))
        taken = []
        for _ in range(3):
            begin = time.perf_counter()
            compare(window, baseline)
            taken.append(time.perf_counter() - begin)
        found.append({"labels": num_labels, "features": num_features, "seconds": min(taken)})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--windows", type=int, default=1_000, help="for each case")
    parser.add_argument("--output", type=Path, default=RESULTS, help="where the JSON goes")
    arguments = parser.parse_args()
    print(f"alarms at alpha {ALPHA:g}, without drift")
    print(f"{'labels':>7}{'features':>18}{'validation':>12}{'window':>9}{'alarms':>8}{'rate':>8}")
    alarms = []
    for seed, case in enumerate(CASES):
        alarms.append(false_alarms(case, arguments.windows, seed, shared=1))
    alarms.append(false_alarms(CASES[2], arguments.windows, 50, shared=20))
    for row in alarms:
        features = f"{row['features']} {row.get('features_are', 'normal')}"
        print(
            f"{row['labels']:>7}{features:>18}{row['validation']:>12,}{row['window']:>9,}"
            f"{row['alarms']:>8}{row['rate']:>8.2%}  {row['by_kind']}"
        )
    planted = power(max(20, arguments.windows // 20))
    print(f"\n{'planted':34}{'validation':>12}{'window':>9}{'found':>8}")
    for row in planted:
        print(f"{row['planted']:34}{row['validation']:>12,}{row['window']:>9,}{row['found']:>8.0%}")
    speed = seconds()
    for row in speed:
        print(f"{row['labels']:,} labels, {row['features']:,} features: {row['seconds']:.3f} s")
    content = {
        "machine": {
            "cpu_cores": os.cpu_count(),
            "architecture": platform.machine(),
            "python": platform.python_version(),
            "numpy": np.__version__,
            "scipy": scipy.__version__,
        },
        "alpha": ALPHA,
        "false_alarms": alarms,
        "power": planted,
        "seconds": speed,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    apart = [row for row in alarms if row["windows_for_each_validation"] == 1]
    if any(row["alarms"] > row["most_by_chance"] for row in apart):
        sys.exit("more false alarms than stated")


if __name__ == "__main__":
    main()
