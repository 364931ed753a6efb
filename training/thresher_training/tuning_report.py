"""What a tuning leaves behind as files: the table of labels, plots, the threshold explorer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from thresher.decision import Decision, FloatArray
from thresher_training.decision_plots import f1_chart, reliability_chart, threshold_chart
from thresher_training.decisions import TunedDecision
from thresher_training.decisions.calibration import calibration_error
from thresher_training.explorer import write_explorer
from thresher_training.spreadsheet import write_csv

__all__ = ["write_tuning_report"]

_COLUMNS = (
    *("label", "objective", "threshold", "origin", "reason", "positives", "value", "gap", "loss"),
    *("tp", "fp", "fn", "tn", "value_low", "value_high", "threshold_low", "threshold_high"),
    *("optimism", "warnings"),
)


def write_tuning_report(
    tuned: TunedDecision,
    logits_NL: FloatArray,
    targets_NL: FloatArray,
    folder: Path,
    *,
    title: str,
) -> None:
    """Write ``labels.csv``, ``plots/`` and ``explorer.html`` into a folder.

    Args:
        tuned: The outcome.
        logits_NL: float32 [N, L] of the rows that were tuned on.
        targets_NL: float32 [N, L] of 0 and 1; NaN where unknown.
        folder: An existing folder.
        title: The explorer's title.
    """
    _write_table(tuned, folder / "labels.csv")
    probabilities_NL = tuned.decision.probabilities(logits_NL)
    write_explorer(
        folder / "explorer.html",
        title=title,
        probabilities_NL=probabilities_NL,
        targets_NL=targets_NL,
        tuned=tuned,
    )
    plots = folder / "plots"
    plots.mkdir(exist_ok=True)
    threshold_chart(tuned, plots / "thresholds.png")
    f1_half_L, f1_shared_L, f1_tuned_L = (
        _f1(tuned.compared[name].decide(probabilities_NL), targets_NL)
        for name in ("at_0.5", "shared", "tuned")
    )
    f1_chart(
        tuned.decision.labels,
        f1_half_L,
        f1_shared_L,
        f1_tuned_L,
        [row.positives for row in tuned.report],
        plots / "f1-tuned-rows.png",
    )
    plain = Decision(labels=tuned.decision.labels, thresholds=tuned.decision.thresholds)
    curves = {"as trained": _curve(plain.probabilities(logits_NL), targets_NL)}
    if tuned.decision.is_calibrated:
        curves["calibrated"] = _curve(probabilities_NL, targets_NL)
    reliability_chart(curves, plots / "reliability.png", title)


def _curve(
    probabilities_NL: FloatArray, targets_NL: FloatArray
) -> tuple[FloatArray, FloatArray, npt.NDArray[np.int64]]:
    """Return mean probability, observed rate and count by bin, over all labels."""
    pooled = calibration_error(probabilities_NL, targets_NL).pooled
    return pooled.mean_probability_B, pooled.observed_rate_B, pooled.count_B


def _f1(yes_NL: npt.NDArray[np.bool_], targets_NL: FloatArray) -> list[float]:
    """Return each label's F1, unknown targets left out; 0 where there is nothing to count."""
    hits_L = (yes_NL & (targets_NL == 1)).sum(axis=0)
    counted_L = (yes_NL & ~np.isnan(targets_NL)).sum(axis=0) + (targets_NL == 1).sum(axis=0)
    return [float(value) for value in 2 * hits_L / np.maximum(counted_L, 1)]


def _write_table(tuned: TunedDecision, path: Path) -> None:
    rows = [
        (
            *(row.label, row.objective, row.threshold, row.origin, row.reason),
            *(row.positives, row.value, row.gap, row.loss, row.tp, row.fp, row.fn, row.tn),
            *(row.value_interval or ("", "")),
            *(row.threshold_interval or ("", "")),
            *(row.optimism, "; ".join(row.warnings)),
        )
        for row in tuned.report
    ]
    write_csv(path, _COLUMNS, rows)
