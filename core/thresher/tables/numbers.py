"""Columns as arrays of numbers: each cell as `thresher.tables.cells` says, or its row is rejected.

Whole numbers never pass through a floating-point kind, so that ids keep their last digit.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from thresher.errors import DataError
from thresher.tables.cells import MISSING, ROUNDED, as_dtype, as_number, is_missing
from thresher.tables.rows import RejectRow

__all__ = [
    "Fill",
    "is_list",
    "is_number",
    "is_text",
    "list_arrays",
    "missing_of",
    "number_array",
    "plain_cells",
    "raw_array",
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
    if not hasattr(cells, "type"):
        return _one_by_one(cells, column, dtype, reject, fill, exact)
    import pyarrow as pa

    cells = plain_cells(cells, column, reject)
    if pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type):
        return _parsed(cells, column, dtype, reject, fill, exact)
    if pa.types.is_decimal(cells.type):
        return _of_decimals(cells, column, dtype, reject, fill, exact)
    if pa.types.is_float16(cells.type):
        cells = cells.cast(pa.float32())  # Arrow and NumPy do less with halves
    if pa.types.is_null(cells.type):
        cells = cells.cast(pa.float64())
    if pa.types.is_boolean(cells.type):
        cells = cells.cast(pa.uint8())
    if not (pa.types.is_integer(cells.type) or pa.types.is_floating(cells.type)):
        return _one_by_one(cells.to_pylist(), column, dtype, reject, fill, exact)
    return _converted(cells, column, dtype, reject, fill, exact)


def _of_decimals(
    cells: Any, column: str, dtype: np.dtype[Any], reject: RejectRow, fill: Fill, exact: bool
) -> Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    with contextlib.suppress(pa.ArrowInvalid):
        # whole decimals are ids as often as not, whatever their scale
        return _converted(pc.cast(cells, pa.int64()), column, dtype, reject, fill, exact)
    # Arrow 25 makes 20.490000000000002 of the decimal 20.49, and not of the text
    numbers = pc.cast(pc.cast(cells, pa.string()), pa.float64())
    sure = _SURE[dtype.itemsize if dtype.kind == "f" else 8]
    rows = np.flatnonzero(np.abs(numbers.to_numpy(zero_copy_only=False)) >= sure)
    return _some_by_one(numbers, cells, rows, column, dtype, reject, fill, exact)


def _one_by_one(
    cells: Sequence[Any],
    column: str,
    dtype: np.dtype[Any],
    reject: RejectRow,
    fill: Fill,
    exact: bool,
) -> Array:
    found = np.zeros(len(cells), dtype=dtype)
    for row, cell in enumerate(cells):
        try:
            if is_missing(cell):
                found[row] = as_dtype(_or_missing(fill), dtype)
            else:
                found[row] = as_dtype(as_number(cell), dtype, exact=exact)
        except ValueError as error:
            reject(row, str(error), column)
    return found


def _or_missing(fill: Fill) -> float | int:
    if fill is None:
        raise ValueError("missing, expected a number")
    return fill


def _converted(
    cells: Any, column: str, dtype: np.dtype[Any], reject: RejectRow, fill: Fill, exact: bool
) -> Array:
    """Return Arrow integers or floats as a kind; cells that do not pass as they are, one by one."""
    import pyarrow as pa
    import pyarrow.compute as pc

    is_float = pa.types.is_floating(cells.type)
    if cells.null_count:
        held = pc.is_null(cells).to_numpy(zero_copy_only=False)
        values: Array = pc.fill_null(cells, pa.scalar(0, cells.type)).to_numpy(zero_copy_only=False)
    else:
        held = np.zeros(len(cells), dtype=bool)
        values = cells.to_numpy(zero_copy_only=False)
    with np.errstate(over="ignore", invalid="ignore"):
        # whole numbers that may be rounded go by way of float64, as those in texts do
        by_way = np.float64 if dtype.kind == "f" and not is_float and not exact else values.dtype
        found = values.astype(by_way, copy=False).astype(dtype, copy=bool(cells.null_count))
    if dtype.kind == "f":
        slow = held if is_finite(found) else held | ~np.isfinite(found)
        if not is_float and exact and values.dtype.itemsize >= dtype.itemsize:
            slow = slow | ~_held_exactly(values, dtype)
    elif dtype.kind == "b":
        slow = held | ((values != 0) & (values != 1))
    elif is_float:
        # a float's bounds: the largest whole number itself may round up to one too large
        low, high = float(np.iinfo(dtype).min), float(np.iinfo(dtype).max) + 1
        slow = held | ~((values >= low) & (values < high) & (values == np.trunc(values)))
        slow = slow | (np.abs(values) >= ROUNDED)
    else:
        bounds = np.iinfo(dtype)
        slow = held | (values < bounds.min) | (values > bounds.max)
    rows = np.flatnonzero(slow)
    if len(rows):
        found = found.copy() if not found.flags.writeable else found
        some = [None if held[row] else values[row].item() for row in rows]
        found[rows] = _one_by_one(some, column, dtype, _at(rows, reject), fill, exact)
    return found


def _held_exactly(values: Array, dtype: np.dtype[Any]) -> Array:
    """Return which whole numbers a floating-point kind holds to the last digit, bool [n]."""
    sure = _SURE[dtype.itemsize]
    found = (values <= sure) & (values >= -sure if values.dtype.kind == "i" else values >= 0)
    for row in np.flatnonzero(~found):
        whole = abs(int(values[row]))
        found[row] = whole // (whole & -whole) <= sure
    return found


def _at(rows: Array, reject: RejectRow) -> RejectRow:
    return lambda row, reason, column: reject(int(rows[row]), reason, column)


def _parsed(
    cells: Any, column: str, dtype: np.dtype[Any], reject: RejectRow, fill: Fill, exact: bool
) -> Array:
    """Return texts as numbers of a kind; those that Arrow does not read, one by one."""
    import pyarrow as pa
    import pyarrow.compute as pc

    trimmed = pc.utf8_trim_whitespace(cells)
    kind = pa.float64() if dtype.kind in "fb" else pa.int64()
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
        return _parsed_with_gaps(trimmed, cells, column, dtype, reject, fill, exact)
    if kind == pa.float64():
        values = numbers.to_numpy(zero_copy_only=False)
        sure = _SURE[dtype.itemsize] if dtype.kind == "f" and exact else math.inf
        # rare: large whole numbers are looked at as they are written, as is nan(1), Arrow's NaN
        rows = np.flatnonzero(~(np.abs(values) < sure))
        if len(rows):
            return _some_by_one(numbers, trimmed, rows, column, dtype, reject, fill, exact)
    return _converted(numbers, column, dtype, reject, fill, exact)


def _some_by_one(
    numbers: Any,
    cells: Any,
    rows: Array,
    column: str,
    dtype: np.dtype[Any],
    reject: RejectRow,
    fill: Fill,
    exact: bool,
) -> Array:
    """Return numbers as a kind, those of some rows by their cells."""
    slow = np.zeros(len(numbers), dtype=bool)
    slow[rows] = True

    def once(row: int, reason: str, name: str | None) -> None:
        if not slow[row]:
            reject(row, reason, name)

    found = _converted(numbers, column, dtype, once, fill, exact).copy()
    some = cells.take(_arrow(rows)).to_pylist()
    found[rows] = _one_by_one(some, column, dtype, _at(rows, reject), fill, exact)
    return found


def _arrow(rows: Array) -> Any:
    import pyarrow as pa

    return pa.array(rows, pa.int64())


def _parsed_with_gaps(
    trimmed: Any,
    cells: Any,
    column: str,
    dtype: np.dtype[Any],
    reject: RejectRow,
    fill: Fill,
    exact: bool,
) -> Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    missing = missing_of(trimmed)
    if missing.any() and dtype.kind in "fb":
        present = pc.if_else(pa.array(missing), pa.scalar(None, trimmed.type), trimmed)
        with contextlib.suppress(pa.ArrowInvalid):
            pc.cast(present, pa.float64())  # all others are numbers
            rows = np.flatnonzero(~missing)
            values = trimmed.take(_arrow(rows))
            found = np.zeros(len(trimmed), dtype=dtype)
            found[rows] = _parsed(values, column, dtype, _at(rows, reject), fill, exact)
            gaps = np.flatnonzero(missing)
            nothing = [None] * len(gaps)
            found[gaps] = _one_by_one(nothing, column, dtype, _at(gaps, reject), fill, exact)
            return found
    return _one_by_one(cells.to_pylist(), column, dtype, reject, fill, exact)


def is_finite(values: Array) -> bool:
    """Return whether all are finite; a sum that is finite says so at once."""
    if values.dtype.kind != "f":
        return True
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(values.sum(dtype=np.float32))) or bool(np.isfinite(values).all())


def list_arrays(
    cells: Any,
    column: str,
    shape: Sequence[int],
    dtype: np.dtype[Any],
    reject: RejectRow,
    *,
    fill: Fill = None,
    exact: bool = True,
) -> tuple[Array, Array]:
    """Return a column of lists as an array [n, ...], and the length of each list, int64 [n].

    Lists of lists have one level for each axis of the input, each of the axis' size; a flat list
    holds the row's numbers with the last axis fastest. Where the only axis is free (-1), lists may
    differ in length and are filled up with zeros; free axes among several take the sizes that the
    column's type fixes, as that of an array does.

    Args:
        cells: An Arrow array of n lists or tensors.
        column: Its name.
        shape: The input's axes without the rows.
        dtype: Its kind.
        reject: Takes the rows whose list does not fit.
        fill: Stands where a number in a list is missing; None rejects those rows.
        exact: As in `number_array`.
    """
    import pyarrow as pa

    if isinstance(cells, pa.ChunkedArray):
        cells = cells.combine_chunks()
    if isinstance(cells.type, pa.FixedShapeTensorType):
        cells = _in_logical_order(cells)
    depth = _depth(cells.type)
    if depth not in (1, len(shape)):
        for row in range(len(cells)):
            reject(
                row, f"lists in {depth} levels, expected {len(shape)}: {list(shape)} a row", column
            )
        sizes = [1 if axis == -1 else axis for axis in shape]
        return np.zeros((len(cells), *sizes), dtype=dtype), np.zeros(len(cells), dtype=np.int64)
    shape = _sized(cells.type, shape, column)
    regular = _regular(cells, shape)
    if regular is not None:
        size = math.prod(shape)

        def reject_regular(at: int, reason: str, name: str | None) -> None:
            reject(at // size, f"{reason} (in a list)", name)

        array = number_array(regular, column, dtype, reject_regular, fill=fill, exact=exact)
        return array.reshape(len(cells), *shape), np.full(len(cells), size)
    fits, lengths, level, parents = _flattened(cells, column, shape, reject)

    def reject_row(at: int, reason: str, name: str | None) -> None:
        reject(int(parents[at]), f"{reason} (in a list)", name)

    values = number_array(level, column, dtype, reject_row, fill=fill, exact=exact)
    if -1 not in shape:
        array = values
        if not fits.all():
            array = np.zeros((len(cells), math.prod(shape)), dtype=dtype)
            array[fits] = values.reshape(-1, math.prod(shape))
        return array.reshape(len(cells), *shape), lengths
    width = max(int(lengths.max(initial=0)), 1)
    array = np.zeros((len(cells), width), dtype=dtype)
    array[np.arange(width) < lengths[:, None]] = values
    return array, lengths


def _sized(kind: Any, shape: Sequence[int], column: str) -> Sequence[int]:
    """Return an input's axes, free ones among several as large as a type of lists fixes them.

    Raises:
        DataError: If it does not.
    """
    import pyarrow as pa

    if -1 not in shape or len(shape) == 1:
        return shape
    sizes, level = [], kind
    while pa.types.is_fixed_size_list(level):
        sizes.append(level.list_size)
        level = level.value_type
    if len(sizes) != len(shape):
        raise DataError(
            f'column "{column}" is {kind}, and the input {list(shape)} a row: lists may differ in '
            "size, expected arrays of one size (NPZ, or Arrow's tensors)"
        )
    return tuple(got if want == -1 else want for want, got in zip(shape, sizes, strict=True))


def _regular(cells: Any, shape: Sequence[int]) -> Any:
    """Return the numbers of lists that are all of an input's axes; None where one is not."""
    import pyarrow as pa
    import pyarrow.compute as pc

    level = cells
    for axis in _axes(cells.type, shape):
        if axis < 1 or level.null_count:
            return None
        if pa.types.is_fixed_size_list(level.type):
            sizes = {level.type.list_size}
        elif is_list(level.type):
            sizes = set(pc.min_max(pc.list_value_length(level)).as_py().values())
        else:
            return None
        if sizes != {axis}:
            return None
        level = pc.list_flatten(level)
    return None if is_list(level.type) else level


