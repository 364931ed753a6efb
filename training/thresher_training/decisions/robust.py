"""How far tuned thresholds can be trusted: cross-validation, intervals, optimism, shrinkage.

Folds are drawn for each label apart, so that every fold has its share of the label's positives
however rare they are: a threshold per label needs no more than the label's own column. Where labels
are tuned together (a joint objective) the folds are whole rows instead.

NumPy only.

Source: B. Efron and R. Tibshirani, "An introduction to the bootstrap", 1993, chapter 17
(cross-validation, optimism).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from thresher.decision import FloatArray
from thresher.errors import DataError
from thresher_training.decisions.cuts import best_cuts
from thresher_training.decisions.intervals import threshold_intervals, value_intervals
from thresher_training.decisions.objectives import Objective

__all__ = [
    "SHRINKAGES",
    "Folds",
    "Robustness",
    "choose_shrinkage",
    "cut_folds",
    "held_out_counts",
    "robustness",
    "shrink",
]

SHRINKAGES = (0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, math.inf)
"""The strengths tried: 0 keeps each label's own threshold, infinity gives all the shared one."""

_FAR = 16.0  # logits of thresholds 0 and 1, for interpolation

_Array = npt.NDArray[np.float64]
_Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Folds:
    """Thresholds chosen without one fold at a time; K folds."""

    fold_NL: npt.NDArray[np.int8]
    """The fold that each target is held out in."""

    own_KL: FloatArray
    """Each label's threshold, chosen on the other folds."""

    shared_K: FloatArray
    """The threshold for all labels, chosen on the other folds."""

    positives_KL: _Counts
    """Known positives that ``own_KL`` was chosen on."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Robustness:
    """What cross-validation says about each label's threshold."""

    held_out_L4: _Counts
    """tp, fp, fn and tn on rows held out from the choice of the threshold, over all folds."""

    metric_L: _Array
    """The objective's metric on them; NaN where no target is known."""

    metric_interval_L2: _Array
    """95 % interval of that metric for other rows of the same kind."""

    threshold_interval_L2: _Array
    """95 % interval of the threshold, had other rows been tuned on; NaN where it is not defined."""

    optimism_L: _Array
    """How much better the metric looks on the tuned rows than on held-out ones."""


def cut_folds(
    scores_NL: FloatArray,
    targets_NL: FloatArray,
    objectives: Sequence[Objective],
    *,
    shared_objective: Objective,
    num_folds: int,
    seed: int,
    joint: Callable[[FloatArray, FloatArray], FloatArray] | None = None,
) -> Folds:
    """Return the thresholds that are chosen without each fold.

    Args:
        scores_NL: float32 [N, L] in [0, 1].
        targets_NL: float32 [N, L] of 0 and 1; NaN where unknown.
        objectives: One for each label; not looked at where ``joint`` is given.
        shared_objective: What the shared threshold is chosen for, over all targets pooled.
        num_folds: K.
        seed: Of the folds.
        joint: Scores and targets to thresholds, float32 [L]; for labels that are tuned together.

    Raises:
        DataError: If there are fewer rows than folds.
    """
    num_rows, num_labels = targets_NL.shape
    if num_rows < num_folds:
        raise DataError(f"{num_rows} rows cannot be cut into {num_folds} folds; lower num_folds")
    fold_NL = _folds(targets_NL, num_folds, seed, by_row=joint is not None)
    own_KL = np.empty((num_folds, num_labels), dtype=np.float32)
    shared_K = np.empty(num_folds, dtype=np.float32)
    positives_KL = np.empty((num_folds, num_labels), dtype=np.int64)
    for fold in range(num_folds):
        others_NL = np.where(fold_NL == fold, np.float32(np.nan), targets_NL).astype(np.float32)
        pooled = best_cuts(scores_NL.reshape(-1, 1), others_NL.reshape(-1, 1), shared_objective)
        shared_K[fold] = pooled.thresholds_L[0]
        positives_KL[fold] = (others_NL == 1).sum(axis=0)
        own_KL[fold] = (
            joint(scores_NL, others_NL)
            if joint
            else best_cuts(scores_NL, others_NL, objectives).thresholds_L
        )
    return Folds(fold_NL=fold_NL, own_KL=own_KL, shared_K=shared_K, positives_KL=positives_KL)


