"""Thresholds that are best for all labels together: micro-F-beta, example-based F-beta, shared.

Micro-F-beta is a ratio of two sums over labels. For a ratio r to beat, it is enough to maximise
``(1 + beta^2) * TP - r * (beta^2 * P + TP + FP)``, which falls apart into one cost for each label
(a false positive costs r, a false negative 1 + beta^2 - r). Dinkelbach's iteration does that with
r = the best ratio so far until it no longer grows, and then no choice of thresholds is better.

Example-based F-beta, the mean over rows of the row's own F-beta, has no such form: coordinate
ascent, one label at a time and exact in each step, from several starts, ends in a local optimum.

Source: W. Dinkelbach, "On Nonlinear Fractional Programming", Management Science 13(7), 1967;
S. P. Parambath, N. Usunier and Y. Grandvalet, "Optimizing F-Measures by Cost-Sensitive
Classification", NeurIPS 2014.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from thresher_training.decisions.cuts import Cuts, Progress, best_cuts, check_shapes
from thresher_training.decisions.objectives import Objective
from thresher_training.decisions.pooled import best_pooled_cut
from thresher_training.decisions.room import MOST_LOSS, NEAR_BEST, between

__all__ = ["best_example_cuts", "best_micro_cuts", "cuts_at", "example_value", "shared_cut"]

_BoolArray = npt.NDArray[np.bool_]
_MAX_STEPS = 100
_MAX_SORTED = 1 << 24
"""More pooled scores than this are not sorted all at once."""

_ROWS = 8192


def shared_cut(
    scores_NL: npt.NDArray[np.float32],
    targets_NL: npt.NDArray[Any],
    objective: Objective,
    *,
    band: float = 0.0,
) -> Cuts:
    """Return the one cut that is best over all labels' scores pooled, as `Cuts` of length 1.

    Args:
        scores_NL: float32 [N, L] in [0, 1].
        targets_NL: [N, L] of 0, 1 and NaN.
        objective: For the pooled counts; F-beta gives the best micro-F-beta of one threshold.
        band: As in `best_cuts`; of more than 16 million scores any cut is a candidate, since they
            leave no gap that is as wide.
    """
    scores_NL, targets_NL = check_shapes(scores_NL, targets_NL)
    if scores_NL.size > _MAX_SORTED and objective.kind == "f":
        found = best_pooled_cut(scores_NL, targets_NL, objective)
        if found is not None:
            return found
    pooled = scores_NL.reshape(-1, 1), targets_NL.reshape(-1, 1)
    return best_cuts(*pooled, objective, band=band, num_threads=1)


def cuts_at(
    scores_NL: npt.NDArray[np.float32],
    targets_NL: npt.NDArray[Any],
    thresholds_L: npt.ArrayLike,
    objectives: list[Objective],
) -> Cuts:
    """Return the cuts at given thresholds, with the gap around each of them.

    Args:
        scores_NL: float32 [N, L] in [0, 1].
        targets_NL: [N, L] of 0, 1 and NaN.
        thresholds_L: float32 [L] in [0, 1].
        objectives: What ``value_L`` and ``feasible_L`` are about.
    """
    thresholds = np.asarray(thresholds_L, dtype=np.float32)
    fixed = [
        Objective(text=f"fixed={threshold}", kind="fixed", threshold=float(threshold))
        for threshold in thresholds
    ]
    cuts = best_cuts(scores_NL, targets_NL, fixed)
    counts = list(zip(cuts.tp_L, cuts.fp_L, cuts.fn_L, cuts.tn_L, strict=True))
    pairs = list(zip(objectives, counts, strict=True))
    return Cuts(
        thresholds_L=thresholds,
        tp_L=cuts.tp_L,
        fp_L=cuts.fp_L,
        fn_L=cuts.fn_L,
        tn_L=cuts.tn_L,
        value_L=np.array([objective.value(*count) for objective, count in pairs], np.float64),
        gap_L=cuts.gap_L,
        loss_L=cuts.loss_L,
        feasible_L=np.array([objective.is_met(*count) for objective, count in pairs], np.bool_),
    )


def best_micro_cuts(
    scores_NL: npt.NDArray[np.float32],
    targets_NL: npt.NDArray[Any],
    objective: Objective,
    start: Cuts,
    free_L: _BoolArray | None = None,
    *,
    band: float = 0.0,
    progress: Progress | None = None,
) -> tuple[Cuts, float]:
    """Return the cuts with the best micro-F-beta there is, and that value.

    Args:
        scores_NL: float32 [N, L] in [0, 1].
        targets_NL: [N, L] of 0, 1 and NaN.
        objective: Its ``beta`` counts.
        start: Where to start; any cuts will do, good ones save steps.
        free_L: bool [L], the labels whose cuts may change; all where left out. The others keep
            those of ``start`` and still count.
        band: As in `best_cuts`.
        progress: Called in each step with the labels done and all labels.
    """
    free_L = np.ones(len(start), dtype=np.bool_) if free_L is None else free_L
    cuts, best = start, _micro(start, objective)
    for _ in range(_MAX_STEPS if free_L.any() else 0):
        linear = Objective(
            text="linear", kind="cost", fp_cost=best, fn_cost=1 + objective.beta**2 - best
        )
        found = best_cuts(scores_NL, targets_NL, linear, band=band, progress=progress)
        found = start.replace(free_L, found)
        value = _micro(found, objective)
        if value >= best:  # at the optimum too: the same value, in the widest gaps
            cuts = found
        if value <= best:
            break
        best = value
    value_L = objective.value(cuts.tp_L, cuts.fp_L, cuts.fn_L, cuts.tn_L)
    # what a label's cost is above its least, as a share of what is below the line of micro-F
    known_L, square = cuts.tp_L + cuts.fp_L + cuts.fn_L + cuts.tn_L, objective.beta**2
    below = float(((1 + square) * cuts.tp_L + square * cuts.fn_L + cuts.fp_L).sum())
    loss_L = np.zeros(len(cuts)) if cuts is start else cuts.loss_L * known_L / max(below, 1.0)
    scored = Cuts(**{**_arrays(cuts), "value_L": value_L, "loss_L": loss_L})
    return start.replace(free_L, scored), best


def _micro(cuts: Cuts, objective: Objective) -> float:
    return float(
        objective.value(cuts.tp_L.sum(), cuts.fp_L.sum(), cuts.fn_L.sum(), cuts.tn_L.sum())
    )


def _arrays(cuts: Cuts) -> dict[str, Any]:
    return {name: getattr(cuts, name) for name in Cuts.__dataclass_fields__}


def example_value(
    scores_NL: npt.NDArray[np.float32],
    targets_NL: npt.NDArray[Any],
    thresholds_L: npt.ArrayLike,
    objective: Objective,
) -> float:
    """Return the mean over rows of F-beta of a row's known targets; 0 for a row without any label.

    Args:
        scores_NL: float32 [N, L] in [0, 1].
        targets_NL: [N, L] of 0, 1 and NaN.
        thresholds_L: float32 [L] in [0, 1].
        objective: Its ``beta`` counts.
    """
    above_N, below_N = _row_terms(scores_NL, targets_NL, thresholds_L, objective)
    return float(np.mean(above_N / np.maximum(below_N, 1e-300))) if len(above_N) else 0.0


def best_example_cuts(
    scores_NL: npt.NDArray[np.float32],
    targets_NL: npt.NDArray[Any],
    objective: Objective,
    starts: list[npt.NDArray[np.float32]],
    free_L: _BoolArray | None = None,
    *,
    band: float = 0.0,
    progress: Progress | None = None,
) -> tuple[npt.NDArray[np.float32], float]:
    """Return thresholds float32 [L] with a locally best example-based F-beta, and that value.

    No other threshold of a single label is better; another choice of several at once may be.

    Args:
        scores_NL: float32 [N, L] in [0, 1].
        targets_NL: [N, L] of 0, 1 and NaN.
        objective: Its ``beta`` counts.
        starts: Thresholds float32 [L] to start from; the best end is returned.
        free_L: bool [L], the labels whose thresholds may change; all where left out.
        band: As in `best_cuts`; the starts are to have that room.
        progress: Called in each sweep with the labels done and all labels.
    """
    scores_NL, targets_NL = check_shapes(scores_NL, targets_NL)
    num_labels = scores_NL.shape[1]
    free = range(num_labels) if free_L is None else np.flatnonzero(free_L).tolist()
    ends = []
    for start in starts:
        thresholds_L = np.array(start, dtype=np.float32)
        value = example_value(scores_NL, targets_NL, thresholds_L, objective)
        for _ in range(_MAX_STEPS):
            terms = _row_terms(scores_NL, targets_NL, thresholds_L, objective)
            for done, at in enumerate(free):
                column = np.ascontiguousarray(scores_NL[:, at]), targets_NL[:, at] == 1
                known_N = column[1] | (targets_NL[:, at] == 0)
                thresholds_L[at] = _improve(
                    *column, known_N, thresholds_L[at], *terms, objective, band
                )
                if progress:
                    progress(done + 1, len(free))
            before = value
            value = example_value(scores_NL, targets_NL, thresholds_L, objective)
            if value <= before + 1e-12:
                break
        ends.append((value, thresholds_L))
    value, thresholds_L = max(ends, key=lambda end: end[0])
    return thresholds_L, value


def _row_terms(
    scores_NL: npt.NDArray[np.float32],
    targets_NL: npt.NDArray[Any],
    thresholds_L: npt.ArrayLike,
    objective: Objective,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return what is above and below the line in each row's F-beta."""
    square = objective.beta**2
    above_N, below_N = np.zeros(len(scores_NL)), np.zeros(len(scores_NL))
    for row in range(0, len(scores_NL), _ROWS):
        rows = slice(row, row + _ROWS)
        positive = targets_NL[rows] == 1
        yes = (scores_NL[rows] >= np.asarray(thresholds_L)) & (positive | (targets_NL[rows] == 0))
        above_N[rows] = (1 + square) * (yes & positive).sum(axis=1)
        below_N[rows] = square * positive.sum(axis=1) + yes.sum(axis=1)
    return above_N, below_N


