"""The one best F-beta cut over all scores of a large matrix, exactly, without sorting them all.

Scores are counted in a million bins. What a cut inside a bin can reach at most is known from the
counts (its positives above the cut, its negatives below), so only the few bins that may hold the
best cut are sorted. Memory is that of the bins and of these few scores.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from thresher_training.decisions.cuts import Cuts
from thresher_training.decisions.objectives import Objective
from thresher_training.decisions.room import between

__all__ = ["best_pooled_cut"]

_SHIFT = np.uint32(10)
_NUM_BINS = (0x3F800000 >> 10) + 1
_CHUNK = 1 << 22

_Scores = npt.NDArray[np.float32]


def best_pooled_cut(
    scores_NL: _Scores, targets_NL: npt.NDArray[Any], objective: Objective
) -> Cuts | None:
    """Return the best cut for all labels as `Cuts` of length 1; None without known positives.

    Args:
        scores_NL: float32 [N, L] in [0, 1], not checked.
        targets_NL: [N, L] of 0, 1 and NaN, not checked.
        objective: An F-beta, which is best at the score of a positive.
    """
    positive_B, negative_B = _count(scores_NL, targets_NL)
    # rows in a bin or above, for each bin and for none at all
    tp_C = np.append(np.cumsum(positive_B[::-1])[::-1], 0)
    fp_C = np.append(np.cumsum(negative_B[::-1])[::-1], 0)
    positives, negatives = int(tp_C[0]), int(fp_C[0])
    if not positives:
        return None
    least = objective.value(tp_C, fp_C, positives - tp_C, negatives - fp_C).max()
    most_B = objective.value(tp_C[:-1], fp_C[1:], positives - tp_C[:-1], negatives - fp_C[1:])
    key_K = _keys_of_bins(scores_NL, targets_NL, (most_B >= least) & (positive_B > 0))
    # equal scores have their positives first: the first of them counts them all
    at_K = np.flatnonzero((key_K & np.uint32(1)) == 0)
    bits_K = key_K >> np.uint32(1)
    bin_K = (bits_K[at_K] >> _SHIFT).astype(np.intp)
    end_K = np.searchsorted(bits_K, (bin_K.astype(np.uint32) + np.uint32(1)) << _SHIFT)
    rank_K = np.arange(len(at_K))
    tp_K = tp_C[bin_K + 1] + np.searchsorted(at_K, end_K) - rank_K
    fp_K = fp_C[bin_K + 1] + (end_K - at_K) - (np.searchsorted(at_K, end_K) - rank_K)
    value_K = objective.value(tp_K, fp_K, positives - tp_K, negatives - fp_K)
    best_K = np.flatnonzero(value_K == value_K.max())
    high_K = bits_K[at_K[best_K]].view(np.float32)
    low_K = _below(scores_NL, targets_NL, high_K)
    widest = int(np.argmax(high_K.astype(np.float64) - low_K))
    at, low, high = best_K[widest], float(low_K[widest]), float(high_K[widest])
    return Cuts(
        thresholds_L=np.array([between(low, high)], dtype=np.float32),
        tp_L=tp_K[[at]],
        fp_L=fp_K[[at]],
        fn_L=positives - tp_K[[at]],
        tn_L=negatives - fp_K[[at]],
        value_L=value_K[[at]],
        gap_L=np.array([high - low]),
        feasible_L=np.ones(1, dtype=np.bool_),
        loss_L=np.zeros(1),
    )


def _chunks(
    scores_NL: _Scores, targets_NL: npt.NDArray[Any]
) -> Iterator[tuple[npt.NDArray[np.uint32], npt.NDArray[np.bool_]]]:
    """Give the bits of known scores, and which of them are positive, some rows at a time."""
    rows = max(1, _CHUNK // max(1, scores_NL.shape[1]))
    for row in range(0, len(scores_NL), rows):
        targets = targets_NL[row : row + rows]
        positive = targets == 1
        known = positive | (targets == 0)
        scores = scores_NL[row : row + rows][known] + np.float32(0)  # -0 is 0
        yield scores.view(np.uint32), positive[known]


def _count(
    scores_NL: _Scores, targets_NL: npt.NDArray[Any]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return positives and negatives by bin."""
    counts_2B = np.zeros((2, _NUM_BINS), dtype=np.int64)
    for bits, positive in _chunks(scores_NL, targets_NL):
        cell = (bits >> _SHIFT).astype(np.intp)
        cell += _NUM_BINS * ~positive
        counts_2B += np.bincount(cell, minlength=2 * _NUM_BINS).reshape(2, -1)
    return counts_2B[0], counts_2B[1]


def _keys_of_bins(
    scores_NL: _Scores, targets_NL: npt.NDArray[Any], kept_B: npt.NDArray[np.bool_]
) -> npt.NDArray[np.uint32]:
    """Return the sorted keys (twice the bits, plus 1 for a negative) of the scores in some bins."""
    found = []
    for bits, positive in _chunks(scores_NL, targets_NL):
        kept = kept_B[bits >> _SHIFT]
        found.append(bits[kept] << np.uint32(1) | ~positive[kept])
    return np.sort(np.concatenate(found))


def _below(
    scores_NL: _Scores, targets_NL: npt.NDArray[Any], high_K: _Scores
) -> npt.NDArray[np.float64]:
    """Return the highest known score below each of some scores; 0 where there is none."""
    low_K = np.zeros(len(high_K), dtype=np.float32)
    for bits, _ in _chunks(scores_NL, targets_NL):
        scores = bits.view(np.float32)
        for at, high in enumerate(high_K):
            low_K[at] = max(low_K[at], scores.max(where=scores < high, initial=0))
    return low_K.astype(np.float64)
