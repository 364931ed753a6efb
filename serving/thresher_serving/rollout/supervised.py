"""How `thresher serve` fares with the server that it keeps running."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from thresher.errors import counted
from thresher_serving.embedded import state

__all__ = ["Supervised", "supervised"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Supervised:
    """What the state folder says of a server; nothing of one that something else runs."""

    sentence: str = ""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Why models are not served, by name."""
    health_texts: Mapping[str, int] = field(default_factory=dict)
    """How many requests were texts that `thresher serve` sent, by model."""


def supervised(state_dir: Path) -> Supervised:
    """Return how the server of a state folder fares."""
    found = state.server_state(state_dir)
    if found is None:
        return Supervised()
    sentence = ""
    if found.restarts:
        times = counted(found.restarts, "time")
        sentence = f"thresher serve started the server again {times}; last after this: "
        sentence += found.reason
    return Supervised(
        sentence=sentence, left_out=dict(found.left_out), health_texts=dict(found.health_texts)
    )
