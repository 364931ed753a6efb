"""Arrow columns as arrays of numbers, row by row: what is none is rejected, never made up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from thresher_serving.client.metadata import TensorMetadata

__all__ = ["RejectRow", "float_columns", "is_finite", "lists", "raw_values"]

Array = npt.NDArray[Any]
RejectRow = Callable[[int, str, "str | None"], None]

_MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "?")


def float_columns(
    cells_D: Sequence[Any],
    columns: Sequence[str],
    tensor: TensorMetadata,
    fill_missing: float | None,
    reject: RejectRow,
) -> Array:
    """Return D columns as an input [n, ...] of the input's own kind.

    Args:
        cells_D: Arrow arrays of n cells each.
        columns: Their names.
        tensor: The input.
        fill_missing: Stands where a number is missing; None rejects such rows.
        reject: Takes the row, the reason and the column of what is no number.
    """
    num_rows = len(cells_D[0])
    found = _all_at_once(cells_D, tensor)
    if found is not None:
        return found
    values_DN = np.empty((len(cells_D), num_rows), dtype=tensor.dtype)
    for at, (cells, column) in enumerate(zip(cells_D, columns, strict=True)):
        values_DN[at] = _column(cells, column, tensor.dtype, fill_missing, reject)
    found = np.ascontiguousarray(values_DN.T)
    if found.dtype.kind == "f" and not is_finite(found):
        for row, at in np.argwhere(~np.isfinite(found)):
            value = found[row, at]
            reject(int(row), "NaN" if np.isnan(value) else "infinite", columns[at])
    return found.reshape(num_rows, *(tensor.shape if -1 not in tensor.shape else (-1,)))


def _all_at_once(cells_D: Sequence[Any], tensor: TensorMetadata) -> Array | None:
    """Return columns that are all of the input's own kind, without a hole; None for others."""
    import pyarrow as pa

    kind = pa.from_numpy_dtype(tensor.dtype)
    if -1 in tensor.shape or any(c.type != kind or c.null_count for c in cells_D):
        return None
    names = [str(at) for at in range(len(cells_D))]
    batch = pa.RecordBatch.from_arrays(list(cells_D), names=names)
    found: Array = batch.to_tensor(row_major=True).to_numpy()
    if found.dtype.kind == "f" and not is_finite(found):
        return None
    return found.reshape(len(found), *tensor.shape)


def lists(
    cells: Any, column: str, tensor: TensorMetadata, reject: RejectRow
) -> tuple[Array, Array | None]:
    """Return a column of lists as an input [n, ...], and the lengths where they may differ.

    Args:
        cells: Arrow array of n lists.
        column: Its name.
        tensor: The input; where its last axis is free, shorter lists are filled up with zeros.
        reject: Takes the row, the reason and the column of a list that does not fit.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    cells = _one_level(cells)
    is_free = -1 in tensor.shape
    size = None if is_free else int(np.prod(tensor.shape))
    lengths = pc.fill_null(pc.list_value_length(cells), -1).to_numpy(zero_copy_only=False)
    lengths = lengths.astype(np.int64)
    fits = lengths > 0 if size is None else lengths == size
    for row in np.flatnonzero(~fits):
        reject(int(row), _misfit(int(lengths[row]), size), column)
    width = int(lengths.max(initial=1)) if size is None else size
    flat = pc.list_flatten(cells if fits.all() else cells.filter(pa.array(fits)))
    values = _column(flat, column, tensor.dtype, None, _RowOf(lengths[fits], fits, reject))
    if (lengths == width).all():
        found = values.reshape(len(cells), width)
    else:
        found = np.zeros((len(cells), max(width, 1)), dtype=tensor.dtype)
        found[(np.arange(width) < lengths[:, None]) & fits[:, None]] = values
    if found.dtype.kind == "f" and not is_finite(found):
        for row in np.flatnonzero(~np.isfinite(found).all(axis=1)):
            reject(int(row), "NaN or infinite numbers", column)
    if is_free:
        return found, np.where(fits, lengths, 0)
    return found.reshape(len(cells), *tensor.shape), None


def _misfit(length: int, size: int | None) -> str:
    """Return why a list of this length is refused; -1 is no list."""
    if length < 0:
        return "null, expected a list of numbers"
    return "an empty list" if size is None else f"a list of {length} numbers, expected {size}"


def _one_level(cells: Any) -> Any:
    """Return lists of lists as lists of all their numbers in order."""
    import pyarrow as pa

    if isinstance(cells.type, pa.FixedShapeTensorType):
        cells = cells.storage
    while hasattr(cells.type.value_type, "value_type"):
        cells = _without_one_level(cells)
    return cells


def raw_values(cells: Any, column: str, tensor: TensorMetadata, reject: RejectRow) -> Array:
    """Return a column of bytes as an input [n, ...]: each cell is a row's numbers as they lie.

    Args:
        cells: Arrow array of n cells, of as many bytes as a row of the input has.
        column: Its name.
        tensor: The input.
        reject: Takes the row, the reason and the column of a cell that is null.
    """
    for row in np.flatnonzero(cells.is_null().to_numpy(zero_copy_only=False)):
        reject(int(row), "null, expected bytes", column)
    width = cells.type.byte_width
    start = cells.offset * width
    content = np.frombuffer(cells.buffers()[1], np.uint8)[start : start + len(cells) * width]
    found = content.view(tensor.dtype).reshape(len(cells), *tensor.shape)
    if found.dtype.kind == "f" and not is_finite(found):
        finite = np.isfinite(found.reshape(len(found), -1)).all(axis=1)
        for row in np.flatnonzero(~finite):
            reject(int(row), "NaN or infinite numbers", column)
    return found


class _RowOf:
    """Rejects the row that a number of flattened lists belongs to."""

    def __init__(self, lengths: Array, fits: Array, reject: RejectRow) -> None:
        self._ends = np.cumsum(lengths)
        self._rows = np.flatnonzero(fits)
        self._reject = reject

    def __call__(self, at: int, reason: str, column: str | None) -> None:
        row = self._rows[np.searchsorted(self._ends, at, side="right")]
        self._reject(int(row), reason, column)


def _without_one_level(cells: Any) -> Any:
    """Return lists of lists as lists of all their numbers."""
    import pyarrow as pa
    import pyarrow.compute as pc

    inner = pc.list_flatten(cells)
    counts = pc.fill_null(pc.list_value_length(cells), 0).to_numpy(zero_copy_only=False)
    sizes = pc.fill_null(pc.list_value_length(inner), 0).to_numpy(zero_copy_only=False)
    ends = np.concatenate([[0], np.cumsum(sizes)])
    offsets = ends[np.concatenate([[0], np.cumsum(counts)])].astype(np.int64)
    mask = cells.is_null() if cells.null_count else None
    return pa.LargeListArray.from_arrays(pa.array(offsets), pc.list_flatten(inner), mask=mask)


def _column(
    cells: Any,
    column: str,
    dtype: np.dtype[Any],
    fill_missing: float | None,
    reject: RejectRow,
) -> Array:
    """Return a column's numbers, [n], of a kind; 0 where a row is rejected."""
    import pyarrow as pa
    import pyarrow.compute as pc

    cells = _plain(cells, column, reject)
    if cells.null_count:
        if fill_missing is None:
            missing = cells.is_null().to_numpy(zero_copy_only=False)
            for row in np.flatnonzero(missing):
                reject(int(row), "null, expected a number", column)
        cells = pc.fill_null(cells, pa.scalar(fill_missing or 0).cast(cells.type))
    values: Array = cells.to_numpy(zero_copy_only=False)
    if fill_missing is not None and values.dtype.kind == "f":
        values = np.where(np.isnan(values), fill_missing, values)
    if dtype.kind in "iu" and values.dtype != dtype:
        return _whole(values, column, dtype, reject)
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is rejected
        return values.astype(dtype, copy=False)


