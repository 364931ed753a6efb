"""Columns as arrays of numbers: each cell as `thresher.tables.cells` says, or its row is rejected.

Whole numbers never pass through a floating-point kind, so that ids keep their last digit.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from thresher.tables.cells import MISSING, ROUNDED, as_dtype, as_number, is_missing
from thresher.tables.rows import RejectRow

__all__ = [
    "Fill",
    "is_list",
    "is_number",
    "is_text",
    "missing_of",
    "number_array",
    "plain_cells",
]

Array = npt.NDArray[Any]

Fill = float | int | None
"""What stands where a number is missing; None rejects such rows."""

_SURE = {2: 2**11, 4: 2**24, 8: 2**53}  # every whole number up to it is held, by bytes


def is_text(kind: Any) -> bool:
    """Return whether an Arrow type is one of texts, as they are or as bytes or dictionary."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    types = pa.types
    return bool(
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_string_view(kind)
        or types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_binary_view(kind)
    )


def is_list(kind: Any) -> bool:
    """Return whether an Arrow type is one of lists, or of tensors."""
    import pyarrow as pa

    types = pa.types
    return bool(
        types.is_list(kind)
        or types.is_large_list(kind)
        or types.is_fixed_size_list(kind)
        or types.is_list_view(kind)
        or types.is_large_list_view(kind)
        or isinstance(kind, pa.FixedShapeTensorType)
    )


def is_number(kind: Any) -> bool:
    """Return whether an Arrow type is one of numbers, flags or nulls."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_null(kind)
    )


def plain_cells(cells: Any, column: str, reject: RejectRow) -> Any:
    """Return an Arrow array without dictionaries, views, extension types and bytes.

    A cell that is not UTF-8 rejects its row and becomes null.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if isinstance(cells, pa.ChunkedArray):
        cells = cells.combine_chunks()
    if isinstance(cells, pa.ExtensionArray):
        cells = cells.storage
    if pa.types.is_dictionary(cells.type):
        cells = cells.dictionary_decode()
    if pa.types.is_string_view(cells.type) or pa.types.is_binary_view(cells.type):
        cells = pc.cast(cells, pa.large_binary())
    if pa.types.is_binary(cells.type) or pa.types.is_large_binary(cells.type):
        try:
            cells = pc.cast(cells, pa.large_string())
        except pa.ArrowInvalid:
            cells = pa.array(_decoded(cells, column, reject), pa.large_string())
    return cells


def _decoded(cells: Any, column: str, reject: RejectRow) -> Iterator[str | None]:
    for row, cell in enumerate(cells.to_pylist()):
        try:
            yield None if cell is None else cell.decode()
        except UnicodeDecodeError as error:
            reject(row, f"not UTF-8: {error.reason} at byte {error.start}", column)
            yield None


def missing_of(cells: Any) -> Array:
    """Return which cells of plain Arrow cells hold no value, bool [n]."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type):
        trimmed = pc.utf8_trim_whitespace(cells)
        found = pc.or_(pc.is_null(cells), pc.is_in(trimmed, pa.array(MISSING, trimmed.type)))
        missing: Array = pc.fill_null(found, True).to_numpy(zero_copy_only=False)
        return missing
    return np.asarray(pc.is_null(cells, nan_is_null=True).to_numpy(zero_copy_only=False))


@dataclass(frozen=True, slots=True)
class _Target:
    """What a column's cells become: the arguments of `number_array`."""

    column: str
    dtype: np.dtype[Any]
    reject: RejectRow
    fill: Fill
    exact: bool

    def at(self, rows: Array) -> _Target:
        """Return the target of cells that stand at some rows."""
        reject = self.reject
        return replace(
            self, reject=lambda row, reason, column: reject(int(rows[row]), reason, column)
        )


