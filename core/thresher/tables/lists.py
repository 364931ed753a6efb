"""Columns of lists and tensors as arrays of numbers: of the input's own shape, or rejected."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from thresher.errors import DataError
from thresher.tables.numbers import Fill, is_finite, is_list, number_array
from thresher.tables.rows import RejectRow

__all__ = ["list_arrays", "object_list_arrays", "raw_array"]

Array = npt.NDArray[Any]


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
    found = storage.values.take(pa.array((starts_N[:, None] + within_W).reshape(-1)))
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


def object_list_arrays(
    cells: Sequence[Any],
    column: str,
    shape: Sequence[int],
    dtype: np.dtype[Any],
    reject: RejectRow,
    *,
    fill: Fill,
    exact: bool,
) -> tuple[Array, Array]:
    """Return arrays or lists in memory, one a row, as an input [n, ...]; nothing is reshaped.

    Also returns the length of each row's last axis, int64 [n].
    """
    found: dict[int, Array] = {}
    for row, cell in enumerate(cells):
        try:
            found[row] = _object_list(cell, column, shape, dtype, fill, exact)
        except (ValueError, TypeError) as error:
            reject(row, str(error), column)
    size = [
        max([array.shape[at] for array in found.values()] or [1]) if axis == -1 else axis
        for at, axis in enumerate(shape)
    ]
    arrays = np.zeros((len(cells), *size), dtype=dtype)
    lengths = np.zeros(len(cells), dtype=np.int64)
    for row, array in found.items():
        arrays[row][tuple(slice(length) for length in array.shape)] = array
        lengths[row] = array.shape[-1]
    return arrays, lengths


def _object_list(
    cell: Any, column: str, shape: Sequence[int], dtype: np.dtype[Any], fill: Fill, exact: bool
) -> Array:
    # NumPy would make floats of whole numbers next to a real one
    array = cell if isinstance(cell, np.ndarray) else np.asarray(cell, dtype=object)
    fits = len(shape) == array.ndim and all(
        want == got or (want == -1 and got) for want, got in zip(shape, array.shape, strict=True)
    )
    if not fits:
        raise ValueError(f"shape {list(array.shape)}, expected {list(shape)}")
    if array.dtype == dtype and is_finite(array):
        return array  # an array of pixels would take long, one by one
    numbers = array.reshape(-1).tolist()
    found = number_array(numbers, column, dtype, _raise, fill=fill, exact=exact)
    return found.reshape(array.shape)


def _raise(_row: int, reason: str, _column: str | None) -> None:
    raise ValueError(reason)
