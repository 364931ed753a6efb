"""Reads one example for a served model from a file, as it is: no resizing, no conversion."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from thresher.errors import DataError, NotFoundError
from thresher_serving.client.metadata import ModelMetadata, TensorMetadata

__all__ = ["load_example", "true_labels"]

_CHANNELS = {"L": 1, "RGB": 3}
_SUFFIXES = {".png", ".jpg", ".jpeg"}


def load_example(path: Path, input_metadata: TensorMetadata | ModelMetadata) -> npt.NDArray[Any]:
    """Return one row for a model's input, without the batch axis.

    Args:
        path: A PNG or JPEG picture (grey gives uint8 [1, H, W], RGB uint8 [3, H, W]) or a .npy
            file that holds one row.
        input_metadata: The input that the row is for, or a model with just one; see
            `Client.metadata`.

    Raises:
        DataError: If the file cannot be read, or is not of the type and shape that the model takes.
        NotFoundError: If there is no such file.
    """
    if isinstance(input_metadata, ModelMetadata):
        if len(input_metadata.inputs) != 1:
            raise DataError(
                f"{path}: one file is one input, but model {input_metadata.name} takes "
                f"{', '.join(input_metadata.inputs)}"
            )
        (input_metadata,) = input_metadata.inputs.values()
    if not path.is_file():
        raise NotFoundError(f"{path}: no such file; expected a picture or a .npy array")
    suffix = path.suffix.lower()
    if suffix in _SUFFIXES:
        array = _picture(path)
    elif suffix == ".npy":
        array = _saved_array(path)
    else:
        raise DataError(f'{path}: got "{path.suffix}", expected .png, .jpg, .jpeg or .npy')
    expected = f'{input_metadata.dtype} {_shape(input_metadata)} for input "{input_metadata.name}"'
    got = f"{array.dtype} {list(array.shape)}"
    if array.dtype != input_metadata.dtype:
        raise DataError(f"{path}: got {got}, expected {expected}: another type")
    if array.ndim != len(input_metadata.shape):
        raise DataError(f"{path}: got {got}, expected {expected}: another number of axes")
    for axis, (size, wanted) in enumerate(zip(array.shape, input_metadata.shape, strict=True)):
        if wanted not in (-1, size):
            raise DataError(f"{path}: got {got}, expected {expected}: axis {axis} differs")
    return array


def _shape(tensor: TensorMetadata) -> str:
    return "[" + ", ".join("any" if size == -1 else str(size) for size in tensor.shape) + "]"


def _picture(path: Path) -> npt.NDArray[Any]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            mode = image.mode
            pixels = np.array(image)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path}: not a picture that can be read: {error}") from None
    if mode not in _CHANNELS:
        raise DataError(
            f"{path}: got a picture of mode {mode}, expected L (grey) or RGB; convert it first"
        )
    return pixels[None] if mode == "L" else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _saved_array(path: Path) -> npt.NDArray[Any]:
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: not an array that can be read: {error}") from None
    if not isinstance(array, np.ndarray):
        array.close()
        raise DataError(f"{path}: got an archive of arrays, expected one array (.npy)")
    return array


def true_labels(path: Path) -> list[str] | None:
    """Return the labels that ``metadata.csv`` beside a picture gives it, or None.

    The file has the columns ``file_name`` and ``labels``, the labels separated by spaces.

    Raises:
        DataError: If the file lacks a column.

    Source: Hugging Face Datasets, "imagefolder": metadata.csv with a ``file_name`` column.
    """
    table = path.parent / "metadata.csv"
    if not table.is_file():
        return None
    with table.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        missing = {"file_name", "labels"} - set(reader.fieldnames or ())
        if missing:
            raise DataError(
                f"{table}: missing column {', '.join(sorted(missing))}; got "
                f"{', '.join(reader.fieldnames or ()) or 'none'}"
            )
        for row in reader:
            if row["file_name"] == path.name:
                return (row["labels"] or "").split()
    return None
