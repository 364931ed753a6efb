"""What training tells: the figures of each epoch, and which epoch was kept."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from thresher_training.recipe import BestBy

__all__ = ["EpochMetrics", "FitResult", "StepProgress", "doubts", "goodness", "says_nothing"]

_MUCH_HIGHER = 1.5
"""A validation loss this many times a later epoch's is no accident of one epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochMetrics:
    """What one epoch gave."""

    epoch: int
    """Counted from 1."""

    train_loss: float
    """The mean over the epoch's known targets, as the weights were at each batch."""

    validation_loss: float

    validation: Mapping[str, float]
    """Figures of the validation split by name, such as ``"macro_f1"``; F1 is at 0.5."""

    learning_rate: float
    """At the end of the epoch."""

    gradient_norm: float
    """The mean over the epoch's steps, before clipping."""

    rows_per_s: float
    """Train rows by time spent training, without validation."""

    data_wait_fraction: float
    """The share of that time in which the network waited for a batch."""

    seconds: float
    """Training and validation together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult:
    """How training went; the network holds the best epoch's weights."""

    best_epoch: int
    """0 where there was no training."""

    epochs: tuple[EpochMetrics, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepProgress:
    """How far an epoch is."""

    epoch: int
    step: int
    """Steps done in this epoch."""

    num_steps: int
    loss: float
    """The mean over this epoch so far."""

    rows_per_s: float


def goodness(epoch: EpochMetrics, best_by: BestBy) -> tuple[float, float]:
    """Return what picks the best epoch: larger is better.

    Epochs that are alike by ``best_by`` differ in their validation loss, and so do all epochs where
    ``best_by`` is undefined (NaN), as average precision is without positives.
    """
    by_loss = -epoch.validation_loss
    value = by_loss if best_by == "loss" else epoch.validation[best_by]
    first, second = (-math.inf if math.isnan(each) else each for each in (value, by_loss))
    return first, second


def says_nothing(epoch: EpochMetrics) -> bool:
    """Return whether validation cannot tell epochs apart, since none of its targets is known."""
    loss = epoch.validation_loss
    has_loss = loss != 0 and not math.isnan(loss)
    return not has_loss and math.isnan(epoch.validation["mean_average_precision"])


def doubts(result: FitResult, best_by: BestBy) -> list[str]:
    """Return why the epoch that was kept may not be the best one; a sentence for each reason.

    Args:
        result: How training went.
        best_by: What picked the epoch.
    """
    if not result.epochs:
        return []
    if all(says_nothing(epoch) for epoch in result.epochs):
        warning = (
            "no target of the validation split is known, so no epoch is better than another: the "
            f"last one, {result.best_epoch}, is kept, and no threshold is chosen"
        )
        return [warning]
    if best_by == "loss":
        return []
    found = []
    is_f1 = best_by != "mean_average_precision"
    if is_f1 and not any(epoch.validation[best_by] for epoch in result.epochs):
        found.append(
            f'optimization.best_by is "{best_by}", which is 0 after every epoch: no true label\'s '
            f"probability reaches 0.5. Epoch {result.best_epoch} is kept, for its validation loss; "
            'set optimization.best_by = "mean_average_precision", which needs no threshold'
        )
    kept = result.epochs[result.best_epoch - 1]
    later = result.epochs[result.best_epoch :]
    lowest = min((e for e in later if e.validation_loss > 0), key=_loss_of, default=kept)
    if kept.validation_loss > _MUCH_HIGHER * lowest.validation_loss > 0:
        others = '"mean_average_precision" or "loss"' if is_f1 else '"loss"'
        found.append(
            f"epoch {kept.epoch} is kept, the best by {best_by}, but its validation loss is "
            f"{kept.validation_loss:.4g}, and that of epoch {lowest.epoch} is "
            f"{lowest.validation_loss:.4g}: probabilities may be far off. Compare "
            f"optimization.best_by = {others}"
        )
    return found


def _loss_of(epoch: EpochMetrics) -> float:
    return epoch.validation_loss
