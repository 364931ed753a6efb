"""A table's labels: multi-hot columns, or one column with the labels of each row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from thresher.errors import ConfigError, DataError, unknown_name
from thresher.tables.cells import as_flag
from thresher.tables.inputs import matched_columns
from thresher.tables.parts import Part
from thresher.tables.rows import Reject, Rows
from thresher_training.data import SplitName
from thresher_training.sources.label_cells import (
    CellLists,
    canonical,
    cell_lists,
    flag_array,
    is_flag,
)
from thresher_training.sources.options import SourceOptions
from thresher_training.sources.tables import Table, read_names

__all__ = ["LabelReader", "RowLabels", "in_order", "settle"]

_NOTHING, _NO_LABEL = -1, -2
_BLOCK_ROWS = 4_096

IntArray = npt.NDArray[np.int64]


class LabelReader:
    """Where the labels are, and what they are.

    Args:
        options: Say where.
        columns: Multi-hot columns, where the options name none.

    Raises:
        ConfigError: If both or neither of ``label_columns`` and ``label_column`` are given.
        DataError: If names repeat.
    """

    def __init__(self, options: SourceOptions, columns: Sequence[str] | None = None) -> None:
        given = columns if columns is not None else options.label_columns
        if (given is None) == (options.label_column is None):
            raise ConfigError(
                "give label_columns (a column of 0 and 1 for each label) or label_column (one "
                "column with the names of each row's labels), one of the two"
            )
        self.options, self.patterns = options, given
        self.names = read_names(options.label_names)
        repeated = [name for name, count in Counter(self.names or ()).items() if count > 1]
        if repeated:
            where = options.label_names
            where = f"{where}: " if isinstance(where, (str, Path)) else ""
            raise DataError(f"{where}label names must differ; repeated: {', '.join(repeated[:5])}")
        if given is not None and (self.names is not None or options.label_form is not None):
            raise ConfigError(
                "label_names and label_form go with label_column; label_columns are names "
                "themselves"
            )

    def columns(self, table: Table) -> tuple[str, ...]:
        """Return the columns of a table that hold labels."""
        if self.options.label_column is not None:
            table.check_columns([self.options.label_column])
            return (self.options.label_column,)
        try:
            return matched_columns(self.patterns or (), table.columns)
        except DataError as error:
            raise DataError(f"{table.parts[0].path}: {error}") from None


@dataclass(slots=True)
class _Lengths:
    """What the lengths of the lists say of what they are."""

    shortest: int | None = None
    longest: int = 0
    other: tuple[Part, int, int] | None = None
    """The first list that differs in length: part, row and length."""
    repeat: tuple[Part, int] | None = None
    """The first list in which an entry occurs twice."""


class RowLabels:
    """Gathers the labels of a table's rows, chunk by chunk.

    Args:
        reader: Where the labels are.
        table: Their table.
        scratch: A file for the targets: they need not fit into memory.
    """

    def __init__(self, reader: LabelReader, table: Table, scratch: Path) -> None:
        self.reader, self.table = reader, table
        self.columns = reader.columns(table)
        self.num_rows = 0
        self.num_unknown = 0
        """Rows of which no label is known."""
        self.lengths = _Lengths()
        self.words: set[str] = set()
        """The tokens that occur."""
        self.width: int | None = None
        """The number of labels of multi-hot lists, once one is read."""
        self._scratch = scratch
        self._scratch.write_bytes(b"")
        self._rows: list[IntArray] = []
        self._ids: list[IntArray] = []
        self._unknown: list[IntArray] = []
        self._number: dict[str, int] = {name: at for at, name in enumerate(reader.names or ())}
        self._known = frozenset(reader.names or ())

    def add(self, part: Part, rows: Rows) -> None:
        """Take the labels of some more rows.

        Raises:
            DataError: If a cell is no label, or there is none where there must be; names the line.
        """
        reject = self.table.refuse(part, rows)
        options = self.reader.options
        if options.label_column is None:
            flags = [flag_array(rows.columns[name], name, reject) for name in self.columns]
            with self._scratch.open("ab") as file:
                file.write(np.stack(flags, axis=1).tobytes())
            self.num_rows += rows.num_rows
            return
        lists = cell_lists(
            rows.columns[options.label_column],
            options.label_column,
            reject,
            delimiter=options.label_delimiter,
            form=options.label_form,
            names=self._known,
            null_is_empty=part.form == "csv",
        )
        missing = np.flatnonzero(lists.lengths < 0)
        if len(missing) and options.missing_labels == "error":
            reject(
                int(missing[0]),
                "empty, expected the row's labels (an empty list where it has none); or set "
                'missing_labels = "unknown"',
                options.label_column,
            )
        if lists.values is not None:
            self._add_multi_hot(part, rows, lists)
        elif self.width is not None:
            if (lists.lengths > 0).any():
                row = int(np.argmax(lists.lengths > 0))
                reject(row, "names, where other rows hold multi-hot lists", options.label_column)
            self._add_multi_hot(part, rows, lists)
        else:
            self._add_tokens(part, rows, lists, missing)
        self.num_rows += rows.num_rows

    def _add_multi_hot(self, part: Part, rows: Rows, lists: CellLists) -> None:
        """Write lists of 1 and 0, each as long as there are labels."""
        reject, column = self.table.refuse(part, rows), self.columns[0]
        present = lists.lengths >= 0
        if self.width is None and present.any():
            self.width = int(lists.lengths[present][0])
            names = self.reader.names
            if names is not None and len(names) != self.width:
                row = int(np.argmax(present))
                reject(row, f"a list of {self.width}, expected {len(names)}: label_names", column)
            if self.num_rows > self.num_unknown:
                row = int(np.argmax(present))
                reject(row, "a multi-hot list, where rows before hold names, ids or none", column)
        wrong = present & (lists.lengths != self.width)
        if wrong.any():
            row = int(np.argmax(wrong))
            reject(
                row,
                f"a multi-hot list of {lists.lengths[row]}, expected {self.width} entries as in "
                "the rows before",
                column,
            )
        self.num_unknown += int((~present).sum())
        if self.width is None:
            self._unknown.append(np.flatnonzero(~present) + self.num_rows)
            return
        block = np.full((len(present), self.width), np.nan, dtype=np.float32)
        if lists.values is not None:
            values = lists.values
            bad = ~((values >= 0) & (values <= 1) | np.isnan(values))
            if bad.any():
                at = int(np.argmax(bad))
                hint = '; label_form = "ids" reads ids' if values[at] == int(values[at]) else ""
                reject(
                    int(lists.rows[at]), f"{values[at]:g} in a list, expected 0 or 1{hint}", column
                )
            block[present] = values.reshape(-1, self.width)
        before = np.full((self.num_rows * (not self._scratch.stat().st_size), self.width), np.nan)
        with self._scratch.open("ab") as file:
            file.write(before.astype(np.float32).tobytes())  # rows before the first list
            file.write(block.tobytes())

    def _add_tokens(self, part: Part, rows: Rows, lists: CellLists, missing: IntArray) -> None:
        """Take lists of names or ids."""
        import pyarrow.compute as pc

        column, form = self.columns[0], self.reader.options.label_form
        reject = self.table.refuse(part, rows)
        distinct = pc.dictionary_encode(pc.utf8_trim_whitespace(lists.tokens))
        which = distinct.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        row_of = lists.rows
        ids = np.zeros(len(distinct.dictionary), dtype=np.int64)
        for at, token in enumerate(distinct.dictionary.to_pylist()):
            try:
                word = canonical(token, self._known, form)
                ids[at] = self._id(word)
                if word:
                    self.words.add(word)
            except (ValueError, DataError) as error:
                reject(int(row_of[int(np.argmax(which == at))]), str(error), column)
        found = ids[which] if len(ids) else which
        kept = found != _NOTHING
        found, row_of = found[kept], row_of[kept]
        self._watch(part, rows, np.where(lists.lengths < 0, -1, 0), row_of, found)
        self._rows.append(row_of + self.num_rows)
        self._ids.append(found)
        self._unknown.append(missing + self.num_rows)
        self.num_unknown += len(missing)

    def _watch(
        self, part: Part, rows: Rows, lengths: IntArray, row_of: IntArray, ids: IntArray
    ) -> None:
        """Note what tells multi-hot lists from lists of ids, as long as they may be either."""
        if not all(map(is_flag, self.words)):
            return
        lengths = lengths + np.bincount(row_of, minlength=len(lengths))
        present = np.flatnonzero(lengths >= 0)
        seen = self.lengths
        if len(present):
            if seen.shortest is None:
                seen.shortest = seen.longest = int(lengths[present[0]])
            other = present[lengths[present] != seen.shortest]
            if len(other) and seen.other is None:
                at = int(other[0])
                seen.other = (part, rows.position(at), int(lengths[at]))
            seen.shortest = min(seen.shortest, int(lengths[present].min()))
            seen.longest = max(seen.longest, int(lengths[present].max()))
        if seen.repeat is None:
            keys, first = np.unique(row_of * (int(ids.max(initial=0)) + 1) + ids, return_index=True)
            if len(keys) < len(ids):
                at = int(np.setdiff1d(np.arange(len(ids)), first)[0])
                seen.repeat = (part, rows.position(int(row_of[at])))

    def _id(self, word: str) -> int:
        """Return the number of a label, or that it is none.

        Raises:
            DataError: If the label is not one of those that were given.
        """
        if not word:
            return _NOTHING
        if self.reader.names is None:
            return self._number.setdefault(word, len(self._number))
        if word in self._number:
            return self._number[word]
        is_position = word.isascii() and word.isdigit() and int(word) < len(self._number)
        if is_position and self.reader.options.label_form != "names":
            return int(word)
        hint = '; label_form = "multi_hot" reads lists of 0 and 1' if is_flag(word) else ""
        raise DataError(unknown_name("label", word, self.reader.names) + hint)

    @property
    def found(self) -> tuple[str, ...]:
        """The labels that occur, or that were given."""
        return tuple(self._number)

    def num_bare(self, labels: Sequence[str]) -> int:
        """Return how many rows have none of the labels."""
        shape = (self.num_rows, len(labels))
        if not all(shape):
            return self.num_rows - self.num_unknown
        targets_NL = np.memmap(self._scratch, dtype=np.float32, mode="r", shape=shape)
        starts = range(0, self.num_rows, _BLOCK_ROWS)
        return sum(int((targets_NL[at : at + _BLOCK_ROWS] == 0).all(axis=1).sum()) for at in starts)

    def error(self, part: Part, row: int, reason: str) -> DataError:
        """Return the error of a row by its position in its file."""
        return self.table.error(part, Reject(row=row, reason=reason, column=self.columns[0]))

    def targets(self, labels: Sequence[str], *, multi_hot: bool) -> npt.NDArray[np.float32]:
        """Return all rows' targets, [N, L]: 1, 0, and NaN where unknown.

        Args:
            labels: All labels in order; those of other files too.
            multi_hot: Whether lists of tokens are multi-hot.
        """
        if self.reader.options.label_column is not None and self.width is None:
            self._write_multi_hot(labels, multi_hot=multi_hot)
        shape = (self.num_rows, len(labels))
        if not all(shape):
            return np.zeros(shape, dtype=np.float32)
        return np.memmap(self._scratch, dtype=np.float32, mode="r", shape=shape)

    def _write_multi_hot(self, labels: Sequence[str], *, multi_hot: bool) -> None:
        place = {label: at for at, label in enumerate(labels)}
        none = np.zeros(0, dtype=np.int64)
        rows = np.concatenate([*self._rows, none])  # ascending
        ids = np.concatenate([*self._ids, none])
        if multi_hot:
            # entries in the order of their lists, of which none lacks one
            columns = np.arange(len(ids)) % max(len(labels), 1)
            words = self.reader.names is None  # else ids are positions, 0 and 1
            values = np.array([as_flag(w) for w in self._number])[ids] if words else ids
        else:
            column_of = np.array([place[name] for name in self._number], dtype=np.int64)
            columns = column_of[ids]
            values = np.ones(len(ids), dtype=np.float32)
        unknown = np.concatenate([*self._unknown, none])
        with self._scratch.open("wb") as file:
            for start in range(0, self.num_rows, _BLOCK_ROWS):
                end = min(start + _BLOCK_ROWS, self.num_rows)
                block = np.zeros((end - start, len(labels)), dtype=np.float32)
                mine = slice(*np.searchsorted(rows, [start, end]))
                block[rows[mine] - start, columns[mine]] = values[mine]
                block[unknown[slice(*np.searchsorted(unknown, [start, end]))] - start] = np.nan
                file.write(block.tobytes())


def settle(gathered: Mapping[SplitName, RowLabels]) -> tuple[tuple[str, ...], bool]:
    """Return the labels in order, and whether the tokens of ``label_column`` are multi-hot lists.

    Raises:
        DataError: If the rows do not say which of both they are; names the option that does.
    """
    first = gathered["train"]
    reader = first.reader
    if reader.options.label_column is None:
        return first.columns, False
    widths = {rows.width for rows in gathered.values()} - {None}
    if widths:
        if len(widths) > 1:
            raise DataError(
                f'column "{first.columns[0]}": multi-hot lists differ in length between splits: '
                f"{', '.join(map(str, sorted(widths)))}"
            )
        return reader.names or tuple(map(str, range(int(widths.pop() or 0)))), False
    if _are_multi_hot(list(gathered.values())):
        width = first.lengths.longest
        return reader.names or tuple(map(str, range(width))), True
    labels = reader.names or in_order(name for rows in gathered.values() for name in rows.found)
    if not labels and first.num_rows:
        raise DataError(
            f'{first.table.parts[0].path}: column "{first.columns[0]}" names no label in any row'
        )
    return labels, False


def _are_multi_hot(splits: Sequence[RowLabels]) -> bool:
    words = set[str]().union(*(rows.words for rows in splits))
    reader = splits[0].reader
    names, form = reader.names, reader.options.label_form
    if form is not None or not words or not all(map(is_flag, words)) or words <= set(names or ()):
        return False
    repeated = next((rows for rows in splits if rows.lengths.repeat is not None), None)
    ends = [n for rows in splits for n in (rows.lengths.shortest, rows.lengths.longest)]
    lengths = {n for n in ends if n is not None}
    width = max(lengths)
    ways = (
        'label_form = "multi_hot" (an entry of 1 or 0 for each label), '
        'label_form = "ids" or label_form = "names"'
    )
    if len(lengths) == 1 and (names is None or len(names) == width):
        if repeated is not None:
            return True
        column = splits[0].columns[0]
        one = f', or label_columns = ["{column}"] for one label' if width == 1 else ""
        raise DataError(
            f'{splits[0].table.parts[0].path}: column "{column}" holds {width} of '
            f"{', '.join(sorted(words))} in each row: multi-hot, or labels? Set {ways}{one}"
        )
    if repeated is None:
        return False
    assert repeated.lengths.repeat is not None
    part, row = repeated.lengths.repeat
    reason = f"an entry twice, as in multi-hot lists, but lists differ in length; set {ways}"
    if len(lengths) == 1:
        reason = f"a list of {width} entries of 1 and 0, expected {len(names or ())}: label_names"
    elif repeated.lengths.other is not None:
        other_part, other_row, length = repeated.lengths.other
        where = f"{other_part.path}, row {other_row} has {length}"
        reason = f"an entry twice, as in multi-hot lists, but {where} entries; set {ways}"
    raise repeated.error(part, row, reason)


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
