"""What a rollout is asked for, what it did, and what it may not do unasked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from thresher_serving.connection import checked_timeout

__all__ = ["Alias", "Progress", "Rollout", "RolloutOptions", "label_change"]

Progress = Callable[[str], None]
"""Called with a line for each step before it runs."""


class Alias(Protocol):
    """The registry's name for the version that serves."""

    def move(self, version: int) -> None:
        """Let it name a version, and remember which one it named."""

    def move_back(self) -> None:
        """Let it name again what it named before it was moved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutOptions:
    """What a rollout may do, and how long.

    Raises:
        ConfigError: If the time-out is none.
    """

    allow_label_change: bool = False
    """Whether the labels may be others, or in another order, than those of what serves now."""

    unproven: bool = False
    """Whether a version may serve whose certificate is missing or does not fit."""

    timeout_s: float = 120.0
    """How long the server may take to load the version."""

    def __post_init__(self) -> None:
        checked_timeout(self.timeout_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """What a rollout did."""

    name: str
    version: int
    """The version that unversioned requests get now."""
    previous: int | None
    """The one that they got before; None if the model was not served."""
    server: str
    is_new: bool
    """False where the version served already, and nothing but the alias had to be moved."""
    num_rows: int | None
    """How many golden rows were compared over the wire; None where the version has none."""
    num_decisions: int
    num_flips: int
    """Decisions that differ, inside the band in which rounding explains it."""
    live_after_s: float | None
    """Seconds from the beginning until unversioned requests got the version."""
    seconds: float
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the outcome as plain values for JSON."""
        return asdict(self)


def label_change(before: tuple[str, ...], after: tuple[str, ...]) -> str:
    """Return in words how labels changed; empty if they did not."""
    if before == after:
        return ""
    gone = [label for label in before if label not in after]
    new = [label for label in after if label not in before]
    if not gone and not new:
        at = next(k for k, (a, b) in enumerate(zip(before, after, strict=True)) if a != b)
        return f'the order changed; position {at} was "{before[at]}" and is "{after[at]}"'
    parts = [
        f"{what} {', '.join(repr(label) for label in some[:5])}"
        + (f" and {len(some) - 5} more" if len(some) > 5 else "")
        for what, some in (("without", gone), ("with new", new))
        if some
    ]
    return ", ".join(parts)
