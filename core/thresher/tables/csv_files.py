"""CSV and TSV files: cells stay text until a column's kind is known; a wrong line costs one row."""

from __future__ import annotations

import codecs
import contextlib
import io
import re
from collections.abc import Generator, Iterator, Sequence
from typing import Any, Literal

import numpy as np

from thresher.errors import DataError
from thresher.tables.csv_streams import CheckedStream, CsvOptions, text_stream
from thresher.tables.quotes import QuoteCheck
from thresher.tables.rows import ColumnsError, Reject, Rows, check_columns

__all__ = [
    "CSV_SUFFIXES",
    "CsvOptions",
    "check_delimiter",
    "csv_columns",
    "csv_rows",
    "line_of",
]

CSV_SUFFIXES = (".csv", ".tsv", ".tab", ".txt")
"""Of the files that are read as CSV, also behind them ``.gz``, ``.bz2`` or ``.zst``."""

_BLOCK_BYTES = 1 << 22
_LINE_END = re.compile(r"(?<=\n)|(?<=\r)(?!\n)")


def csv_columns(path: str, system: Any, options: CsvOptions) -> tuple[str, ...]:
    """Return the names of a file's columns, none for an empty file.

    Raises:
        DataError: If the header is not text in the encoding, or names repeat.
    """
    with text_stream(path, system, options) as source:
        start = source.read(1 << 20)
    if not start.strip(b"\r\n"):
        return ()
    return _columns_in(start, path, options)


def check_delimiter(columns: Sequence[str], path: str, options: CsvOptions) -> None:
    """Refuse a file whose header line is one name that holds another delimiter.

    Raises:
        ColumnsError: Names the delimiter that it seems to have.
    """
    if len(columns) != 1 or options.columns is not None:
        return
    for other in (";", "\t", "|", ","):
        if other in columns[0] and other != options.delimiter_of(path):
            shown_as = "\\t" if other == "\t" else other
            raise ColumnsError(
                f'{path} has one column, {columns[0][:60]!r}; set delimiter = "{shown_as}" '
                f"(score: --delimiter {other!r})"
            )


def _columns_in(start: bytes, path: str, options: CsvOptions) -> tuple[str, ...]:
    """Return the names of the columns of a file that begins so.

    Raises:
        DataError: As `csv_columns`.
    """
    import pyarrow as pa
    import pyarrow.csv as pacsv

    try:
        line = next(iter(start.lstrip(b"\r\n").splitlines()))
        line.decode()
    except UnicodeDecodeError as error:
        raise _not_text(path, line.count(b"\n") + 1, error, options) from None
    read = pacsv.ReadOptions(use_threads=False, block_size=max(1 << 20, len(start)))
    parse = _parse_options(options.delimiter_of(path), options.quoting)
    try:
        with pacsv.open_csv(io.BytesIO(start), read_options=read, parse_options=parse) as head:
            names = tuple(head.schema.names)
    except pa.ArrowInvalid:
        # a header alone that ends within a cell, or a second line that is no row
        with pacsv.open_csv(io.BytesIO(line + b"\n"), read_options=read, parse_options=parse) as h:
            names = tuple(h.schema.names)
    if options.columns is not None:
        if len(options.columns) != len(names):
            raise DataError(
                f"{path} has {len(names)} columns, and columns names {len(options.columns)}"
            )
        return options.columns
    check_columns((), names, path)
    return names


def csv_rows(
    path: str, system: Any, columns: Sequence[str], *, chunk_rows: int, options: CsvOptions
) -> Iterator[Rows]:
    """Yield a file's rows; cells are bytes, null where nothing stands between two delimiters.

    A line with too few or too many cells is a reject of its own, and counts as a row.

    Args:
        path: On the file system.
        system: The file system.
        columns: Those that are read.
        chunk_rows: The most rows at once.
        options: How cells are written.

    Raises:
        DataError: If quotes do not pair up, or the file is not text in the encoding.
    """
    import pyarrow as pa
    import pyarrow.csv as pacsv

    held = csv_columns(path, system, options)
    if not held:
        return
    check_columns(columns, held, path)
    bad: list[Any] = []

    def skip(line: Any) -> str:
        bad.append(line)
        return "skip"

    num_before = 1 if options.columns is None else 0
    delimiter = options.delimiter_of(path)
    check = QuoteCheck(path, delimiter, len(held)) if options.quoting else None
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(text_stream(path, system, options))
        checked = CheckedStream(stream, check, path)
        try:
            reader = stack.enter_context(
                pacsv.open_csv(
                    pa.PythonFile(checked, mode="r"),
                    read_options=pacsv.ReadOptions(
                        block_size=_BLOCK_BYTES, use_threads=False, column_names=options.columns
                    ),
                    parse_options=_parse_options(delimiter, options.quoting, skip),
                    convert_options=pacsv.ConvertOptions(
                        check_utf8=False,
                        column_types=dict.fromkeys(held, pa.binary()),
                        # with one that is always read, rows are counted where none is wanted
                        include_columns=list(dict.fromkeys(columns)) or [held[0]],
                        null_values=[""],
                        strings_can_be_null=True,
                        quoted_strings_can_be_null=False,
                    ),
                )
            )
        except pa.ArrowInvalid as error:
            checked.raise_error()
            raise _broken(path, error) from error
        lines = stack.enter_context(contextlib.closing(_row_lines(path, system, options)))
        yield from _numbered(reader, checked, _BadLines(bad, lines, num_before), chunk_rows, path)


