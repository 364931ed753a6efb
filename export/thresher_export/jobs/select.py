"""Which registered versions a job is about, and which of them need nothing done.

Both are cheap: the registry is asked in pages of a thousand versions, and what is published is told
by certificates. torch is not loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from thresher.certificate import Certificate
from thresher.errors import ConfigError, NotFoundError, ParityError, ThresherError, unknown_name
from thresher.mlflow_store import open_store
from thresher.registry import DECISION_DIGEST, ModelVersion
from thresher.repository import ModelRepository
from thresher.served_state import rolled_out_version
from thresher_export.published import SETTINGS_FACT

if TYPE_CHECKING:
    from thresher_export.pipeline import ExportOptions

__all__ = ["is_published", "select_versions", "without_published"]

_PAGE = 1000


def select_versions(
    *, filter_string: str | None = None, alias: str | None = None
) -> list[ModelVersion]:
    """Return the registered versions that are meant, by name and ascending number.

    Args:
        filter_string: MLflow's filter of model versions, such as ``name LIKE 'news-%'`` or
            ``tags.team = 'weather'``.
        alias: Only versions that carry this alias. Without filter and alias: each model's newest.

    Raises:
        ConfigError: If MLflow does not understand the filter.
        NotFoundError: If the registry is out of reach, or nothing is selected.
    """
    mlflow = open_store()
    client = mlflow.MlflowClient()
    try:
        carried = _aliases(client) if alias is not None else {}
        found = [
            version
            for version in _pages(
                lambda token: client.search_model_versions(
                    filter_string,
                    max_results=_PAGE,
                    order_by=["name ASC", "version_number ASC"],
                    page_token=token,
                )
            )
            if version.status == "READY"
        ]
    except Exception as error:  # noqa: BLE001 -- MLflow's, SQLAlchemy's, the network's
        code = getattr(error, "error_code", "")
        if filter_string is not None and code == "INVALID_PARAMETER_VALUE":
            raise ConfigError(
                f"filter {filter_string!r}: {error}. See MLflow's search_model_versions, "
                "an example: name LIKE 'news-%'"
            ) from None
        raise NotFoundError(
            f"the registry at {mlflow.get_registry_uri()} cannot be read: "
            f"{_first_line(error)}. Nothing was exported; look at MLFLOW_TRACKING_URI"
        ) from None
    selected = [
        ModelVersion(
            name=version.name,
            version=int(version.version),
            run_id=version.run_id,
            source=version.source,
            aliases=(alias,) if alias is not None else (),
            tags=dict(version.tags),
        )
        for version in found
        if alias is None or (version.name, int(version.version)) in carried.get(alias, ())
    ]
    if filter_string is None and alias is None:  # ascending, so that the last of a name is newest
        selected = list({version.name: version for version in selected}.values())
    if not selected:
        raise NotFoundError(_nothing(filter_string, alias, carried, len(found)))
    return sorted(selected, key=lambda version: (version.name, version.version))


def is_published(
    version: ModelVersion, repository: ModelRepository, options: ExportOptions
) -> bool:
    """Return whether this very version is published, whole, with the same digests.

    Its weights' source, its decision and its precision must be those of the certificate, what is
    published what was proven, and Triton's settings those that are asked for now. The decision's
    digest is a tag of the version; where the tag is missing, the decision is fetched.

    Raises:
        ThresherError: If the version's decision is needed and cannot be read.
    """
    folder = repository.model_file(version.name, version.version).parent
    if not folder.is_dir():
        return False
    try:
        repository.decision(version.name, version.version)
        certificate = Certificate.load(folder)
        digest = version.tags.get(DECISION_DIGEST) or version.decision().digest
        if (certificate.source, certificate.decision_sha256, certificate.precision) != (
            version.source,
            digest,
            options.precision,
        ):
            return False
        key = f"thresher.{SETTINGS_FACT}/{version.version}"
        asked_for = repository.read_config(version.name).parameters[key].string_value
        if asked_for != options.settings_sha256:
            return False
        repository.check_proven(version.name, version.version)
    except (NotFoundError, ParityError):
        return False
    return True


def without_published(
    versions: Sequence[ModelVersion], repository: ModelRepository, options: ExportOptions
) -> list[ModelVersion]:
    """Return the versions that a job has to export.

    Of several selected versions of a model the highest serves in the end: where a lower one of
    them serves, or will be published now, the highest is published after it. A version that a
    rollout or a rollback put into service goes on.
    """
    todo: list[ModelVersion] = []
    by_name: dict[str, list[ModelVersion]] = {}
    for version in versions:
        by_name.setdefault(version.name, []).append(version)
    for name, group in by_name.items():
        missing = [v for v in group if not _or_false(v, repository, options)]
        highest = max(group, key=lambda v: v.version)
        lower = {v.version for v in group} - {highest.version}
        goes_back = missing or _serves_one_of(repository, name, lower)
        if options.serve and highest not in missing and goes_back:
            missing.append(highest)
        todo += missing
    return todo


def _or_false(version: ModelVersion, repository: ModelRepository, options: ExportOptions) -> bool:
    """Return `is_published`; what cannot be told is left to the worker, which says why."""
    try:
        return is_published(version, repository, options)
    except ThresherError:
        return False


def _serves_one_of(repository: ModelRepository, name: str, versions: Iterable[int]) -> bool:
    """Return whether a version serves that is one of these, and no rollback put it there."""
    served = repository.served_versions(name)
    if not served or max(served) not in set(versions):
        return False
    return rolled_out_version(repository.root, name) != max(served)


def _pages(ask: Callable[[str | None], Any]) -> Iterable[Any]:
    token = None
    while True:
        page = ask(token)
        yield from page
        token = page.token
        if not token:
            return


def _aliases(client: Any) -> dict[str, set[tuple[str, int]]]:
    """Return name and version of what carries each alias."""
    found: dict[str, set[tuple[str, int]]] = {}
    for model in _pages(
        lambda token: client.search_registered_models(
            max_results=_PAGE, order_by=["name ASC"], page_token=token
        )
    ):
        for alias, version in model.aliases.items():
            found.setdefault(alias, set()).add((model.name, int(version)))
    return found


def _nothing(
    filter_string: str | None, alias: str | None, carried: Iterable[str], num_found: int
) -> str:
    if alias is not None and alias not in set(carried):
        return f"nothing to export: {unknown_name('alias', alias, carried)}"
    wanted = " and ".join(
        text
        for text in (
            f"the filter {filter_string!r}" if filter_string is not None else "",
            f'the alias "{alias}"' if alias is not None else "",
        )
        if text
    )
    if not wanted:
        return "nothing to export: the registry holds no version"
    return f"nothing to export: of {num_found} versions none has {wanted}"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
