"""Has Triton load a model anew whose backend process is gone."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from thresher_serving.connection import Connection

__all__ = ["Mending"]

_CALL_S = 5.0
_LOAD_S = 120.0

_RETRY_S = 3.0
"""How often a model that was unloaded here, and could not be loaded again, is tried."""


class Mending:
    """Loads models anew, and remembers those that it has unloaded and could not load again.

    Args:
        client: A tritonclient gRPC client.
        where: How its server is reached.
        repository: The model repository.
        say: Takes a line for the log.
    """

    def __init__(
        self, client: Any, where: str | Connection, repository: Path, say: Callable[[str], None]
    ) -> None:
        self._client = client
        self._where = where
        self._repository = repository
        self._say = say
        self._owed: dict[str, float] = {}

    def load_anew(self, name: str, version: int, *, answers: Callable[[], bool]) -> bool:
        """Load a version anew; return whether it answers.

        Args:
            name: The model.
            version: Its version.
            answers: Asks it.
        """
        from tritonclient.utils import InferenceServerException

        try:
            if self._touch(name, version):  # the other versions and instances go on meanwhile
                self._client.load_model(name, client_timeout=_LOAD_S)
                if answers():
                    return True
            self._say(f"{name}: taking it out of service for a moment, to load it from scratch")
            self._client.unload_model(name, client_timeout=_CALL_S)
            self._owed[name] = 0.0
            self._client.load_model(name, client_timeout=_LOAD_S)
            del self._owed[name]
        except InferenceServerException as error:
            if name in self._owed:
                self._owed[name] = time.monotonic() + _RETRY_S
            self._say(f"{name} cannot be loaded: {error.message()}. It is tried again")
            return False
        return answers()

    def pay(self) -> None:
        """Load what was unloaded here and could not be loaded again."""
        from tritonclient.utils import InferenceServerException

        for name in [name for name, at in self._owed.items() if time.monotonic() >= at]:
            try:
                if not self._client.is_model_ready(name, client_timeout=_CALL_S):
                    self._client.load_model(name, client_timeout=_LOAD_S)
                    self._say(f"{name} is loaded again")
                del self._owed[name]
            except InferenceServerException:
                self._owed[name] = time.monotonic() + _RETRY_S

    def _touch(self, name: str, version: int) -> bool:
        """Give a version's files a new time, by which Triton knows that there is work to do."""
        folder = self._repository / name / str(version)
        try:
            next(path for path in sorted(folder.rglob("*")) if path.is_file()).touch()
        except (OSError, StopIteration):
            return False  # a repository that cannot be written, or is not a folder here
        return True
