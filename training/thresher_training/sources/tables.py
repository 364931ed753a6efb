"""The files of one split as one table: its columns, its rows, and what is wrong with a row."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from thresher.errors import DataError, unknown_name
from thresher.tables.address import Address, address_of, expanded
from thresher.tables.csv_files import CsvOptions
from thresher.tables.numbers import is_list
from thresher.tables.parts import Form, Part, find_parts, form_of
from thresher.tables.reading import column_types, describe, read_rows
from thresher.tables.rows import Reject, RejectRow, Rows
from thresher_training.data import SplitName
from thresher_training.sources.options import SourceOptions

__all__ = [
    "MAX_ROWS",
    "Table",
    "check_apart",
    "open_tables",
    "read_names",
    "shown_files",
    "split_paths",
]

MAX_ROWS = 2_048
"""At once, where rows may be wide."""
_MAX_NUMBERS = 1 << 19

_HINTS = (
    ("is no number", '; is it a category or an id? categories = ["{0}"] or ignore = ["{0}"]'),
    (
        "without rounding",
        '; ignore = ["{0}"], or keep it whole in an input of its own: inputs = {{ "{0}" = "{0}" }}',
    ),
    ("missing, expected a number", "; or set fill_missing to what stands for it"),
    ("missing, expected a text", '; or set missing_text, such as missing_text = ""'),
    ("not UTF-8", '; name its encoding, such as encoding = "latin-1"'),
    (" cells, expected ", "; where cells hold lone quotes, set quoting = false"),
)
"""What of a reason shows that an option settles it, and which."""

_ROW_NUMBERS = re.compile(r"|__index_level_[0-9]+__|Unnamed: 0(\.[0-9]+)*")
"""What a column of row numbers is called that pandas or R wrote of its own accord."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Files with the same columns, read one after the other."""

    address: Address
    parts: tuple[Part, ...]
    kinds: Mapping[str, Any]
    """Arrow type of each column of the first file."""
    csv: CsvOptions
    _parsed: dict[str, list[Rows]] = field(default_factory=dict, repr=False)
    """Rows of files that are slow to parse, by path."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the files themselves hold, without row numbers."""
        in_folders = {key for key, _ in self.parts[0].partition}
        return tuple(n for n in self.kinds if n not in in_folders and n not in self.row_numbers)

    @property
    def row_numbers(self) -> tuple[str, ...]:
        """Columns without a name of their own, such as an index: read only where they are named."""
        return tuple(name for name in self.kinds if _ROW_NUMBERS.fullmatch(name))

    @property
    def form(self) -> Form:
        """The format of its files."""
        return self.parts[0].form

    def check_columns(self, columns: Sequence[str]) -> None:
        """Refuse a column that does not exist."""
        for column in columns:
            if column not in self.kinds:
                raise DataError(
                    f"{self.parts[0].path}: {unknown_name('column', column, self.kinds)}"
                )

    def rows(
        self, columns: Sequence[str], *, max_rows: int | None = None
    ) -> Iterator[tuple[Part, Rows]]:
        """Yield all rows in order, each chunk with the part that it is of.

        Args:
            columns: Those that are read.
            max_rows: The most rows at once; by the columns' number and kind where left out.

        Raises:
            DataError: If a file is broken or lacks a column, or a row cannot be read; names it.
        """
        names = list(dict.fromkeys(columns))
        if max_rows is None:
            is_wide = any(is_list(self.kinds[name]) for name in names if name in self.kinds)
            most = _MAX_NUMBERS // max(len(names), 16)
            max_rows = MAX_ROWS if is_wide else max(MAX_ROWS, most)
        for part in self.parts:
            for rows in self._read(part, names, max_rows):
                if rows.rejects:
                    raise self.error(part, rows.rejects[0])
                if rows.num_rows:
                    yield part, rows

    def _read(self, part: Part, names: list[str], max_rows: int) -> Iterator[Rows]:
        if part.form != "arff":
            return read_rows(part, self.address.system, names, chunk_rows=max_rows, csv=self.csv)
        if part.path not in self._parsed:
            # parsed once for all passes: it takes most of the time, and Mulan's files fit
            held = list(column_types(part, self.address.system))
            self._parsed[part.path] = list(
                read_rows(part, self.address.system, held, chunk_rows=MAX_ROWS)
            )
        return iter(self._parsed[part.path])

    def error(self, part: Part, reject: Reject) -> DataError:
        """Return what is wrong with a row, with file, line and column, and what settles it."""
        said = describe(part, self.address.system, reject, self.csv)
        for mark, hint in _HINTS:
            if mark in reject.reason and (self.csv.quoting or "quoting" not in hint):
                said += hint.format(reject.column)
                break
        return DataError(said)

    def refuse(self, part: Part, rows: Rows) -> RejectRow:
        """Return what raises the error of a row among these."""

        def reject(row: int, reason: str, column: str | None) -> None:
            raise self.error(part, Reject(row=rows.position(row), reason=reason, column=column))

        return reject


