"""The best threshold of each label, exactly, and as safe as it can be.

Every cut between two neighbouring distinct scores is tried, by sorting. Among the cuts with the
best value the one with the widest gap is taken, and the threshold is put in its middle: rounding
differences between engines then have the most room before they flip a validated decision. Where a
band is given, cuts in narrower gaps are no candidates (`thresher_training.decisions.room`).

A score in [0, 1] and its target are packed into one uint32 (the float32's bits, which order as the
scores do, and the target in the lowest bit), so one plain sort orders both. Blocks of labels are
copied out of the matrix and worked on by threads; memory beyond the input is one block a thread.

Source: Z. C. Lipton, C. Elkan and B. Naryanaswamy, "Optimal Thresholding of Classifiers to Maximize
F1 Measure", ECML PKDD 2014 (F1 per label is maximised by one threshold on the label's score).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from thresher.errors import DataError, DecisionError
from thresher_training.decisions.objectives import Objective
from thresher_training.decisions.room import around, between, roomy_cut

__all__ = ["Cuts", "Progress", "best_cuts", "check_shapes"]

Progress = Callable[[int, int], None]
"""Called with the labels done and all labels, from one thread at a time."""

_ONE = np.uint32(0x3F800000)
"""The bits of 1.0, the highest score there is."""

_UNKNOWN = np.uint32(0xFFFFFFFF)
"""The key of a row whose target is unknown: after all others."""

_ROWS = 4096
"""Rows copied at a time: what is read of them stays in the cache while it is transposed."""

_LABELS = 16
"""Labels of a block where memory allows: their float32 scores in one row fill a cache line."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cuts:
    """One threshold for each label, and what it gives on the scores it was chosen on.

    Counts (int64) are over known targets; comparing the float32 scores with the float32 threshold
    (``score >= threshold``) gives exactly them.
    """

    thresholds_L: npt.NDArray[np.float32]
    tp_L: npt.NDArray[np.int64]
    fp_L: npt.NDArray[np.int64]
    fn_L: npt.NDArray[np.int64]
    tn_L: npt.NDArray[np.int64]
    value_L: npt.NDArray[np.float64]
    """What the objective makes as large as it can be."""

    gap_L: npt.NDArray[np.float64]
    """Distance between the lowest score that is a yes and the highest that is a no; from 0 and to
    1 where there is none."""

    feasible_L: npt.NDArray[np.bool_]
    """Whether the objective's bound is met; where not, the cut is the nearest that can be had."""

    loss_L: npt.NDArray[np.float64]
    """How far the value lies below the best one, whose gap is narrower than the band."""

    def __len__(self) -> int:
        return len(self.thresholds_L)

    def at(self, label: int) -> dict[str, Any]:
        """Return one label's numbers by name, without the suffix."""
        return {field.name[:-2]: getattr(self, field.name)[label].item() for field in fields(self)}

    def replace(self, where_L: npt.NDArray[np.bool_], other: Cuts) -> Cuts:
        """Return these cuts with those of some labels taken from another."""
        return Cuts(
            **{
                field.name: np.where(where_L, getattr(other, field.name), getattr(self, field.name))
                for field in fields(self)
            }
        )