def _folds(
    targets_NL: FloatArray, num_folds: int, seed: int, *, by_row: bool
) -> npt.NDArray[np.int8]:
    """Return each target's fold; positives, negatives and unknowns are dealt out in turn."""
    rng = np.random.default_rng(seed)
    num_rows, num_labels = targets_NL.shape
    shuffled_N = rng.permutation(num_rows)
    dealt_N = (np.arange(num_rows) % num_folds).astype(np.int8)
    fold_NL = np.empty((num_rows, num_labels), dtype=np.int8)
    if by_row:
        fold_NL[shuffled_N] = dealt_N[:, None]
        return fold_NL
    for at in range(num_labels):
        target_N = np.nan_to_num(targets_NL[shuffled_N, at], nan=-1.0)
        fold_NL[shuffled_N[np.argsort(target_N, kind="stable")], at] = dealt_N
    return fold_NL


def shrink(
    own_L: npt.ArrayLike, shared: npt.ArrayLike, positives_L: npt.ArrayLike, strength: float
) -> tuple[FloatArray, _Array]:
    """Return thresholds between each label's own and the shared one, and the own one's weight.

    The weight is ``positives / (positives + strength)``; the mean is taken of the thresholds'
    logits. Without positives it is 0.

    Args:
        own_L: [L] thresholds in [0, 1]; leading axes are allowed.
        shared: The shared threshold, or one for each of the leading axes.
        positives_L: [L] known positives that the own thresholds were chosen on.
        strength: At least 0, infinity included.

    Example:
        >>> thresholds, weight = shrink([0.9, 0.9], 0.5, [90, 10], 10)
        >>> [round(float(threshold), 3) for threshold in thresholds], weight.tolist()
        ([0.878, 0.75], [0.9, 0.5])
    """
    own = np.asarray(own_L, dtype=np.float32)
    positives = np.asarray(positives_L, dtype=np.float64)
    shared_as_own = np.broadcast_to(np.asarray(shared, dtype=np.float32), own.shape)
    weight: _Array = np.asarray(positives / np.maximum(positives + strength, 1e-300))
    between_them = weight * _logit(own) + (1 - weight) * _logit(shared_as_own)
    mean = (1 / (1 + np.exp(-between_them))).astype(np.float32)
    # at the ends it is exactly the one or the other
    return np.where(weight == 1, own, np.where(weight == 0, shared_as_own, mean)), weight


def _logit(thresholds: FloatArray) -> _Array:
    p = thresholds.astype(np.float64)
    with np.errstate(divide="ignore"):
        logits: _Array = np.clip(np.log(p) - np.log1p(-p), -_FAR, _FAR)
    return logits


def choose_shrinkage(
    scores_NL: FloatArray,
    targets_NL: FloatArray,
    objectives: Sequence[Objective],
    folds: Folds,
    *,
    of_L: npt.NDArray[np.bool_] | None = None,
    strengths: Sequence[float] = SHRINKAGES,
) -> tuple[float, Mapping[float, float]]:
    """Return the strength with the best mean value on held-out rows, and that value for each.

    The value of labels with a micro-F is that of all of them pooled. Of equals the stronger
    strength is taken.

    Args:
        scores_NL: float32 [N, L].
        targets_NL: float32 [N, L] of 0 and 1; NaN where unknown.
        objectives: One for each label.
        folds: By `cut_folds`.
        of_L: bool [L], the labels to take the mean over; all where left out.
        strengths: To choose from.
    """
    of_L = np.ones(targets_NL.shape[1], dtype=bool) if of_L is None else of_L
    if not of_L.any():
        return 0.0, {}
    values = {}
    for strength in strengths:
        thresholds_KL, _ = shrink(
            folds.own_KL, folds.shared_K[:, None], folds.positives_KL, strength
        )
        counts_L4 = held_out_counts(scores_NL, targets_NL, folds, thresholds_KL)
        values[strength] = _mean_value(objectives, counts_L4, of_L)
    best = max(values.values())
    return max(strength for strength, value in values.items() if value == best), values


def _mean_value(
    objectives: Sequence[Objective], counts_L4: _Counts, of_L: npt.NDArray[np.bool_]
) -> float:
    value_L = _each(objectives, counts_L4, "value")
    micro_L = of_L & np.array([objective.kind == "micro" for objective in objectives])
    if micro_L.any():
        pooled = objectives[int(np.argmax(micro_L))]
        value_L[micro_L] = pooled.value(*counts_L4[micro_L].sum(axis=0))
    return float(np.mean(value_L[of_L]))


