"""A canary: a version that gets a share of the calls that name none, beside the one that serves.

Triton gives each such call to the highest version that is loaded, so the share is drawn here. The
canary is loaded as a model of its own, ``.canary.NAME``, whose configuration tells the share. The
model that serves is not touched, and a server that is started anew has no canary.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import Any

from thresher_serving.client.metadata import ModelMetadata

__all__ = [
    "LOOK_EVERY_S",
    "SHARE_PARAMETER",
    "Canaries",
    "canary_of",
    "is_canary",
    "share_of",
    "without_canary",
]

SHARE_PARAMETER = "thresher.canary"
"""The config parameter of a canary: which share of calls it gets, such as "0.1"."""

LOOK_EVERY_S = 5.0
"""How often a client that makes calls looks whether there is a canary; one message each time."""

_PREFIX = ".canary."


def canary_of(model: str) -> str:
    """Return the name under which a model's canary is loaded.

    No model's own name begins with a dot.

    Example:
        >>> canary_of("digits")
        '.canary.digits'
    """
    return _PREFIX + model


def is_canary(model: str) -> bool:
    """Return whether a model's name is that of a canary."""
    return model.startswith(_PREFIX)


def without_canary(model: str) -> str:
    """Return the name of the model that a canary is one of; any other name as it is."""
    return model.removeprefix(_PREFIX)


def share_of(config: Any) -> float:
    """Return the share of calls that a configuration grants a canary, from 0 to 1.

    Args:
        config: tritonclient's ModelConfig.
    """
    if SHARE_PARAMETER not in config.parameters:
        return 0.0
    try:
        share = float(config.parameters[SHARE_PARAMETER].string_value)
    except ValueError:
        return 0.0
    return min(max(share, 0.0), 1.0)


@dataclass(slots=True)
class _Seen:
    """What a look has found."""

    version: ModelMetadata | None
    share: float
    next_look: float


class Canaries:
    """What a client knows of the canaries of the models that it asks; threads may share it."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}

    def look_is_due(self, model: str) -> bool:
        """Return whether the caller is to look now; who asks next is spared it meanwhile."""
        seen, now = self._seen.get(model), time.monotonic()
        if seen is None:
            return True
        if now < seen.next_look:
            return False
        seen.next_look = now + LOOK_EVERY_S
        return True

    def found(self, model: str, version: ModelMetadata | None, share: float) -> None:
        """Note what a look has found; None where there is no canary."""
        self._seen[model] = _Seen(version, share, time.monotonic() + LOOK_EVERY_S)

    def drawn(self, model: str) -> ModelMetadata | None:
        """Return the canary if this call is one of its share."""
        seen = self._seen.get(model)
        if seen is None or seen.version is None:
            return None
        is_its = random.random() < seen.share  # noqa: S311 - spreads calls, guards nothing
        return seen.version if is_its else None

    def failed(self, model: str) -> None:
        """Ask the canary no more until the next look: it is gone, or it does not work."""
        seen = self._seen[model]
        seen.version = None
