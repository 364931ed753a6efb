"""What tuned thresholds and calibration do on real data, on rows that nothing was chosen on.

    python benchmarks/results.py            # all sets; writes its part of docs/results.md
    python benchmarks/results.py --quick    # emotions and yeast, under a minute; only prints

Logits come from logistic regression per label (`real_data.py`) and are kept in .thresher/results,
beside results.json with all numbers.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import sys
import time
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy
import sklearn
from page import put, table
from real_data import DATA, KEPT, NAMES, ROOT, Scored, scored

from thresher.decision import Decision, FloatArray
from thresher_training import DecisionConfig
from thresher_training.decisions import best_cuts, parse_objective, tune_decision
from thresher_training.decisions.calibration import calibration_error, fit_calibration
from thresher_training.decisions.joint import best_micro_cuts
from thresher_training.decisions.robust import cut_folds, held_out_counts
from thresher_training.metrics import metrics

RARE = 50
"""A label with fewer positives on the tuned rows is called rare here."""

_CONFIGS = {
    "a threshold per label": DecisionConfig(min_positives=1, intervals=True),
    "same after Platt": DecisionConfig(min_positives=1, calibration="platt"),
    "same, shared below 20 positives": DecisionConfig(min_positives=20),
    "same, shrunk": DecisionConfig(min_positives=1, shrinkage=True),
    "same, shrunk after Platt": DecisionConfig(
        min_positives=1, shrinkage=True, calibration="platt"
    ),
    "best micro-F1 jointly": DecisionConfig(objective="micro_f1", min_positives=1),
}


def measure(name: str) -> dict[str, Any]:
    """Return all numbers of one data set as plain values."""
    data = scored(name)
    start = time.perf_counter()
    tuned = {
        what: tune_decision(data.labels, data.tune_logits_NL, data.tune_targets_NL, config)
        for what, config in _CONFIGS.items()
    }
    per_label = tuned["a threshold per label"]
    decisions = {
        "0.5": Decision(labels=data.labels, thresholds=np.full(len(data.labels), 0.5)),
        "one shared threshold": per_label.shared,
        **{what: found.decision for what, found in tuned.items()},
    }
    rare_L = (data.tune_targets_NL == 1).sum(axis=0) < RARE
    table = {what: _figures(decision, data, rare_L) for what, decision in decisions.items()}
    value = float(np.mean([row.value for row in per_label.report]))
    optimism = float(
        np.mean([row.optimism for row in per_label.report if row.optimism is not None])
    )
    micro_tuned, micro_held_out = _micro(data, tuned["best micro-F1 jointly"].decision)
    return {
        "name": name,
        "labels": len(data.labels),
        "rare": int(rare_L.sum()),
        "tuned_rows": len(data.tune_targets_NL),
        "test_rows": len(data.test_targets_NL),
        "table": table,
        "optimism": {
            "macro-F1 of a threshold per label": (
                value,
                value - optimism,
                table["a threshold per label"]["macro_f1"],
            ),
            "micro-F1 of the joint thresholds": (
                micro_tuned,
                micro_held_out,
                table["best micro-F1 jointly"]["micro_f1"],
            ),
        },
        "gain_over_shared": _gain(per_label.decision, per_label.shared, data, np.ones_like(rare_L)),
        "gain_of_shrinkage": _gain(
            tuned["same, shrunk"].decision, per_label.decision, data, rare_L
        ),
        "shrinkage": _shrinkage(tuned["same, shrunk"].notes),
        "shrinkage_after_platt": _shrinkage(tuned["same, shrunk after Platt"].notes),
        "calibration": {
            method: _calibration(data, method) for method in ("none", "temperature", "platt")
        },
        "seconds": time.perf_counter() - start,
    }


def _figures(decision: Decision, data: Scored, rare_L: npt.NDArray[np.bool_]) -> dict[str, float]:
    _, yes_NL = decision.apply(data.test_logits_NL)
    found = metrics(data.test_targets_NL, yes_NL)
    rare = metrics(data.test_targets_NL[:, rare_L], yes_NL[:, rare_L]) if rare_L.any() else None
    return {
        "micro_f1": found.micro_f1,
        "macro_f1": found.macro_f1,
        "hamming_loss": found.hamming_loss,
        "rare_macro_f1": rare.macro_f1 if rare else float("nan"),
    }


def _gain(
    decision: Decision, other: Decision, data: Scored, of_L: npt.NDArray[np.bool_]
) -> list[float]:
    """Return the 95 % interval of the gain in macro-F1 over another, test rows drawn anew."""
    if not of_L.any():
        return [float("nan"), float("nan")]
    rng, num_rows = np.random.default_rng(0), len(data.test_targets_NL)
    drawn_BN = rng.multinomial(num_rows, np.full(num_rows, 1 / num_rows), size=500)
    weight_BN = drawn_BN.astype(np.float32)
    y_NL = data.test_targets_NL[:, of_L] == 1
    macro = []
    for each in (decision, other):
        yes_NL = each.apply(data.test_logits_NL)[1][:, of_L]
        tp_BL = weight_BN @ (yes_NL & y_NL).astype(np.float32)
        all_BL = weight_BN @ (yes_NL.astype(np.float32) + y_NL)
        macro.append((2 * tp_BL / np.maximum(all_BL, 1)).mean(axis=1))
    return np.percentile(macro[0] - macro[1], [2.5, 97.5]).tolist()


def _shrinkage(notes: tuple[str, ...]) -> str:
    return next(note for note in notes if note.startswith("shrinkage: "))[len("shrinkage: ") :]


def _micro(data: Scored, decision: Decision) -> tuple[float, float]:
    """Return micro-F1 of the joint thresholds on the tuned rows, and on held-out ones."""
    micro, f1 = parse_objective("micro_f1"), parse_objective("f1")
    scores_NL = decision.probabilities(data.tune_logits_NL)

    def joint(scores_NL: FloatArray, targets_NL: FloatArray) -> FloatArray:
        start = best_cuts(scores_NL, targets_NL, f1)
        return best_micro_cuts(scores_NL, targets_NL, micro, start)[0].thresholds_L

    folds = cut_folds(
        scores_NL,
        data.tune_targets_NL,
        [micro] * len(data.labels),
        shared_objective=f1,
        num_folds=5,
        seed=0,
        joint=joint,
    )
    counts_L4 = held_out_counts(scores_NL, data.tune_targets_NL, folds, folds.own_KL)
    tuned = metrics(data.tune_targets_NL, decision.decide(scores_NL)).micro_f1
    return tuned, float(micro.value(*counts_L4.sum(axis=0)))


def _calibration(data: Scored, method: Any) -> tuple[float, float, float]:
    """Return pooled ECE, the labels' mean ECE and the Brier score on test."""
    scale_L, bias_L = fit_calibration(data.tune_logits_NL, data.tune_targets_NL, method)
    decision = Decision(
        labels=data.labels, thresholds=np.full(len(data.labels), 0.5), scale=scale_L, bias=bias_L
    )
    error = calibration_error(decision.probabilities(data.test_logits_NL), data.test_targets_NL)
    return error.ece, float(np.mean(error.ece_L)), error.brier


