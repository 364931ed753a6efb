"""Multi-label metrics, as scikit-learn defines them, with unknown (NaN) targets left out."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from thresher.decision import Decision, FloatArray, sigmoid
from thresher.evaluation import EvaluationSplit
from thresher_training.decisions import TunedDecision
from thresher_training.decisions.calibration import calibration_error
from thresher_training.ranking import (
    average_precisions,
    mean_average_precision,
    micro_average_precision,
    ranking,
)

__all__ = [
    "LabelMetrics",
    "Metrics",
    "epoch_figures",
    "figures",
    "label_table",
    "mean_average_precision",
    "metrics",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """Figures of one set of predictions; each in [0, 1].

    A ratio with nothing below the line is 0, as in scikit-learn with ``zero_division=0``.
    """

    micro_precision: float
    """Over all known targets pooled, as recall and F1."""

    micro_recall: float
    micro_f1: float
    macro_precision: float
    """The mean over labels with a known target, as recall and F1."""

    macro_recall: float
    macro_f1: float
    """A label without positives and without predictions counts as 0."""

    weighted_precision: float
    """The mean over labels, each weighing as much as it has positives; as recall and F1."""

    weighted_recall: float
    weighted_f1: float
    example_precision: float
    """The mean over rows with a known target, as recall and F1."""

    example_recall: float
    example_f1: float
    """A row without yeses and without predictions counts as 0."""

    hamming_loss: float
    """The share of known targets that are predicted wrongly; NaN where none is known."""

    subset_accuracy: float
    """The share of rows whose known targets are all predicted rightly; NaN where none is known."""

    def to_dict(self) -> dict[str, float]:
        """Return the figures by name."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelMetrics:
    """One label's figures at its threshold."""

    label: str
    threshold: float
    precision: float
    recall: float
    f1: float
    average_precision: float
    """NaN where the label has no known positives."""

    support: int
    """Known positives."""

    known: int
    """Known targets."""


def epoch_figures(targets_NL: FloatArray, logits_NL: FloatArray) -> dict[str, float]:
    """Return the validation figures of an epoch by name: all of `Metrics` at 0.5, and of ranking.

    ``mean_average_precision`` (macro), ``micro_average_precision``, ``ranking_loss``, ``coverage``
    and ``label_ranking_average_precision`` are those of ranking. Every figure is there, NaN where
    the targets leave it undefined.

    Args:
        targets_NL: float32 [N, L] of 0 and 1; NaN where unknown.
        logits_NL: float32 [N, L], finite.
    """
    at_half = metrics(targets_NL, sigmoid(logits_NL) >= np.float32(0.5))
    return {**at_half.to_dict(), **_ranking_figures(targets_NL, logits_NL)}


def figures(tuned: TunedDecision, test: EvaluationSplit) -> dict[str, float]:
    """Return the test split's figures by name.

    Those of ranking, expected calibration error and Brier score (before calibration too, where
    there is one), and all of `Metrics` at 0.5, shared and tuned thresholds.

    Args:
        tuned: The decision and what it is compared with.
        test: Rows that nothing was tuned on.
    """
    probabilities_NL = tuned.decision.probabilities(test.logits_NL)
    ranked = _ranking_figures(test.targets_NL, probabilities_NL)
    found = {f"test/{name}": value for name, value in ranked.items()}
    plain = Decision(labels=tuned.decision.labels, thresholds=tuned.decision.thresholds)
    for suffix, decision in (("", tuned.decision), ("_uncalibrated", plain)):
        if decision == tuned.decision and suffix:
            continue
        error = calibration_error(decision.probabilities(test.logits_NL), test.targets_NL)
        found[f"test/expected_calibration_error{suffix}"] = error.ece
        found[f"test/brier_score{suffix}"] = error.brier
    for name, decision in tuned.compared.items():
        _, predicted_NL = decision.apply(test.logits_NL)
        for metric, value in metrics(test.targets_NL, predicted_NL).to_dict().items():
            found[f"test/{name}/{metric}"] = value
    return {name: value for name, value in found.items() if not math.isnan(value)}


