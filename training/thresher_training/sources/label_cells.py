"""The cells of label columns: yes or no, or each row's labels as lists, in whatever form."""

from __future__ import annotations

import ast
import json
import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from thresher.tables.cells import MISSING, as_flag, shown
from thresher.tables.numbers import is_list, is_text, plain_cells
from thresher.tables.rows import RejectRow

__all__ = ["CellLists", "canonical", "cell_lists", "flag_array", "is_flag"]

_NAMES_HINT = 'label_form = "names" takes it as a name'
_NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_LIST = re.compile(r"^([\[({]|[A-Za-z_.]+\(\s*[\[({'\")])")
"""How lists begin that are written as text, with the name of a function before them or without."""
_ELEMENT = re.compile(
    rf"""\s*('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|{_NUMBER}|True|False|nan)(?=\s|$)"""
)
_REAL = re.compile(r"[+-]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", re.ASCII)
_ID = re.compile(r"[0-9]+(\.0*)?", re.ASCII)
_NEGATIVE = re.compile(r"-[0-9.]+", re.ASCII)
_WHOLE_REAL = re.compile(r"([0-9]+)\.0*", re.ASCII)


def flag_array(cells: Any, column: str, reject: RejectRow) -> npt.NDArray[np.float32]:
    """Return a multi-hot column's targets, [n]: 1, 0, NaN where unknown, soft ones between.

    Args:
        cells: An Arrow array of numbers, flags or texts such as "yes".
        column: Its name.
        reject: Takes the rows that hold something else.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    cells = plain_cells(cells, column, reject)
    kind = cells.type
    if is_text(kind):
        distinct = pc.dictionary_encode(cells, null_encoding="encode")
        which = distinct.indices.to_numpy(zero_copy_only=False)
        found = np.empty(len(distinct.dictionary), dtype=np.float32)
        for at, cell in enumerate(distinct.dictionary.to_pylist()):
            try:
                found[at] = as_flag(cell)
            except ValueError as error:
                reject(int(np.flatnonzero(which == at)[0]), str(error), column)
        flags: npt.NDArray[np.float32] = found[which]
        return flags
    if pa.types.is_null(kind) or pa.types.is_boolean(kind) or pa.types.is_decimal(kind):
        cells = pc.cast(cells, pa.uint8()) if pa.types.is_boolean(kind) else cells
        cells = pc.cast(cells, pa.float64())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        hint = f'; label_column = "{column}" reads lists' if is_list(kind) else ""
        reject(0, f"the column is {kind}, expected 0, 1 or nothing{hint}", column)
    values = cells.to_numpy(zero_copy_only=False).astype(np.float64)  # nulls become NaN
    wrong = ~((values >= 0) & (values <= 1) | np.isnan(values))
    if wrong.any():
        row = int(np.argmax(wrong))
        reject(row, f"{values[row]:g}, expected 0, 1 or nothing", column)
    return np.asarray(values, dtype=np.float32)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CellLists:
    """The lists of some rows."""

    lengths: npt.NDArray[np.int64]
    """Of each row's list; -1 where there is none."""
    tokens: Any
    """Names and whole numbers of the rows one after the other, an Arrow array of texts; or None."""
    values: npt.NDArray[np.float64] | None
    """Instead: the numbers of multi-hot lists, NaN where one is missing."""

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        """The row of each entry."""
        return np.repeat(np.arange(len(self.lengths)), np.maximum(self.lengths, 0))


