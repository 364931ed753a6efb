"""Label columns: multi-hot columns, or one column with the names of each row's labels."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from thresher.errors import ConfigError, DataError, unknown_name
from thresher_training.sources.files import read_names
from thresher_training.sources.tables import Batch, Table, numbers

__all__ = ["LabelForm", "MissingLabels", "RowLabels", "in_order", "label_form", "match_columns"]

MissingLabels = Literal["error", "unknown"]
"""What a row without a list of labels is: an error, or a row whose labels are all unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelForm:
    """Where a table's labels are."""

    columns: tuple[str, ...] | None
    """Names or patterns of multi-hot columns: 1, 0, empty where unknown."""

    column: str | None
    """One column with lists of names, or names in one text."""

    delimiter: str
    """Between the names in a text."""

    names: tuple[str, ...] | None
    """All labels in order; where the table holds whole numbers, they are positions here."""

    missing: MissingLabels

    def used(self, table: Table) -> list[str]:
        """Return the columns of a table that hold labels."""
        if self.column is not None:
            table.check_columns([self.column])
            return [self.column]
        return match_columns(table, self.columns or ())


def label_form(
    *,
    label_columns: Sequence[str] | None,
    label_column: str | None,
    label_delimiter: str,
    label_names: str | Sequence[str] | None,
    missing_labels: MissingLabels,
) -> LabelForm:
    """Return the form that a source's options describe.

    Raises:
        ConfigError: If both or neither of ``label_columns`` and ``label_column`` are given.
        DataError: If the file of names is missing, or names repeat.
    """
    if (label_columns is None) == (label_column is None):
        raise ConfigError(
            "give label_columns (a column of 0 and 1 for each label) or label_column (one column "
            "with the names of each row's labels), one of the two"
        )
    if missing_labels not in ("error", "unknown"):
        raise ConfigError(f'missing_labels is "{missing_labels}", expected "error" or "unknown"')
    if not label_delimiter:
        raise ConfigError('label_delimiter is "", expected what stands between two names')
    names = read_names(label_names)
    repeated = [name for name, count in Counter(names or ()).items() if count > 1]
    if repeated:
        where = f"{label_names}: " if isinstance(label_names, (str, Path)) else ""
        raise DataError(f"{where}label names must differ; repeated: {', '.join(repeated[:5])}")
    if label_columns is not None and names is not None:
        raise ConfigError("label_names goes with label_column; label_columns are names themselves")
    return LabelForm(
        columns=None if label_columns is None else tuple(label_columns),
        column=label_column,
        delimiter=label_delimiter,
        names=names,
        missing=missing_labels,
    )


