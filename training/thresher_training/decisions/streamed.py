"""Thresholds from score histograms: rows in a stream, memory of a fixed size, a stated bound.

A cut falls between two bins. No cut on the rows themselves can do better than if the rows of one
bin could be split ideally, its positives above the cut and its negatives below: the best such value
is ``upper_L``, and the exact optimum lies between ``cuts.value_L`` and it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from thresher.decision import FloatArray, sigmoid
from thresher.errors import DecisionError
from thresher.scores import NEGATIVE, POSITIVE, ScoreHistograms, bin_edges
from thresher_training.decisions.cuts import Cuts
from thresher_training.decisions.objectives import Objective
from thresher_training.decisions.room import FP32_BAND, between, least_value

__all__ = ["StreamedCuts", "best_cuts_of_histograms"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StreamedCuts:
    """The best cuts between bins, and what the rows' own best cuts can reach at most."""

    cuts: Cuts
    """Counts are of logits below and above the cut. Where a sigmoid in float32 cannot tell
    logits apart (probabilities close to 1), rows next to the cut may fall on its other side."""

    upper_L: npt.NDArray[np.float64]
    """No threshold on the same rows has a higher value."""


def best_cuts_of_histograms(
    histograms: ScoreHistograms,
    objectives: Objective | Sequence[Objective],
    *,
    scale_L: npt.ArrayLike | None = None,
    bias_L: npt.ArrayLike | None = None,
    band: float = FP32_BAND,
) -> StreamedCuts:
    """Return the best cut between bins for each label, in the middle of the widest such gap.

    A cut whose gap is narrower than the band is taken only where there is no other, as in
    `thresher_training.decisions.cuts.best_cuts`; the gap is that of the bins, at most the rows'.

    Args:
        histograms: Of logits and known targets; rows with unknown targets are left out.
        objectives: One for all labels, or one for each; neither joint nor fixed.
        scale_L: float32 [L] of the calibration that the thresholds are for; 1 where left out.
        bias_L: float32 [L], likewise; 0 where left out.
        band: The narrowest gap wanted, in probability; 0 takes any cut.

    Raises:
        DecisionError: If an objective is joint or fixed, or they are not one for each label.
    """
    num_labels = histograms.num_labels
    each = [objectives] * num_labels if isinstance(objectives, Objective) else list(objectives)
    if len(each) != num_labels:
        raise DecisionError(f"{len(each)} objectives for {num_labels} labels")
    if wrong := [x.text for x in each if x.is_joint or x.kind == "fixed"]:
        raise DecisionError(f'objective "{wrong[0]}" cannot be tuned on histograms')
    scale = np.ones(num_labels) if scale_L is None else np.asarray(scale_L)
    bias = np.zeros(num_labels) if bias_L is None else np.asarray(bias_L)
    edges_B = bin_edges(histograms.num_bins)
    thresholds_L = np.full(num_labels, 0.5, dtype=np.float32)
    counts_4L = np.zeros((4, num_labels), dtype=np.int64)
    value_L, upper_L, gap_L, loss_L = np.zeros((4, num_labels))
    feasible_L = np.zeros(num_labels, dtype=np.bool_)
    calibration: tuple[float, float] | None = None
    for at, objective in enumerate(each):
        pos_B = histograms.counts_LKB[at, POSITIVE].astype(np.int64)
        neg_B = histograms.counts_LKB[at, NEGATIVE].astype(np.int64)
        # cut b, of 0 to B: what lies in bin b or above is positive
        tp_C, fp_C = _reached(pos_B), _reached(neg_B)
        counts_4C = np.stack([tp_C, fp_C, tp_C[0] - tp_C, fp_C[0] - fp_C])
        value_C = objective.value(*counts_4C)
        if calibration != (calibration := (float(scale[at]), float(bias[at]))):
            probability_C = _ends(edges_B, *calibration)
        upper_L[at] = max(float(value_C.max()), _upper(objective, tp_C, fp_C))
        cut, low, high = _widest(
            objective, counts_4C, value_C, pos_B + neg_B, probability_C, band, upper_L[at]
        )
        counts_4L[:, at] = counts_4C[:, cut]
        thresholds_L[at] = between(low, high)
        value_L[at], gap_L[at] = value_C[cut], high - low
        loss_L[at] = value_C.max() - value_C[cut]
        feasible_L[at] = objective.is_met(*counts_4C[:, cut])
    tp_L, fp_L, fn_L, tn_L = counts_4L
    return StreamedCuts(
        cuts=Cuts(
            thresholds_L=thresholds_L,
            tp_L=tp_L,
            fp_L=fp_L,
            fn_L=fn_L,
            tn_L=tn_L,
            value_L=value_L,
            gap_L=gap_L,
            feasible_L=feasible_L,
            loss_L=loss_L,
        ),
        upper_L=upper_L,
    )


