"""A decision's thresholds put to the test: rare labels shrunk, intervals and optimism told.

What `thresher_training.decisions.tune` asks for where the recipe wants shrinkage or intervals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from thresher.decision import FloatArray
from thresher_training.decisions.intervals import threshold_intervals
from thresher_training.decisions.objectives import Objective
from thresher_training.decisions.report import LabelReport
from thresher_training.decisions.robust import (
    Robustness,
    choose_shrinkage,
    cut_folds,
    robustness,
    shrink,
)
from thresher_training.decisions.room import clear_of_scores

if TYPE_CHECKING:  # the recipe checks its objectives with this package
    from thresher_training.recipe import DecisionConfig

__all__ = ["Checked", "check_thresholds"]

_MARGIN = 1e-3
"""The distance that a shrunk threshold keeps from scores, where its gap allows it."""

_Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Checked:
    """What cross-validation makes of the thresholds of a decision."""

    thresholds_L: FloatArray
    """The given ones, those of rare labels drawn towards the shared one where that was asked."""

    shrunk_L: npt.NDArray[np.bool_]
    """Which differ from the given ones."""

    weight_L: _Array
    """Of the label's own threshold in ``thresholds_L``."""

    strength: float
    """Positives at which own and shared threshold weigh the same; 0 where none was drawn."""

    robustness: Robustness | None
    """None where intervals were not asked for."""

    notes: tuple[str, ...]

    def complete(self, at: int, row: LabelReport) -> LabelReport:
        """Return a label's row of the report with what was found added."""
        if self.shrunk_L[at]:
            row = replace(
                row,
                origin="shrunk",
                reason=f"shrunk: {self.weight_L[at]:.0%} own, {1 - self.weight_L[at]:.0%} shared",
            )
        if self.robustness is None or np.isnan(self.robustness.metric_L[at]):
            return row
        metric = self.robustness.metric_interval_L2[at].tolist()
        threshold = self.robustness.threshold_interval_L2[at].tolist()
        return replace(
            row,
            value_interval=(metric[0], metric[1]),
            threshold_interval=None if np.isnan(threshold[0]) else (threshold[0], threshold[1]),
            optimism=float(self.robustness.optimism_L[at]),
        )


def check_thresholds(
    scores_NL: FloatArray,
    targets_NL: FloatArray,
    objectives: Sequence[Objective],
    thresholds_L: FloatArray,
    shared: float,
    free_L: npt.NDArray[np.bool_],
    config: DecisionConfig,
    *,
    shared_objective: Objective,
    joint: Callable[[FloatArray, FloatArray], FloatArray],
) -> Checked:
    """Return what cross-validation makes of thresholds: shrunk, with intervals, with optimism.

    Labels with a bound are not shrunk: the bound is a promise about the tuned rows. Nor are those
    whose objective is over each row's labels or has one threshold for all already.

    Args:
        scores_NL: float32 [N, L] in [0, 1].
        targets_NL: float32 [N, L] of 0 and 1; NaN where unknown.
        objectives: One for each label.
        thresholds_L: float32 [L], as tuned.
        shared: The shared threshold.
        free_L: bool [L], the labels that did not have to take the shared threshold.
        config: The recipe's section.
        shared_objective: What ``shared`` was chosen for.
        joint: Scores and targets to thresholds; used where an objective is joint.
    """
    is_joint = any(objective.is_joint for objective in objectives)
    folds = cut_folds(
        scores_NL,
        targets_NL,
        objectives,
        shared_objective=shared_objective,
        num_folds=config.num_folds,
        seed=config.seed,
        joint=joint if is_joint else None,
    )
    positives_L = (targets_NL == 1).sum(axis=0)
    pliable_L = free_L & np.array(
        [
            objective.kind not in {"precision", "recall", "fixed", "shared", "example"}
            for objective in objectives
        ]
    )
    strength, notes = 0.0, []
    if config.shrinkage and pliable_L.any():
        strength, values = choose_shrinkage(
            scores_NL, targets_NL, objectives, folds, of_L=pliable_L
        )
        notes.append(
            f"shrinkage: strength {strength:g} by {config.num_folds}-fold cross-validation "
            f"(mean value on held-out rows {values[strength]:.4f}; {values[0.0]:.4f} without, "
            f"{values[math.inf]:.4f} with the shared threshold for all)"
        )
    elif config.shrinkage:
        notes.append("shrinkage: no label has a threshold that may be moved; nothing to draw")
    shrunk_L, weight_L = shrink(thresholds_L, shared, positives_L, strength)
    weight_L = np.where(pliable_L, weight_L, 1.0)
    moved_L = pliable_L & (weight_L < 1)
    shrunk_L = np.where(moved_L, shrunk_L, thresholds_L).astype(np.float32)
    new_L = clear_of_scores(
        scores_NL, targets_NL, shrunk_L, band=config.band, margin=_MARGIN, where_L=moved_L
    )
    found = None
    if config.intervals:
        of_folds_KL, _ = shrink(folds.own_KL, folds.shared_K[:, None], folds.positives_KL, strength)
        of_folds_KL = np.where(pliable_L, of_folds_KL, folds.own_KL)
        of_folds_KL = np.where(free_L, of_folds_KL, folds.shared_K[:, None])
        found = robustness(
            scores_NL, targets_NL, objectives, new_L, folds, of_folds_KL, seed=config.seed
        )
        drawn_L2, _ = shrink(
            found.threshold_interval_L2.T,
            shared,
            np.where(moved_L, positives_L, 1),
            strength,
        )
        interval_L2 = np.where(moved_L[:, None], drawn_L2.T, found.threshold_interval_L2)
        if not free_L.all():  # theirs is the shared threshold's
            interval_L2[~free_L] = threshold_intervals(
                scores_NL.reshape(-1, 1),
                targets_NL.reshape(-1, 1),
                [shared_objective],
                seed=config.seed,
            )
        found = replace(found, threshold_interval_L2=interval_L2)
        metric, optimism = np.nanmean(found.metric_L), np.nanmean(found.optimism_L)
        notes.append(
            f"mean metric of the labels {metric:.4f} on held-out rows "
            f"({config.num_folds}-fold); the tuned rows flatter it by {optimism:.4f}"
        )
    return Checked(
        thresholds_L=new_L,
        shrunk_L=moved_L,
        weight_L=weight_L,
        strength=strength,
        robustness=found,
        notes=tuple(notes),
    )