def best_cuts(
    scores_NL: npt.NDArray[np.float32],
    targets_NL: npt.NDArray[Any],
    objectives: Objective | Sequence[Objective],
    *,
    band: float = 0.0,
    block_bytes: int = 96 * 2**20,
    num_threads: int | None = None,
    progress: Progress | None = None,
    labels: Sequence[str] | None = None,
) -> Cuts:
    """Return the cut of each label with the best value, in the middle of the widest such gap.

    "Nothing is positive" is a cut too (above the highest score, unless that is 1), and so is
    "everything is positive". Where all cuts are alike because a label has no known positives, or
    no known targets, the threshold is 0.5 and the gap 0.

    Args:
        scores_NL: float32 [N, L] in [0, 1].
        targets_NL: [N, L] of 0 and 1; bool, integers, or floats with NaN where unknown, which is
            left out.
        objectives: One for all labels, or one for each; none of them joint.
        band: The narrowest gap that a cut may have, in probability. Where there is none as wide,
            the widest among the cuts within 0.001 of the best value is taken. All cuts are
            candidates with 0.
        block_bytes: Memory of a thread's block; at least one label is worked on.
        num_threads: Threads; all cores where left out.
        progress: Called after each block.
        labels: Names for error messages; positions where left out.

    Raises:
        DataError: If shapes differ, a score is not in [0, 1] or a target is not 0, 1 or NaN.
        DecisionError: If an objective is joint, or they are not one for each label.

    Example:
        >>> from thresher_training.decisions.objectives import parse_objective
        >>> scores = np.float32([[0.125], [0.25], [0.75], [0.875]])
        >>> cuts = best_cuts(scores, np.uint8([[0], [0], [1], [1]]), parse_objective("f1"))
        >>> cuts.thresholds_L.tolist(), cuts.tp_L.tolist(), cuts.value_L.tolist()
        ([0.5], [2], [1.0])
    """
    scores_NL, targets_NL = check_shapes(scores_NL, targets_NL)
    num_rows, num_labels = scores_NL.shape
    each = [objectives] * num_labels if isinstance(objectives, Objective) else list(objectives)
    if len(each) != num_labels:
        raise DecisionError(f"{len(each)} objectives for {num_labels} labels")
    if joint := [objective.text for objective in each if objective.is_joint]:
        raise DecisionError(f'objective "{joint[0]}" is over all labels; expected one for a label')
    num_threads = num_threads or os.cpu_count() or 1
    row_bytes = 4 + targets_NL.itemsize
    width = block_bytes // max(1, num_rows * row_bytes)
    width = max(1, min(width, _LABELS, -(-num_labels // num_threads)))
    starts = range(0, num_labels, width)
    names = [str(at) for at in range(num_labels)] if labels is None else [f'"{x}"' for x in labels]

    def work(start: int) -> list[tuple[Any, ...]]:
        block = slice(start, start + width)
        keys_LN = _keys(scores_NL[:, block], targets_NL[:, block], names[block])
        return [_best_cut(*row, each[start + at], band) for at, row in enumerate(keys_LN)]

    rows: list[tuple[Any, ...]] = []
    with ThreadPoolExecutor(num_threads) as pool:
        for found in pool.map(work, starts) if num_threads > 1 else map(work, starts):
            rows += found
            if progress:
                progress(len(rows), num_labels)
    columns = list(zip(*rows, strict=True)) if rows else [()] * 9
    dtypes = (np.float32, *[np.int64] * 4, np.float64, np.float64, np.bool_, np.float64)
    arrays: list[Any] = [
        np.array(column, dtype) for column, dtype in zip(columns, dtypes, strict=True)
    ]
    return Cuts(**dict(zip((field.name for field in fields(Cuts)), arrays, strict=True)))


def check_shapes(
    scores_NL: npt.ArrayLike, targets_NL: npt.ArrayLike
) -> tuple[npt.NDArray[np.float32], npt.NDArray[Any]]:
    """Return float32 scores and targets that are both [N, L].

    Raises:
        DataError: If they are not.
    """
    scores, targets = np.asarray(scores_NL, dtype=np.float32), np.asarray(targets_NL)
    if scores.ndim != 2 or scores.shape != targets.shape:
        raise DataError(
            f"scores and targets must both be [N, L], "
            f"got {list(scores.shape)} and {list(targets.shape)}"
        )
    if targets.dtype.kind not in "buif":
        raise DataError(f"targets are {targets.dtype}, expected numbers 0 and 1 (or NaN)")
    return scores, targets


def _keys(
    scores_NL: npt.NDArray[np.float32], targets_NL: npt.NDArray[Any], names: Sequence[str]
) -> list[tuple[npt.NDArray[np.uint32], int]]:
    """Return each label's sorted keys, the unknown ones left out, and how many are positive.

    A key is twice the score's bits, plus 1 for a negative: in ascending order, equal scores have
    their positives first.
    """
    keys_LN = np.empty(scores_NL.shape[::-1], dtype=np.float32)
    target_LN = np.empty(scores_NL.shape[::-1], dtype=targets_NL.dtype)
    for row in range(0, len(scores_NL), _ROWS):
        keys_LN[:, row : row + _ROWS] = scores_NL[row : row + _ROWS].T
        target_LN[:, row : row + _ROWS] = targets_NL[row : row + _ROWS].T
    found = []
    for name, score_N, target_N in zip(names, keys_LN, target_LN, strict=True):
        key_N = score_N.view(np.uint32)
        if len(key_N) and key_N.max() > _ONE:  # also NaN, and whatever has its sign bit set
            _check_scores(score_N, name)
            np.add(score_N, np.float32(0), out=score_N)  # -0 is 0
        positive_N = target_N == 1
        num_positives = int(np.count_nonzero(positive_N))
        num_known = num_positives + int(np.count_nonzero(target_N == 0))
        key_N <<= np.uint32(1)
        key_N |= ~positive_N
        if num_known < len(key_N):
            unknown_N = np.isnan(target_N) if target_N.dtype.kind == "f" else np.zeros(1, np.bool_)
            if num_known + int(np.count_nonzero(unknown_N)) < len(key_N):
                _refuse_targets(target_N, name)
            key_N[unknown_N] = _UNKNOWN
        key_N.sort()
        found.append((key_N[:num_known], num_positives))
    return found


def _best_cut(
    key_N: npt.NDArray[np.uint32], num_positives: int, objective: Objective, band: float
) -> tuple[Any, ...]:
    """Return one label's row of `Cuts` from its sorted keys."""
    num_rows = len(key_N)
    if not num_rows:
        threshold = objective.threshold if objective.kind == "fixed" else 0.5
        value, is_met = objective.value(0, 0, 0, 0), objective.is_met(0, 0, 0, 0)
        return threshold, 0, 0, 0, 0, float(value), 0.0, bool(is_met), 0.0
    # a cut at k: the rows from k on are positive; none at all where there is room below 1
    top = num_rows if key_N[-1] >> 1 < _ONE else int(np.searchsorted(key_N, _ONE << 1))
    if objective.kind == "fixed":
        bits = np.float32(objective.threshold).view(np.uint32)
        cut_K = np.array([np.searchsorted(key_N, bits << 1)])
    elif objective.is_monotone:
        # the best cut has a positive at its lower end, or is one of the two extremes
        positive_P = np.flatnonzero((key_N & np.uint32(1)) == 0)
        cut_K = np.concatenate([[0], positive_P, [top]])
    else:
        change_K = np.flatnonzero((key_N[1:] ^ key_N[:-1]) > 1) + 1
        cut_K = np.concatenate([[0], change_K[change_K < top], [top]])
    if objective.is_monotone:
        tp_K = np.concatenate([[num_positives], np.arange(num_positives, 0, -1), [0]])
        tp_K[-1] = np.count_nonzero((key_N[top:] & np.uint32(1)) == 0)
    else:
        below_N = np.cumsum((key_N & np.uint32(1)) == 0)
        tp_K = num_positives - np.where(cut_K > 0, below_N[cut_K - 1], 0)
    fp_K = (num_rows - cut_K) - tp_K
    fn_K, tn_K = num_positives - tp_K, (num_rows - num_positives) - fp_K
    value_K = objective.value(tp_K, fp_K, fn_K, tn_K)
    if not num_positives and objective.is_monotone and value_K[0] == value_K[-1]:
        return _at_half(key_N, objective)
    best_K = np.flatnonzero(value_K == value_K.max())
    if len(best_K) > 1:
        tie_K = objective.tie_value(tp_K[best_K], fp_K[best_K], fn_K[best_K], tn_K[best_K])
        best_K = best_K[tie_K == tie_K.max()]
    high_K, low_K = around(key_N, cut_K[best_K])
    widest = int(np.argmax(high_K - low_K))
    cut, tp = int(cut_K[best_K[widest]]), int(tp_K[best_K[widest]])
    low, high = float(low_K[widest]), float(high_K[widest])
    if high - low < band and objective.kind != "fixed":
        real_K = cut_K <= top  # beyond it, equal scores of 1 would be torn apart
        cut, tp = roomy_cut(key_N, cut_K[real_K], tp_K[real_K], value_K[real_K], objective, band)
        (high,), (low,) = around(key_N, np.array([cut]))
    fp = (num_rows - cut) - tp
    counts = (tp, fp, num_positives - tp, (num_rows - num_positives) - fp)
    reached = float(objective.value(*counts))
    loss = float(value_K.max()) - reached
    middle = objective.threshold if objective.kind == "fixed" else float(between(low, high))
    return middle, *counts, reached, high - low, bool(objective.is_met(*counts)), loss


def _at_half(key_N: npt.NDArray[np.uint32], objective: Objective) -> tuple[Any, ...]:
    """Return the row of a label without positives whose cuts are all alike."""
    negatives_above = len(key_N) - int(np.searchsorted(key_N, np.float32(0.5).view(np.uint32) << 1))
    counts = (0, negatives_above, 0, len(key_N) - negatives_above)
    return 0.5, *counts, float(objective.value(*counts)), 0.0, bool(objective.is_met(*counts)), 0.0


def _check_scores(score_N: npt.NDArray[np.float32], label: str) -> None:
    """Refuse scores out of [0, 1]; -0 passes."""
    bad_N = ~((score_N >= 0) & (score_N <= 1))
    if bad_N.any():
        raise DataError(
            f"scores must be probabilities in [0, 1]; label {label} has {_where(score_N, bad_N)}"
        )


def _refuse_targets(target_N: npt.NDArray[Any], label: str) -> None:
    bad_N = ~((target_N == 0) | (target_N == 1) | (target_N != target_N))  # noqa: PLR0124
    raise DataError(
        f"targets must be 0, 1 or NaN (unknown); label {label} has {_where(target_N, bad_N)}"
    )


def _where(values_N: npt.NDArray[Any], bad_N: npt.NDArray[np.bool_]) -> str:
    """Return how many values are bad, and the first rows that hold them."""
    rows = np.flatnonzero(bad_N)
    first = ", ".join(f"{row} ({values_N[row]})" for row in rows[:3])
    more = ", ..." if len(rows) > 3 else ""
    return f"{len(rows)} other value{'s' if len(rows) > 1 else ''}: in row {first}{more}"
