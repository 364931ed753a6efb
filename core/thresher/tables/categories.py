"""Categories: a column's values as whole numbers, by the values that training saw."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from thresher.artifacts.input_spec import FIRST_CATEGORY, MISSING_CATEGORY, UNKNOWN_CATEGORY
from thresher.tables.cells import is_missing
from thresher.tables.rows import RejectRow

__all__ = ["category_ids", "category_of", "distinct_categories", "holds_categories"]

_MANY = (list, tuple, dict, set, np.ndarray)
_TIMES = (datetime.date, datetime.time, datetime.timedelta, np.datetime64, np.timedelta64)
_WHOLE = re.compile(r"(-?[0-9]+)\.0+", re.ASCII)
_POWER = re.compile(r"-?[0-9](\.[0-9]+)?[eE][+-][0-9]+", re.ASCII)
"""As floats are written; the digits of an id in base 16 have no sign within."""


def category_of(cell: object) -> str | None:
    """Return the category that a cell names, None where it is missing.

    The same value reads alike from every format: 1, 1.0 and "1" are one, as are true and "True";
    "01" is another. A time of day or a time span has no one form in all formats.

    Raises:
        ValueError: If it is no single value, or one of time; a date is.
    """
    if is_missing(cell):
        return None
    if isinstance(cell, _MANY) or (isinstance(cell, _TIMES) and type(cell) is not datetime.date):
        raise ValueError(f"a {type(cell).__name__}, expected a text, a number or a date")
    if isinstance(cell, (bool, np.bool_)):
        return str(bool(cell)).lower()
    if isinstance(cell, (float, np.floating)):
        number = float(str(cell))  # float32's 0.1 is the text's 0.1
        is_whole = math.isfinite(number) and number == int(number)
        return str(int(number)) if is_whole else str(number)
    text = cell.decode() if isinstance(cell, bytes) else str(cell)
    if text.lower() in ("true", "false"):
        return text.lower()
    if _POWER.fullmatch(text):
        return category_of(float(text))
    whole = _WHOLE.fullmatch(text)
    text = whole[1] if whole else text
    return "0" if text == "-0" else text


def holds_categories(kind: Any) -> bool:
    """Return whether an Arrow type is one of texts, numbers, flags, dates or nulls."""
    import pyarrow as pa

    from thresher.tables.numbers import is_number, is_text

    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(is_text(kind) or is_number(kind) or pa.types.is_date(kind))


def distinct_categories(cells: Any, column: str, reject: RejectRow) -> set[str]:
    """Return the categories that occur in an Arrow array or a sequence of Python objects."""
    from thresher.tables.numbers import plain_cells

    if hasattr(cells, "type"):
        cells = plain_cells(cells, column, reject)
    return {value for value in map(category_of, _distinct(cells)[0]) if value is not None}


def category_ids(
    cells: Any, column: str, values: Sequence[str], reject: RejectRow
) -> npt.NDArray[np.int64]:
    """Return the ids of a column's cells, int64 [n].

    Args:
        cells: An Arrow array of n cells, or a sequence of n Python objects.
        column: Its name, for the reasons.
        values: Those that training saw; the first has the id 2.
        reject: Takes the rows whose cell is not UTF-8, or no category.
    """
    from thresher.tables.numbers import plain_cells

    if hasattr(cells, "type"):
        cells = plain_cells(cells, column, reject)
    known = {value: at for at, value in enumerate(values, FIRST_CATEGORY)}
    distinct, which = _distinct(cells)
    ids = np.zeros(len(distinct), dtype=np.int64)
    for at, cell in enumerate(distinct):
        try:
            ids[at] = _id(cell, known)
        except ValueError as error:
            reject(int(np.argmax(which == at)), str(error), column)
    return ids[which] if len(ids) else np.zeros(len(which), dtype=np.int64)


def _id(cell: object, known: Mapping[str, int]) -> int:
    value = category_of(cell)
    return MISSING_CATEGORY if value is None else known.get(value, UNKNOWN_CATEGORY)


def _distinct(cells: Any) -> tuple[Sequence[object], npt.NDArray[np.int64]]:
    """Return the distinct cells, and which of them each cell is."""
    if not hasattr(cells, "type"):
        return list(cells), np.arange(len(cells))
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_float16(cells.type):  # Arrow has no dictionaries of them
        return [_narrow(cell, np.float16) for cell in cells.to_pylist()], np.arange(len(cells))
    encoded = pc.dictionary_encode(cells, null_encoding="encode")
    which = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    found = encoded.dictionary.to_pylist()
    if pa.types.is_float32(cells.type):
        found = [_narrow(cell, np.float32) for cell in found]
    return found, which


def _narrow(cell: float | None, kind: type[np.floating[Any]]) -> object:
    return None if cell is None else kind(cell)
