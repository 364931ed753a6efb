"""Pictures as a network takes them: decoded, turned as their EXIF data say, brought to a size."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from thresher.errors import DataError

__all__ = ["RESIZE", "decode_picture"]


def decode_picture(
    picture: Path | bytes,
    *,
    size: int | None = None,
    resize: str = "crop",
    shape: tuple[int, ...] | None = None,
) -> npt.NDArray[np.uint8]:
    """Return a picture, uint8 [C, H, W]: three colours, or one where ``shape`` says so.

    Args:
        picture: Its file, or the file's content.
        size: H and W; None leaves the picture as it is.
        resize: ``"crop"`` keeps the middle square, ``"squeeze"`` the whole picture, out of shape,
            and ``"pad"`` the whole picture between black bars.
        shape: What is expected, -1 for any size.

    Raises:
        DataError: If it cannot be decoded, or has another shape.
    """
    from PIL import Image, ImageOps

    mode = "L" if shape is not None and shape[0] == 1 else "RGB"
    source = io.BytesIO(picture) if isinstance(picture, bytes) else picture
    try:
        with Image.open(source) as opened:
            decoded: Any = ImageOps.exif_transpose(opened).convert(mode)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        what = "the picture" if isinstance(picture, bytes) else f"the picture {picture}"
        told = "not a picture, or cut short" if isinstance(picture, bytes) else error
        raise DataError(f"{what} cannot be decoded: {told}") from error
    if size is not None:
        decoded = RESIZE[resize](decoded, size)
    pixels = np.asarray(decoded, dtype=np.uint8)
    pixels = pixels[None] if mode == "L" else pixels.transpose(2, 0, 1)
    if shape is not None:
        fits = len(shape) == 3 and all(
            want in (-1, got) for got, want in zip(pixels.shape, shape, strict=True)
        )
        if not fits:
            raise DataError(f"the picture is {list(pixels.shape)}, the network takes {list(shape)}")
    return pixels


def _crop(picture: Any, size: int) -> Any:
    from PIL import Image, ImageOps

    return ImageOps.fit(picture, (size, size), method=Image.Resampling.BICUBIC)


def _squeeze(picture: Any, size: int) -> Any:
    from PIL import Image

    return picture.resize((size, size), resample=Image.Resampling.BICUBIC)


def _pad(picture: Any, size: int) -> Any:
    from PIL import Image, ImageOps

    return ImageOps.pad(picture, (size, size), method=Image.Resampling.BICUBIC)


RESIZE: dict[str, Callable[[Any, int], Any]] = {"crop": _crop, "pad": _pad, "squeeze": _squeeze}
"""Ways to make a picture a square, by name."""
