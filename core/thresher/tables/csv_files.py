"""CSV and TSV files: cells stay text until a column's kind is known; a wrong line costs one row."""

from __future__ import annotations

import codecs
import contextlib
import io
import re
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

import numpy as np

from thresher.errors import ConfigError, DataError
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

_LINE_END = re.compile(r"(?<=\n)|(?<=\r)(?!\n)")
_BLOCK_BYTES = 1 << 22
_STEP_BYTES = 1 << 16
_LONGEST_ROW_BYTES = 1 << 25
_BOMS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvOptions:
    """How the cells of CSV and TSV files are written."""

    delimiter: str | None = None
    """One character; a tab in ``.tsv`` and ``.tab`` files and a comma in others where left out."""
    quoting: bool = True
    """Whether a cell in double quotes may hold delimiters and line ends; false takes quotes as
    text."""
    columns: tuple[str, ...] | None = None
    """The columns' names, for files without a header line."""
    encoding: str = "utf-8"
    """Of the text, such as ``latin-1`` or ``utf-16``."""

    def __post_init__(self) -> None:
        if self.delimiter is not None and len(self.delimiter.encode()) != 1:
            raise ConfigError(f"delimiter is {self.delimiter!r}, expected one ASCII character")
        if self.columns is not None:
            object.__setattr__(self, "columns", tuple(self.columns))
        try:
            "".encode(self.encoding)  # refuses Python's codecs that are not of text, too
        except (LookupError, UnicodeError):
            raise ConfigError(
                f'encoding is "{self.encoding}", expected one that Python knows, such as utf-8, '
                "latin-1, cp1252 or utf-16"
            ) from None

    def delimiter_of(self, path: str) -> str:
        """Return what stands between a file's cells."""
        is_tab = {".tsv", ".tab"} & {suffix.lower() for suffix in PurePosixPath(path).suffixes[-2:]}
        return self.delimiter or ("\t" if is_tab else ",")


def csv_columns(path: str, system: Any, options: CsvOptions) -> tuple[str, ...]:
    """Return the names of a file's columns, none for an empty file.

    Raises:
        DataError: If the header is not text in the encoding, or names repeat.
    """
    with _text_stream(path, system, options) as source:
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
        stream = stack.enter_context(_text_stream(path, system, options))
        checked = _Checked(stream, check, path)
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
    reader: Any, checked: _Checked, bad: _BadLines, chunk_rows: int, path: str
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


@contextlib.contextmanager
def _text_stream(path: str, system: Any, options: CsvOptions) -> Iterator[Any]:
    """Yield a file's bytes as UTF-8, without a byte order mark.

    Raises:
        DataError: If it begins as text in another encoding does.
    """
    with system.open_input_stream(path) as source:
        raw: Any = source
        if codecs.lookup(options.encoding).name != "utf-8":
            yield _Recoded(source, path, options.encoding)
            return
        start = raw.read(64)
        for mark, encoding in _BOMS:
            if start.startswith(mark):
                raise DataError(
                    f'{path} is {encoding.upper()} text; read it with encoding = "{encoding}" '
                    f"(score: --encoding {encoding})"
                )
        if b"\0" in start:
            raise DataError(
                f"{path} holds zero bytes in its first line: it is no CSV file, or UTF-16 text "
                'without its mark; read that with encoding = "utf-16-le" (score: --encoding)'
            )
        yield _After(start.removeprefix(codecs.BOM_UTF8), raw)


class _After:
    """A stream whose first bytes were read already."""

    def __init__(self, start: bytes, source: Any) -> None:
        self._start, self._source = start, source

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, none at the end."""
        if self._start:
            start, self._start = self._start, b""
            return start + bytes(self._source.read(max(size - len(start), 1) if size > 0 else None))
        return bytes(self._source.read(size if size > 0 else None))


class _Recoded:
    """A text stream in another encoding, as UTF-8."""

    def __init__(self, source: Any, path: str, encoding: str) -> None:
        self._source, self._path, self._encoding = source, path, encoding
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._is_start = True

    def read(self, size: int = -1) -> bytes:
        """Return about as many bytes, none at the end.

        Raises:
            DataError: If they are not text in the encoding.
        """
        text, data = "", b" "
        try:
            while data and not text:  # the first byte of a character is no text yet
                data = bytes(self._source.read(size if size > 0 else None))
                text = self._decoder.decode(data, final=not data)
                if text and self._is_start:
                    self._is_start, text = False, text.removeprefix("\ufeff")
            return text.encode()
        except UnicodeError as error:
            raise DataError(f"{self._path} is not {self._encoding} text: {error}") from None


class _Checked(io.RawIOBase):
    """A stream in blocks of whole rows, whose quotes are looked at; Arrow sees no wrong rows.

    Arrow 25 loses a byte, or takes quotes for text, where a block ends within a cell of several
    lines (https://github.com/apache/arrow/issues/51368).
    """

    def __init__(self, source: Any, check: QuoteCheck | None, path: str) -> None:
        super().__init__()
        self._source, self._check, self._path = source, check, path
        self._error: DataError | None = None
        self._rest = b""
        """What was read of the row that the next block begins with."""

    def readable(self) -> bool:
        """Return that it can be read."""
        return True

    def read(self, size: int | None = -1) -> bytes:
        """Return the next bytes; none from a fault on, which `raise_error` raises."""
        if self._error is not None:
            return b""
        try:
            return self._whole_rows(size if size is not None else -1)
        except DataError as error:  # Arrow would wrap it
            self._error = error
            return b""

    def _whole_rows(self, size: int) -> bytes:
        """Return about as many bytes, up to the end of a row.

        Raises:
            DataError: If quotes do not pair up, or a row is longer than any can be.
        """
        block: list[bytes] = []
        num_bytes = 0
        while num_bytes + len(self._rest) <= _LONGEST_ROW_BYTES + max(size, 0):
            data = bytes(self._source.read(size if not block else min(size, _STEP_BYTES)))
            if not data:
                return b"".join([*block, self._last_rows()])
            self._rest += data
            # a CR at the end may be half of a line end
            end = max(self._rest.rfind(b"\n"), self._rest.rfind(b"\r", 0, -1)) + 1
            if not end:
                continue
            rows, self._rest = self._rest[:end], self._rest[end:]
            block.append(rows)
            num_bytes += end
            if self._check is not None:
                self._check.block(rows)
                if self._check.is_open:
                    continue
            return b"".join(block)
        if self._check is not None:
            self._check.end()  # names the line of a quote that is open
        raise DataError(f"{self._path}: a row is longer than {_LONGEST_ROW_BYTES:,} bytes")

    def _last_rows(self) -> bytes:
        rows, self._rest = self._rest, b""
        if rows and not rows.endswith((b"\n", b"\r")):
            rows += b"\n"  # Arrow refuses a header alone without it
        if self._check is not None:
            self._check.block(rows)
            self._check.end()
        return rows

    def raise_error(self) -> None:
        """Raise what was found."""
        if self._error is not None:
            raise self._error


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
    with _text_stream(path, system, options) as source:
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
