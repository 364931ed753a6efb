"""Room around a threshold: cuts between scores that another engine's last bits do not bring over.

Two engines compute the same probability with differences far below the band that parity allows in
FP32. Where the scores on both sides of a cut are closer together than that band, rounding alone may
flip a row that the threshold was chosen on. Such a cut is taken only where there is no other.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from thresher.decision import FloatArray, sigmoid
from thresher.tolerances import tolerances_for
from thresher_training.decisions.objectives import Objective

__all__ = [
    "FP32_BAND",
    "MOST_LOSS",
    "NEAR_BEST",
    "around",
    "between",
    "clear_of_scores",
    "clear_of_served",
    "least_value",
    "off_the_grid",
    "roomy_cut",
]

FP32_BAND = tolerances_for("fp32").probabilities_atol
"""The narrowest gap that a tuned threshold stands in, in probability."""

NEAR_BEST = 1e-3
"""Without a wide enough gap, the widest among cuts whose value lies this near to the best."""

MOST_LOSS = 0.01
_MOST_ROWS = 10
"""A wide gap that costs more, and more than so many rows can, is as good as none."""

_REACH = 1e-3
"""How far a threshold that is not tuned (shared, shrunk) moves for room, at most a tenth of it."""

_FEW_LOGITS = 1000
"""Fewer may lie on a coarse grid by chance, as round numbers do."""

_ONE = np.uint32(0x3F800000)

_Floats = npt.NDArray[np.float64]
_Cuts = npt.NDArray[np.intp]
_Keys = npt.NDArray[np.uint32]


def between(low: float, high: float) -> np.float32:
    """Return the float32 nearest the middle of two float32 scores, above low and at most high."""
    middle = np.float32((low + high) / 2)
    return middle if middle > low else np.float32(high)


def around(key_N: _Keys, cut_K: _Cuts) -> tuple[_Floats, _Floats]:
    """Return the scores above and below each cut of sorted keys; 1 and 0 where there are none."""
    last = len(key_N) - 1
    high_K = np.where(cut_K <= last, key_N[np.minimum(cut_K, last)] >> np.uint32(1), _ONE)
    low_K = np.where(cut_K > 0, key_N[np.maximum(cut_K - 1, 0)] >> np.uint32(1), np.uint32(0))
    return high_K.view(np.float32).astype(np.float64), low_K.view(np.float32).astype(np.float64)


def least_value(
    objective: Objective, best: float, positives: int, num_rows: int, *, near: bool
) -> float:
    """Return the least value of a cut that may be taken instead of the best one, for its room.

    Args:
        objective: Costs and the distance from the prevalence are judged against what deciding
            all rows alike would give; other values lie in [0, 1].
        best: The best value of any cut.
        positives: Known positives.
        num_rows: Known targets.
        near: For a cut without room, which must lie near the best; else for one that has room.
    """
    scale = row = 1.0
    if objective.kind == "cost":
        row = max(objective.fp_cost, objective.fn_cost)
        negatives = num_rows - positives
        scale = min(objective.fn_cost * positives, objective.fp_cost * negatives) / num_rows
    elif objective.kind == "prevalence":
        scale = min(positives, num_rows - positives) / num_rows
    if near:
        return best - NEAR_BEST * scale
    # a cut that misses a bound has a value more than 1 lower, and is never taken for its room
    return best - min(max(MOST_LOSS * scale, _MOST_ROWS * row / num_rows), 0.999 * max(row, 1.0))


def roomy_cut(
    key_N: _Keys,
    cut_K: _Cuts,
    tp_K: npt.NDArray[np.int64],
    value_K: _Floats,
    objective: Objective,
    band: float,
) -> tuple[int, int]:
    """Return the cut to take where the best one's gap is narrower than the band, and its TP.

    It is the best of those with a gap of at least ``band``; where there is none between two
    scores, or all cost too much, the one with the widest gap near the best value.

    Args:
        key_N: A label's sorted keys, as `thresher_training.decisions.cuts` makes them.
        cut_K: Ascending cuts (the rows from there on are positive) of which each is the best up
            to the next lower one; the first is 0.
        tp_K: True positives at each.
        value_K: The objective's value at each.
        objective: Not fixed.
        band: In probability.
    """
    num_rows, positives = len(key_N), int(tp_K[0])
    best = float(value_K.max())
    high_K, low_K = around(key_N, cut_K)
    is_wide_K = (high_K - low_K >= band) & (cut_K > 0) & (cut_K < num_rows)
    least = least_value(objective, best, positives, num_rows, near=False)
    if is_wide_K.any():
        least = max(least, float(value_K[is_wide_K].max()))
    for at_least, needs_room in (
        (least, True),
        (least_value(objective, best, positives, num_rows, near=True), False),
    ):
        cut_C, tp_C, value_C = _worth(key_N, cut_K, tp_K, value_K, objective, at_least)
        high_C, low_C = around(key_N, cut_C)
        gap_C = high_C - low_C
        taken_C = np.ones(len(cut_C), dtype=np.bool_)
        if needs_room:
            taken_C = gap_C >= band
            if not (taken_C & (cut_C > 0) & (cut_C < num_rows)).any():
                continue
            taken_C &= value_C == value_C[taken_C].max()
            fp_C = (num_rows - cut_C) - tp_C
            negatives = num_rows - positives
            tie_C = objective.tie_value(tp_C, fp_C, positives - tp_C, negatives - fp_C)
            taken_C &= tie_C == tie_C[taken_C].max()
        at = int(np.argmax(np.where(taken_C, gap_C, -1.0)))
        break
    return int(cut_C[at]), int(tp_C[at])


def _worth(
    key_N: _Keys,
    cut_K: _Cuts,
    tp_K: npt.NDArray[np.int64],
    value_K: _Floats,
    objective: Objective,
    least: float,
) -> tuple[_Cuts, npt.NDArray[np.int64], _Floats]:
    """Return all cuts between distinct scores with at least a value, their TP and values."""
    num_rows, positives = len(key_N), int(tp_K[0])
    # cuts from above the cut before up to this one have its TP and more FP: no higher value
    length_K = np.diff(cut_K, prepend=-1) * (value_K >= least)
    from_K = cut_K - length_K + 1
    shift_K = np.cumsum(length_K) - length_K
    cut_C = np.repeat(from_K - shift_K, length_K) + np.arange(int(length_K.sum()))
    tp_C = np.repeat(tp_K, length_K)
    inner = np.clip(cut_C, 1, num_rows - 1) if num_rows > 1 else cut_C * 0
    is_end_C = (cut_C == 0) | (cut_C == num_rows)
    distinct_C = is_end_C | ((key_N[inner] ^ key_N[inner - 1]) > 1)
    cut_C, tp_C = cut_C[distinct_C], tp_C[distinct_C]
    fp_C = (num_rows - cut_C) - tp_C
    negatives = num_rows - positives
    value_C = objective.value(tp_C, fp_C, positives - tp_C, negatives - fp_C)
    worth_C = value_C >= least
    return cut_C[worth_C], tp_C[worth_C], value_C[worth_C]


def clear_of_scores(
    scores_NL: FloatArray,
    targets_NL: FloatArray,
    thresholds_L: npt.ArrayLike,
    *,
    band: float,
    margin: float,
    where_L: npt.NDArray[np.bool_] | None = None,
) -> FloatArray:
    """Return thresholds float32 [L] moved off the known scores nearest to them.

    Where the scores around a threshold are at least ``band`` apart it crosses none, so the outcome
    stays. Else it goes to the nearest gap that is wide enough, within 0.001 and a tenth of the
    threshold; without one, to the widest there. It is not put in the middle of the gap, which may
    be far from where it was drawn.

    Args:
        scores_NL: float32 [N, L] in [0, 1].
        targets_NL: float32 [N, L] of 0 and 1; NaN where unknown.
        thresholds_L: float32 [L] in [0, 1].
        band: The narrowest gap wanted.
        margin: The distance wanted from the scores, where the gap allows it.
        where_L: bool [L], the thresholds that may move; all where left out.
    """
    clear_L = np.array(thresholds_L, dtype=np.float32)
    for at in range(len(clear_L)) if where_L is None else np.flatnonzero(where_L).tolist():
        known_N = scores_NL[~np.isnan(targets_NL[:, at]), at]
        clear_L[at] = _clear(known_N, float(clear_L[at]), band, margin)
    return clear_L


def clear_of_served(
    scores_NL: FloatArray,
    served_NL: FloatArray,
    thresholds_L: FloatArray,
    *,
    band: float,
    where_L: npt.NDArray[np.bool_],
) -> FloatArray:
    """Return thresholds float32 [L] moved off another network's scores, within their own gaps.

    A threshold moves only where such a score is nearer than half the band, and crosses none of
    the scores that it was chosen on.

    Args:
        scores_NL: float32 [N, L], what thresholds were chosen on.
        served_NL: float32 [N, L], what to keep clear of.
        thresholds_L: float32 [L] in [0, 1].
        band: The narrowest gap wanted.
        where_L: bool [L], the thresholds that may move.
    """
    moved_L = np.array(thresholds_L, dtype=np.float32)
    near_L = (np.abs(served_NL - thresholds_L) < band / 2).any(axis=0)
    for at in np.flatnonzero(where_L & near_L).tolist():
        threshold, score_N, served_N = thresholds_L[at], scores_NL[:, at], served_NL[:, at]
        yes_N = score_N >= threshold
        high = np.float64(score_N.min(where=yes_N, initial=1.0))
        low = np.float64(score_N.max(where=~yes_N, initial=0.0))
        between_N = served_N[(served_N > low) & (served_N < high)].astype(np.float64)
        edge_G = np.unique(np.concatenate([[low], between_N, [high]]))
        keep = min(band, high - low) / 4  # room for the scores that were tuned on comes first
        low_G = np.maximum(edge_G[:-1], low + keep)
        high_G = np.minimum(edge_G[1:], high - keep)
        widest = int(np.argmax(high_G - low_G))
        if high_G[widest] > low_G[widest]:
            moved_L[at] = between(float(low_G[widest]), float(high_G[widest]))
    return moved_L


def off_the_grid(
    logits_NL: FloatArray,
    thresholds_L: FloatArray,
    scale_L: FloatArray,
    bias_L: FloatArray,
    *,
    where_L: npt.NDArray[np.bool_],
) -> FloatArray:
    """Return thresholds float32 [L] moved off the logits that a half-precision network can give.

    The middle of two values of BF16's or FP16's grid is often a third one. No tuned row has it, but
    others will, and a last bit would decide them all. The middle of two neighbours is clear of all.
    Where the logits are on no such grid, nothing moves.

    Args:
        logits_NL: float32 [N, L], what thresholds were chosen on.
        thresholds_L: float32 [L] in [0, 1].
        scale_L: float32 [L] of the calibration.
        bias_L: float32 [L] likewise.
        where_L: bool [L], the thresholds that may move.
    """
    is_bf16 = not (np.ascontiguousarray(logits_NL).view(np.uint32) & np.uint32(0xFFFF)).any()
    with np.errstate(over="ignore"):
        is_on_grid = is_bf16 or bool((logits_NL.astype(np.float16) == logits_NL).all())
    moved_L = np.array(thresholds_L, dtype=np.float32)
    inner_L = where_L & (moved_L > 0) & (moved_L < 1)
    if not (is_on_grid and logits_NL.size >= _FEW_LOGITS):
        return moved_L
    for at in np.flatnonzero(inner_L).tolist():
        scale, bias, p = np.float64(scale_L[at]), np.float64(bias_L[at]), np.float64(moved_L[at])
        z = np.float32((np.log(p) - np.log1p(-p) - bias) / scale)
        if is_bf16:
            bits = z.view(np.uint32) & np.uint32(0xFFFF0000)
            ends = np.array([bits, bits + np.uint32(0x10000)], np.uint32).view(np.float32)
        else:
            nearest = np.float16(z)
            ends = np.array(
                [nearest, np.nextafter(nearest, np.float16(np.inf if z >= nearest else -np.inf))]
            )
        low, high = np.sort(ends.astype(np.float64))
        if 0.25 < (z - low) / (high - low) < 0.75:
            continue
        middle = (low + high) / 2 * scale + bias
        tried = np.float32(1 / (1 + np.exp(-middle)))
        score_N = sigmoid(logits_NL[:, at] * scale_L[at] + bias_L[at])
        if ((score_N >= tried) == (score_N >= moved_L[at])).all():
            moved_L[at] = tried
    return moved_L


def _clear(known_N: FloatArray, threshold: float, band: float, margin: float) -> np.float32:
    yes_N = known_N >= np.float32(threshold)
    high = float(known_N[yes_N].min()) if yes_N.any() else 1.0
    low = float(known_N[~yes_N].max()) if not yes_N.all() else 0.0
    if high - low < band:
        reach = min(_REACH, 0.1 * threshold, 0.1 * (1 - threshold))
        near_N = known_N[np.abs(known_N - threshold) <= reach + band].astype(np.float64)
        edge_G = np.unique(np.concatenate([near_N, [threshold - reach, threshold + reach]]))
        low_G, high_G = edge_G[:-1], edge_G[1:]
        off_G = np.maximum(low_G + band / 2 - threshold, threshold - high_G + band / 2)
        fits_G = (high_G - low_G >= band) & (off_G <= reach)
        if fits_G.any():
            at = int(np.argmin(np.where(fits_G, off_G, np.inf)))
        else:
            at = int(np.argmax(high_G - low_G))
        low, high = float(low_G[at]), float(high_G[at])
    if high - low <= 2 * margin:
        return between(low, high)
    return np.float32(min(max(threshold, low + margin), high - margin))
