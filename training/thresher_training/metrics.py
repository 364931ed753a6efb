"""Multi-label metrics by scikit-learn, with unknown (NaN) targets left out."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    hamming_loss,
    precision_recall_fscore_support,
)

from thresher.decision import Decision, FloatArray
from thresher.evaluation import EvaluationSplit
from thresher_training.decisions import TunedDecision
from thresher_training.decisions.calibration import calibration_error

__all__ = ["LabelMetrics", "Metrics", "figures", "label_table", "mean_average_precision", "metrics"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """Figures of one set of predictions; each in [0, 1]."""

    micro_f1: float
    """F1 over all known targets pooled."""

    macro_f1: float
    """Mean of the labels' F1; a label without positives and without predictions counts as 0."""

    hamming_loss: float
    """The share of known targets that are predicted wrongly; NaN where none is known."""

    subset_accuracy: float
    """The share of rows whose known targets are all predicted rightly."""

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


def figures(tuned: TunedDecision, test: EvaluationSplit) -> dict[str, float]:
    """Return the test split's figures by name.

    mAP, expected calibration error and Brier score (before calibration too, where there is one),
    and the others at 0.5, shared and tuned thresholds.

    Args:
        tuned: The decision and what it is compared with.
        test: Rows that nothing was tuned on.
    """
    found = {
        "test/mean_average_precision": mean_average_precision(
            test.targets_NL, tuned.decision.probabilities(test.logits_NL)
        )
    }
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
    """Return micro and macro F1, Hamming loss and subset accuracy.

    Args:
        targets_NL: float32 [N, L] of 0 and 1; NaN where unknown.
        predicted_NL: bool [N, L].
    """
    known_NL, truth_NL, counted_NL = _counted(targets_NL, predicted_NL)
    return Metrics(
        micro_f1=_f1(truth_NL, counted_NL, "micro"),
        macro_f1=_f1(truth_NL, counted_NL, "macro"),
        hamming_loss=float(hamming_loss(truth_NL[known_NL], counted_NL[known_NL]))
        if known_NL.any()
        else float("nan"),
        subset_accuracy=float(accuracy_score(truth_NL, counted_NL)),
    )


def mean_average_precision(targets_NL: FloatArray, scores_NL: FloatArray) -> float:
    """Return the mean of the labels' average precision (macro mAP).

    Labels without known positives have none and are left out; NaN where that leaves no label.

    Args:
        targets_NL: float32 [N, L] of 0 and 1; NaN where unknown.
        scores_NL: float32 [N, L], larger for more likely.
    """
    each_L = _average_precisions(targets_NL, scores_NL)
    defined = each_L[~np.isnan(each_L)]
    return float(defined.mean()) if defined.size else float("nan")


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
    average_L = _average_precisions(targets_NL, probabilities_NL)
    rows = []
    for at, label in enumerate(decision.labels):
        precision, recall, f1, _ = precision_recall_fscore_support(
            truth_NL[:, at], counted_NL[:, at], average="binary", zero_division=0
        )
        rows.append(
            LabelMetrics(
                label=label,
                threshold=float(str(decision.thresholds[at])),
                precision=float(precision),
                recall=float(recall),
                f1=float(f1),
                average_precision=float(average_L[at]),
                support=int(truth_NL[:, at].sum()),
                known=int(known_NL[:, at].sum()),
            )
        )
    return tuple(rows)


def _counted(
    targets_NL: FloatArray, predicted_NL: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return what is known, and truth and predictions with the unknown set to no in both.

    A no that is right changes neither precision, recall nor F1, nor whether a row is right.
    """
    known_NL = ~np.isnan(targets_NL)
    return known_NL, targets_NL == 1, predicted_NL & known_NL


def _f1(truth: npt.NDArray[np.bool_], predicted: npt.NDArray[np.bool_], average: str) -> float:
    if truth.shape[1] == 1:  # scikit-learn reads one column as binary, not as one label
        return float(f1_score(truth[:, 0], predicted[:, 0], zero_division=0))
    return float(f1_score(truth, predicted, average=average, zero_division=0))


def _average_precisions(targets_NL: FloatArray, scores_NL: FloatArray) -> npt.NDArray[np.float64]:
    each = []
    for targets_N, scores_N in zip(targets_NL.T, scores_NL.T, strict=True):
        known_N = ~np.isnan(targets_N)
        has_positives = bool((targets_N == 1).any())
        each.append(
            average_precision_score(targets_N[known_N], scores_N[known_N])
            if has_positives
            else float("nan")
        )
    return np.array(each, dtype=np.float64)