def _improve(
    score_N: npt.NDArray[np.float32],
    positive_N: _BoolArray,
    known_N: _BoolArray,
    threshold: np.float32,
    above_N: npt.NDArray[np.float64],
    below_N: npt.NDArray[np.float64],
    objective: Objective,
    band: float,
) -> np.float32:
    """Return one label's best threshold with the others held; brings the rows' terms up to date."""
    gain = 1 + objective.beta**2
    yes_N = known_N & (score_N >= threshold)
    above_N -= gain * (yes_N & positive_N)
    below_N -= yes_N
    with_N = (above_N + gain * positive_N) / (below_N + 1)
    gain_N = with_N - above_N / np.maximum(below_N, 1e-300)
    rows_K = np.flatnonzero(known_N)
    rows_K = rows_K[np.argsort(score_N[rows_K])[::-1]]
    sorted_K = np.append(score_N[rows_K], np.float32(0)).astype(np.float64)
    # a cut at k: the k highest are positive; none at all where there is room below 1
    total_K = np.concatenate([[0.0], np.cumsum(gain_N[rows_K])])
    high_K = np.concatenate([[1.0], sorted_K[:-1]])
    gap_K = high_K - sorted_K
    gap_K[-1] = max(gap_K[-1], 1e-300)  # everything positive is a cut even where the lowest is 0
    real_K = np.flatnonzero(gap_K > 0)
    least = total_K[real_K].max() - 1e-9
    at = _widest(real_K[total_K[real_K] >= least], gap_K)
    if gap_K[at] < band:
        scale = np.count_nonzero(positive_N)  # what the label's rows can add at most
        wide_K = real_K[gap_K[real_K] >= band]
        wide_K = wide_K[total_K[wide_K] >= least - max(MOST_LOSS * scale, 1.0)]
        if ((wide_K > 0) & (wide_K < len(rows_K))).any():
            at = _widest(wide_K[total_K[wide_K] >= total_K[wide_K].max() - 1e-9], gap_K)
        else:
            at = _widest(real_K[total_K[real_K] >= least - NEAR_BEST * scale], gap_K)
    if not len(rows_K) or total_K[at] <= gain_N[yes_N].sum() + 1e-9:
        best = threshold
    else:
        best = between(float(sorted_K[at]), float(high_K[at]))
    yes_N = known_N & (score_N >= best)
    above_N += gain * (yes_N & positive_N)
    below_N += yes_N
    return np.float32(best)


def _widest(of_K: npt.NDArray[np.intp], gap_K: npt.NDArray[np.float64]) -> np.intp:
    """Return the one of some cuts that has the widest gap."""
    return np.intp(of_K[np.argmax(gap_K[of_K])])
