"""The version that a command's argument names, published where it is not yet."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from thresher.cli.rollout import _publish, _which

if TYPE_CHECKING:
    from thresher.repository import ModelRepository

__all__ = ["published_version"]


def published_version(
    repository: ModelRepository, model: str, show: Callable[[str], None]
) -> tuple[str, int]:
    """Return name and version."""
    name, version, _ = _which(model, show)
    _publish(repository, name, version, show)
    return name, version
