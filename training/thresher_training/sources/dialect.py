"""How the cells of a CSV or TSV file are written, and which files are such."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from thresher.errors import ConfigError

if TYPE_CHECKING:
    from _csv import Reader

__all__ = ["ARROW", "DELIMITED", "Dialect", "dialect_of", "holds_arrow"]

ARROW = (".parquet", ".pq", ".arrow", ".feather", ".ipc")
"""Suffixes of Parquet and Arrow files."""

DELIMITED = (".csv", ".tsv", ".tab", ".txt")
"""Suffixes of CSV and TSV files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How the cells of a CSV or TSV file are written."""

    delimiter: str = ","
    """One character."""

    quoting: bool = True
    """Whether a cell in double quotes may hold delimiters and line ends."""

    columns: tuple[str, ...] | None = None
    """The columns' names where the files have no header line."""

    def __post_init__(self) -> None:
        if len(self.delimiter) != 1:
            raise ConfigError(f"delimiter is {self.delimiter!r}, expected one character")

    def cells(self, lines: Iterable[str]) -> Reader:
        """Return what splits lines into cells; it counts the lines."""
        if self.quoting:
            return csv.reader(lines, delimiter=self.delimiter)
        return csv.reader(lines, delimiter=self.delimiter, quoting=csv.QUOTE_NONE)

    def rows(self, path: Path) -> Iterator[tuple[int, list[str]]]:
        """Yield line number and cells of each row, without the header; slow, for error messages."""
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
            reader = self.cells(lines)
            header = self.columns is None
            before = 0
            for cells in reader:
                start, before = before + 1, reader.line_num
                if not cells:
                    continue
                if header:
                    header = False
                    continue
                yield start, cells


def dialect_of(
    path: Path,
    *,
    delimiter: str | None = None,
    quoting: bool = True,
    columns: Sequence[str] | None = None,
) -> Dialect:
    """Return the dialect of a file: what is asked, and a tab in ``.tsv`` files, else a comma."""
    tab = path.suffix.lower() in (".tsv", ".tab")
    return Dialect(
        delimiter=delimiter or ("\t" if tab else ","),
        quoting=quoting,
        columns=None if columns is None else tuple(columns),
    )


def holds_arrow(path: Path) -> bool:
    """Return whether a file, or a folder's first files, are Parquet or Arrow."""
    if path.is_dir():
        return any(file.suffix.lower() in ARROW for file in path.rglob("*"))
    return path.suffix.lower() in ARROW
