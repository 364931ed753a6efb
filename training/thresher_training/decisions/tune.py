"""Thresholds that make F1 as large as it can be, exactly, and as safe as they can be.

Every cut between two neighbouring distinct probabilities is tried, by sorting. Among the cuts with
the best F1 the one with the widest gap is taken, and the threshold is put in its middle: rounding
differences between engines then have the most room before they flip a validated decision.
NumPy only; nothing here knows about torch.

Source: Z. C. Lipton, C. Elkan and B. Naryanaswamy, "Optimal Thresholding of Classifiers to Maximize
F1 Measure", ECML PKDD 2014 (F1 per label is maximised by one threshold on the label's score).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from thresher.decision import Decision, FloatArray
from thresher.errors import DataError
from thresher_training.decisions.report import LabelReport, TunedDecision
from thresher_training.recipe import DecisionConfig

__all__ = ["Cut", "best_f1_cut", "tune_decision"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A threshold and what it gives on the scores it was chosen on."""

    threshold: np.float32
    """A score equal to it is a yes."""

    f1: float
    """F1 at the threshold."""

    gap: float
    """Distance between the lowest score that is a yes and the highest that is a no."""


def best_f1_cut(scores_N: FloatArray, targets_N: FloatArray) -> Cut:
    """Return the threshold with the best F1, in the middle of the widest gap that gives it.

    With no positives, F1 is 0 everywhere and the threshold is 0.5.

    Args:
        scores_N: float32 [N] in [0, 1].
        targets_N: float32 [N] of 0 and 1; NaN where unknown, which is left out.

    Raises:
        DataError: If a score is not in [0, 1].

    Example:
        >>> cut = best_f1_cut(np.float32([0.125, 0.25, 0.75, 0.875]), np.float32([0, 0, 1, 1]))
        >>> float(cut.threshold), cut.f1, cut.gap
        (0.5, 1.0, 0.5)
    """
    scores_N = np.asarray(scores_N, dtype=np.float32)
    if not ((scores_N >= 0) & (scores_N <= 1)).all():
        raise DataError("scores must be probabilities in [0, 1], got a number outside or NaN")
    known_N = ~np.isnan(targets_N)
    scores_N, positive_N = scores_N[known_N], targets_N[known_N] == 1
    num_positives = int(positive_N.sum())
    if not num_positives:
        return Cut(threshold=np.float32(0.5), f1=0.0, gap=0.0)
    order = np.argsort(-scores_N, kind="stable")
    scores_N, positive_N = scores_N[order], positive_N[order]
    # a cut may only fall after the last of equal scores: K cuts for K distinct scores
    last_K = np.append(np.flatnonzero(np.diff(scores_N)), len(scores_N) - 1)
    high_K = scores_N[last_K].astype(np.float64)
    low_K = np.append(high_K[1:], 0.0)  # below the lowest score there is room down to 0
    f1_K = 2 * np.cumsum(positive_N)[last_K] / (last_K + 1 + num_positives)
    # equal ratios of whole numbers are equal floats: division rounds correctly
    best_K = np.flatnonzero(f1_K == f1_K.max())
    at = best_K[np.argmax((high_K - low_K)[best_K])]
    return Cut(
        threshold=_between(low_K[at], high_K[at]),
        f1=float(f1_K[at]),
        gap=float(high_K[at] - low_K[at]),
    )


def _between(low: float, high: float) -> np.float32:
    """Return the float32 nearest the middle of two float32 scores, above low and at most high."""
    middle = np.float32((low + high) / 2)
    return middle if middle > low else np.float32(high)


def tune_decision(
    labels: Sequence[str],
    logits_NL: FloatArray,
    targets_NL: FloatArray,
    config: DecisionConfig,
    *,
    scale: npt.ArrayLike | None = None,
    bias: npt.ArrayLike | None = None,
) -> TunedDecision:
    """Return the decision with the best F1 for each label on a split.

    A label with fewer than ``config.min_positives`` known positives, or without a known negative,
    takes the shared threshold: the one with the best micro-F1, over all labels' scores pooled.

    Args:
        labels: L names.
        logits_NL: float32 [N, L] of the validation split.
        targets_NL: float32 [N, L] of 0 and 1; NaN where unknown.
        config: The recipe's section.
        scale: float32 [L], calibration; 1 where left out.
        bias: float32 [L], calibration; 0 where left out.

    Raises:
        DataError: If a logit is NaN; names the label.
    """
    half = Decision(labels=labels, thresholds=np.full(len(labels), 0.5), scale=scale, bias=bias)
    probabilities_NL = half.probabilities(logits_NL)
    broken_L = np.isnan(probabilities_NL).any(axis=0)
    if broken_L.any():
        names = ", ".join(f'"{labels[at]}"' for at in np.flatnonzero(broken_L)[:5])
        raise DataError(f"no threshold can be chosen on logits that are NaN (labels {names})")
    pooled = best_f1_cut(probabilities_NL.ravel(), targets_NL.ravel())
    report = []
    for at, label in enumerate(labels):
        positive_N, negative_N = targets_NL[:, at] == 1, targets_NL[:, at] == 0
        positives = int(positive_N.sum())
        reason = ""
        if not negative_N.any():
            reason = "no known negative in validation"
        if positives < config.min_positives:
            reason = f"{positives} positives in validation, fewer than {config.min_positives}"
        cut = pooled if reason else best_f1_cut(probabilities_NL[:, at], targets_NL[:, at])
        yes_N = probabilities_NL[:, at] >= cut.threshold
        tp, fp = int((yes_N & positive_N).sum()), int((yes_N & negative_N).sum())
        fn, tn = positives - tp, int(negative_N.sum()) - fp
        report.append(
            LabelReport(
                label=label,
                objective="f1",
                threshold=float(str(cut.threshold)),
                origin="shared" if reason else "tuned",
                reason=reason,
                gap=cut.gap,
                value=2 * tp / max(1, 2 * tp + fp + fn),
                tp=tp,
                fp=fp,
                fn=fn,
                tn=tn,
            )
        )
    thresholds = np.array([row.threshold for row in report], dtype=np.float32)
    return TunedDecision(
        decision=Decision(labels=labels, thresholds=thresholds, scale=scale, bias=bias),
        shared=Decision(
            labels=labels,
            thresholds=np.full(len(labels), pooled.threshold),
            scale=scale,
            bias=bias,
        ),
        report=tuple(report),
    )