def _numbered(
    reader: Any, checked: CheckedStream, bad: _BadLines, chunk_rows: int, path: str
) -> Iterator[Rows]:
    """Yield a reader's rows with their positions in the file, the lines that are no rows among."""
    import pyarrow as pa

    position, names = 0, [field.name for field in reader.schema]
    while True:
        try:
            whole = reader.read_next_batch()
        except StopIteration:
            checked.raise_error()
            _, rejects = bad.take(position)
            if rejects:
                empty = dict.fromkeys(names, pa.array([], pa.binary()))
                yield Rows(columns=empty, num_rows=0, first_row=position, rejects=rejects)
            return
        except pa.ArrowInvalid as error:
            checked.raise_error()
            raise _broken(path, error) from error
        checked.raise_error()
        for start in range(0, whole.num_rows, chunk_rows):
            batch = whole.slice(start, chunk_rows)
            skipped, rejects = bad.take(position, batch.num_rows)
            yield Rows(
                columns=dict(zip(names, batch.columns, strict=True)),
                num_rows=batch.num_rows,
                first_row=position,
                skipped=skipped,
                rejects=rejects,
            )
            position += batch.num_rows + len(rejects)


class _BadLines:
    """The lines of a file that have too few or too many cells.

    Args:
        found: Arrow's descriptions of them; it reads ahead, so that more may be added.
        lines: Where rows begin, as `_row_lines` yields it; goes on only where there are such lines.
        num_before: Lines before the first row.
    """

    def __init__(self, found: list[Any], lines: Iterator[tuple[int, int]], num_before: int) -> None:
        self._found, self._lines, self._num_before = found, lines, num_before

    def take(self, position: int, num_rows: int | None = None) -> tuple[Any, list[Reject]]:
        """Take those that stand before the end of some rows.

        Args:
            position: In the file, of what comes first.
            num_rows: How many rows there are; None takes all that is left.

        Returns:
            How many stand before each row, int64 [n], None where there are none; and the rejects.
        """
        if not self._found:
            return None, []
        numbers = np.array([line.number for line in self._found]) - 1 - self._num_before
        before = numbers - np.arange(len(numbers)) - position  # rows that are fine before each
        count = len(before) if num_rows is None else int(np.searchsorted(before, num_rows))
        rejects = [
            Reject(
                row=int(number),
                reason=f"{line.actual_columns} cells, expected {line.expected_columns}",
                line=next((at for row, at in self._lines if row == number), None),
            )
            for number, line in zip(numbers[:count], self._found, strict=False)
        ]
        del self._found[:count]
        skipped = np.searchsorted(before[:count], np.arange(num_rows or 0), side="right")
        return (skipped if count else None), rejects


def _parse_options(delimiter: str, quoting: bool, skip: Any = None) -> Any:
    import pyarrow.csv as pacsv

    return pacsv.ParseOptions(
        delimiter=delimiter,
        quote_char='"' if quoting else False,
        newlines_in_values=quoting,
        invalid_row_handler=skip,
    )


def _broken(path: str, error: Exception) -> DataError:
    reason, _, _ = str(error).partition("\n")
    return DataError(f"{path} cannot be read: {reason}")


def _not_text(path: str, line: int, error: UnicodeDecodeError, options: CsvOptions) -> DataError:
    return DataError(
        f"{path}, line {line} is not {options.encoding} text: {error.reason} at byte {error.start}"
        '; name its encoding, such as encoding = "latin-1" (score: --encoding latin-1)'
    )


def line_of(path: str, system: Any, position: int, options: CsvOptions) -> int | None:
    """Return the line, from 1, in which a row begins; slow, for messages.

    Args:
        path: On the file system.
        system: The file system.
        position: Of the row in its file, from 0, unreadable rows counted.
        options: How cells are written.
    """
    with contextlib.closing(_row_lines(path, system, options)) as lines:
        return next((line for row, line in lines if row == position), None)


def _row_lines(path: str, system: Any, options: CsvOptions) -> Generator[tuple[int, int]]:
    """Yield the position of each row and the line, from 1, in which it begins."""
    import csv

    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if options.quoting else csv.QUOTE_NONE
    with text_stream(path, system, options) as source:
        reader = csv.reader(_lines(source), delimiter=options.delimiter_of(path), quoting=quoting)
        row, before = (-1 if options.columns is None else 0), 0
        with contextlib.suppress(csv.Error):
            for cells in reader:
                if cells:
                    yield row, before + 1
                    row += 1
                before = reader.line_num


def _lines(source: Any) -> Iterator[str]:
    """Yield a stream's lines with their ends."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    rest = ""
    while data := source.read(1 << 20):
        # not splitlines(), for which a vertical tab and U+2028 end a line
        lines = _LINE_END.split(rest + decoder.decode(data))
        rest = lines.pop()
        if not rest and lines and lines[-1].endswith("\r"):
            rest = lines.pop()  # an LF may follow
        yield from lines
    if rest:
        yield rest