def number_array(
    cells: Any,
    column: str,
    dtype: np.dtype[Any],
    reject: RejectRow,
    *,
    fill: Fill = None,
    exact: bool = True,
) -> Array:
    """Return a column's numbers as an array [n] of a kind; 0 in rows that are rejected.

    Args:
        cells: An Arrow array of n numbers, flags or texts; or a sequence of n Python objects.
        column: Its name, for the reasons.
        dtype: The kind of the model's input.
        reject: Takes the rows that hold no such number.
        fill: Stands where a number is missing; None rejects those rows.
        exact: Whether whole numbers that ``dtype`` would round are rejected.
    """
    to = _Target(column, dtype, reject, fill, exact)
    if not hasattr(cells, "type"):
        return _one_by_one(cells, to)
    import pyarrow as pa

    cells = plain_cells(cells, column, reject)
    if pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type):
        return _parsed(cells, to)
    if pa.types.is_decimal(cells.type):
        return _of_decimals(cells, to)
    if pa.types.is_float16(cells.type):
        cells = cells.cast(pa.float32())  # Arrow and NumPy do less with halves
    if pa.types.is_null(cells.type):
        cells = cells.cast(pa.float64())
    if pa.types.is_boolean(cells.type):
        cells = cells.cast(pa.uint8())
    if not (pa.types.is_integer(cells.type) or pa.types.is_floating(cells.type)):
        return _one_by_one(cells.to_pylist(), to)
    return _converted(cells, to)


def _of_decimals(cells: Any, to: _Target) -> Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    with contextlib.suppress(pa.ArrowInvalid):
        # whole decimals are ids as often as not, whatever their scale
        return _converted(pc.cast(cells, pa.int64()), to)
    # Arrow 25 makes 20.490000000000002 of the decimal 20.49, and not of the text
    numbers = pc.cast(pc.cast(cells, pa.string()), pa.float64())
    sure = _SURE[to.dtype.itemsize if to.dtype.kind == "f" else 8]
    rows = np.flatnonzero(np.abs(numbers.to_numpy(zero_copy_only=False)) >= sure)
    return _some_by_one(numbers, cells, rows, to)


def _one_by_one(cells: Sequence[Any], to: _Target) -> Array:
    found = np.zeros(len(cells), dtype=to.dtype)
    for row, cell in enumerate(cells):
        try:
            if is_missing(cell):
                found[row] = as_dtype(_or_missing(to.fill), to.dtype)
            else:
                found[row] = as_dtype(as_number(cell), to.dtype, exact=to.exact)
        except ValueError as error:
            to.reject(row, str(error), to.column)
    return found


def _or_missing(fill: Fill) -> float | int:
    if fill is None:
        raise ValueError("missing, expected a number")
    return fill


def _converted(cells: Any, to: _Target) -> Array:
    """Return Arrow integers or floats as a kind; cells that do not pass as they are, one by one."""
    import pyarrow as pa
    import pyarrow.compute as pc

    is_float = pa.types.is_floating(cells.type)
    if cells.null_count:
        missing = pc.is_null(cells).to_numpy(zero_copy_only=False)
        values: Array = pc.fill_null(cells, pa.scalar(0, cells.type)).to_numpy(zero_copy_only=False)
    else:
        missing = np.zeros(len(cells), dtype=bool)
        values = cells.to_numpy(zero_copy_only=False)
    with np.errstate(over="ignore", invalid="ignore"):
        # whole numbers that may be rounded go by way of float64, as those in texts do
        by_way = (
            np.float64 if to.dtype.kind == "f" and not is_float and not to.exact else values.dtype
        )
        found = values.astype(by_way, copy=False).astype(to.dtype, copy=bool(cells.null_count))
    if to.dtype.kind == "f":
        slow = missing if is_finite(found) else missing | ~np.isfinite(found)
        if not is_float and to.exact and values.dtype.itemsize >= to.dtype.itemsize:
            slow = slow | ~_held_exactly(values, to.dtype)
    elif to.dtype.kind == "b":
        slow = missing | ((values != 0) & (values != 1))
    elif is_float:
        # a float's bounds: the largest whole number itself may round up to one too large
        low, high = float(np.iinfo(to.dtype).min), float(np.iinfo(to.dtype).max) + 1
        slow = missing | ~((values >= low) & (values < high) & (values == np.trunc(values)))
        slow = slow | (np.abs(values) >= ROUNDED)
    else:
        bounds = np.iinfo(to.dtype)
        slow = missing | (values < bounds.min) | (values > bounds.max)
    rows = np.flatnonzero(slow)
    if len(rows):
        found = found.copy() if not found.flags.writeable else found
        some = [None if missing[row] else values[row].item() for row in rows]
        found[rows] = _one_by_one(some, to.at(rows))
    return found


