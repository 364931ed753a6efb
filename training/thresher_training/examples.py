"""Example pictures of a task: a few test rows as PNG files, and what they show in a CSV file."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from thresher.decision import FloatArray
from thresher.errors import ConfigError, DataError

__all__ = ["METADATA_FILE", "choose_rows", "copy_examples", "picture_input", "write_examples"]

METADATA_FILE = "metadata.csv"
_PATTERN = "example-*.png"


def picture_input(inputs: Mapping[str, npt.NDArray[Any]]) -> str | None:
    """Return the name of the one picture input, uint8 [N, 1 or 3, H, W], or None."""
    found = [
        name
        for name, array in inputs.items()
        if array.dtype == np.uint8 and array.ndim == 4 and array.shape[1] in (1, 3)
    ]
    return found[0] if len(found) == 1 and len(inputs) == 1 else None


def choose_rows(targets_NL: FloatArray, count: int) -> list[int]:
    """Return rows that show many labels, a rare label, several labels and none, as far as any do.

    The first four are: the row with most labels, the fullest row with the rarest label, an empty
    row, and a row with two labels; then come rows from evenly over the split.

    Args:
        targets_NL: float32 [N, L] of 0 and 1; NaN where unknown.
        count: How many rows; no more than N are returned.
    """
    positive_NL = targets_NL == 1
    size_N = positive_NL.sum(axis=1)
    support_L = positive_NL.sum(axis=0)
    wanted = [int(np.argmax(size_N))]
    if support_L.any():
        rarest = int(np.argmin(np.where(support_L > 0, support_L, support_L.max() + 1)))
        wanted.append(int(np.argmax(np.where(positive_NL[:, rarest], size_N, -1))))
    wanted += [int(np.argmax(size_N == size)) for size in (0, 2) if (size_N == size).any()]
    wanted += np.linspace(0, len(targets_NL) - 1, min(count, len(targets_NL))).astype(int).tolist()
    wanted += range(len(targets_NL))
    return list(dict.fromkeys(wanted))[:count]


def write_examples(
    images: npt.NDArray[np.uint8], labels: Sequence[Sequence[str]], folder: Path
) -> None:
    """Write pictures as PNG and ``metadata.csv`` (file_name, labels) into a folder.

    Args:
        images: uint8 [N, 1 or 3, H, W].
        labels: Each picture's true labels; in the file they are separated by spaces.
        folder: Made if it does not exist.

    Raises:
        DataError: If a label has a space in its name.
    """
    spaced = sorted({name for names in labels for name in names if any(map(str.isspace, name))})
    if spaced:
        raise DataError(
            f'label "{spaced[0]}" has a space in its name, and {METADATA_FILE} separates labels by '
            "spaces; rename the label or leave [examples] out of the recipe"
        )
    folder.mkdir(parents=True, exist_ok=True)
    digits = len(str(len(images)))
    names = [f"example-{number:0{digits}d}.png" for number in range(1, len(images) + 1)]
    for name, image in zip(names, images, strict=True):
        pixels = image[0] if image.shape[0] == 1 else image.transpose(1, 2, 0)
        Image.fromarray(np.ascontiguousarray(pixels)).save(folder / name)
    with (folder / METADATA_FILE).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["file_name", "labels"])
        writer.writerows(zip(names, (" ".join(row) for row in labels), strict=True))


def copy_examples(source: Path, folder: Path) -> None:
    """Copy what `write_examples` wrote over what an earlier run left in another folder.

    Raises:
        ConfigError: If the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob(_PATTERN):
            old.unlink()
        shutil.copytree(source, folder, dirs_exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"[examples] folder {folder} cannot be written: {error.strerror}"
        ) from None
