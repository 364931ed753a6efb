"""Pictures as a network takes them: decoded, turned as their EXIF data say, brought to a size."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from thresher.errors import DataError, MissingExtraError

__all__ = ["RESIZE", "decode_picture"]

_MAX_PIXELS = 1 << 27
"""134 million: more than any camera's, and 400 MB of pixels."""
_BROKEN = (
    *(OSError, ValueError, TypeError, SyntaxError, LookupError, ArithmeticError),
    struct.error,  # Pillow 13's, of EXIF data
)
_DEEP = ("I;16", "I;16B", "I;16L", "I;16N")
_PLAIN = (
    "1",
    "L",
    "LA",
    "La",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBa",
    "RGBX",
    "CMYK",
    "YCbCr",
    "LAB",
    "HSV",
)


def decode_picture(
    picture: Any,
    *,
    size: int | None = None,
    resize: str = "crop",
    shape: Sequence[int] | None = None,
) -> npt.NDArray[np.uint8]:
    """Return a picture, uint8 [C, H, W]: three colours, or one where ``shape`` says so.

    Grey values of 16 bits are scaled to 8, 65535 to 255. Transparency is dropped.

    Args:
        picture: Its file, the file's content, or a PIL image.
        size: H and W; None leaves the picture as it is.
        resize: ``"crop"`` keeps the middle square, ``"squeeze"`` the whole picture, out of shape,
            and ``"pad"`` the whole picture between black bars.
        shape: What is expected, -1 for any size.

    Raises:
        DataError: If it cannot be decoded, is too large or of a kind without a known scale, or has
            another shape.
        MissingExtraError: If the package pillow is not installed.
    """
    try:
        from PIL import Image, ImageOps
    except ModuleNotFoundError:
        raise MissingExtraError(
            "pictures need the package pillow; install it with: pip install pillow"
        ) from None
    what = f"the picture {picture}" if isinstance(picture, (str, Path)) else "the picture"
    mode = "L" if shape is not None and shape[0] == 1 else "RGB"
    source: Any = io.BytesIO(picture) if isinstance(picture, (bytes, bytearray)) else picture
    is_known = isinstance(source, (str, Path, Image.Image)) or hasattr(source, "read")
    if not is_known:
        raise DataError(f"a {type(picture).__name__} is no picture; expected a file or its content")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened: Any = source if isinstance(source, Image.Image) else Image.open(source)
        if opened.width * opened.height > _MAX_PIXELS:
            raise DataError(
                f"{what} has {opened.width} x {opened.height} pixels, more than "
                f"{_MAX_PIXELS:,}; make it smaller first"
            )
        decoded = _of_mode(ImageOps.exif_transpose(opened), mode, what)
    except (*_BROKEN, Image.DecompressionBombError) as error:
        reason = "not a picture, or cut short" if isinstance(picture, bytes) else error
        raise DataError(f"{what} cannot be decoded: {reason}") from error
    if size is not None:
        decoded = RESIZE[resize](decoded, size)
    pixels = np.asarray(decoded, dtype=np.uint8)
    pixels = pixels[None] if mode == "L" else pixels.transpose(2, 0, 1)
    if shape is not None:
        fits = len(shape) == 3 and all(
            want in (-1, got) for got, want in zip(pixels.shape, shape, strict=True)
        )
        if not fits:
            raise DataError(f"{what} is {list(pixels.shape)}, the network takes {list(shape)}")
    return pixels


def _of_mode(picture: Any, mode: str, what: str) -> Any:
    """Return a picture with 8 bits a value.

    Raises:
        DataError: If it has more and no scale that is known.
    """
    from PIL import Image

    if picture.mode in _DEEP or (picture.mode == "I" and picture.format == "PNG"):
        deep = np.asarray(picture).astype(np.uint32)
        picture = Image.fromarray(((deep + 128) // 257).astype(np.uint8))  # 65535 is 255 * 257
    elif picture.mode not in _PLAIN:
        raise DataError(
            f"{what} has values of the kind {picture.mode} (32 bits), whose scale is not known; "
            "save it with 8 or 16 bits a value"
        )
    return picture.convert(mode)


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
