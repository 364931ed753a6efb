"""When a call is made again, after which pause, and at which of several servers."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from thresher.errors import ConfigError
from thresher_serving.connection import checked_timeout

__all__ = ["Deadline", "Endpoints", "Retries"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """How often a call that failed for a passing reason is made again, and after which pauses.

    The pause before attempt n is drawn evenly from 0 to ``min(cap_s, base_s * 2 ** n)``, so that
    clients that failed together do not come back together.

    Raises:
        ConfigError: If a number is out of range.

    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog 2015 (full jitter).
    """

    attempts: int = 5
    """The most times that a call is made at one server; 1 makes it once. More, until the call's
    time is over, where the server has answered about the model before: it may be restarting."""

    base_s: float = 0.1
    """The longest pause before the second attempt, in seconds."""

    cap_s: float = 2.0
    """The longest pause of all, in seconds."""

    def __post_init__(self) -> None:
        are_pauses = all(0 <= pause_s < math.inf for pause_s in (self.base_s, self.cap_s))
        if not self.attempts >= 1 or not are_pauses:
            raise ConfigError(
                f"retries: attempts is {self.attempts}, base_s {self.base_s:g}, cap_s "
                f"{self.cap_s:g}; expected at least 1, 0 and 0"
            )

    def pause_s(self, failures: int) -> float:
        """Return the pause after so many failed attempts, the first one included."""
        longest = min(self.cap_s, self.base_s * 2.0 ** min(failures - 1, 60))
        return random.uniform(0, longest)  # noqa: S311 - spreads load, guards nothing


class Deadline:
    """The moment at which one call of a user is over, retries and parts included.

    Args:
        timeout_s: Seconds from now.

    Raises:
        ConfigError: If that is no time a call can keep to.
    """

    def __init__(self, timeout_s: float) -> None:
        self._end = time.monotonic() + checked_timeout(timeout_s)

    @property
    def left_s(self) -> float:
        """The seconds that are left; negative when it is over."""
        return self._end - time.monotonic()


class Endpoints(Generic[T]):
    """Several servers of the same models: one is asked until it fails, then the next.

    A server that failed is passed over for a while as long as another one has not failed. May be
    shared between threads.

    Args:
        all_: At least one, in the order of preference.
        rest_s: How long a server that failed is passed over.
    """

    def __init__(self, all_: Sequence[T], *, rest_s: float = 5.0) -> None:
        self._all = list(all_)
        self._rest_s = rest_s
        self._failed_at = [float("-inf")] * len(self._all)
        self._current = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[T]:
        return iter(self._all)

    @property
    def current(self) -> T:
        """The one to ask."""
        return self._all[self._current]

    @property
    def others(self) -> int:
        """How many others have not failed lately."""
        with self._lock:
            return sum(self._is_rested(at) for at in range(len(self._all)) if at != self._current)

    def failed(self, endpoint: T) -> bool:
        """Note that a server failed; return whether another one is to be asked now.

        Where all have failed lately, the one that failed first is next, after a pause.
        """
        with self._lock:
            at = next(i for i, one in enumerate(self._all) if one is endpoint)
            self._failed_at[at] = time.monotonic()
            if at != self._current:
                return self._is_rested(self._current)  # somebody else has moved on already
            following = [(at + step) % len(self._all) for step in range(1, len(self._all))]
            rested = [i for i in following if self._is_rested(i)]
            if rested:
                self._current = rested[0]
                return True
            self._current = min(range(len(self._all)), key=self._failed_at.__getitem__)
            return False

    def _is_rested(self, at: int) -> bool:
        return time.monotonic() - self._failed_at[at] > self._rest_s
