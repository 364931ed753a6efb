"""A user's own rows for a published model: NPZ or Parquet, checked against the model's inputs.

NPZ: an array for each input, under its name or ``input/NAME`` (as training's evaluation splits
have it), and optionally ``targets`` [N, L]. Parquet: a column for each input, a number or a list
of numbers in each row, and optionally a column for each label's target, or one ``targets`` column
of lists.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from thresher.decision import FloatArray
from thresher.errors import DataError, MissingExtraError, NotFoundError, unknown_name

__all__ = ["Rows", "read_rows"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rows:
    """Rows to compare engines on."""

    inputs: Mapping[str, Array]
    targets_NL: FloatArray | None
    """float32 [N, L] of 0, 1 and NaN (unknown), where the file has them."""


def read_rows(path: Path, model: onnx.ModelProto, labels: Sequence[str]) -> Rows:
    """Return the rows of a file in the kinds and shapes that a model takes.

    Args:
        path: ``.npz`` or ``.parquet``.
        model: The ONNX model; says its inputs.
        labels: The names of the L outputs.

    Raises:
        NotFoundError: If there is no such file.
        DataError: If it is neither kind, lacks an input, or an array does not fit.
        MissingExtraError: If it is Parquet and pyarrow is not installed.
    """
    if not path.is_file():
        raise NotFoundError(f"{path}: no such file; expected rows as .npz or .parquet")
    readers = {".npz": _npz, ".parquet": _parquet}
    if path.suffix not in readers:
        raise DataError(f'{path}: "{path.suffix}" is no kind of rows; expected .npz or .parquet')
    columns = readers[path.suffix](path)
    weights = {initializer.name for initializer in model.graph.initializer}
    inputs = {
        value.name: _fitting(path, value, columns)
        for value in model.graph.input
        if value.name not in weights
    }
    counts = {name: len(array) for name, array in inputs.items()}
    if len(set(counts.values())) != 1 or not next(iter(counts.values())):
        raise DataError(f"{path}: inputs must have the same number of rows, got {counts}")
    return Rows(
        inputs=inputs,
        targets_NL=_targets(path, columns, labels, next(iter(counts.values()))),
    )


def _npz(path: Path) -> dict[str, Array]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name.removeprefix("input/"): file[name] for name in file.files}
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not an NPZ file of plain arrays: {error}") from None


def _parquet(path: Path) -> dict[str, Array]:
    try:
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError(
            f"{path}: reading Parquet needs pyarrow: pip install pyarrow, or give an .npz file"
        ) from None
    try:
        table = parquet.read_table(path)
    except Exception as error:  # noqa: BLE001 -- pyarrow's errors share no base with OSError
        raise DataError(f"{path}: not a Parquet file: {error}") from None
    columns = {}
    for name in table.column_names:
        values = table.column(name).to_pylist()
        try:
            columns[name] = np.array([_numbers(value) for value in values])
        except (TypeError, ValueError):
            columns[name] = np.array([], dtype=object)  # of no use; an error if it is asked for
    return columns


def _numbers(value: Any) -> Any:
    """Return a cell with None as NaN."""
    if isinstance(value, list):
        return [_numbers(each) for each in value]
    return np.nan if value is None else value


def _fitting(path: Path, value: onnx.ValueInfoProto, columns: Mapping[str, Array]) -> Array:
    """Return an input's array in the model's kind, or say what does not fit."""
    name = value.name
    if name not in columns:
        raise DataError(f"{path}: {unknown_name('input', name, columns)}")
    array = columns[name]
    kind = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    dims = [
        d.dim_value if d.HasField("dim_value") else -1 for d in value.type.tensor_type.shape.dim
    ]
    if array.ndim == 1 and len(dims) == 2 and dims[1] == 1:
        array = array[:, None]
    fits = array.ndim == len(dims) and all(
        want in {-1, got} for want, got in zip(dims[1:], array.shape[1:], strict=True)
    )
    if not fits:
        raise DataError(
            f'{path}: input "{name}" has shape {list(array.shape)}, expected '
            f"[N, {', '.join(map(str, dims[1:]))}] (-1: any size)"
        )
    with np.errstate(invalid="ignore", over="ignore"):
        converted = array.astype(kind)
    if kind.kind in "iub" and not np.array_equal(converted, array):
        raise DataError(
            f'{path}: input "{name}" holds {array.dtype} values that are no {kind.name}'
        )
    return np.ascontiguousarray(converted)


def _targets(
    path: Path, columns: Mapping[str, Array], labels: Sequence[str], num_rows: int
) -> FloatArray | None:
    """Return float32 [N, L] targets from one array or from a column for each label."""
    if "targets" in columns:
        found = columns["targets"]
    elif all(label in columns for label in labels):
        found = np.stack([columns[label] for label in labels], axis=1)
    else:
        return None
    if found.shape != (num_rows, len(labels)):
        raise DataError(
            f"{path}: targets have shape {list(found.shape)}, expected [{num_rows}, {len(labels)}]"
        )
    targets_NL: FloatArray = found.astype(np.float32)
    if not (np.isnan(targets_NL) | (targets_NL == 0) | (targets_NL == 1)).all():
        raise DataError(f"{path}: targets must be 0, 1 or unknown (NaN)")
    return targets_NL
