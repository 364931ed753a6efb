"""Ends the canaries that an earlier release of Thresher left in a server or a repository.

That release could give a share of its clients' calls to a second version, which it loaded as the
model ``.canary.NAME`` from a folder that it then removed. Nothing asks for such a model any more.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from thresher_serving import control
from thresher_serving.connection import Connection, as_connection

__all__ = ["end_left_canaries"]

_PREFIX = ".canary."


def end_left_canaries(
    root: Path, names: Iterable[str], where: str | Connection | None = None
) -> list[str]:
    """Unload the canaries of models, and remove their folders; return a sentence for each.

    Args:
        root: The model repository.
        names: The models.
        where: The server that reads the repository; None where none runs.

    Raises:
        ServerError: If the server does not answer, or does not unload one.
    """
    said = []
    for name in names:
        canary, done = f"{_PREFIX}{name}", []
        if where is not None and _is_loaded(where, canary):
            client = control.connect(where)
            with client, control.translated(where, client):
                client.unload_model(canary, client_timeout=10)
            done.append(f"unloaded from {as_connection(where).url}")
        if (folder := root / canary).is_dir():
            shutil.rmtree(folder, ignore_errors=True)
            done.append(f"{folder} was removed")
        if done:
            said.append(
                f"The canary of {name}, which an earlier release of Thresher left, was ended: "
                f"{', '.join(done)}. Every request gets the version that serves"
            )
    return said


def _is_loaded(where: str | Connection, canary: str) -> bool:
    client = control.connect(where)
    with client, control.translated(where, client):
        return bool(client.is_model_ready(canary, client_timeout=10))
