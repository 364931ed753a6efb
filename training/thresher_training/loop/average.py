"""The exponential moving average of the weights."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Average"]


class Average:
    """A network's average, updated after every step, without waiting for a GPU.

    The decay rises to its value over the first steps, or the first weights, which are random,
    would stay in the average for long. The running figures of norms are averaged too: they belong
    to the weights. `torch.optim.swa_utils.AveragedModel` counts on the device, so it stops for the
    GPU twice a step, and starts a kernel for each tensor.

    Args:
        network: On the device; left as it is.
        decay: How much of the average stays in a step, 0 to 1.

    Source: TensorFlow 2, `tf.train.ExponentialMovingAverage` with ``num_updates``.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(network)
        self._decay = decay
        self._num_updates = 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take a step's weights in; the first step's are the first average."""
        pairs = list(zip(_tensors(self.module), _tensors(network), strict=True))
        floats = (
            [pair for pair in pairs if pair[0].is_floating_point()] if self._num_updates else []
        )
        if floats:
            kept = min(self._decay, (1 + self._num_updates) / (10 + self._num_updates))
            means, values = zip(*floats, strict=True)
            torch._foreach_lerp_(means, values, 1 - kept)
        for mean, value in pairs:
            if not self._num_updates or not mean.is_floating_point():
                mean.copy_(value)
        self._num_updates += 1

    def state_dict(self) -> dict[str, Any]:
        """Return all that updates change."""
        weights = {f"module.{name}": value for name, value in self.module.state_dict().items()}
        return {"n_averaged": torch.tensor(self._num_updates), **weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what `state_dict` described."""
        weights = {name: value for name, value in state.items() if name != "n_averaged"}
        self.module.load_state_dict({k.removeprefix("module."): v for k, v in weights.items()})
        self._num_updates = int(state["n_averaged"])


def _tensors(network: nn.Module) -> itertools.chain[Tensor]:
    return itertools.chain(network.parameters(), network.buffers())