def metrics(targets_NL: FloatArray, predicted_NL: npt.NDArray[np.bool_]) -> Metrics:
    """Return precision, recall and F1 in four averages, Hamming loss and subset accuracy.

    They are scikit-learn's figures, from counts by label and by row: scikit-learn's own functions
    would count anew for each average, which takes most of a second at 3,000 x 1,000.

    Args:
        targets_NL: float32 [N, L] of 0 and 1; NaN where unknown.
        predicted_NL: bool [N, L].
    """
    known_NL = ~np.isnan(targets_NL)
    rows_N, labels_L = known_NL.any(axis=1), known_NL.any(axis=0)
    if not rows_N.any():
        nothing = dict.fromkeys(Metrics.__dataclass_fields__, 0.0)
        return Metrics(**{**nothing, "hamming_loss": math.nan, "subset_accuracy": math.nan})
    known_NL, truth_NL, counted_NL = _counted(targets_NL, predicted_NL)
    hit_NL = truth_NL & counted_NL
    by_label, by_row = (
        np.stack([array.sum(axis=axis) for array in (hit_NL, counted_NL, truth_NL)])
        for axis in (0, 1)
    )
    wrong_NL = truth_NL != counted_NL
    pooled = by_label.sum(axis=1, keepdims=True)
    averaged = {
        "micro": _ratios(*pooled).mean(axis=1),
        "macro": _ratios(*by_label[:, labels_L]).mean(axis=1),
        "weighted": _ratios(*by_label) @ by_label[2] / max(1, int(pooled[2, 0])),
        "example": _ratios(*by_row[:, rows_N]).mean(axis=1),
    }
    return Metrics(
        **{
            f"{average}_{name}": float(value)
            for average, values in averaged.items()
            for name, value in zip(("precision", "recall", "f1"), values, strict=True)
        },
        hamming_loss=float(wrong_NL.sum() / known_NL.sum()),
        subset_accuracy=float((~wrong_NL[rows_N].any(axis=1)).mean()),
    )


def label_table(
    targets_NL: FloatArray, probabilities_NL: FloatArray, decision: Decision
) -> tuple[LabelMetrics, ...]:
    """Return each label's figures when ``decision`` decides.

    Args:
        targets_NL: float32 [N, L] of 0 and 1; NaN where unknown.
        probabilities_NL: float32 [N, L], by the same decision.
        decision: Labels and thresholds.
    """
    known_NL, truth_NL, counted_NL = _counted(targets_NL, decision.decide(probabilities_NL))
    support_L = truth_NL.sum(axis=0)
    precision_L, recall_L, f1_L = _ratios(
        (truth_NL & counted_NL).sum(axis=0), counted_NL.sum(axis=0), support_L
    )
    average_L = average_precisions(targets_NL, probabilities_NL)
    return tuple(
        LabelMetrics(
            label=label,
            threshold=float(str(decision.thresholds[at])),
            precision=float(precision_L[at]),
            recall=float(recall_L[at]),
            f1=float(f1_L[at]),
            average_precision=float(average_L[at]),
            support=int(support_L[at]),
            known=int(known_NL[:, at].sum()),
        )
        for at, label in enumerate(decision.labels)
    )


def _counted(
    targets_NL: FloatArray, predicted_NL: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return what is known, and truth and predictions with the unknown set to no in both.

    A no that is right changes neither precision, recall nor F1, nor whether a row is right.
    """
    known_NL = ~np.isnan(targets_NL)
    return known_NL, targets_NL == 1, predicted_NL & known_NL


def _ratios(
    hits: npt.NDArray[np.int64], counted: npt.NDArray[np.int64], true: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Return float64 [3, K]: precision, recall and F1 of K counts, 0 where nothing is counted."""
    above = np.stack([hits, hits, 2 * hits])
    below = np.stack([counted, true, counted + true])
    return np.divide(above, below, out=np.zeros(above.shape), where=below > 0)


def _ranking_figures(targets_NL: FloatArray, scores_NL: FloatArray) -> dict[str, float]:
    return {
        "mean_average_precision": mean_average_precision(targets_NL, scores_NL),
        "micro_average_precision": micro_average_precision(targets_NL, scores_NL),
        **asdict(ranking(targets_NL, scores_NL)),
    }