def _plain(cells: Any, column: str, reject: RejectRow) -> Any:
    """Return cells of any kind as plain numbers, texts parsed."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(cells.type):
        cells = cells.dictionary_decode()
    if pa.types.is_binary(cells.type) or pa.types.is_large_binary(cells.type):
        cells = _as_text(cells)
    if pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type):
        return _parsed(cells, column, reject)
    if pa.types.is_decimal(cells.type) or pa.types.is_null(cells.type):
        return pc.cast(cells, pa.float64())
    return cells


def _whole(values: Array, column: str, dtype: np.dtype[Any], reject: RejectRow) -> Array:
    """Return numbers as whole ones; what is none, or does not fit, is rejected."""
    bounds = np.iinfo(dtype)
    with np.errstate(invalid="ignore"):
        is_whole = np.ones(len(values), dtype=bool)
        if values.dtype.kind == "f":
            is_whole = np.isfinite(values) & (values == np.trunc(values))
        fits = is_whole & (values >= bounds.min) & (values <= bounds.max)
    for row in np.flatnonzero(~fits):
        reject(int(row), f"{values[row]} is no {dtype}", column)
    return np.where(fits, values, 0).astype(dtype)


def _as_text(cells: Any) -> Any:
    import pyarrow as pa

    try:
        return cells.cast(pa.large_string())
    except pa.ArrowInvalid:  # what is no UTF-8 is no number either
        return pa.array(
            [None if c is None else c.decode(errors="replace") for c in cells.to_pylist()],
            pa.large_string(),
        )


def _parsed(cells: Any, column: str, reject: RejectRow) -> Any:
    """Return texts as float64; null where one is missing, and where one is no number."""
    import pyarrow as pa
    import pyarrow.compute as pc

    cells = pc.utf8_trim_whitespace(cells)
    missing = pc.is_in(cells, value_set=pa.array(_MISSING, type=cells.type))
    cells = pc.if_else(missing, pa.scalar(None, cells.type), cells)
    try:
        return pc.cast(cells, pa.float64())
    except pa.ArrowInvalid:
        pass
    flags = {"true": 1.0, "false": 0.0}
    found: list[float | None] = []
    for row, cell in enumerate(cells.to_pylist()):
        try:
            number = None if cell is None else flags.get(cell.lower())
            found.append(float(cell) if number is None and cell is not None else number)
        except ValueError:
            reject(row, f'"{cell[:40]}" is no number', column)
            found.append(0.0)
    return pa.array(found, pa.float64())


def is_finite(values: Array) -> bool:
    """Return whether all are finite; a sum that is finite says so at once."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(values.sum(dtype=np.float32))) or bool(np.isfinite(values).all())