def _held_exactly(values: Array, dtype: np.dtype[Any]) -> Array:
    """Return which whole numbers a floating-point kind holds to the last digit, bool [n]."""
    sure = _SURE[dtype.itemsize]
    found = (values <= sure) & (values >= -sure if values.dtype.kind == "i" else values >= 0)
    for row in np.flatnonzero(~found):
        whole = abs(int(values[row]))
        found[row] = whole // (whole & -whole) <= sure
    return found


def _parsed(cells: Any, to: _Target) -> Array:
    """Return texts as numbers of a kind; those that Arrow does not read, one by one."""
    import pyarrow as pa
    import pyarrow.compute as pc

    trimmed = pc.utf8_trim_whitespace(cells)
    kind = pa.float64() if to.dtype.kind in "fb" else pa.int64()
    try:
        # missing words are rare: first as if there were none
        numbers = pc.cast(trimmed, kind)
        # Arrow takes 0x10 for a whole number
        is_sure = kind == pa.float64() or not any(
            pc.any(pc.match_substring(trimmed, mark)).as_py() for mark in "xX"
        )
    except pa.ArrowInvalid:
        is_sure = False
    if not is_sure:
        return _parsed_with_gaps(trimmed, cells, to)
    if kind == pa.float64():
        values = numbers.to_numpy(zero_copy_only=False)
        sure = _SURE[to.dtype.itemsize] if to.dtype.kind == "f" and to.exact else math.inf
        # rare: large whole numbers are looked at as they are written, as is nan(1), Arrow's NaN
        is_large = ~(np.abs(values) < sure)
        if numbers.null_count:
            is_large &= pc.is_valid(numbers).to_numpy(zero_copy_only=False)
        rows = np.flatnonzero(is_large)
        if len(rows):
            return _some_by_one(numbers, trimmed, rows, to)
    return _converted(numbers, to)


def _some_by_one(numbers: Any, cells: Any, rows: Array, to: _Target) -> Array:
    """Return numbers as a kind, those of some rows by their cells."""
    slow = np.zeros(len(numbers), dtype=bool)
    slow[rows] = True

    def once(row: int, reason: str, name: str | None) -> None:
        if not slow[row]:
            to.reject(row, reason, name)

    found = _converted(numbers, replace(to, reject=once)).copy()
    some = cells.take(_arrow(rows)).to_pylist()
    found[rows] = _one_by_one(some, to.at(rows))
    return found


def _arrow(rows: Array) -> Any:
    import pyarrow as pa

    return pa.array(rows, pa.int64())


def _parsed_with_gaps(trimmed: Any, cells: Any, to: _Target) -> Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    missing = missing_of(trimmed)
    if missing.any() and to.dtype.kind in "fb":
        present = pc.if_else(pa.array(missing), pa.scalar(None, trimmed.type), trimmed)
        with contextlib.suppress(pa.ArrowInvalid):
            pc.cast(present, pa.float64())  # all others are numbers
            return _parsed(present, to)
    return _one_by_one(cells.to_pylist(), to)


def is_finite(values: Array) -> bool:
    """Return whether all are finite; a sum that is finite says so at once."""
    if values.dtype.kind != "f":
        return True
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(values.sum(dtype=np.float32))) or bool(np.isfinite(values).all())
