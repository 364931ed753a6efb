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
    category_sizes: Sequence[int] = (),
    category_width: int = 8,
    hidden: Sequence[int] = (64,),
    dropout: float = 0.0,
    input_dropout: float = 0.0,
    scaling: Scaling = "none",
) -> nn.Module:
    """Return a multilayer perceptron for tables, inputs ``features`` and ``categories``.

    Args:
        num_labels: The number of logits, L.
        num_features: The number of columns of numbers, D; known to the data.
        category_sizes: The number of ids of each of the C columns of categories; known to the data.
        category_width: The numbers that stand for a category: an embedding, learnt.
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
    if not num_features and not category_sizes:
        raise ConfigError("num_features is 0 and there are no categories, expected an input")
    made = _Mlp if not category_sizes else _MixedMlp if num_features else _CategoryMlp
    return made(
        num_features=num_features,
        category_sizes=tuple(category_sizes),
        category_width=category_width,
        hidden=tuple(hidden),
        num_labels=num_labels,
        dropout=dropout,
        input_dropout=input_dropout,
        scaling=scaling,
    )


class _Mlp(nn.Module):
    """Scaling and embeddings, then linear layers with ReLU in between."""

    def __init__(
        self,
        *,
        num_features: int,
        category_sizes: tuple[int, ...],
        category_width: int,
        hidden: tuple[int, ...],
        num_labels: int,
        dropout: float,
        input_dropout: float,
        scaling: Scaling,
    ) -> None:
        super().__init__()
        self.scaling = scaling
        if category_sizes:
            self.categories = _Categories(category_sizes, category_width)
        widths = (num_features + len(category_sizes) * category_width, *hidden)
        self.norm = (
            nn.BatchNorm1d(num_features, affine=False)
            if scaling in {"standard", "asinh"} and num_features
            else nn.Identity()
        )
        layers: list[nn.Module] = [nn.Dropout(input_dropout)] if input_dropout else []
        for num_in, num_out in pairwise(widths):
            layers += [nn.Linear(num_in, num_out), nn.ReLU(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], num_labels))

    def forward(self, features: Tensor) -> Tensor:
        """Return logits [N, L] of float32 features [N, D]."""
        logits: Tensor = self.layers(self.scaled(features))
        return logits

    def scaled(self, features: Tensor) -> Tensor:
        """Return features [N, D] as the first layer takes them."""
        scaled: Tensor = self.norm(features)
        if self.scaling == "asinh":
            scaled = torch.asinh(scaled)
        elif self.scaling == "unit_rows":
            # as if a sixteenth of the columns were 1: what linear layers are initialised for
            length = features.shape[1] ** 0.5 / 4
            scaled = length * functional.normalize(features, dim=1)
        return scaled


class _MixedMlp(_Mlp):
    """Of numbers and categories."""

    def forward(self, features: Tensor, categories: Tensor) -> Tensor:  # type: ignore[override]
        """Return logits [N, L] of float32 features [N, D] and int64 categories [N, C]."""
        both = torch.cat([self.scaled(features), self.categories(categories)], dim=1)
        logits: Tensor = self.layers(both)
        return logits


class _CategoryMlp(_Mlp):
    """Of categories alone."""

    def forward(self, categories: Tensor) -> Tensor:
        """Return logits [N, L] of int64 categories [N, C]."""
        logits: Tensor = self.layers(self.categories(categories))
        return logits


class _Categories(nn.Module):
    """One table with the embeddings of all columns, one after the other."""

    first_C: Tensor
    sizes_C: Tensor

    def __init__(self, sizes: Sequence[int], width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(sum(sizes), width)
        first = [sum(sizes[:at]) for at in range(len(sizes))]
        self.register_buffer("first_C", torch.tensor(first), persistent=False)
        self.register_buffer("sizes_C", torch.tensor(list(sizes)), persistent=False)
        with torch.no_grad():
            # random weights would make a value that training did not see say something
            self.table.weight[first] = 0.0

    def forward(self, categories: Tensor) -> Tensor:
        """Return embeddings [N, C * width] of ids [N, C]; an id that is none counts as unknown."""
        is_known = (categories >= 0) & (categories < self.sizes_C)
        ids = torch.where(is_known, categories, 0) + self.first_C
        embedded: Tensor = self.table(ids).flatten(1)
        return embedded