def _number(value: float, *, best: float | None = None) -> str:
    text = "-" if np.isnan(value) else f"{value:.4f}"
    return f"**{text}**" if value == best else text


def section(found: dict[str, Any]) -> str:
    """Return the Markdown of one data set."""
    columns = {
        "micro_f1": max,
        "macro_f1": max,
        "hamming_loss": min,
        "rare_macro_f1": max,
    }
    best = {key: take(row[key] for row in found["table"].values()) for key, take in columns.items()}
    decided = table(
        ["thresholds", "micro-F1", "macro-F1", "Hamming loss", f"macro-F1, {found['rare']} rare"],
        [
            [what, *(_number(row[key], best=best[key]) for key in columns)]
            for what, row in found["table"].items()
        ],
    )
    optimism = table(
        ["metric", "tuned rows", "cross-validated", "test", "optimism foretold", "real drop"],
        [
            [what, *(f"{value:.4f}" for value in (a, b, c, a - b, a - c))]
            for what, (a, b, c) in found["optimism"].items()
        ],
    )
    calibrated = table(
        ["calibration", "ECE, pooled", "ECE, mean of labels", "Brier score"],
        [[what, *(f"{value:.4f}" for value in row)] for what, row in found["calibration"].items()],
    )
    return (
        f"### {found['name']}\n\n{found['labels']} labels; tuned on {found['tuned_rows']:,} rows, "
        f"reported on {found['test_rows']:,} test rows; {found['rare']} labels are rare "
        f"(fewer than {RARE} positives on the tuned rows).\n\n{decided}\n\n"
        f"Shrinkage: {found['shrinkage']}. After Platt: {found['shrinkage_after_platt']}.\n\n"
        f"{optimism}\n\n{calibrated}\n"
    )