def match_columns(table: Table, patterns: Sequence[str]) -> list[str]:
    """Return the columns that names or patterns such as ``"tag_*"`` mean, each once.

    Raises:
        DataError: If a name or pattern fits none; names the nearest.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        fits = [pattern] if pattern in table.columns else []
        fits = fits or [c for c in table.columns if fnmatch.fnmatchcase(c, pattern)]
        if not fits:
            table.check_columns([pattern])
        found |= dict.fromkeys(fits)
    return list(found)


class RowLabels:
    """Gathers the labels of a table's rows, batch by batch.

    Args:
        form: Where the labels are.
        columns: The label columns of the table.
        scratch: A file for the targets: they need not fit into memory.
    """

    def __init__(self, form: LabelForm, columns: Sequence[str], scratch: Path) -> None:
        self.form = form
        self.columns = list(columns)
        self._scratch = scratch
        self._scratch.write_bytes(b"")
        self._rows: list[npt.NDArray[np.int64]] = []
        self._ids: list[npt.NDArray[np.int64]] = []
        self._unknown: list[npt.NDArray[np.int64]] = []
        self._number: dict[str, int] = {name: at for at, name in enumerate(form.names or ())}
        self._num_rows = 0

    @property
    def names(self) -> tuple[str, ...]:
        """The labels that were given or found."""
        if self.form.column is None:
            return tuple(self.columns)
        return self.form.names or in_order(self._number)

    def add(self, batch: Batch, num_rows: int) -> None:
        """Take the labels of some more rows.

        Raises:
            DataError: If a cell is no label, or there is none where there must be; names the line.
        """
        if self.form.column is None:
            table = [numbers(batch, c, what="0, 1 or nothing") for c in self.columns]
            block = np.stack(table, axis=1).astype(np.float32)
            wrong = ~((block >= 0) & (block <= 1) | np.isnan(block))
            if wrong.any():
                row, at = (int(i) for i in np.argwhere(wrong)[0])
                raise DataError(
                    f'{batch.where(row)}: label column "{self.columns[at]}" holds '
                    f"{block[row, at]:g}, expected 0, 1 or nothing"
                )
            with self._scratch.open("ab") as file:
                file.write(block.tobytes())
        else:
            self._add_names(batch, self.form.column)
        self._num_rows += num_rows

    def targets(self, labels: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return all rows' targets, [N, L]: 1, 0, and NaN where unknown.

        Args:
            labels: All labels in order; those of other files too.
        """
        if self.form.column is not None:
            self._write_multi_hot(labels)
        shape = (self._num_rows, len(labels))
        if not all(shape):
            return np.zeros(shape, dtype=np.float32)
        return np.memmap(self._scratch, dtype=np.float32, mode="r", shape=shape)

    def _write_multi_hot(self, labels: Sequence[str]) -> None:
        place = {label: at for at, label in enumerate(labels)}
        column_of = np.array([place[name] for name in self._number], dtype=np.int64)
        none = np.zeros(0, dtype=np.int64)
        rows = np.concatenate([*self._rows, none])  # ascending
        columns = column_of[np.concatenate([*self._ids, none])]
        unknown = np.concatenate([*self._unknown, none])
        with self._scratch.open("wb") as file:
            for start in range(0, self._num_rows, _BLOCK_ROWS):
                end = min(start + _BLOCK_ROWS, self._num_rows)
                block = np.zeros((end - start, len(labels)), dtype=np.float32)
                mine = slice(*np.searchsorted(rows, [start, end]))
                block[rows[mine] - start, columns[mine]] = 1
                block[unknown[slice(*np.searchsorted(unknown, [start, end]))] - start] = np.nan
                file.write(block.tobytes())

    def _add_names(self, batch: Batch, column: str) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        cells = batch.columns[column]
        if pa.types.is_dictionary(cells.type):
            cells = pc.cast(cells, cells.type.value_type)
        unknown = np.flatnonzero(pc.is_null(cells).to_numpy(zero_copy_only=False))
        if len(unknown):
            if self.form.missing == "error":
                raise DataError(
                    f'{batch.where(int(unknown[0]))}: column "{column}" is empty, expected the '
                    "row's labels (an empty list where it has none); or set "
                    'missing_labels = "unknown"'
                )
            self._unknown.append(unknown + self._num_rows)
        if not _is_list(cells.type):
            # whole numbers too: one label id a row
            cells = pc.split_pattern(pc.cast(cells, pa.large_string()), self.form.delimiter)
        rows = pc.list_parent_indices(cells).to_numpy(zero_copy_only=False).astype(np.int64)
        tokens = pc.utf8_trim_whitespace(pc.cast(pc.list_flatten(cells), pa.large_string()))
        if tokens.null_count:
            row = int(rows[pc.is_null(tokens).to_numpy(zero_copy_only=False)][0])
            raise DataError(f'{batch.where(row)}: the list in column "{column}" holds a null')
        distinct = pc.dictionary_encode(tokens)
        words = distinct.dictionary.to_pylist()
        which = distinct.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        ids = np.array([self._id(word) for word in words], dtype=np.int64)
        if (ids == _NO_LABEL).any():
            wrong = int(np.flatnonzero(ids[which] == _NO_LABEL)[0])
            name = words[which[wrong]]
            raise DataError(
                f'{batch.where(int(rows[wrong]))}: column "{column}": '
                f"{unknown_name('label', name, self.names)}"
            )
        kept = ids[which] != _NOTHING if len(ids) else np.zeros(0, dtype=bool)
        self._rows.append(rows[kept] + self._num_rows)
        self._ids.append(ids[which[kept]] if len(ids) else ids)

    def _id(self, word: str) -> int:
        if not word:
            return _NOTHING
        if self.form.names is None:
            return self._number.setdefault(word, len(self._number))
        if word in self._number:
            return self._number[word]
        is_position = word.isascii() and word.isdigit() and int(word) < len(self._number)
        return int(word) if is_position else _NO_LABEL


_NOTHING, _NO_LABEL = -1, -2
_BLOCK_ROWS = 4_096


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Return each name once: whole numbers by value, then names by letters.

    Example:
        >>> in_order(["b", "10", "9", "a", "b"])
        ('9', '10', 'a', 'b')
    """

    def key(name: str) -> tuple[bool, int, str]:
        is_number = name.isascii() and name.isdigit()
        return (not is_number, int(name) if is_number else 0, name)

    return tuple(sorted(set(names), key=key))


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )
