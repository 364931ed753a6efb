"""What a repository holds of a version, or of its weights, before it is exported."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from thresher.certificate import Certificate
from thresher.errors import NotFoundError, ParityError, PublishError
from thresher.registry import ModelVersion
from thresher.repository import ModelRepository
from thresher_export.precision import Precision

__all__ = [
    "SETTINGS_FACT",
    "check_precision_is_the_same",
    "known_digests",
    "published_body",
]


SETTINGS_FACT = "settings_sha256"
"""The parameter ``thresher.settings_sha256/N`` of config.pbtxt: how Triton was asked to run it."""


def check_precision_is_the_same(
    repository: ModelRepository, version: ModelVersion, precision: Precision
) -> None:
    """Raise PublishError where the version is published with a body in another precision."""
    folder = repository.model_file(version.name, version.version).parent
    with contextlib.suppress(NotFoundError, ParityError):
        repository.decision(version.name, version.version)
        published = Certificate.load(folder).precision
        if published != precision:
            raise PublishError(
                f"{version.name}/{version.version} is published in {published}, and was asked for "
                f"in {precision}; a version number is never used again. Register the same model "
                "under a new version (thresher tune does, with thresholds for it) and export that "
                f"with --precision {precision}"
            )


def published_body(
    repository: ModelRepository | None,
    version: ModelVersion,
    precision: Precision,
    progress: Callable[[str], None] = lambda _: None,
) -> Certificate | None:
    """Return the newest other version in the repository that was converted from these weights.

    Args:
        repository: Where it is published, if anywhere.
        version: Whose weights are meant.
        precision: Of the body.
        progress: Called with a line for each version whose files are not what was proven.
    """
    if repository is None:
        return None
    try:
        published = repository.versions(version.name)
    except NotFoundError:
        return None
    for number in reversed(published):
        if number == version.version:
            continue
        folder = repository.model_file(version.name, number).parent
        try:
            certificate = Certificate.load(folder)
        except ParityError:
            continue
        weights = version.program_sha256 or certificate.weights_sha256
        known = (certificate.source, certificate.precision, certificate.weights_sha256)
        if known != (version.source, precision, weights):
            continue
        try:
            repository.check_proven(version.name, number)
        except ParityError as error:
            progress(f"Warning: its body is not taken over: {error}")
            continue
        return certificate
    return None


def known_digests(
    repository: ModelRepository | None, reusable: Certificate | None
) -> dict[Path, str]:
    """Return the digests of the files of the version whose body is taken over."""
    if repository is None or reusable is None:
        return {}
    folder = repository.model_file(reusable.model, reusable.version).parent
    return {folder / name: digest for name, digest in reusable.files.items()}
