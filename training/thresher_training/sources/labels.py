"""A table's labels: multi-hot columns, or one column with the labels of each row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from thresher.errors import ConfigError, DataError, unknown_name
from thresher.tables.cells import as_flag
from thresher.tables.inputs import matched_columns
from thresher.tables.numbers import is_text
from thresher.tables.parts import Part
from thresher.tables.rows import Reject, RejectRow, Rows
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
        self.words: set[str] = set()
        """The names and ids that occur."""
        self.lengths: set[int] = set()
        """Of the lists, as long as they may be multi-hot."""
        self.repeat: tuple[Part, Reject] | None = None
        """The first list in which an entry occurs twice, likewise."""
        self.doubt: tuple[Part, Reject] | None = None
        """The first entry that is no label unless lists are multi-hot, and why."""
        self.width: int | None = None
        """The number of labels of multi-hot lists, once one is read."""
        self._scratch = scratch
        self._scratch.write_bytes(b"")
        self._rows: list[IntArray] = []
        self._ids: list[IntArray] = []
        self._flags: list[npt.NDArray[np.float32]] = []
        """What each entry is in a multi-hot list, as long as lists may be multi-hot."""
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
        if lists.values is not None or self.width is not None:
            self._add_multi_hot(lists, reject)
        else:
            self._add_tokens(part, rows, lists)
        self._unknown.append(missing + self.num_rows)
        self.num_unknown += len(missing)
        self.num_rows += rows.num_rows

    def _add_multi_hot(self, lists: CellLists, reject: RejectRow) -> None:
        """Write lists of 1 and 0, each as long as there are labels."""
        column, names = self.columns[0], self.reader.names
        present, values = lists.lengths >= 0, lists.values
        at = int(np.argmax(present))
        if self.width is None and present.any():
            self.width = int(lists.lengths[at]) if names is None else len(names)
            if self.num_rows > self.num_unknown:
                reject(at, "a multi-hot list, where rows before hold names, ids or none", column)
            unknown = np.full((self.num_rows, self.width), np.nan, dtype=np.float32)
            self._scratch.write_bytes(unknown.tobytes())
        wrong = present & (lists.lengths != self.width)
        if values is None or wrong.any():
            at = int(np.argmax(wrong))
            reason = (
                f"a list of {lists.lengths[at]}, expected 1 or 0 for each of {self.width} labels"
            )
            reject(at, reason, column)
        if self.width is None or values is None:
            return
        bad = ~((values >= 0) & (values <= 1) | np.isnan(values))
        if bad.any():
            found = values[int(np.argmax(bad))]
            hint = '; label_form = "ids" reads ids' if found == np.trunc(found) else ""
            reason = f"{found:g} in a list, expected 0 or 1{hint}"
            reject(int(lists.rows[int(np.argmax(bad))]), reason, column)
        block = np.full((len(present), self.width), np.nan, dtype=np.float32)
        block[present] = values.reshape(-1, self.width)
        with self._scratch.open("ab") as file:
            file.write(block.tobytes())

    def _add_tokens(self, part: Part, rows: Rows, lists: CellLists) -> None:
        """Take lists of names or ids."""
        import pyarrow.compute as pc

        column, form = self.columns[0], self.reader.options.label_form
        reject = self.table.refuse(part, rows)
        distinct = pc.dictionary_encode(pc.utf8_trim_whitespace(lists.tokens))
        which = distinct.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        row_of = lists.rows
        ids = np.zeros(len(distinct.dictionary), dtype=np.int64)
        flags = np.zeros(len(ids), dtype=np.float32)
        number: dict[str, int] = {}
        numbers = np.zeros(len(ids), dtype=np.int64)

        def first_row(token: int) -> int:
            return int(row_of[int(np.argmax(which == token))])

        for at, token in enumerate(distinct.dictionary.to_pylist()):
            try:
                word = canonical(token, self._known, form)
            except ValueError as error:
                reject(first_row(at), str(error), column)
            numbers[at] = number.setdefault(word, len(number))
            if not word:
                ids[at] = _NOTHING
                continue
            self.words.add(word)
            flags[at] = as_flag(word) if is_flag(word) else np.nan
            try:
                ids[at] = self._id(word)
            except DataError as error:
                if form is not None or not is_flag(word):
                    reject(first_row(at), str(error), column)
                row = rows.position(first_row(at))
                self.doubt = self.doubt or (part, Reject(row=row, reason=str(error), column=column))
        found = ids[which] if len(ids) else which
        kept = found != _NOTHING
        found, row_of = found[kept], row_of[kept]
        self._rows.append(row_of + self.num_rows)
        self._ids.append(found)
        if all(map(is_flag, self.words)):
            self._flags.append(flags[which][kept] if len(flags) else flags)
            lengths = np.bincount(row_of, minlength=rows.num_rows)[lists.lengths >= 0]
            self.lengths.update(np.unique(lengths).tolist())
            if self.repeat is None:
                found = numbers[which][kept] if len(numbers) else found
                key = row_of * (int(found.max(initial=0)) + 1) + found
                first = np.unique(key, return_index=True)[1]
                for at in np.setdiff1d(np.arange(len(key)), first)[:1]:
                    row = rows.position(int(row_of[at]))
                    self.repeat = (part, Reject(row=row, reason="", column=column))

    def _id(self, word: str) -> int:
        """Return the number of a label, or that it is none.

        Raises:
            DataError: If the label is not one of those that were given.
        """
        if self.reader.names is None:
            return self._number.setdefault(word, len(self._number))
        if word in self._number:
            return self._number[word]
        is_position = _is_whole(word) and int(word) < len(self._number)
        if is_position and self.reader.options.label_form != "names":
            if not any(map(_is_whole, self.reader.names)):
                return int(word)
            # some numbers would be names, and others positions
            raise DataError(
                f"{unknown_name('label', word, self.reader.names)}; of label names that are "
                "numbers, each number is a name"
            )
        hint = '; label_form = "multi_hot" reads lists of 0 and 1' if is_flag(word) else ""
        raise DataError(unknown_name("label", word, self.reader.names) + hint)

    @property
    def found(self) -> tuple[str, ...]:
        """The labels that occur, or that were given."""
        return tuple(self._number)

    @property
    def has_several(self) -> bool:
        """Whether a row has two labels or more."""
        return any(bool((np.diff(rows) == 0).any()) for rows in self._rows)

    def num_bare(self, labels: Sequence[str]) -> int:
        """Return how many rows have none of the labels."""
        shape = (self.num_rows, len(labels))
        if not all(shape):
            return self.num_rows - self.num_unknown
        targets_NL = np.memmap(self._scratch, dtype=np.float32, mode="r", shape=shape)
        starts = range(0, self.num_rows, _BLOCK_ROWS)
        return sum(int((targets_NL[at : at + _BLOCK_ROWS] == 0).all(axis=1).sum()) for at in starts)

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
            values = np.concatenate(self._flags)
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
    where = f'{first.table.parts[0].path}: column "{first.columns[0]}"'
    widths = {rows.width for rows in gathered.values() if rows.num_rows > rows.num_unknown}
    if widths - {None}:
        if len(widths) > 1:
            raise DataError(
                f"{where}: the splits differ in the length of their multi-hot lists, or one holds "
                'names or ids; label_form = "multi_hot" reads whole numbers as multi-hot too'
            )
        return reader.names or tuple(map(str, range(max(w or 0 for w in widths)))), False
    if _are_multi_hot(list(gathered.values()), where):
        return reader.names or tuple(map(str, range(max(first.lengths)))), True
    for rows in gathered.values():
        if rows.doubt is not None:
            raise rows.table.error(*rows.doubt)
    labels = reader.names or in_order(name for rows in gathered.values() for name in rows.found)
    if not labels and first.num_rows:
        raise DataError(f"{where} names no label in any row")
    if reader.names is None and reader.options.label_form is None:
        _check_delimiter(list(gathered.values()), where)
    return labels, False


def _check_delimiter(splits: Sequence[RowLabels], where: str) -> None:
    """Refuse texts of one label each, of which some are others with a delimiter between them.

    Raises:
        DataError: Names such a text and the delimiter.
    """
    if not all(is_text(rows.table.kinds[rows.columns[0]]) for rows in splits):
        return
    words = set[str]().union(*(rows.words for rows in splits))
    for other in (";", "|", "/"):
        for word in sorted(word for word in words if other in word):
            if words.intersection(map(str.strip, word.split(other))) and not any(
                rows.has_several for rows in splits
            ):
                raise DataError(
                    f'{where} holds "{word}", of which a part is a label of other rows; set '
                    f'label_delimiter = "{other}", or label_form = "names" where this is one name'
                )


def _are_multi_hot(splits: Sequence[RowLabels], where: str) -> bool:
    words = set[str]().union(*(rows.words for rows in splits))
    reader = splits[0].reader
    names, form = reader.names, reader.options.label_form
    if form is not None or not words or not all(map(is_flag, words)):
        return False
    repeated = next((rows for rows in splits if rows.repeat is not None), None)
    lengths = set[int]().union(*(rows.lengths for rows in splits))
    width = max(lengths)
    set_form = 'set label_form = "multi_hot" (an entry of 1 or 0 for each label), "ids" or "names"'
    if len(lengths) == 1 and (names is None or len(names) == width):
        if repeated is not None:
            return True
        column = splits[0].columns[0]
        one = f', or label_columns = ["{column}"] for one label' if width == 1 else ""
        raise DataError(
            f"{where} holds {width} of {', '.join(sorted(words))} in each row: multi-hot, or "
            f"labels? {set_form}{one}"
        )
    if repeated is None or repeated.repeat is None or words <= set(names or ()):
        return False
    part, row = repeated.repeat
    reason = f"an entry twice, as in multi-hot lists, but lists differ in length; {set_form}"
    if len(lengths) == 1:
        reason = f"a list of {width} entries of 1 and 0, expected {len(names or ())}: label_names"
    raise repeated.table.error(part, replace(row, reason=reason))


def _is_whole(name: str) -> bool:
    return name.isascii() and name.isdigit()


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Return each name once: whole numbers by value, then names by letters.

    Example:
        >>> in_order(["b", "10", "9", "a", "b"])
        ('9', '10', 'a', 'b')
    """

    def key(name: str) -> tuple[bool, int, str]:
        is_number = _is_whole(name)
        return (not is_number, int(name) if is_number else 0, name)

    return tuple(sorted(set(names), key=key))
