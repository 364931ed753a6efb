"""A residual network for small photographs, to be trained from scratch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from thresher.errors import ConfigError

__all__ = ["photo_resnet"]


def photo_resnet(
    *,
    num_labels: int,
    channels: Sequence[int] = (24, 48, 96, 192),
    dropout: float = 0.3,
    mirrored: bool = True,
) -> nn.Module:
    """Return a small residual network for colour pictures, input ``image``.

    Its ``forward`` takes uint8 pictures [N, 3, H, W] and returns float32 logits [N, L]. Pictures
    may have any size; all of a batch have the same.

    Args:
        num_labels: The number of logits, L.
        channels: Output channels of each stage, one block each. The stem before them halves height
            and width, and so does every stage but the first.
        dropout: The share of the pooled features that is left out in training.
        mirrored: Whether a picture's logits are, in evaluation mode, the mean of its own and its
            mirror image's: twice the work, and steadier. Not for pictures in which left and right
            mean something, such as text.

    Raises:
        ConfigError: If ``channels`` is empty or holds anything but whole numbers above 0, or
            ``dropout`` is not a share below 1.

    Source: K. He et al., "Deep residual learning for image recognition", CVPR 2016; the pooled
    shortcut is of T. He et al., "Bag of tricks for image classification with convolutional neural
    networks", CVPR 2019 (ResNet-D); blocks that start as their shortcut are of P. Goyal et al.,
    "Accurate, large minibatch SGD", 2017.
    """
    sizes = tuple(channels) if isinstance(channels, Sequence) else ()
    if not sizes or not all(type(size) is int and size >= 1 for size in sizes):
        raise ConfigError(
            f"channels is {channels!r}, expected a whole number above 0 for each stage and at "
            "least one stage, such as [24, 48, 96, 192]"
        )
    if not 0 <= dropout < 1:
        raise ConfigError(f"dropout is {dropout!r}, expected a number from 0 to below 1")
    return _PhotoResnet(num_labels, sizes, dropout, mirrored=mirrored)


class _PhotoResnet(nn.Module):
    """Stem, one residual block a stage, the mean over all places, a linear layer."""

    def __init__(
        self, num_labels: int, channels: tuple[int, ...], dropout: float, *, mirrored: bool
    ) -> None:
        super().__init__()
        self.mirrored = mirrored
        self.stem = nn.Sequential(
            nn.Conv2d(3, channels[0], kernel_size=3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels[0]),
            nn.ReLU(inplace=True),
        )
        self.stages = nn.Sequential(
            _Residual(channels[0], channels[0], stride=1),
            *(_Residual(num_in, num_out, stride=2) for num_in, num_out in pairwise(channels)),
        )
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(channels[-1], num_labels))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster on CPUs

    def forward(self, image: Tensor) -> Tensor:
        """Return float32 logits [N, L] of uint8 pictures [N, 3, H, W]."""
        scaled = image.to(torch.float32) / 127.5 - 1
        logits = self._logits(scaled)
        if self.mirrored and not self.training:
            logits = (logits + self._logits(scaled.flip(3))) / 2
        return logits

    def _logits(self, scaled: Tensor) -> Tensor:
        """Return logits [N, L] of pictures [N, 3, H, W] from -1 to 1."""
        features_ND = self.stages(self.stem(scaled)).mean(dim=(2, 3))
        logits: Tensor = self.head(features_ND)
        return logits


class _Residual(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, num_in: int, num_out: int, *, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(num_in, num_out, 3, stride=stride, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(num_out)
        self.second = nn.Conv2d(num_out, num_out, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(num_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1:
            self.shortcut = nn.Sequential(
                # rounds odd sizes up, as the strided convolution beside it does
                nn.AvgPool2d(3, stride=stride, padding=1, count_include_pad=False),
                nn.Conv2d(num_in, num_out, 1, bias=False),
                nn.BatchNorm2d(num_out),
            )
        nn.init.zeros_(self.second_norm.weight)  # a block starts as its shortcut

    def forward(self, features: Tensor) -> Tensor:
        """Return features [N, num_out, H, W], or of half the height and width."""
        inner = functional.relu(self.first_norm(self.first(features)))
        inner = self.second_norm(self.second(inner))
        return functional.relu(inner + self.shortcut(features))
