"""Looks through a CSV file's bytes for quotes that would swallow rows.

A cell that begins with a double quote ends at the next lone one. Where a text such as ``"5 inch``
merely begins with a quote, everything up to some later quote, or the rest of the file, becomes one
cell, and no CSV reader says a word. Files without quotes cost one search a block.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt

from thresher.errors import DataError

__all__ = ["HINT", "QuoteCheck"]

HINT = "where quotes are part of the text, read with quoting = false (score: --no-quoting)"

_QUOTE, _LF, _CR = b'"\n\r'


class QuoteCheck:
    """Takes a file's blocks one after the other, and refuses quotes that do not pair up.

    Args:
        where: The file, for messages.
        delimiter: Between cells.
        num_columns: Cells of a line; 0 where that is not known yet.
    """

    def __init__(self, where: str, delimiter: str, num_columns: int = 0) -> None:
        self._where, self._delimiter = where, delimiter.encode()
        self._num_columns = num_columns
        self._line = 1
        """Of the next block's first byte."""
        self._before = b"\n"
        """The last byte of the block before: a file begins like a line."""
        self._open: bytes | None = None
        """What a cell that is still open holds so far, without its opening quote."""
        self._open_line = 0
        self._closed_at_end = False
        """Whether the block before ended with a quote that may have closed a cell."""

    @property
    def is_open(self) -> bool:
        """Whether the bytes so far end within a cell."""
        return self._open is not None and not self._closed_at_end

    def block(self, data: bytes) -> None:
        """Look at the next bytes.

        Raises:
            DataError: If a quoted cell goes on behind its closing quote, or holds whole lines of
                as many cells as the file has columns; names the line of the opening quote.
        """
        if not data:
            return
        if self._open is None and not self._closed_at_end and _QUOTE not in data:
            self._line += data.count(b"\n")
            self._before = data[-1:]
            return
        self._walk(data)
        self._line += data.count(b"\n")
        self._before = data[-1:]

    def end(self) -> None:
        """Say that no bytes follow.

        Raises:
            DataError: If a quoted cell is still open.
        """
        if self._open is not None and self._closed_at_end:
            self._check_lines(self._open)
        elif self._open is not None:
            raise DataError(
                f"{self._where}, line {self._open_line}: a cell begins with a double quote that is "
                f"never closed, so all lines behind it would be part of the cell; {HINT}"
            )

    def _walk(self, data: bytes) -> None:
        """Look at a block with quotes, or within an open cell."""
        quotes = np.flatnonzero(np.frombuffer(data, np.uint8) == _QUOTE)
        if self._open is None and not self._closed_at_end and self._is_regular(data, quotes):
            return
        at = self._continued(data)
        while at < len(data):
            at = data.find(b'"', at)
            if at < 0:
                return
            before = data[at - 1 : at] if at else self._before
            if before not in (self._delimiter, b"\n", b"\r"):
                at += 1  # inside of a cell that does not begin with a quote: part of its text
                continue
            self._open_line = self._line + data.count(b"\n", 0, at)
            at = self._to_end_of_cell(data, at + 1, b"")

    def _continued(self, data: bytes) -> int:
        """Return where the cell ends that the block before left open, 0 where none was."""
        held = self._open
        if held is None:
            return 0
        if self._closed_at_end:
            self._closed_at_end = False
            if data[:1] == b'"':  # a doubled quote, cut in two
                return self._to_end_of_cell(data, 1, held + b'""')
            self._open = None
            self._check_end(data[:1], held)
            return 0
        return self._to_end_of_cell(data, 0, held)

    def _to_end_of_cell(self, data: bytes, at: int, held: bytes) -> int:
        """Return where a quoted cell ends in a block, its end if it goes on."""
        start = at
        while True:
            at = data.find(b'"', at)
            if at < 0:
                self._open = held + data[start:]
                return len(data)
            if at + 1 == len(data):
                self._open, self._closed_at_end = held + data[start:at], True
                return len(data)
            if data[at + 1] == _QUOTE:
                at += 2
                continue
            self._open = None
            self._check_end(data[at + 1 : at + 2], held + data[start:at])
            return at + 1

    def _check_end(self, follows: bytes, cell: bytes) -> None:
        if follows not in (self._delimiter, b"\n", b"\r", b""):
            raise DataError(
                f"{self._where}, line {self._open_line}: a cell begins with a double quote, and "
                f"behind its closing quote stands {follows.decode(errors='replace')!r}, expected "
                f"{self._delimiter.decode()!r} or the end of the line; {HINT}"
            )
        self._check_lines(cell)

    def _check_lines(self, cell: bytes) -> None:
        """Refuse a cell in which whole lines of the table seem to be swallowed."""
        if self._num_columns < 3 or (b"\n" not in cell and b"\r" not in cell):
            return
        lines = re.split(rb"\r\n|\n|\r", cell)[1:-1]  # the first and the last belong to other cells
        if lines and {line.count(self._delimiter) for line in lines} == {self._num_columns - 1}:
            raise DataError(
                f"{self._where}, line {self._open_line}: the cell that begins with a double quote "
                f"holds {len(lines)} whole lines of {self._num_columns} cells; {HINT}"
            )

    def _is_regular(self, data: bytes, quotes: npt.NDArray[Any]) -> bool:
        """Return whether a block's quotes pair up, each pair around a whole cell of one line.

        Looks at all quotes at once; what it does not vouch for is walked through.
        """
        if len(quotes) % 2 or not len(quotes):
            return False
        padded = np.frombuffer(self._before + data + b"\n", np.uint8)
        before, after = padded[quotes], padded[quotes + 2]
        edge = np.zeros(256, dtype=bool)
        edge[[_LF, _CR, _QUOTE, self._delimiter[0]]] = True
        opening, closing = quotes[::2], quotes[1::2]
        if closing[-1] == len(data) - 1:
            return False  # the next block may begin with its twin
        if not (edge[before[::2]].all() and edge[after[1::2]].all()):
            return False
        # a quote next to a quote has to be its twin: "" within a cell
        twin_before = before[::2] == _QUOTE
        if (opening[twin_before] - 1 != closing[np.flatnonzero(twin_before) - 1]).any():
            return False
        if twin_before[0]:
            return False
        ends = np.flatnonzero((padded[1:-1] == _LF) | (padded[1:-1] == _CR))
        return bool((np.searchsorted(ends, opening) == np.searchsorted(ends, closing)).all())