def verdicts(results: list[dict[str, Any]]) -> str:
    """Return, in sentences made from the numbers, where tuned thresholds win and where not."""
    lines = []
    for found in results:
        table = found["table"]
        half, shared, own = (
            table[key] for key in ("0.5", "one shared threshold", "a threshold per label")
        )
        shrunk, platt = table["same, shrunk"], table["same, shrunk after Platt"]
        micro = table["best micro-F1 jointly"]
        said = [
            _against("macro-F1 per label", own, half, shared, "macro_f1")
            + f", gain over shared {_interval(found['gain_over_shared'])}",
            _against("micro-F1 jointly", micro, half, shared, "micro_f1"),
        ]
        if own["micro_f1"] < max(half["micro_f1"], shared["micro_f1"]):
            said.append(
                f"thresholds for each label's F1 cost micro-F1 ({own['micro_f1']:.3f}, "
                f"shared {shared['micro_f1']:.3f}, 0.5 {half['micro_f1']:.3f})"
            )
        if found["rare"]:
            said.append(
                f"macro-F1 of the {found['rare']} rare is {own['rare_macro_f1']:.4f} with own "
                f"thresholds, {shared['rare_macro_f1']:.4f} with the shared one, "
                f"{shrunk['rare_macro_f1']:.4f} shrunk ({_change(own, shrunk)}, "
                f"{_interval(found['gain_of_shrinkage'])}), "
                f"{platt['rare_macro_f1']:.4f} shrunk after Platt ({_change(own, platt)})"
            )
        if half["hamming_loss"] < min(row["hamming_loss"] for row in (own, shared, micro)):
            said.append("0.5 keeps the lowest Hamming loss")
        lines.append(f"- **{found['name']}**: {'; '.join(said)}.")
    return "\n".join(lines)


def _interval(ends: list[float]) -> str:
    return f"95 % interval {ends[0]:+.4f} to {ends[1]:+.4f}"


def _change(own: dict[str, float], other: dict[str, float]) -> str:
    change = other["rare_macro_f1"] - own["rare_macro_f1"]
    return "helps" if change > 0 else "hurts" if change < 0 else "no change"


def _against(what: str, row: dict[str, float], half: Any, shared: Any, key: str) -> str:
    beaten = [name for name, other in (("0.5", half), ("shared", shared)) if row[key] > other[key]]
    lost = [name for name in ("0.5", "shared") if name not in beaten]
    parts = [f"beats {' and '.join(beaten)}"] * bool(beaten)
    parts += [f"does NOT beat {' nor '.join(lost)}"] * bool(lost)
    figures = f"{row[key]:.3f}; 0.5 {half[key]:.3f}, shared {shared[key]:.3f}"
    return f"{what} {', '.join(parts)} ({figures})"


_INTRODUCTION = """Made by `python benchmarks/results.py` on {date} ({versions}).
The data's folder is named by the environment variable `{data}`.
Each set is on its official split.

The models are logistic regressions, one per label (goemotions: TF-IDF of 1- and 2-grams), so the
numbers are about thresholds and calibration, not about the best model for the set. goemotions is
tuned on its validation split. The Mulan sets have none: each train row is scored by a model that
did not see it (5-fold), and thresholds are tuned on those scores. Test rows only report.

### What they say

{verdicts}

Intervals are of the difference on test when its rows are drawn anew (500 bootstrap samples); one
that holds 0 is a difference that chance could have made. By that measure the gain over one shared
threshold is beyond doubt on yeast, delicious and goemotions, and what shrinkage does to rare labels
is so on no set.

Why it is not always a win:

- Each objective wins at what it asks for. F1 per label puts a rare label's threshold low: a few
  more hits, many more false positives. Macro-F1 counts each label once and gains; micro-F1 and
  Hamming loss count each decision once and pay. Where micro-F1 is meant, ask for `micro_f1`.
- On sets with few labels and few rows (emotions) thresholds differ less between labels than a few
  hundred rows can tell, so one shared threshold is as good.
- Shrinkage can only give back what noise took: gains are small, and where labels really need
  different thresholds cross-validation picks little or none. Its strength is chosen by the mean
  over all labels on held-out rows, so what it does to a few rare ones may go either way.
- The fixed fallback (shared below 20 positives) is the blunter tool: where it changes anything
  much (goemotions) it loses, since even a dozen positives tell more than the other labels do.
- Calibration moves probabilities, not ranks: a threshold tuned per label gives the same decisions
  before and after Platt, but for rounding. It makes probabilities honest. Out-of-fold logits come
  from models with fewer rows than the final one, so what is fitted to them is slightly off on test.
- Optimism foretold by cross-validation is that of choosing thresholds. The real drop also holds
  how much test rows differ from tuned ones, and may be negative where the final model, fitted on
  all train rows, is better than those of the folds.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="emotions and yeast, only printed")
    quick = parser.parse_args().quick
    results = []
    for name in NAMES[:2] if quick else NAMES:
        print(f"{name} ...", file=sys.stderr, flush=True)
        results.append(measure(name))
        print(f"{name}: {results[-1]['seconds']:.1f} s after the fits", file=sys.stderr)
    text = "\n".join(
        [
            _INTRODUCTION.format(
                date=datetime.datetime.now(tz=datetime.UTC).date(),
                versions=f"Python {platform.python_version()}, NumPy {np.__version__}, "
                f"SciPy {scipy.__version__}, scikit-learn {sklearn.__version__}",
                data=DATA,
                verdicts=verdicts(results),
            ),
            *(section(found) for found in results),
        ]
    )
    (KEPT / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    print(text)
    if not quick:
        put(ROOT / "docs" / "results.md", "thresholds", text.rstrip())


if __name__ == "__main__":
    main()
