"""The version that a command's argument names, published where it is not yet."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from thresher.cli.output import say
from thresher.errors import ConfigError, NotFoundError, StoreError
from thresher.model_name import parse_model, parse_version

if TYPE_CHECKING:
    from thresher.repository import ModelRepository

__all__ = [
    "asked_version",
    "found_version",
    "knows_registry",
    "model_alone",
    "publish_version",
    "published_version",
    "repository_and_registry",
    "served_repository",
    "short_patience",
]


def published_version(
    repository: ModelRepository, model: str, show: Callable[[str], None]
) -> tuple[str, int]:
    """Return name and version of what an argument names, published by now."""
    name, version, _ = found_version(model, show)
    publish_version(repository, name, version, show)
    return name, version


def served_repository(server: str | None, given: Path | None) -> ModelRepository:
    """Return the given repository, else that of the server started here, else the default."""
    from thresher_serving import running_server

    running = None if server else running_server()
    folder = given or Path(running.repository if running else "model_repository")
    if not folder.is_dir():
        raise NotFoundError(
            f"{folder}: no such folder; expected the model repository that the server reads. "
            "Give it with --repository FOLDER"
        )
    return repository_and_registry(folder)


def repository_and_registry(folder: Path) -> ModelRepository:
    """Return a repository that compares certificates with MLflow's tags, where MLflow is in reach.

    MLflow is imported, and asked, when a version is first checked; a registry that does not answer
    is not asked again, and the rest is checked without it.
    """
    from thresher.repository import ModelRepository

    repository = ModelRepository(folder)
    if not knows_registry():
        return repository

    def tags(name: str, version: int) -> Mapping[str, str]:
        try:
            from thresher.registry import registered_tags

            with short_patience():
                return registered_tags(name, version) or {}
        except ModuleNotFoundError:
            pass
        except (NotFoundError, StoreError) as error:
            say(f"Warning: certificates are not compared with MLflow's tags: {error}")
        repository.registered = repository.registered_decision = None
        return {}

    def registered(name: str, version: int) -> Collection[str]:
        from thresher.registry import certificates_in

        return certificates_in(tags(name, version))

    def registered_decision(name: str, version: int) -> str:
        from thresher.registry import DECISION_DIGEST

        return tags(name, version).get(DECISION_DIGEST, "")

    repository.registered = registered
    repository.registered_decision = registered_decision
    return repository


def knows_registry() -> bool:
    """Return whether a registry is named, or is in the working folder."""
    return bool(os.environ.get("MLFLOW_TRACKING_URI")) or Path("mlflow.db").exists()


def found_version(model: str, show: Callable[[str], None]) -> tuple[str, int, bool]:
    """Return name, version, and whether the registry was asked for it."""
    asked = parse_version(model)
    if asked.version is not None:
        return asked.name, asked.version, False
    from thresher.registry import resolve

    show(f"Asking MLflow which version {model} is")
    try:
        with short_patience():
            found = resolve(asked.uri)
    except ModuleNotFoundError as error:
        raise NotFoundError(
            f'"{model}" is an alias in MLflow, which is not installed here ({error}). Name the '
            f"version by its number, such as {asked.name}/3; those that are published are listed "
            f"by: thresher repository ls {asked.name}"
        ) from None
    return found.name, found.version, True


def asked_version(
    model: str, show: Callable[[str], None], *, number: int | None = None
) -> tuple[str, int | None]:
    """Return name and version of what an argument names; None where it names a model alone.

    Args:
        model: NAME, NAME/VERSION, NAME@ALIAS or a model URI.
        show: Takes a line for the person at the terminal.
        number: The version that an option names, if one does.

    Raises:
        NotFoundError: If the text has another form, or names nothing.
        ConfigError: If the option names another version.
    """
    asked = parse_model(model)
    if asked.is_model:
        return asked.name, number
    name, version, _ = found_version(model, show)
    if number not in {None, version}:
        raise ConfigError(f'"{model}" is version {version}, and an option says {number}; give one')
    return name, version


def model_alone(model: str, command: str) -> str:
    """Return the name of a model, of which no version may be named.

    Raises:
        NotFoundError: If the text has another form.
        ConfigError: If it names a version; says why the command takes none.
    """
    asked = parse_model(model)
    if not asked.is_model:
        raise ConfigError(f'"{model}": {command}; expected the model alone: {asked.name}')
    return asked.name


def publish_version(
    repository: ModelRepository, name: str, version: int, show: Callable[[str], None]
) -> None:
    """Export a version that is not published, where that can be done here."""
    try:
        if version in repository.versions(name):
            return
    except NotFoundError:
        pass
    folder = repository.model_file(name, version).parent
    if folder.is_dir() and folder.parent.joinpath("config.pbtxt").is_file():
        raise NotFoundError(
            f"{folder}: {name}'s config.pbtxt tells no decision of version {version}, so Thresher "
            "did not publish it, or not to the end. Run: thresher export "
            f"models:/{name}/{version}; another tool's model is loaded by Triton's own model "
            "control"
        )
    try:
        from thresher_export import ExportOptions, export_version
    except ModuleNotFoundError as error:
        raise NotFoundError(
            f"{repository.root}: {name}/{version} is not published, and this machine cannot "
            f"export it ({error}). On one that can: thresher export models:/{name}/{version}"
        ) from None
    export_version(
        f"models:/{name}/{version}",
        repository=repository,
        options=ExportOptions(serve=False),
        progress=show,
    )


@contextlib.contextmanager
def short_patience() -> Iterator[None]:
    """Have MLflow's client give a server that is down up in seconds; by itself it tries minutes."""
    short = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
    added = {name: value for name, value in short.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:  # an export that follows may take its time
            del os.environ[name]
