"""What serves at a moment, and whether a rollout or rollback has changed that since.

A job that publishes may run for hours. What it makes serve in the end was chosen when it began, so
it must not undo what somebody did meanwhile.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from thresher.errors import NotFoundError
from thresher.published_models import PublishedModels

__all__ = ["ServedState", "rolled_out_version", "served_record"]


def served_record(root: Path, name: str) -> Path:
    """Return the file in which rollouts and rollbacks note what serves and what served before.

    It is not in the model's folder, because Triton loads a model again whenever anything in there
    is newer than at the last load.
    """
    return root / f".{name}.served.json"


def rolled_out_version(root: Path, name: str) -> int | None:
    """Return the version that the last rollout or rollback put into service; None if unknown."""
    try:
        serving = json.loads(served_record(root, name).read_text(encoding="utf-8"))["serving"]
        return None if serving is None else int(serving)
    except (OSError, ValueError, TypeError, KeyError):
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedState:
    """What serves of a model."""

    versions: tuple[int, ...] = ()
    """What its config.pbtxt serves; empty where it has none."""
    record_sha256: str = ""
    """The digest of what rollouts noted; empty where there was none."""
    ours: tuple[int, ...] = ()
    """Versions that may have come to serve since, because the caller publishes them itself."""

    @classmethod
    def of(cls, models: PublishedModels, name: str) -> Self:
        """Return what serves of a model now.

        Raises:
            PublishError: If its config.pbtxt cannot be read.
        """
        try:
            versions = tuple(models.served_versions(name))
        except NotFoundError:
            versions = ()
        try:
            record = served_record(models.root, name).read_bytes()
        except OSError:
            record = b""
        digest = hashlib.sha256(record).hexdigest() if record else ""
        return cls(versions=versions, record_sha256=digest)

    def is_still(self, now: ServedState) -> bool:
        """Return whether nothing but the caller's own versions has come to serve until now."""
        if now.record_sha256 != self.record_sha256:
            return False
        return now.versions == self.versions or set(now.versions) <= set(self.ours)
