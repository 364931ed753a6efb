"""Signals that end a server, counted so that nothing is left half done."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

__all__ = ["StopSignals"]


class StopSignals:
    """SIGINT, SIGTERM and SIGHUP, which are counted instead of raised: nothing is left half done.

    Outside the main thread nothing is counted, and no signal that the process was started to
    ignore: SIGHUP under nohup, SIGINT of a shell's background job.
    """

    _NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self._count = 0

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Count signals while the block runs."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {
            number: signal.signal(number, self._note)
            for number in self._NUMBERS
            if signal.getsignal(number) is not signal.SIG_IGN
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self._count += 1

    def stop(self) -> None:
        """Do what a signal does."""
        self._count += 1

    def is_stopped(self) -> bool:
        """Return whether the server is to end."""
        return self._count > 0

    def is_urgent(self) -> bool:
        """Return whether it is to end at once, whatever is in flight."""
        return self._count > 1
