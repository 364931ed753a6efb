"""What training tells: the figures of each epoch, and which epoch was kept."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from thresher_training.recipe import BestBy

__all__ = ["EpochMetrics", "FitResult", "StepProgress", "goodness"]


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


def goodness(epoch: EpochMetrics, best_by: BestBy) -> float:
    """Return what picks the best epoch: larger is better, and NaN is worse than all else."""
    value = -epoch.validation_loss if best_by == "loss" else epoch.validation[best_by]
    return -math.inf if math.isnan(value) else value
