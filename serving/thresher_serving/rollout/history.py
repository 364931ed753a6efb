"""Which version served before: a small file in the repository, next to the model's folder."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from thresher.durable import replace_durably
from thresher.errors import PublishError
from thresher.served_state import served_record

__all__ = ["History", "Served"]

_FORMAT = "thresher-served/1"
_MOST = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A version that served, and until when."""

    version: int
    until: str
    """UTC, ISO 8601; empty where nobody noted it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What serves, and what served before it, the latest last.

    A rollout puts what it replaced on top; a rollback takes it off. So two rollbacks in a row go
    back two versions, and never forth again to the version that was found wanting.
    """

    path: Path
    serving: int | None
    before: tuple[Served, ...]

    @classmethod
    def load(cls, root: Path, name: str, *, serving: int | None) -> Self:
        """Return a model's history, with what serves now on top.

        Where something else than a rollout has put another version in service since, the one that
        the file names counts as the one that served before.

        Args:
            root: The model repository.
            name: The model.
            serving: The version that unversioned requests get now; None if there is none.

        Raises:
            PublishError: If the file cannot be read.
        """
        path = served_record(root, name)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            noted = content["serving"]
            before = tuple(Served(**served) for served in content["before"])
            _check_numbers([*(() if noted is None else (noted,)), *(s.version for s in before)])
        except FileNotFoundError:
            return cls(path=path, serving=serving, before=())
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise PublishError(
                f"{path}: not a record of what served: {error}. Remove the file; until the next "
                "rollout, a rollback then needs a version: thresher rollout NAME/VERSION"
            ) from None
        if content.get("format") != _FORMAT:
            raise PublishError(f'{path}: format is {content.get("format")!r}, expected "{_FORMAT}"')
        if serving is not None and noted not in {None, serving}:
            before = (*before, Served(version=noted, until=""))
        return cls(path=path, serving=noted if serving is None else serving, before=before)

    def previous(self, published: Collection[int]) -> Served | None:
        """Return what served before and is still published; None if nothing is known."""
        for served in reversed(self.before):
            if served.version != self.serving and served.version in published:
                return served
        return None

    def rolled_out(self, version: int) -> Self:
        """Return the history after a rollout of a version."""
        if self.serving in {None, version}:
            return replace(self, serving=version)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        before = (*self.before, Served(version=self.serving or 0, until=now))
        return replace(self, serving=version, before=before[-_MOST:])

    def rolled_back(self, version: int) -> Self:
        """Return the history after a rollback: what came after the version is forgotten."""
        at = max((k for k, s in enumerate(self.before) if s.version == version), default=0)
        return replace(self, serving=version, before=self.before[:at])

    def save(self) -> None:
        """Write the file, whole and on the disk before this returns.

        Raises:
            PublishError: If the disk refuses.
        """
        content = {
            "format": _FORMAT,
            "serving": self.serving,
            "before": [asdict(served) for served in self.before],
        }
        try:
            replace_durably(self.path, (json.dumps(content, indent=1) + "\n").encode())
        except OSError as error:
            raise PublishError(f"{self.path}: {error.strerror}") from None


def _check_numbers(versions: Iterable[object]) -> None:
    """Raise TypeError unless each is a version's number; True and 1.0 equal 1 and are none."""
    for version in versions:
        if type(version) is not int:
            raise TypeError(f"{version!r} is no version's number")
