"""Metrics of how scores rank: no threshold is in them, and unknown (NaN) targets are left out.

All labels or rows at once, by one sort along an axis. scikit-learn, which gives the same figures,
goes through them one by one in Python, which takes seconds at a thousand labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from thresher.decision import FloatArray

__all__ = [
    "Ranking",
    "average_precisions",
    "mean_average_precision",
    "micro_average_precision",
    "ranking",
]

_Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """How well each row's known labels are ranked: means over rows with a known target."""

    ranking_loss: float
    """The share of a row's pairs of a yes and a no that are in the wrong order; 0 is best."""

    coverage: float
    """How far down a row's labels one has to go to have every yes; from 0 to L, small is good."""

    label_ranking_average_precision: float
    """The mean over a row's yeses of the share of yeses among all at least as high; 1 is best."""


def ranking(targets_NL: FloatArray, scores_NL: FloatArray) -> Ranking:
    """Return ranking loss, coverage and label ranking average precision.

    As in scikit-learn, labels with equal scores are in the wrong order, a row with no yes has
    coverage 0, and one with no yes or no no has ranking loss 0 and average precision 1.

    Args:
        targets_NL: float32 [N, L] of 0 and 1; NaN where unknown.
        scores_NL: [N, L], finite, larger for more likely.

    Source: Tsoumakas, Katakis and Vlahavas, Mining Multi-label Data (2010), section 7.2;
    scikit-learn 1.9, ``label_ranking_loss``, ``coverage_error``,
    ``label_ranking_average_precision_score``.
    """
    known_NL = ~np.isnan(targets_NL)
    rows_N = known_NL.any(axis=1)
    if not rows_N.any():
        return Ranking(
            **dict.fromkeys(Ranking.__dataclass_fields__, float("nan"))  # nothing is known
        )
    known_NL, targets_NL, scores_NL = known_NL[rows_N], targets_NL[rows_N], scores_NL[rows_N]
    true_NL, at_least_NL, true_at_least_NL = _ranked(targets_NL, scores_NL)
    yes_N = true_NL.sum(axis=1)
    no_N = known_NL.sum(axis=1) - yes_N
    wrong_N = np.where(true_NL, at_least_NL - true_at_least_NL, 0).sum(axis=1)
    coverage_N = np.where(true_NL, at_least_NL, 0).max(axis=1)
    precision_N = np.where(true_NL, true_at_least_NL / at_least_NL, 0.0).sum(axis=1)
    plain_N = (yes_N == 0) | (no_N == 0)
    return Ranking(
        ranking_loss=float(np.where(plain_N, 0.0, wrong_N / np.maximum(yes_N * no_N, 1)).mean()),
        coverage=float(coverage_N.mean()),
        label_ranking_average_precision=float(
            np.where(plain_N, 1.0, precision_N / np.maximum(yes_N, 1)).mean()
        ),
    )


def average_precisions(targets_NL: FloatArray, scores_NL: FloatArray) -> npt.NDArray[np.float64]:
    """Return float64 [L]: each label's average precision; NaN where it has no known positives.

    Args:
        targets_NL: float32 [N, L] of 0 and 1; NaN where unknown.
        scores_NL: [N, L], finite, larger for more likely.

    Source: scikit-learn 1.9, ``average_precision_score``: the mean over positives of the
    precision at each one's score.
    """
    if not len(targets_NL):
        return np.full(targets_NL.shape[1], np.nan)
    true_LN, at_least_LN, true_at_least_LN = _ranked(targets_NL.T, scores_NL.T)
    yes_L = true_LN.sum(axis=1)
    sum_L = np.where(true_LN, true_at_least_LN / at_least_LN, 0.0).sum(axis=1)
    return np.where(yes_L > 0, sum_L / np.maximum(yes_L, 1), np.nan)


def mean_average_precision(targets_NL: FloatArray, scores_NL: FloatArray) -> float:
    """Return the mean of the labels' average precision (macro mAP).

    Labels without known positives have none and are left out; NaN where that leaves no label.

    Args:
        targets_NL: float32 [N, L] of 0 and 1; NaN where unknown.
        scores_NL: float32 [N, L], finite, larger for more likely.
    """
    each_L = average_precisions(targets_NL, scores_NL)
    defined = each_L[~np.isnan(each_L)]
    return float(defined.mean()) if defined.size else float("nan")


def micro_average_precision(targets_NL: FloatArray, scores_NL: FloatArray) -> float:
    """Return the average precision of all known targets pooled (micro mAP); NaN without positives.

    Args:
        targets_NL: float32 [N, L] of 0 and 1; NaN where unknown.
        scores_NL: float32 [N, L], finite, larger for more likely, comparable between labels.
    """
    known_NL = ~np.isnan(targets_NL)
    pooled = average_precisions(targets_NL[known_NL][:, None], scores_NL[known_NL][:, None])
    return float(pooled[0])


def _ranked(targets: _Array, scores: _Array) -> tuple[_Array, _Array, _Array]:
    """Return three arrays [A, B], each row ordered by rising score.

    Whether the item is a yes, how many known items score at least as much, and how many yeses do.
    Unknown items come first and are no yes, so they count in neither.
    """
    scores = np.where(np.isnan(targets), -np.inf, scores)
    order = np.argsort(scores, axis=1)
    scores = np.take_along_axis(scores, order, axis=1)
    true = np.take_along_axis(targets, order, axis=1) == 1
    width = scores.shape[1]
    index = np.arange(width, dtype=np.int32)
    starts = np.ones(scores.shape, dtype=bool)  # of a group of equal scores
    np.not_equal(scores[:, 1:], scores[:, :-1], out=starts[:, 1:])
    first = np.maximum.accumulate(np.where(starts, index, np.int32(0)), axis=1)
    # yeses before each position; with the total, the yeses from each group's start on
    before = np.cumsum(true, axis=1, dtype=np.int32) - true
    total = true.sum(axis=1, dtype=np.int32, keepdims=True)
    return true, width - first, total - np.take_along_axis(before, first, axis=1)
