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
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from thresher.errors import PublishError, ServerError, ThresherError
from thresher.repository import CONFIG_FILE, ModelRepository
from thresher_serving import control
from thresher_serving.connection import Connection
from thresher_serving.rollout.configuration import as_json, serving_config

__all__ = ["TWIN_PREFIX", "load_once", "loaded_twin"]

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
    """Yield the name under which a version is loaded beside the model; then it is gone again.

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
            _load(twin, repository, config, version, where, timeout_s=timeout_s)
            yield twin
        finally:
            _unload(twin, where, client)


def load_once(
    other: str,
    repository: ModelRepository,
    name: str,
    version: int,
    where: Connection,
    *,
    timeout_s: float,
    parameters: Mapping[str, str],
) -> None:
    """Load a version under another name, until it is unloaded or the server ends.

    Nothing is left of it on the disk: a server that loads all that it finds when it starts would
    take it for a model without a configuration, and might not start. Triton's list of models leaves
    it out therefore; it answers all the same.

    Args:
        other: The name; what is loaded under it answers until this is ready.
        repository: The repository that the server reads.
        name: The model.
        version: The version, published.
        where: The server.
        timeout_s: How long the load may take.
        parameters: What its configuration is to say besides.

    Raises:
        ServerError: If the version cannot be loaded, or does not load in time.
        PublishError: If the disk refuses the folder.
    """
    config = serving_config(repository, name, version)
    for key, value in parameters.items():
        config.parameters[key].string_value = value
    with _folder(repository.root, name, version, other):
        _load(other, repository, config, version, where, timeout_s=timeout_s)


def _load(
    other: str,
    repository: ModelRepository,
    config: Any,
    version: int,
    where: Connection,
    *,
    timeout_s: float,
) -> None:
    if not any(state.name == other for state in control.model_states(where)):
        raise ServerError(
            f"the Triton server at {where.url} does not see {repository.root / other}: it reads "
            "another model repository. Give the one that it reads with --repository"
        )
    text = as_json(config, versions=[version], name=other)
    control.load_model(where, other, timeout_s=timeout_s, config=text)


@contextlib.contextmanager
def _folder(root: Path, name: str, version: int, other: str) -> Iterator[None]:
    """Have a folder that holds one version and what lies beside the versions; then it is gone."""
    folder = root / other
    try:
        shutil.rmtree(folder, ignore_errors=True)  # of one that was killed
        _link(root / name, folder, version)
        yield
    except OSError as error:
        raise PublishError(f"{error.filename or folder}: {error.strerror}") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _link(model: Path, twin: Path, version: int) -> None:
    """Make the twin's folder: one version, and what lies beside the versions."""
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
