"""Intervals of a label's metric and threshold, by a bootstrap on counts.

Resampling never touches the rows again. Rows drawn with replacement change a label's four counts
as a multinomial draw does, and the counts between two neighbouring cuts as Poisson draws do, so
the cost hardly depends on the number of rows. NumPy only.

Source: B. Efron and R. Tibshirani, "An introduction to the bootstrap", 1993, chapter 13
(percentile intervals).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from thresher.decision import FloatArray
from thresher_training.decisions.objectives import Objective
from thresher_training.decisions.room import between

__all__ = ["threshold_intervals", "value_intervals"]

_MAX_CUTS = 256  # of one label

_Array = npt.NDArray[np.float64]
_Counts = npt.NDArray[np.int64]


def value_intervals(
    counts_L4: _Counts, objectives: Sequence[Objective], *, seed: int, num_resamples: int = 1000
) -> _Array:
    """Return the 95 % percentile interval of each label's metric, [L, 2], rows drawn anew.

    Args:
        counts_L4: tp, fp, fn, tn at thresholds that were chosen on other rows.
        objectives: One for each label.
        seed: Of the draws.
        num_resamples: How many.
    """
    rng = np.random.default_rng(seed)
    interval_L2 = np.full((len(counts_L4), 2), np.nan)
    for at, (counts, objective) in enumerate(zip(counts_L4, objectives, strict=True)):
        if known := int(counts.sum()):
            drawn_B4 = rng.multinomial(known, counts / known, size=num_resamples)
            interval_L2[at] = np.percentile(objective.metric(*drawn_B4.T), [2.5, 97.5])
    return interval_L2


def threshold_intervals(
    scores_NL: FloatArray,
    targets_NL: FloatArray,
    objectives: Sequence[Objective],
    *,
    seed: int,
    num_resamples: int = 200,
) -> _Array:
    """Return the 95 % percentile interval of each label's own threshold, [L, 2], rows drawn anew.

    A cut is tried below each distinct positive score (at most 256 of them, evenly spread), which
    is where the best one lies. NaN for labels without known positives and for joint objectives,
    whose thresholds depend on each other.

    Args:
        scores_NL: float32 [N, L] in [0, 1].
        targets_NL: float32 [N, L] of 0 and 1; NaN where unknown.
        objectives: One for each label.
        seed: Of the draws.
        num_resamples: How many.
    """
    rng = np.random.default_rng(seed)
    interval_L2 = np.full((scores_NL.shape[1], 2), np.nan)
    for at, objective in enumerate(objectives):
        if objective.kind == "fixed":
            interval_L2[at] = objective.threshold
        elif not objective.is_joint and (targets_NL[:, at] == 1).any():
            chosen_B = _resampled_cuts(
                scores_NL[:, at], targets_NL[:, at], objective, rng, num_resamples
            )
            interval_L2[at] = np.percentile(chosen_B, [2.5, 97.5])
    return interval_L2


def _resampled_cuts(
    scores_N: FloatArray,
    targets_N: FloatArray,
    objective: Objective,
    rng: np.random.Generator,
    num_resamples: int,
) -> _Array:
    """Return one label's best threshold on each of B resamples."""
    positive_N, negative_N = targets_N == 1, targets_N == 0
    sorted_N = np.sort(scores_N[positive_N | negative_N])
    edge_M = np.unique(scores_N[positive_N] if objective.is_monotone else sorted_N)
    if len(edge_M) > _MAX_CUTS:
        edge_M = edge_M[np.linspace(0, len(edge_M) - 1, _MAX_CUTS).round().astype(int)]
    below_M = np.searchsorted(sorted_N, edge_M, side="left") - 1
    low_M = np.where(below_M >= 0, sorted_N[np.maximum(below_M, 0)], 0.0)
    cuts = [between(float(low), float(high)) for low, high in zip(low_M, edge_M, strict=True)]
    threshold_C = np.array([*cuts, between(float(sorted_N[-1]), 1.0)], dtype=np.float64)

    def above(of_N: npt.NDArray[np.bool_]) -> tuple[_Array, _Array]:
        """Return how many drawn rows reach each cut, [B, C], and how many there are, [B, 1]."""
        step_N = np.searchsorted(edge_M, scores_N[of_N], side="right")
        drawn = rng.poisson(
            np.bincount(step_N, minlength=len(edge_M) + 1), size=(num_resamples, len(edge_M) + 1)
        )
        reached = np.cumsum(drawn[:, ::-1], axis=1)[:, ::-1]
        none = np.zeros((num_resamples, 1))
        return np.concatenate([reached[:, 1:], none], axis=1), reached[:, :1].astype(np.float64)

    tp_BC, positives_B1 = above(positive_N)
    fp_BC, negatives_B1 = above(negative_N)
    value_BC = objective.value(tp_BC, fp_BC, positives_B1 - tp_BC, negatives_B1 - fp_BC)
    return np.asarray(threshold_C[np.argmax(value_BC, axis=1)])