def _flattened(
    cells: Any, column: str, shape: Sequence[int], reject: RejectRow
) -> tuple[Array, Array, Any, Array]:
    """Return which lists fit, their lengths, all numbers of those, and the row of each number."""
    import pyarrow as pa
    import pyarrow.compute as pc

    fits = ~pc.is_null(cells).to_numpy(zero_copy_only=False)
    for row in np.flatnonzero(~fits):
        reject(int(row), "missing, expected a list of numbers", column)
    level, parents = cells, np.arange(len(cells))
    for depth, axis in enumerate(_axes(cells.type, shape)):
        if not is_list(level.type):
            break
        sizes = pc.fill_null(pc.list_value_length(level), 0).to_numpy(zero_copy_only=False)
        wrong = (sizes != axis) if axis != -1 else (sizes == 0)
        for at in np.flatnonzero(wrong):
            of_row = int(parents[at])
            if fits[of_row]:
                fits[of_row] = False
                reject(of_row, _misfit(int(sizes[at]), axis, shape, depth), column)
        parents = np.repeat(parents, sizes.astype(np.int64))
        level = pc.list_flatten(level)
    lengths = np.bincount(parents, minlength=len(cells)).astype(np.int64)
    if not fits.all():
        kept = fits[parents]
        level, parents = level.filter(pa.array(kept)), parents[kept]
    return fits, np.where(fits, lengths, 0), level, parents


