"""The version that a command's argument names, published where it is not yet."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from thresher.errors import NotFoundError

if TYPE_CHECKING:
    from thresher.repository import ModelRepository

__all__ = ["found_version", "publish_version", "published_version", "served_repository"]


def published_version(
    repository: ModelRepository, model: str, show: Callable[[str], None]
) -> tuple[str, int]:
    """Return name and version of what an argument names, published by now."""
    name, version, _ = found_version(model, show)
    publish_version(repository, name, version, show)
    return name, version


def served_repository(server: str | None, given: Path | None) -> ModelRepository:
    """Return the given repository, else that of the server started here, else the default."""
    from thresher.repository import ModelRepository
    from thresher_serving import running_server

    running = None if server else running_server()
    folder = given or Path(running.repository if running else "model_repository")
    if not folder.is_dir():
        raise NotFoundError(
            f"{folder}: no such folder; expected the model repository that the server reads. "
            "Give it with --repository FOLDER"
        )
    return ModelRepository(folder)


def found_version(model: str, show: Callable[[str], None]) -> tuple[str, int, bool]:
    """Return name, version, and whether the registry was asked for it."""
    name, slash, version = model.partition("/")
    if slash and version.isdigit() and "@" not in name:
        return name, int(version), False
    uri = model if model.startswith("models:/") else f"models:/{model}"
    if "@" not in uri and "/" not in uri.removeprefix("models:/"):
        bare = uri.removeprefix("models:/") or "digits"
        raise NotFoundError(
            f'"{model}" names no version; expected NAME@ALIAS or NAME/VERSION, such as '
            f"{bare}@candidate or {bare}/3"
        )
    from thresher.registry import resolve

    show(f"Asking MLflow which version {model} is")
    try:
        with _short_patience():
            found = resolve(uri)
    except ModuleNotFoundError as error:
        raise NotFoundError(
            f'"{model}" needs MLflow, which is not installed here ({error}). Name the version '
            f"instead: thresher rollout {model.removeprefix('models:/').partition('@')[0]}/VERSION"
        ) from None
    return found.name, found.version, True


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
def _short_patience() -> Iterator[None]:
    """Have MLflow's client give a server that is down up in seconds; by itself it tries minutes."""
    short = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
    added = {name: value for name, value in short.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:  # an export that follows may take its time
            del os.environ[name]
