"""The configuration under which a version serves, as Triton's load call takes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from thresher.config_pbtxt import copy_version, decisions_of
from thresher.repository import ModelRepository

__all__ = ["naming", "serving_config"]


def serving_config(repository: ModelRepository, name: str, version: int) -> Any:
    """Return the `ModelConfig` that `ModelRepository.serve_versions` writes for a version.

    It is the version's own, which was published with it, with what config.pbtxt says of the other
    versions. Equal configurations matter: where two differ in their version policy alone, Triton
    leaves the versions that are loaded as they are.

    Raises:
        NotFoundError: If there is no such model.
        PublishError: If a configuration cannot be read.
    """
    published = repository.read_config(name)
    config = repository.own_config(name, version)
    for other in decisions_of(published):
        if other != version and repository.model_file(name, other).parent.is_dir():
            copy_version(other, source=published, target=config)
    return config


def naming(config: Any, versions: Sequence[int], *, name: str | None = None) -> Any:
    """Return a copy of a configuration whose version policy names these versions.

    Args:
        config: A `ModelConfig` message.
        versions: What its version policy is to name.
        name: Another name for the model.
    """
    changed = type(config)()
    changed.CopyFrom(config)
    changed.version_policy.Clear()
    changed.version_policy.specific.versions.extend(versions)
    if name is not None:
        changed.name = name
    return changed
