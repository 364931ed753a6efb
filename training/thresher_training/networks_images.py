"""A residual network for small photographs, to be trained from scratch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["photo_resnet"]


def photo_resnet(
    *,
    num_labels: int,
    channels: Sequence[int] = (32, 64, 128, 256),
    dropout: float = 0.3,
    mirrored: bool = True,
) -> nn.Module:
    """Return a small residual network for colour pictures, input ``image``.

    Args:
        num_labels: The number of logits, L.
        channels: Output channels of each stage; from the second on, a stage halves height and
            width, and the stem before them halves once.
        dropout: The share of the pooled features that is left out in training.
        mirrored: Whether a picture's logits are, outside of training, the mean of its own and its
            mirror image's: twice the work, and steadier.

    Source: K. He et al., "Deep residual learning for image recognition", CVPR 2016.
    """
    return _PhotoResnet(num_labels, tuple(channels), dropout, mirrored=mirrored)


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
        steps = zip((channels[0], *channels[:-1]), channels, strict=True)
        self.stages = nn.Sequential(
            *(_Residual(a, b, stride=2 if at else 1) for at, (a, b) in enumerate(steps))
        )
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(channels[-1], num_labels))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster on CPUs

    def forward(self, image: Tensor) -> Tensor:
        """Return logits [N, L] of uint8 pictures [N, 3, H, W]."""
        scaled = image.to(torch.float32) / 127.5 - 1
        logits = self._logits(scaled)
        if self.mirrored and not self.training:
            logits = (logits + self._logits(scaled.flip(3))) / 2
        return logits

    def _logits(self, scaled: Tensor) -> Tensor:
        features = self.stages(self.stem(scaled)).mean(dim=(2, 3))
        logits: Tensor = self.head(features)
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
        if stride > 1 or num_in != num_out:
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(stride) if stride > 1 else nn.Identity(),
                nn.Conv2d(num_in, num_out, 1, bias=False),
                nn.BatchNorm2d(num_out),
            )
        nn.init.zeros_(self.second_norm.weight)  # a block starts as its shortcut

    def forward(self, features: Tensor) -> Tensor:
        inner = functional.relu(self.first_norm(self.first(features)))
        inner = self.second_norm(self.second(inner))
        return functional.relu(inner + self.shortcut(features))
