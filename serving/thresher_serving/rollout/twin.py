"""Loads a version under a name of its own, so that it can be checked before anybody gets it.

Triton gives an unversioned request to the highest version that is loaded. A new version that is
loaded under the model's own name is live at once, unchecked. So it is loaded first as a twin: a
folder ``.rollout.NAME.VERSION`` whose files are hard links, without a config.pbtxt (the
configuration goes with the load call), so that nothing which lists models ever takes it for one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from thresher.errors import PublishError, ServerError, ThresherError
from thresher.repository import CONFIG_FILE, ModelRepository
from thresher_serving import control
from thresher_serving.connection import Connection
from thresher_serving.rollout.configuration import naming, serving_config

__all__ = ["TWIN_PREFIX", "loaded_twin"]

TWIN_PREFIX = ".rollout."
"""No model's name begins with a dot, so a twin's is never another model's."""


@contextlib.contextmanager
def loaded_twin(
    repository: ModelRepository,
    name: str,
    version: int,
    where: Connection,
    client: Any,
    *,
    timeout_s: float,
) -> Iterator[str]:
    """Yield the name under which a version is loaded next to the model, until the block ends.

    One copy is loaded however many are to serve: the golden rows alone ask it.

    Args:
        repository: The repository that the server reads.
        name: The model.
        version: The version, published.
        where: The server.
        client: A tritonclient gRPC client of it.
        timeout_s: How long the load may take.

    Raises:
        ServerError: If the version cannot be loaded, or does not load in time.
        PublishError: If the disk refuses the folder.
    """
    twin = f"{TWIN_PREFIX}{name}.{version}"
    _clear(repository.root, name, where, client)
    with _folder(repository.root, name, version, twin):
        try:
            config = serving_config(repository, name, version)
            for group in config.instance_group:
                group.count = 1
            if not any(state.name == twin for state in control.model_states(where)):
                raise ServerError(
                    f"the Triton server at {where.url} does not see {repository.root / twin}: it "
                    "reads another model repository. Give the one that it reads with --repository"
                )
            config = naming(config, [version], name=twin)
            control.load_model(where, twin, timeout_s=timeout_s, config=config)
            yield twin
        finally:
            _unload(twin, where, client)


@contextlib.contextmanager
def _folder(root: Path, name: str, version: int, twin: str) -> Iterator[None]:
    """Keep a folder that holds one version and the model's other files, until the block ends."""
    folder = root / twin
    try:
        shutil.rmtree(folder, ignore_errors=True)  # of one that was killed
        _link(root / name, folder, version)
        yield
    except OSError as error:
        raise PublishError(f"{error.filename or folder}: {error.strerror}") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _link(model: Path, twin: Path, version: int) -> None:
    """Make the twin's folder: one version, and the model's other files."""
    twin.mkdir()
    for path in model.iterdir():
        is_version = path.is_dir() and path.name.isdecimal()
        if path.name == CONFIG_FILE or (is_version and path.name != str(version)):
            continue
        if path.is_dir():
            shutil.copytree(path, twin / path.name, copy_function=_link_or_copy)
        else:
            _link_or_copy(path, twin / path.name)


def _link_or_copy(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copy2(source, target)


def _clear(root: Path, name: str, where: Connection, client: Any) -> None:
    """Remove the twins of rollouts that were killed."""
    for folder in root.glob(f"{TWIN_PREFIX}{name}.*"):
        if folder.name.removeprefix(f"{TWIN_PREFIX}{name}.").isdecimal():
            _unload(folder.name, where, client)
            shutil.rmtree(folder, ignore_errors=True)


def _unload(twin: str, where: Connection, client: Any) -> None:
    """Tell the server to let a twin go; one that hangs while it loads must not hold us up."""
    with (
        contextlib.suppress(ThresherError),
        control.translated(where, client, model=twin),
    ):
        client.unload_model(twin, client_timeout=2)
