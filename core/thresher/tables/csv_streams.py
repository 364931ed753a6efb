"""A CSV file's bytes on their way to Arrow: decoded, their quotes looked at, cut between rows."""

from __future__ import annotations

import codecs
import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from thresher.errors import ConfigError, DataError
from thresher.tables.quotes import QuoteCheck

__all__ = ["CheckedStream", "CsvOptions", "text_stream"]

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


@contextlib.contextmanager
def text_stream(path: str, system: Any, options: CsvOptions) -> Iterator[Any]:
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


class CheckedStream(io.RawIOBase):
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