def _axes(kind: Any, shape: Sequence[int]) -> Sequence[int]:
    """Return the lengths that each level of lists has to have; -1 for any but 0."""
    if _depth(kind) > 1:
        return shape
    return [-1 if -1 in shape else math.prod(shape)]


def _depth(kind: Any) -> int:
    depth = 0
    while is_list(kind):
        kind, depth = kind.value_type, depth + 1
    return depth


def _in_logical_order(cells: Any) -> Any:
    """Return tensors as lists of lists in the order of their axes, not in that of their storage."""
    import pyarrow as pa

    kind, storage = cells.type, cells.storage
    width, stored = storage.type.list_size, kind.shape
    order = kind.permutation or [*range(len(stored))]
    # taken one by one: by way of NumPy, whole numbers next to a null would become floats
    within_W = np.arange(width).reshape(stored).transpose(order).reshape(-1)
    starts_N = (np.arange(len(storage)) + storage.offset) * width
    found = storage.values.take(_arrow((starts_N[:, None] + within_W).reshape(-1)))
    for axis in reversed(order[1:]):
        found = pa.FixedSizeListArray.from_arrays(found, stored[axis])
    mask = storage.is_null() if storage.null_count else None
    return pa.FixedSizeListArray.from_arrays(found, stored[order[0]], mask=mask)


