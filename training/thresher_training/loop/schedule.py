"""The learning rate by step: a warm-up, then half a cosine, one-cycle, or level."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from thresher_training.recipe import OptimizationConfig

__all__ = ["make_schedule"]


def make_schedule(optimizer: Optimizer, config: OptimizationConfig, num_steps: int) -> LRScheduler:
    """Return the schedule, which is stepped after every step of the optimizer.

    Args:
        optimizer: Its learning rate is the highest one.
        config: The recipe's section.
        num_steps: All steps of all epochs.

    Source: PyTorch 2.13, `torch.optim.lr_scheduler.OneCycleLR`, for ``"one_cycle"``.
    """
    if config.schedule == "one_cycle":
        # one more than there are: its lowest rate then comes after the last step, not at it
        return OneCycleLR(
            optimizer,
            max_lr=config.learning_rate,
            total_steps=num_steps + 1,
            pct_start=config.warmup_fraction,
        )
    after = _cosine if config.schedule == "cosine" else _level
    return LambdaLR(optimizer, _warm_up(num_steps, config.warmup_fraction, after))


def _warm_up(
    num_steps: int, warmup_fraction: float, after: Callable[[float], float]
) -> Callable[[int], float]:
    """Return the factor on the learning rate by step: a line up to 1, then ``after``."""
    num_warmup = max(1, round(num_steps * warmup_fraction))

    def factor(step: int) -> float:
        if step < num_warmup:
            return (step + 1) / num_warmup
        return after(min(1.0, (step - num_warmup) / max(1, num_steps - num_warmup)))

    return factor


def _cosine(progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * progress))


def _level(progress: float) -> float:  # noqa: ARG001 -- the form of a schedule
    return 1.0
