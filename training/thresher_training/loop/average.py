"""The exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

__all__ = ["average_of"]


def average_of(network: nn.Module, decay: float) -> AveragedModel:
    """Return the network's average, which is updated after every step.

    The decay rises to its value over the first steps, for else the first weights, which are
    random, would stay in the average for long. The running figures of norms are averaged too:
    they belong to the weights.

    Source: TensorFlow 2, `tf.train.ExponentialMovingAverage` with ``num_updates``; PyTorch 2.13,
    `torch.optim.swa_utils.AveragedModel`.
    """
    return AveragedModel(network, multi_avg_fn=_moving(decay), use_buffers=True)


def _moving(decay: float) -> Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]:
    @torch.no_grad()
    def update(
        average: Sequence[Tensor], now: Sequence[Tensor], num_averaged: Tensor | int
    ) -> None:
        num_updates = int(num_averaged)
        kept = min(decay, (1 + num_updates) / (10 + num_updates))
        for mean, value in zip(average, now, strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, 1 - kept)
            else:
                mean.copy_(value)

    return update