def _ends(edges_B: FloatArray, scale: float, bias: float) -> FloatArray:
    """Return the probability at each cut; 0 below all bins and 1 above them."""
    with np.errstate(over="ignore"):
        logits_B = edges_B * np.float32(scale) + np.float32(bias)
    return np.concatenate([[np.float32(0)], sigmoid(logits_B)[1:], [np.float32(1)]])


def _reached(count_B: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return how many rows lie in each bin or above, and 0 for no bin at all."""
    return np.append(np.cumsum(count_B[::-1])[::-1], 0)


def _widest(
    objective: Objective,
    counts_4C: npt.NDArray[np.int64],
    value_C: npt.NDArray[np.float64],
    rows_B: npt.NDArray[np.int64],
    probability_C: FloatArray,
    band: float,
    upper: float,
) -> tuple[int, float, float]:
    """Return the cut to take and the probabilities of the empty bins' ends around it."""
    occupied = np.flatnonzero(rows_B)
    # equal cuts differ by empty bins: each stands for the gap between the occupied ones around it
    above_C = np.searchsorted(occupied, np.arange(len(value_C)))
    ends = np.append(occupied, len(rows_B))
    starts = np.concatenate([[0], occupied + 1])
    high_C = probability_C[ends[above_C]].astype(np.float64)
    low_C = probability_C[starts[above_C]].astype(np.float64)
    gap_C = high_C - low_C
    tie_C = objective.tie_value(*counts_4C)

    def widest_best(of_C: npt.NDArray[np.bool_]) -> int:
        of_C = of_C & (value_C == value_C[of_C].max())
        of_C &= tie_C == tie_C[of_C].max()
        return int(np.argmax(np.where(of_C, gap_C, -1.0)))

    at = widest_best(np.ones(len(value_C), dtype=np.bool_))
    if gap_C[at] < band and len(occupied):
        best, positives = float(value_C.max()), int(counts_4C[0, 0])
        num_rows = positives + int(counts_4C[1, 0])
        least, near = (
            least_value(objective, best, positives, num_rows, near=near) for near in (False, True)
        )
        wide_C = (gap_C >= band) & (value_C >= least)
        if (wide_C & (above_C > 0) & (above_C < len(occupied))).any():
            at = widest_best(wide_C)
        else:
            # near what the rows' own best cut can reach, where the bins come as near
            near = max(near, min(best, near + upper - best))
            at = int(np.argmax(np.where(value_C >= near, gap_C, -1.0)))
    return at, float(low_C[at]), float(high_C[at])


def _upper(objective: Objective, tp_C: npt.NDArray[np.int64], fp_C: npt.NDArray[np.int64]) -> float:
    """Return the best value if each bin's rows could be split ideally."""
    tp_B, fp_B = tp_C[:-1], fp_C[1:]
    if not objective.is_monotone:  # prevalence: as many predicted as there are, if the bin allows
        predicted_B = np.clip(tp_C[0], (tp_C + fp_C)[1:], (tp_C + fp_C)[:-1])
        tp_B = np.minimum(tp_C[0], predicted_B)
        fp_B = predicted_B - tp_B
    return float(objective.value(tp_B, fp_B, tp_C[0] - tp_B, fp_C[0] - fp_B).max())
