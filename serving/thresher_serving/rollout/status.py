"""What a server serves, how well, and whether it is what was proven: at a glance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from thresher.certificate import CERTIFICATE_FILE
from thresher.errors import ConfigError, NotFoundError, ParityError, ServerError, ThresherError
from thresher.proof import is_foreign
from thresher.repository import ModelRepository
from thresher_serving import control
from thresher_serving.client.canary import canary_of
from thresher_serving.connection import Connection, as_connection
from thresher_serving.rollout.canary import Canary, find_canary
from thresher_serving.rollout.history import History
from thresher_serving.rollout.metrics import Metrics, VersionMetrics, read_metrics
from thresher_serving.rollout.twin import TWIN_PREFIX

__all__ = ["ServerStatus", "StatusReader", "VersionStatus"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionStatus:
    """One version of a model that a server has loaded, or tried to load."""

    model: str
    version: int | None
    """None for a model that was never loaded."""
    state: str
    """READY, or what Triton says instead."""
    reason: str
    """Why it is not ready, in the server's words."""
    serves: bool
    """Whether unversioned requests get it."""
    canary_share: float | None
    """For a canary, which share of the calls of Thresher's clients gets it."""
    aliases: tuple[str, ...]
    """What the registry calls it; empty where no registry was asked."""
    proof: str
    """"ok", "WRONG", "none" (no certificate), "foreign", or "" where the files cannot be read."""
    requests: int | None
    """Answered since it was loaded; None where the server does not tell."""
    failures: int | None
    mean_ms: float | None
    """Time in the server, queue included; None without a request."""
    percentiles_ms: Mapping[float, float] | None
    """By quantile, of the last minute or so; None where the server exports none."""
    queue_ms: float | None
    """Mean time that a request waited for others to be batched with, or for its turn."""
    batch_size: float | None
    """Mean rows that were run together."""
    rows: int | None
    """Rows whose labels were counted; None where the server counts none."""
    positive_rates: Mapping[str, float] | None
    """By label, the share of those rows that got it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerStatus:
    """What `StatusReader.read` found."""

    url: str
    server: str
    """Name and version."""
    versions: tuple[VersionStatus, ...]
    published: Mapping[str, tuple[int, ...]]
    """Versions in the repository, by model; empty where it cannot be read."""
    previous: Mapping[str, int]
    """What a rollback would bring back, by model."""
    rolling_out: tuple[str, ...]
    """NAME.VERSION of versions that are being checked beside what serves."""
    notes: tuple[str, ...]
    """What could not be found out, and why."""

    def to_dict(self) -> dict[str, Any]:
        """Return the status as plain values for JSON."""
        return asdict(self)


class StatusReader:
    """Asks a server again and again; files are hashed again only where they changed.

    Args:
        where: The server.
        repository: The repository that it reads; None where that is not on this machine.
        metrics_url: Where it exports metrics; None where that is not known.

    Raises:
        ConfigError: If an address is none.
    """

    def __init__(
        self,
        where: str | Connection,
        *,
        repository: ModelRepository | None = None,
        metrics_url: str | None = None,
    ) -> None:
        self._where = as_connection(where)
        self._repository = repository
        if metrics_url is not None and not Connection(url=metrics_url).is_http:
            raise ConfigError(
                f'"{metrics_url}" is no address of metrics; expected http://HOST:PORT/metrics'
            )
        self._metrics_url = metrics_url

    def read(self, aliases: Mapping[str, Mapping[str, int]] | None = None) -> ServerStatus:
        """Return the status now.

        Args:
            aliases: The version by alias, by model, where a registry was asked.

        Raises:
            ServerError: If the server does not answer.
        """
        with self._where.open() as client:
            with control.translated(self._where, client):
                told = client.get_server_metadata(client_timeout=10)
            states = control.model_states(self._where, client)
            shown = [
                state
                for state in states
                if not state.name.startswith(".") and (state.is_ready or state.reason != "unloaded")
            ]
            figures, notes = self._statistics(client)
            canaries = {
                name: canary
                for name in {state.name for state in shown}
                if (canary := find_canary(name, self._where, client)) is not None
            }
        metrics = read_metrics(self._metrics_url) if self._metrics_url else {}
        serving: dict[str, int] = {}
        for state in shown:
            if state.is_ready and state.version is not None:
                serving[state.name] = max(serving.get(state.name, 0), state.version)
        versions = [
            self._version(state, serving, figures, metrics, aliases or {}) for state in shown
        ]
        versions += [
            self._canary(name, canary, figures, metrics, aliases or {})
            for name, canary in canaries.items()
        ]
        return ServerStatus(
            url=self._where.url,
            server=f"{told.name} {told.version}",
            versions=tuple(
                sorted(
                    versions, key=lambda e: (e.model, e.canary_share is not None, e.version or 0)
                )
            ),
            published=self._published(),
            previous=self._previous(serving),
            rolling_out=tuple(
                state.name.removeprefix(TWIN_PREFIX)
                for state in states
                if state.name.startswith(TWIN_PREFIX) and state.state in {"READY", "LOADING"}
            ),
            notes=tuple(notes),
        )

    def _statistics(self, client: Any) -> tuple[dict[tuple[str, int], Any], list[str]]:
        try:
            with control.translated(self._where, client):
                told = client.get_inference_statistics(client_timeout=10)
        except ServerError as error:
            return {}, [f"no figures: {error}"]
        return {(each.name, int(each.version)): each for each in told.model_stats}, []

    def _version(
        self,
        state: control.ModelState,
        serving: Mapping[str, int],
        figures: Mapping[tuple[str, int], Any],
        metrics: Metrics,
        aliases: Mapping[str, Mapping[str, int]],
    ) -> VersionStatus:
        key = state.name, state.version or 0
        return VersionStatus(
            model=state.name,
            version=state.version,
            state=state.state,
            reason=state.reason,
            serves=state.is_ready and serving.get(state.name) == state.version,
            canary_share=None,
            aliases=_aliases(aliases, state.name, state.version),
            proof=self._proof(*key),
            **_figures(figures.get(key) if state.is_ready else None, metrics.get(key)),
        )

    def _canary(
        self,
        name: str,
        canary: Canary,
        figures: Mapping[tuple[str, int], Any],
        metrics: Metrics,
        aliases: Mapping[str, Mapping[str, int]],
    ) -> VersionStatus:
        key = canary_of(name), canary.version
        return VersionStatus(
            model=name,
            version=canary.version,
            state="READY",
            reason="",
            serves=False,
            canary_share=canary.share,
            aliases=_aliases(aliases, name, canary.version),
            proof=self._proof(name, canary.version),
            **_figures(figures.get(key), metrics.get(key)),
        )

    def _proof(self, name: str, version: int) -> str:
        """Return whether a version on the disk is what was proven."""
        if self._repository is None or not version:
            return ""
        folder = self._repository.model_file(name, version).parent
        try:
            if is_foreign(self._repository, name):
                return "foreign"
            self._repository.check_proven(name, version)
        except ParityError:
            return "WRONG" if (folder / CERTIFICATE_FILE).is_file() else "none"
        except (NotFoundError, OSError):
            return ""
        return "ok"

    def _published(self) -> dict[str, tuple[int, ...]]:
        if self._repository is None:
            return {}
        found = {}
        for name in self._repository.names():
            try:
                found[name] = tuple(self._repository.versions(name))
            except ThresherError:
                continue  # a configuration that cannot be read; `thresher repository` says why
        return found

    def _previous(self, serving: Mapping[str, int]) -> dict[str, int]:
        found: dict[str, int] = {}
        if self._repository is None:
            return found
        for name, version in serving.items():
            try:
                history = History.load(self._repository.root, name, serving=version)
                served = history.previous(self._repository.versions(name))
            except ThresherError:
                continue
            if served is not None:
                found[name] = served.version
        return found


def _aliases(
    aliases: Mapping[str, Mapping[str, int]], name: str, version: int | None
) -> tuple[str, ...]:
    return tuple(sorted(a for a, named in aliases.get(name, {}).items() if named == version))


def _figures(told: Any, metrics: VersionMetrics | None) -> dict[str, Any]:
    """Return what Triton's statistics and metrics tell of a version, by `VersionStatus`'s names."""
    metrics = metrics or VersionMetrics()
    stats = told.inference_stats if told else None
    return {
        "requests": stats.success.count if stats else None,
        "failures": stats.fail.count if stats else None,
        "mean_ms": _mean_ms(stats.success) if stats else None,
        "percentiles_ms": metrics.percentiles_ms or None,
        "queue_ms": _mean_ms(stats.queue) if stats else None,
        "batch_size": told.inference_count / told.execution_count
        if told and told.execution_count
        else None,
        "rows": metrics.rows or None,
        "positive_rates": metrics.positive_rates,
    }


def _mean_ms(statistic: Any) -> float | None:
    return statistic.ns / statistic.count / 1e6 if statistic.count else None