def _misfit(length: int, axis: int, shape: Sequence[int], depth: int) -> str:
    """Return why a list is refused."""
    if axis == -1:
        return "an empty list, expected at least one number"
    if len(shape) > 1:
        level = f"axis {depth} of a list" if depth else "a list"
        return f"{level} has {length} entries, expected {axis}: the input is {list(shape)} a row"
    return f"a list of {length} numbers, expected {axis}"


def raw_array(
    cells: Any, column: str, shape: Sequence[int], dtype: np.dtype[Any], reject: RejectRow
) -> Array:
    """Return a column of bytes as an array [n, ...]: each cell is a row's numbers as they lie.

    Args:
        cells: Arrow array of n cells, of as many bytes as a row of the input has.
        column: Its name.
        shape: The input's axes without the rows.
        dtype: Its kind.
        reject: Takes the rows that are null, NaN or infinite, or flags other than 0 and 1.
    """
    for row in np.flatnonzero(cells.is_null().to_numpy(zero_copy_only=False)):
        reject(int(row), "missing, expected bytes", column)
    width = cells.type.byte_width
    start = cells.offset * width
    content = np.frombuffer(cells.buffers()[1], np.uint8)[start : start + len(cells) * width]
    found: Array = content.view(dtype).reshape(len(cells), *shape)
    if dtype.kind == "b" and (content > 1).any():
        for row in np.flatnonzero((content.reshape(len(cells), width) > 1).any(axis=1)):
            reject(int(row), "a byte is neither 0 nor 1", column)
    if not is_finite(found):
        finite = np.isfinite(found.reshape(len(found), -1)).all(axis=1)
        for row in np.flatnonzero(~finite):
            reject(int(row), "NaN or infinite numbers", column)
    return found
