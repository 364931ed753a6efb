"""Networks for the example tasks, and what a network is to Thresher.

A network factory is any callable that is called with ``num_labels`` and the recipe's options, by
keyword and with nothing else, and returns a `torch.nn.Module`. The module's ``forward`` takes the
data's inputs by name and returns float32 logits [N, L]. It must be exportable by `torch.export`
with a dynamic batch axis: preprocessing belongs inside, control flow on values does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from thresher.errors import ConfigError, unknown_name

__all__ = ["Scaling", "digits_cnn", "mlp"]

Scaling = Literal["none", "standard", "asinh", "unit_rows"]
"""What is done to a table's features before the first layer."""


def digits_cnn(*, num_labels: int, channels: Sequence[int] = (16, 32, 48)) -> nn.Module:
    """Return a small convolutional network for grey pictures, input ``image``.

    Args:
        num_labels: The number of logits, L.
        channels: Output channels of each block; a block halves height and width, and what is left
            must be at least 3 pixels high.
    """
    return _DigitsCnn(num_labels, tuple(channels))


class _DigitsCnn(nn.Module):
    """Blocks of convolution, then logits for every place, joined over all places.

    A label is present where any place shows it: logsumexp is a smooth "any", which tells the
    network nothing about where, and lets every place learn.
    """

    def __init__(self, num_labels: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        for num_in, num_out in zip((1, *channels[:-1]), channels, strict=True):
            blocks += _convolution(num_in, num_out, padding=(1, 1), pool=2)
        self.blocks = nn.Sequential(*blocks)
        self.places = nn.Sequential(
            *_convolution(channels[-1], 2 * channels[-1], padding=(0, 1), pool=1),
            nn.Dropout(0.2),
            nn.Conv2d(2 * channels[-1], num_labels, kernel_size=1),
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster on CPUs

    def forward(self, image: Tensor) -> Tensor:
        """Return logits [N, L] of uint8 pictures [N, 1, H, W]."""
        features = self.blocks(image.to(torch.float32) / 255)
        logits: Tensor = self.places(features).logsumexp(dim=(2, 3))
        return logits


def _convolution(
    num_in: int, num_out: int, *, padding: tuple[int, int], pool: int
) -> list[nn.Module]:
    """Return a convolution with its norm; pooling comes early, so that the rest has less to do."""
    return [
        nn.Conv2d(num_in, num_out, kernel_size=3, padding=padding, bias=False),
        nn.MaxPool2d(pool) if pool > 1 else nn.Identity(),
        nn.BatchNorm2d(num_out),
        nn.ReLU(inplace=True),
    ]


def mlp(
    *,
    num_labels: int,
    num_features: int,
    hidden: Sequence[int] = (64,),
    dropout: float = 0.0,
    input_dropout: float = 0.0,
    scaling: Scaling = "none",
) -> nn.Module:
    """Return a multilayer perceptron for tables, input ``features``.

    Args:
        num_labels: The number of logits, L.
        num_features: The number of columns, D.
        hidden: The width of each hidden layer; none makes it logistic regression.
        dropout: The share of hidden units that is left out in training.
        input_dropout: The share of features that is left out in training.
        scaling: What is done to the features first: nothing; ``"standard"``, each column to mean 0
            and variance 1, by running figures of the train batches; ``"asinh"``, the same, then
            far values drawn in; ``"unit_rows"``, each row to the same length, for bags of words.

    Raises:
        ConfigError: If the scaling is not known.
    """
    if scaling not in get_args(Scaling):
        raise ConfigError(unknown_name("scaling", scaling, get_args(Scaling)))
    return _Mlp((num_features, *hidden), num_labels, dropout, input_dropout, scaling)


class _Mlp(nn.Module):
    """Scaling, then linear layers with ReLU in between."""

    def __init__(
        self,
        widths: tuple[int, ...],
        num_labels: int,
        dropout: float,
        input_dropout: float,
        scaling: Scaling,
    ) -> None:
        super().__init__()
        self.scaling = scaling
        num_features = widths[0]
        self.norm = (
            nn.BatchNorm1d(num_features, affine=False)
            if scaling in {"standard", "asinh"}
            else nn.Identity()
        )
        layers: list[nn.Module] = [nn.Dropout(input_dropout)] if input_dropout else []
        for num_in, num_out in pairwise(widths):
            layers += [nn.Linear(num_in, num_out), nn.ReLU(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], num_labels))

    def forward(self, features: Tensor) -> Tensor:
        """Return logits [N, L] of float32 features [N, D]."""
        scaled = self.norm(features)
        if self.scaling == "asinh":
            scaled = torch.asinh(scaled)
        elif self.scaling == "unit_rows":
            # as if a sixteenth of the columns were 1: what linear layers are initialised for
            length = features.shape[1] ** 0.5 / 4
            scaled = length * functional.normalize(features, dim=1)
        logits: Tensor = self.layers(scaled)
        return logits
