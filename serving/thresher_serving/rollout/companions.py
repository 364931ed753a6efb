"""Lets what asks a model, such as `NAME.text`, serve the version that the model serves.

Version N of a companion asks version N of its model and no other. So while a model goes from one
version to another, both are loaded until its companions have gone: first the model's new version
is loaded next to the old one, then `serve_companions` is called, then the old one is unloaded. No
request fails on the way, in either direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from thresher.errors import ServerError
from thresher.published_models import COMPANION_KEY
from thresher.repository import ModelRepository
from thresher_serving import control
from thresher_serving.connection import Connection
from thresher_serving.own_requests import requests_begin
from thresher_serving.rollout.configuration import naming, serving_config

__all__ = [
    "Companion",
    "check_is_no_companion",
    "companions",
    "leave_companions",
    "serve_companions",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Companion:
    """A model that asks another one."""

    name: str
    has_version: bool
    """Whether it was published with the version that is to serve."""


def check_is_no_companion(repository: ModelRepository, name: str) -> None:
    """Raise ServerError where a model follows another one, so that it is not rolled out itself.

    Raises:
        NotFoundError: If there is no such model.
    """
    parameters = repository.read_config(name).parameters
    if COMPANION_KEY in parameters:
        model = parameters[COMPANION_KEY].string_value
        raise ServerError(
            f"{name} serves what {model} serves, and moves with it. "
            f"Run: thresher rollout {model}/VERSION, or thresher rollback {model}"
        )


def companions(repository: ModelRepository, name: str, version: int) -> list[Companion]:
    """Return the models that ask a model, and whether they can ask that version of it."""
    return [
        Companion(name=companion, has_version=version in repository.versions(companion))
        for companion in repository.companions(name)
    ]


def serve_companions(
    repository: ModelRepository,
    name: str,
    version: int,
    where: str | Connection,
    *,
    timeout_s: float = 120,
) -> list[str]:
    """Let a model's companions serve a version; return warnings.

    The version of the model is loaded, and what serves still is too; when this returns, no
    companion asks that any more. Only those are changed that the server has loaded, or that were
    published with the version. A companion without the version goes out of service.

    Args:
        repository: The repository that the server reads.
        name: The model.
        version: Its version.
        where: The server.
        timeout_s: How long one load may take.

    Raises:
        NotFoundError: If the server reads another repository.
        ServerError: If a companion cannot be loaded (what it served before goes on), or no server
            answers.
    """
    warnings = []
    for companion in companions(repository, name, version):
        before = _ready(where, companion.name)
        if companion.has_version:
            if before != [version]:
                config = serving_config(repository, companion.name, version)
                alone = naming(config, [version])
                control.load_model(where, companion.name, timeout_s=timeout_s, config=alone)
                # at once: a health text that comes before this would be subtracted twice
                requests_begin(repository.root, where, companion.name, version)
                old = [number for number in before if number != version]
                control.wait_out_of_service(where, companion.name, old, timeout_s=timeout_s)
            continue
        if before:
            control.unload_model(where, companion.name, timeout_s=timeout_s)
        warnings.append(
            f"{companion.name} is out of service: it has no version {version}. "
            f"Run: thresher export models:/{name}/{version} --text"
        )
    return warnings


def leave_companions(
    repository: ModelRepository, name: str, version: int, where: str | Connection
) -> None:
    """Take the companions that ask a version out of service; it goes too, and no other one serves.

    Raises:
        ServerError: If one is still served after a minute, or no server answers.
    """
    for companion in repository.companions(name):
        if version in _ready(where, companion):
            control.unload_model(where, companion)


def _ready(where: str | Connection, name: str) -> Sequence[int]:
    client = control.connect(where)
    try:
        return sorted(control.served(where, client).get(name, []))
    finally:
        client.close()
