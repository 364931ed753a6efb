"""The log that Triton and its supervisor write, and that a terminal may show."""

from __future__ import annotations

import contextlib
from datetime import datetime
from pathlib import Path
from typing import TextIO

from thresher.terminal import printable

__all__ = ["ServerLog"]


class ServerLog:
    """A log file; a disk that is full costs its lines and nothing else.

    Args:
        path: The file.
        out: Where it is copied to; None copies it nowhere.
    """

    def __init__(self, path: Path, out: TextIO | None) -> None:
        self.is_copied = False
        """Whether `copy` does anything yet."""

        self._path = path
        self._out = out
        self._position = 0

    def say(self, text: str) -> None:
        """Write a line."""
        line = f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S} thresher: {text}\n"
        with contextlib.suppress(OSError), self._path.open("a", encoding="utf-8") as log:
            log.write(line)

    def copy(self) -> None:
        """Copy what was written since the last call."""
        if self._out is None or not self.is_copied:
            return
        with contextlib.suppress(OSError), self._path.open("rb") as log:
            log.seek(self._position)
            text = log.read()
            self._position += len(text)
            self._out.write(printable(text.decode(errors="replace")))
            self._out.flush()
