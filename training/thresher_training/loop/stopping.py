"""SIGTERM and Ctrl-C: training ends at the next step, with a checkpoint; a second one at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Interrupted", "Stop", "stop_on_signals"]


class Interrupted(KeyboardInterrupt):
    """A signal ended the run; the message says which, and how to go on."""

    def __init__(self, message: str, signal_number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.signal_number = signal_number


class Stop:
    """Whether a signal has asked for an end."""

    def __init__(self) -> None:
        self.signal_number = 0
        self._waits = False

    @property
    def requested(self) -> bool:
        """Whether somebody has asked."""
        return self.signal_number != 0

    @contextmanager
    def at_the_next_step(self) -> Iterator[None]:
        """Let the first signal only set `requested` in this block, and end it at the latest."""
        self._waits = True
        try:
            yield
        finally:
            self._waits = False
        if self.requested:
            raise self.interruption()

    def ending(self) -> None:
        """From here on the first signal changes nothing: the run is being closed already."""
        self._waits, self.signal_number = True, 0

    def handle(self, number: int, _: FrameType | None) -> None:
        """Take a signal: remember it, or raise where nobody looks or this is not the first."""
        first = not self.requested
        self.signal_number = number
        if not (self._waits and first):
            raise self.interruption()

    def interruption(self, more: str = "") -> Interrupted:
        """Return the exception that ends the run."""
        number = self.signal_number or signal.SIGTERM
        return Interrupted(f"stopped by {signal.Signals(number).name}{more}", number)


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Handle SIGTERM and Ctrl-C in this block; in a thread, where Python cannot, do nothing."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, stop.handle) for number in numbers]
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