def cell_lists(
    cells: Any,
    column: str,
    reject: RejectRow,
    *,
    delimiter: str,
    form: str | None,
    names: frozenset[str],
    null_is_empty: bool,
) -> CellLists:
    """Return each row's labels as a list.

    Args:
        cells: An Arrow array of lists, texts or whole numbers.
        column: Its name.
        reject: Takes the rows that hold something else.
        delimiter: Between the names in a text.
        form: As in the sources' options.
        names: What is a label although it looks like something else, such as "None".
        null_is_empty: Whether a cell with nothing in it is a row without labels.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    cells = plain_cells(cells, column, reject)
    kind = cells.type
    if is_list(kind):
        return _of_lists(cells, column, reject, form)
    if is_text(kind):
        return _of_texts(cells, column, reject, delimiter, form, names, null_is_empty)
    if form == "multi_hot":
        reject(0, f'no list; label_columns = ["{column}"] reads it as one label', column)
    if pa.types.is_null(kind):
        return _split(pc.cast(cells, pa.large_string()), delimiter)
    if pa.types.is_boolean(kind):
        reject(0, f'true or false; label_columns = ["{column}"] reads it as one label', column)
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        cells = pc.cast(cells, pa.float64())
        values = cells.to_numpy(zero_copy_only=False)
        wrong = ~(np.isnan(values) | (values == np.trunc(values)))
        if wrong.any():
            row = int(np.argmax(wrong))
            reject(row, f"{values[row]:g}, expected a label's name or number", column)
        cells = pc.cast(pa.array(values, from_pandas=True), pa.int64())
    elif not pa.types.is_integer(kind):
        reject(0, f"the column is {kind}, expected labels: lists, texts or whole numbers", column)
    found = pc.cast(cells, pa.large_string())
    present = pc.is_valid(found).to_numpy(zero_copy_only=False)
    return CellLists(
        lengths=np.where(present, 1, -1).astype(np.int64), tokens=found.drop_null(), values=None
    )


def _of_lists(cells: Any, column: str, reject: RejectRow, form: str | None) -> CellLists:
    import pyarrow as pa
    import pyarrow.compute as pc

    lengths = pc.fill_null(pc.list_value_length(cells), -1).to_numpy(zero_copy_only=False)
    lengths = lengths.astype(np.int64)
    rows = np.repeat(np.arange(len(lengths)), np.maximum(lengths, 0))
    entries = pc.list_flatten(cells)

    def reject_entry(at: int, reason: str, name: str | None) -> None:
        reject(int(rows[at]), f"{reason} (in a list)", name)

    entries = plain_cells(entries, column, reject_entry)
    kind = entries.type
    is_whole = pa.types.is_integer(kind)
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind) or pa.types.is_boolean(kind):
        if form == "ids" and not pa.types.is_boolean(kind):
            try:
                entries, is_whole = pc.cast(entries, pa.int64()), True
            except pa.ArrowInvalid as error:
                reject(0, f"{error}, expected ids", column)
        else:
            form = "multi_hot"  # floats and flags are no names
    if form == "multi_hot":
        if is_text(kind):
            distinct = flag_array(entries, column, reject_entry).astype(np.float64)
            return CellLists(lengths=lengths, tokens=None, values=distinct)
        if pa.types.is_boolean(kind):
            entries = pc.cast(entries, pa.uint8())
        values = pc.cast(entries, pa.float64()).to_numpy(zero_copy_only=False)
        return CellLists(lengths=lengths, tokens=None, values=values)
    if not (is_whole or is_text(kind) or pa.types.is_null(kind)):
        reject(0, f"the column is {cells.type}, expected lists of names or whole numbers", column)
    if entries.null_count:
        row = int(rows[pc.is_null(entries).to_numpy(zero_copy_only=False)][0])
        hint = '; label_form = "multi_hot" reads it as unknown' if is_whole else ""
        reject(row, f"the list holds a null{hint}", column)
    return CellLists(lengths=lengths, tokens=pc.cast(entries, pa.large_string()), values=None)


def _of_texts(
    cells: Any,
    column: str,
    reject: RejectRow,
    delimiter: str,
    form: str | None,
    names: frozenset[str],
    null_is_empty: bool,
) -> CellLists:
    import pyarrow as pa
    import pyarrow.compute as pc

    cells = pc.utf8_trim_whitespace(pc.cast(cells, pa.large_string()))
    if null_is_empty:
        cells = pc.fill_null(cells, "")
    no_value = [word for word in MISSING if word and word not in names]
    absent = pc.is_in(cells, value_set=pa.array(no_value, pa.large_string()))
    cells = pc.if_else(absent, pa.scalar(None, pa.large_string()), cells)
    written = pc.match_substring_regex(cells, _LIST.pattern)
    if form == "names" or not pc.any(written).as_py():
        found = _split(cells, delimiter)
        if form != "multi_hot":
            return found
        rows = found.rows
        flags = flag_array(found.tokens, column, lambda at, *said: reject(int(rows[at]), *said))
        return CellLists(lengths=found.lengths, tokens=None, values=flags.astype(np.float64))
    distinct = pc.dictionary_encode(cells, null_encoding="encode")
    which = distinct.indices.to_numpy(zero_copy_only=False)
    lists: list[list[Any] | None] = []
    for at, cell in enumerate(distinct.dictionary.to_pylist()):
        try:
            lists.append(None if cell is None else _entries(cell, delimiter, names))
        except ValueError as error:
            row = int(np.flatnonzero(which == at)[0])
            reject(row, f'"{shown(cell)}" {error}; {_NAMES_HINT}', column)
    every = [entry for entries in lists for entry in entries or ()]
    is_numbers = any(isinstance(entry, (bool, float)) for entry in every)
    kind = pa.float64() if is_numbers else pa.large_string()
    try:
        made = [
            None
            if entries is None
            else [_number(entry) if is_numbers else str(entry) for entry in entries]
            for entries in lists
        ]
    except ValueError as error:
        reject(0, str(error), column)
        raise
    some = pa.array(made, pa.large_list(kind))
    return _of_lists(some.take(pa.array(which)), column, reject, form)


def _number(entry: object) -> float | None:
    if isinstance(entry, str) and not entry.isdigit():
        raise ValueError(f'lists of numbers and of names such as "{shown(entry)}" are mixed')
    return None if isinstance(entry, float) and math.isnan(entry) else float(entry)  # type: ignore[arg-type]


def _entries(cell: str, delimiter: str, names: frozenset[str]) -> list[Any]:
    """Return the entries of a list in text form, or the names between delimiters.

    Raises:
        ValueError: If it is neither.
    """
    parts = [part.strip() for part in cell.split(delimiter)]
    if _LIST.match(cell) is None or all(part in names for part in parts):
        return parts
    found = _python_list(cell)
    if found is None:
        # (a),(b) may be names; (a,b is none, nor are {a,b} of PostgreSQL and c("a", "b") of R
        if cell[0] == "(" and all(part.count("(") == part.count(")") for part in parts):
            return parts
        raise ValueError("looks like a list, and is none that Python or JSON writes")
    for entry in found:
        if entry is None:
            raise ValueError("is a list with a null")
        if not isinstance(entry, (str, int, float)):
            raise ValueError(f"is a list with a {type(entry).__name__} in it")  # noqa: TRY004
    if any(isinstance(e, str) for e in found) and not all(isinstance(e, str) for e in found):
        raise ValueError("is a list of names and numbers")
    return found


def _python_list(cell: str) -> list[Any] | None:
    """Return what a text says of a list, as Python, JSON or NumPy write it; None if it is none."""
    if cell == "set()":
        return []
    try:
        found = json.loads(cell)
    except ValueError:
        numpy_list = _numpy_list(cell)
        if numpy_list is not None:
            return numpy_list
        try:
            found = ast.literal_eval(cell)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
    if isinstance(found, dict):
        raise ValueError("is a table, expected a list")  # noqa: TRY004
    if isinstance(found, (list, tuple)):
        return list(found)
    return sorted(found, key=str) if isinstance(found, (set, frozenset)) else None


def _numpy_list(cell: str) -> list[Any] | None:
    """Return the entries of ``['a' 'b']``, which Python would read as one text."""
    inside = cell[1:-1].strip()
    if not (cell.startswith("[") and cell.endswith("]")) or not inside:
        return None
    found: list[Any] = []
    at = 0
    while at < len(inside):
        match = _ELEMENT.match(inside, at)
        if match is None:
            return None  # commas, or "..." of a long array
        text, at = match[1], match.end()
        if text[0] in "'\"TF":
            found.append(ast.literal_eval(text))
        else:
            found.append(int(text) if text.isdigit() else float(text))
    return found


def _split(cells: Any, delimiter: str) -> CellLists:
    """Return texts at their delimiters."""
    import pyarrow.compute as pc

    lists = pc.split_pattern(cells, delimiter)
    lengths = pc.fill_null(pc.list_value_length(lists), -1).to_numpy(zero_copy_only=False)
    return CellLists(lengths=lengths.astype(np.int64), tokens=pc.list_flatten(lists), values=None)


def canonical(token: str, names: frozenset[str], form: str | None) -> str:
    """Return the label that a trimmed token names, "" where it names none.

    Raises:
        ValueError: If it is no label; the message says why.

    Example:
        >>> canonical("3.0", frozenset(), None), canonical("3.0", frozenset({"3.0"}), None)
        ('3', '3.0')
    """
    if token in names or not token:
        return token
    if token in MISSING:
        raise ValueError(f'"{token}" stands for no value; label_names that hold it make it a label')
    if form == "names":
        return token
    if form == "ids" and _ID.fullmatch(token) is None:
        raise ValueError(f'"{shown(token)}" is no id, expected a whole number from 0')
    if _NEGATIVE.fullmatch(token):
        raise ValueError(f'"{token}" is a negative number, no label; {_NAMES_HINT}')
    if _REAL.fullmatch(token) is None:
        return token
    whole = _WHOLE_REAL.fullmatch(token)
    if whole is None:
        raise ValueError(f'"{token}" is a number with a fraction, no label; {_NAMES_HINT}')
    return whole[1]


def is_flag(token: str) -> bool:
    """Return whether a token is a plain yes or no, 1 or 0."""
    try:
        return as_flag(token) in (0.0, 1.0)
    except ValueError:
        return False
