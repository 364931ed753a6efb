"""What the watch knows of one version of a model: what it answered, and since when it does not."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from thresher_serving.embedded.probe import Asking

__all__ = ["IDLE_SHARE", "Silence", "VersionHealth"]

IDLE_SHARE = 0.02
"""Which share of a core is no work: a process that waits for requests takes less than 0.005."""


@dataclass(slots=True)
class Silence:
    """What a version's processes have done since it last answered."""

    since: float
    """When it was first asked in vain, on the monotonic clock, as are all times here."""

    at: float
    cpu_s: float
    """When they were last looked at, and the processor time that they had used by then."""

    idle_since: float

    def is_idle(self, now: float, cpu_s: float) -> bool:
        """Return whether they have done nothing since the last look."""
        if cpu_s - self.cpu_s > IDLE_SHARE * (now - self.at):
            self.idle_since = now
        self.at, self.cpu_s = now, cpu_s
        return self.idle_since < now


@dataclass(slots=True)
class VersionHealth:
    """What is known of one version that says READY."""

    successes: int = 0
    failures: int = 0
    """Triton's counts when they were last read."""

    probed: float = float("-inf")
    """When it was last asked for a prediction."""

    asking: Asking = field(default_factory=Asking)
    """What it was asked and has not answered."""

    well: float | None = None
    """When it was last seen to answer."""

    asks: str = ""
    """The model that it asks, and may wait for; empty for one that answers by itself."""

    silent: Silence | None = None
    """None while it answers."""

    has_complained: bool = False
    """Whether the log tells of what is wrong now."""

    deaths: list[float] = field(default_factory=list)
    """When it was mended."""

    def is_well(self) -> None:
        """Note that it answers."""
        self.well, self.silent, self.has_complained = time.monotonic(), None, False