def held_out_counts(
    scores_NL: FloatArray, targets_NL: FloatArray, folds: Folds, thresholds_KL: FloatArray
) -> _Counts:
    """Return tp, fp, fn, tn, int64 [L, 4], each target decided by its own fold's threshold."""
    yes_NL = scores_NL >= np.take_along_axis(thresholds_KL, folds.fold_NL.astype(np.intp), axis=0)
    positive_NL, negative_NL = targets_NL == 1, targets_NL == 0
    tp_L, fp_L = (yes_NL & positive_NL).sum(axis=0), (yes_NL & negative_NL).sum(axis=0)
    fn_L, tn_L = positive_NL.sum(axis=0) - tp_L, negative_NL.sum(axis=0) - fp_L
    return np.stack([tp_L, fp_L, fn_L, tn_L], axis=1).astype(np.int64)


def robustness(
    scores_NL: FloatArray,
    targets_NL: FloatArray,
    objectives: Sequence[Objective],
    thresholds_L: FloatArray,
    folds: Folds,
    thresholds_KL: FloatArray,
    *,
    seed: int,
    num_resamples: int = 1000,
) -> Robustness:
    """Return metric on held-out rows, intervals and optimism of each label's threshold.

    The threshold's interval is that of the label's own; see `threshold_intervals`.

    Args:
        scores_NL: float32 [N, L] in [0, 1].
        targets_NL: float32 [N, L] of 0 and 1; NaN where unknown.
        objectives: One for each label; of a joint F the label's own F is the metric.
        thresholds_L: float32 [L], chosen on all rows.
        folds: By `cut_folds`.
        thresholds_KL: float32 [K, L], chosen in the same way as ``thresholds_L`` without each fold.
        seed: Of the resampling.
        num_resamples: Of the metric; a fifth of that for the threshold.
    """
    held_out_L4 = held_out_counts(scores_NL, targets_NL, folds, thresholds_KL)
    on_all_KL = np.broadcast_to(thresholds_L.astype(np.float32), thresholds_KL.shape)
    tuned_L4 = held_out_counts(scores_NL, targets_NL, folds, on_all_KL)
    known_L = held_out_L4.sum(axis=1) > 0
    metric_L = np.where(known_L, _each(objectives, held_out_L4, "metric"), np.nan)
    sign_L = np.array([-1.0 if objective.lower_is_better else 1.0 for objective in objectives])
    return Robustness(
        held_out_L4=held_out_L4,
        metric_L=metric_L,
        metric_interval_L2=value_intervals(
            held_out_L4, objectives, seed=seed, num_resamples=num_resamples
        ),
        threshold_interval_L2=threshold_intervals(
            scores_NL,
            targets_NL,
            _linear(scores_NL, targets_NL, objectives, thresholds_L),
            seed=seed,
            num_resamples=max(1, num_resamples // 5),
        ),
        optimism_L=sign_L * (_each(objectives, tuned_L4, "metric") - metric_L),
    )


def _each(objectives: Sequence[Objective], counts_L4: _Counts, what: str) -> _Array:
    """Return each label's value or metric, float64 [L]; equal objectives go together."""
    found_L = np.empty(len(objectives))
    for objective in set(objectives):
        of_L = np.array([other == objective for other in objectives])
        found_L[of_L] = getattr(objective, what)(*counts_L4[of_L].T)
    return found_L


def _linear(
    scores_NL: FloatArray,
    targets_NL: FloatArray,
    objectives: Sequence[Objective],
    thresholds_L: FloatArray,
) -> list[Objective]:
    """Return the objectives, with micro-F as the cost that it is to one label at its best value.

    Source: as in `thresher_training.decisions.joint`.
    """
    micro = next((objective for objective in objectives if objective.kind == "micro"), None)
    if micro is None:
        return list(objectives)
    yes_NL = scores_NL >= thresholds_L
    tp, fp = float((yes_NL & (targets_NL == 1)).sum()), float((yes_NL & (targets_NL == 0)).sum())
    best = float(micro.value(tp, fp, float((targets_NL == 1).sum()) - tp, 0))
    gain = 1 + micro.beta**2 - best
    cost = Objective(text="linear", kind="cost", fp_cost=best, fn_cost=gain)
    return [cost if objective.kind == "micro" else objective for objective in objectives]