def open_tables(
    options: SourceOptions, *, forms: Sequence[Form], default: Form | None = None
) -> dict[SplitName, Table]:
    """Return the table of each split that has files of its own, headers read and no row.

    Args:
        options: Name the files.
        forms: The formats that are looked for.
        default: The format of a single file whose ending says nothing.

    Raises:
        DataError: If a file is broken, or column names repeat.
        NotFoundError: If there is no file; names the nearest.
    """
    tables = {
        split: _open(path, options.csv, forms, default)
        for split, path in split_paths(options).items()
    }
    check_apart({split: [part.path for part in each.parts] for split, each in tables.items()})
    return tables


def check_apart(files: Mapping[SplitName, Sequence[str]]) -> None:
    """Refuse a train file that is in another split too: it would be judged by its own rows.

    Raises:
        DataError: Names the file and the split.
    """
    train = set(files["train"])
    for split, paths in files.items():
        for path in paths:
            if split != "train" and path in train:
                raise DataError(
                    f"{path} is in the train files and in the {split} files; a row must not be in "
                    "both"
                )


def split_paths(options: SourceOptions) -> dict[SplitName, str]:
    """Return the path of each split that has files of its own."""
    if options.train is None:
        return {"train": expanded(options.path)}
    given: dict[SplitName, str | None] = {
        "train": options.train,
        "validation": options.validation,
        "test": options.test,
    }
    return {name: _joined(options.path, file) for name, file in given.items() if file is not None}


def _joined(folder: str, file: str) -> str:
    folder, file = expanded(folder), expanded(file)
    if "://" in file or Path(file).is_absolute():
        return file
    return f"{folder.rstrip('/')}/{file}" if "://" in folder else str(Path(folder) / file)


def _open(path: str, csv: CsvOptions, forms: Sequence[Form], default: Form | None) -> Table:
    address = address_of(path)
    form = None
    if not address.is_many and form_of(address.root) not in forms:
        form = default
    parts = find_parts(address, forms=forms, form=form)
    kinds = column_types(parts[0], address.system, csv)
    if not kinds:
        raise DataError(f"{parts[0].path} is empty, expected a header line")
    return Table(address=address, parts=tuple(parts), kinds=kinds, csv=csv)


def shown_files(tables: Mapping[SplitName, Table]) -> str:
    """Return the files by split, for people."""

    def names(table: Table) -> str:
        files = list(dict.fromkeys(part.path for part in table.parts))
        first = PurePosixPath(files[0]).name
        return first if len(files) == 1 else f"{first} and {len(files) - 1} more"

    return ", ".join(f"{split} from {names(table)}" for split, table in tables.items())


def read_names(names: str | Path | Sequence[str] | None) -> tuple[str, ...] | None:
    """Return label names: given as they are, or from a file with one name a line.

    Raises:
        DataError: If the file holds no name, or is not UTF-8.
        NotFoundError: If it is missing; names the nearest.
    """
    if names is None or not isinstance(names, (str, Path)):
        return None if names is None else tuple(names)
    address = address_of(names)
    if address.is_many:
        raise DataError(f"{address} is a folder, expected a file with one label name a line")
    with address.system.open_input_stream(address.root) as file:
        content = bytes(file.read())
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{address} is not UTF-8 text: {error}") from error
    found = tuple(line.strip() for line in lines if line.strip())
    if not found:
        raise DataError(f"{address} holds no label name, expected one a line")
    return found
