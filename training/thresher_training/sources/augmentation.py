"""Train pictures altered at random, a batch at a time, by a generator that the caller seeds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from thresher.errors import ConfigError

if TYPE_CHECKING:
    from torch import Generator, Tensor

__all__ = ["Augmentation"]

_GREY = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """Mirrors, moves, scales, recolours and covers the pictures of a batch, each in its own way.

    Called with inputs by name and a generator, it returns the inputs with a new ``"image"``, uint8
    [N, 3, H, W] as before.
    """

    flip: bool = False
    """Whether half of the pictures are mirrored left to right."""

    shift: float = 0.0
    """Pictures move by up to this share of their size; edges are mirrored into view."""

    zoom: float = 0.0
    """Pictures grow or shrink by up to this share."""

    color_jitter: float = 0.0
    """Brightness, contrast and saturation change by up to this share."""

    erase: float = 0.0
    """The share of pictures in which a random rectangle is made grey."""

    def __post_init__(self) -> None:
        for key, high in (("shift", 0.5), ("zoom", 0.9), ("color_jitter", 1.0), ("erase", 1.0)):
            value = getattr(self, key)
            if not 0 <= value <= high:
                raise ConfigError(f"{key} is {value!r}, expected a number from 0 to {high:g}")

    @property
    def is_active(self) -> bool:
        """Whether anything is altered at all."""
        return any((self.flip, self.shift, self.zoom, self.color_jitter, self.erase))

    def __call__(self, inputs: dict[str, Tensor], generator: Generator) -> dict[str, Tensor]:
        """Return the batch with altered pictures."""
        import torch

        image = inputs["image"].to(torch.float32)
        if self.flip or self.shift or self.zoom:
            image = self._moved(image, generator)
        if self.color_jitter:
            image = self._recolored(image, generator)
        if self.erase:
            image = self._erased(image, generator)
        return {**inputs, "image": image.round().clamp(0, 255).to(torch.uint8)}

    def _moved(self, image: Tensor, generator: Generator) -> Tensor:
        import torch
        from torch.nn import functional

        size = len(image)
        mirror = torch.ones(size)
        if self.flip:
            mirror = _uniform(size, generator=generator).sign()
        scale = 1 + self.zoom * _uniform(size, generator=generator)
        theta = torch.zeros(size, 2, 3)
        theta[:, 0, 0] = mirror * scale
        theta[:, 1, 1] = scale
        # the grid goes from -1 to 1, so a share of the size is twice that
        theta[:, :, 2] = 2 * self.shift * _uniform(size, 2, generator=generator)
        shape = list(image.shape)
        grid = functional.affine_grid(theta.to(image.device), shape, align_corners=False)
        moved: Tensor = functional.grid_sample(
            image, grid, mode="bilinear", padding_mode="reflection", align_corners=False
        )
        return moved

    def _recolored(self, image: Tensor, generator: Generator) -> Tensor:
        import torch

        factors = 1 + self.color_jitter * _uniform(3, len(image), generator=generator)
        brightness, contrast, saturation = factors.to(image.device)[:, :, None, None, None]
        # luma weights of ITU-R BT.601
        weights = torch.tensor([0.299, 0.587, 0.114], device=image.device)[:, None, None]
        image = image * brightness
        middle = (image * weights).sum(dim=1, keepdim=True).mean(dim=(2, 3), keepdim=True)
        image = middle + (image - middle) * contrast
        grey = (image * weights).sum(dim=1, keepdim=True)
        recolored: Tensor = grey + (image - grey) * saturation
        return recolored

    def _erased(self, image: Tensor, generator: Generator) -> Tensor:
        """Source: Z. Zhong et al., "Random Erasing Data Augmentation", AAAI 2020."""
        import torch

        size, height, width = len(image), image.shape[2], image.shape[3]
        draw = torch.rand(5, size, generator=generator).to(image.device)
        share = 0.15 + 0.35 * draw[:2]  # of height and of width
        start = draw[2:4] * (1 - share)
        rows = (torch.arange(height, device=image.device) + 0.5) / height
        columns = (torch.arange(width, device=image.device) + 0.5) / width
        covered_NH = (rows >= start[0, :, None]) & (rows < (start + share)[0, :, None])
        covered_NW = (columns >= start[1, :, None]) & (columns < (start + share)[1, :, None])
        chosen = (draw[4] < self.erase)[:, None, None]
        covered = covered_NH[:, :, None] & covered_NW[:, None, :] & chosen
        return image.masked_fill(covered[:, None], _GREY)


def _uniform(*shape: int, generator: Generator) -> Tensor:
    """Return numbers from -1 to 1."""
    import torch

    return 2 * torch.rand(shape, generator=generator) - 1
