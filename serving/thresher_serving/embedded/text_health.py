"""Sees whether the models that take texts answer, and loads those again that do not.

They run in Triton's Python backend, in a process of their own each, which can die or hang: Triton
never starts such a process again, and goes on saying READY. All other models run in Triton itself.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from thresher.errors import ThresherError
from thresher_serving import control
from thresher_serving.embedded.state import RunningServer

__all__ = ["TextHealth"]

_PERIOD_S = 5.0
_ANSWER_S = 2.0
_FAILURES = 2

_GIVEN_UP_S = 3600.0
"""When an unanswered text is given up: a request that is cancelled as it is answered can end
Triton 2.51.0, so none is cancelled because it is late."""

_TEXT = b"does this model answer?"
_REQUEST_ID = "thresher-watch"
"""By which the tokenizer backend answers by itself, without the model that it makes tokens for."""


class TextHealth:
    """Sends each text model of a server one fixed text every five seconds.

    Args:
        server: The server.
        say: Takes a line for the log.
        check: Returns why a model must not be loaded, by its name; nothing where it may.
    """

    def __init__(
        self,
        server: RunningServer,
        *,
        say: Callable[[str], None],
        check: Callable[[str], dict[str, str]],
    ) -> None:
        self.sent: Counter[str] = Counter()
        """How many texts each model has got since it was loaded."""

        self.loading = ""
        """The model that is being loaded; empty where none is."""

        self._server = server
        self._say = say
        self._check = check
        self._versions: dict[str, list[int]] = {}
        self._failures: Counter[tuple[str, int]] = Counter()
        self._unanswered: dict[tuple[str, int], threading.Event] = {}
        self._unloaded: set[str] = set()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin, in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """End; a load that is under way is not waited for long."""
        self._is_over.set()
        self._thread.join(timeout=2)

    def _run(self) -> None:
        said = ""
        client = None
        while not self._is_over.wait(_PERIOD_S):
            try:
                client = client or control.connect(self._server.where)
                self._look(client)
            except Exception as error:  # noqa: BLE001 - whatever it is, the next round comes
                if not self._is_over.is_set() and (text := f"texts: {error!r}") != said:
                    self._say(text)
                    said = text
        if client is not None:
            client.close()

    def _look(self, client: Any) -> None:
        """Ask every version of every text model once."""
        from thresher.published_models import TEXT_SUFFIX, PublishedModels

        repository = PublishedModels(Path(self._server.repository))
        for name in sorted(self._unloaded):
            self._load(name)
        for name, versions in control.served(self._server.where, client).items():
            if name not in repository.companions(name.removesuffix(TEXT_SUFFIX)):
                continue
            if self._versions.get(name) != sorted(versions):
                self._versions[name] = sorted(versions)  # a rollout's: Triton counts from zero
                self.sent.pop(name, None)
            for version in versions:
                failure = self._failure(client, name, version)
                if not failure:
                    del self._failures[name, version]
                    continue
                self._failures[name, version] += 1
                if self._failures[name, version] >= _FAILURES:
                    self._say(f"{name} version {version}: {failure}; it is loaded again")
                    self._reload(name)
                    break

    def _failure(self, client: Any, name: str, version: int) -> str:
        """Return what is wrong with a version; empty where it answers."""
        import numpy as np
        from tritonclient.grpc import InferInput

        earlier = self._unanswered.get((name, version))
        if earlier is not None and not earlier.is_set():
            return "no answer to a text"
        answered = threading.Event()
        errors: list[str] = []

        def note(result: Any, error: Any) -> None:  # noqa: ARG001 - tritonclient's signature
            if error is not None:
                errors.append(_one_line(error))
            answered.set()

        text = InferInput("text", [1, 1], "BYTES")
        text.set_data_from_numpy(np.array([[_TEXT]], np.object_))
        self._unanswered[name, version] = answered
        client.async_infer(
            name,
            [text],
            note,
            model_version=str(version),
            request_id=_REQUEST_ID,
            client_timeout=_GIVEN_UP_S,
        )
        if not answered.wait(_ANSWER_S):
            return "no answer to a text"
        self.sent[name] += not errors
        return errors[0] if errors else ""

    def _reload(self, name: str) -> None:
        for key in [key for key in self._failures if key[0] == name]:
            del self._failures[key]
            self._unanswered.pop(key, None)
        self._unloaded.add(name)
        with contextlib.suppress(ThresherError):
            control.unload_model(self._server.where, name)
        self._load(name)

    def _load(self, name: str) -> None:
        """Load a model that was unloaded here; it is tried again as long as that fails."""
        self.sent.pop(name, None)
        if why := self._check(name):
            self._say(f"{name} is left out: {why[name]}")
            self._unloaded.discard(name)
            return
        self.loading = name
        try:
            self._server.load_model(name)
            self._say(f"{name} is loaded again")
            self._unloaded.discard(name)
        except ThresherError as error:
            if self._server.is_alive():
                self._say(f"{name} cannot be loaded, and is tried again: {error}")
        if self._server.is_alive():
            self.loading = ""


def _one_line(error: Any) -> str:
    """Return an error of tritonclient's in one line."""
    return str(error.message()).partition("\n")[0]
