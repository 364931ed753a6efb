"""Which columns fit a pattern, what a cell's kind is, and columns of texts."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping, Sequence
from typing import Any

from thresher.errors import DataError, unknown_name
from thresher_serving.client.metadata import TensorMetadata
from thresher_serving.scoring.numbers import RejectRow

__all__ = ["is_bytes", "is_list", "is_numeric", "is_raw", "matched_columns", "texts_of"]


def matched_columns(patterns: Sequence[str], columns: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the columns that names or patterns mean, in their order.

    Raises:
        DataError: If one means none.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        fits = [pattern] if pattern in columns else fnmatch.filter(columns, pattern)
        if not fits:
            raise DataError(unknown_name("column", pattern, columns))
        found |= dict.fromkeys(fits)
    return tuple(found)


def texts_of(cells: Any, column: str, reject: RejectRow) -> list[str]:
    """Return a column's texts; "" where there is none, which is rejected."""
    import pyarrow as pa

    if pa.types.is_dictionary(cells.type):
        cells = cells.dictionary_decode()
    if pa.types.is_binary(cells.type) or pa.types.is_large_binary(cells.type):
        try:
            cells = cells.cast(pa.large_string())
        except pa.ArrowInvalid:
            return [
                _decoded(row, cell, column, reject) for row, cell in enumerate(cells.to_pylist())
            ]
    found: list[Any] = cells.to_pylist()
    if cells.null_count:
        for row, cell in enumerate(found):
            if cell is None:
                reject(row, "null, expected a text", column)
                found[row] = ""
    return found


def _decoded(row: int, cell: bytes | None, column: str, reject: RejectRow) -> str:
    try:
        if cell is None:
            reject(row, "null, expected a text", column)
            return ""
        return cell.decode()
    except UnicodeDecodeError as error:
        reject(row, f"not UTF-8: {error.reason} at byte {error.start}", column)
        return ""


def is_bytes(kind: Any) -> bool:
    """Return whether an Arrow type is one of bytes."""
    import pyarrow as pa

    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def is_raw(kind: Any, tensor: TensorMetadata) -> bool:
    """Return whether an Arrow type is one of as many bytes as a row of an input has."""
    import pyarrow as pa

    return (
        bool(pa.types.is_fixed_size_binary(kind))
        and -1 not in tensor.shape
        and kind.byte_width == math.prod(tensor.shape) * tensor.dtype.itemsize
    )


def is_list(kind: Any) -> bool:
    """Return whether an Arrow type is one of lists, or of tensors."""
    import pyarrow as pa

    return bool(
        pa.types.is_list(kind)
        or pa.types.is_large_list(kind)
        or pa.types.is_fixed_size_list(kind)
        or isinstance(kind, pa.FixedShapeTensorType)
    )


def is_numeric(kind: Any) -> bool:
    """Return whether an Arrow type is one of numbers, or of lists of them."""
    import pyarrow as pa

    if isinstance(kind, pa.FixedShapeTensorType):
        return True
    while is_list(kind):
        kind = kind.value_type
    return bool(
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_null(kind)
    )
