"""What a server serves, how well, and whether it is what was proven: at a glance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from thresher.certificate import CERTIFICATE_FILE
from thresher.errors import ConfigError, NotFoundError, ParityError, ServerError, ThresherError
from thresher.proof import is_foreign
from thresher.repository import ModelRepository
from thresher_serving import control
from thresher_serving.connection import Connection, as_connection
from thresher_serving.own_requests import Counts, counts_of, own_requests
from thresher_serving.rollout.history import History
from thresher_serving.rollout.metrics import VersionMetrics, read_metrics
from thresher_serving.rollout.supervised import Supervised, supervised
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
    aliases: tuple[str, ...]
    """What the registry calls it; empty where no registry was asked."""
    proof: str
    """"ok", "WRONG", "none" (no certificate), "foreign", or "" where the files cannot be read."""
    requests: int | None
    """Answered to users since it went into service; None where the server does not tell."""
    failures: int | None
    """Requests that got an error instead."""
    has_own_requests: bool
    """Whether its warm-up and our checks are among these counts, since nobody noted them."""
    mean_ms: float | None
    """Time in the server, queue included; None without a request."""
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
    """NAME.VERSION of versions that a rollout is checking."""
    warnings: tuple[str, ...]
    """Where disk, server and alias disagree, a sentence each with the command that mends it."""
    supervisor: str
    """How `thresher serve` fares with the server, in a sentence; empty where it is not its own."""
    left_out: Mapping[str, str]
    """Why models are not served, by name, as `thresher serve` decided."""
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
        state_dir: The state folder of `thresher serve`; None for a server of something else.
        alias: The alias that a rollout moves, which is to name what serves.

    Raises:
        ConfigError: If an address is none.
    """

    def __init__(
        self,
        where: str | Connection,
        *,
        repository: ModelRepository | None = None,
        metrics_url: str | None = None,
        state_dir: Path | None = None,
        alias: str = "champion",
    ) -> None:
        self._where = as_connection(where)
        self._repository = repository
        if metrics_url is not None and not metrics_url.startswith(("http://", "https://")):
            raise ConfigError(
                f'"{metrics_url}" is no address of metrics; expected http://HOST:PORT/metrics'
            )
        if metrics_url is not None:
            Connection(url=urlsplit(metrics_url).netloc)  # checks host and port
        self._metrics_url = metrics_url
        self._state_dir = state_dir
        self._alias = alias

    def read(self, aliases: Mapping[str, Mapping[str, int]] | None = None) -> ServerStatus:
        """Return the status now.

        Args:
            aliases: The version by alias, by model, where a registry was asked.

        Raises:
            ServerError: If the server does not answer.
        """
        with self._where.open() as client:
            with control.translated(self._where, client):
                found = client.get_server_metadata(client_timeout=10)
            states = control.model_states(self._where, client)
            shown = [
                state
                for state in states
                if not state.name.startswith(".") and (state.is_ready or state.reason != "unloaded")
            ]
            counts, notes = self._counts(client)
        metrics = read_metrics(self._metrics_url) if self._metrics_url else {}
        supervised = self._supervised()
        counts, own = self._of_users(counts, supervised.health_texts)
        aliases = aliases or {}
        serving: dict[str, int] = {}
        for state in shown:
            if state.is_ready and state.version is not None:
                serving[state.name] = max(serving.get(state.name, 0), state.version)
        versions = [
            VersionStatus(
                model=state.name,
                version=state.version,
                state=state.state,
                reason=state.reason,
                serves=state.is_ready and serving.get(state.name) == state.version,
                aliases=_aliases(aliases, state.name, state.version),
                proof=self._proof(*key),
                has_own_requests=state.is_ready and key in own,
                **_figures(counts.get(key) if state.is_ready else None, metrics.get(key)),
            )
            for state in shown
            for key in [(state.name, state.version or 0)]
        ]
        return ServerStatus(
            url=self._where.url,
            server=f"{found.name} {found.version}",
            versions=tuple(sorted(versions, key=lambda each: (each.model, each.version or 0))),
            published=self._published(),
            previous=self._previous(serving),
            rolling_out=tuple(
                state.name.removeprefix(TWIN_PREFIX)
                for state in states
                if state.name.startswith(TWIN_PREFIX) and state.state in {"READY", "LOADING"}
            ),
            warnings=tuple(self._disagreements(serving, aliases)),
            supervisor=supervised.sentence,
            left_out=supervised.left_out,
            notes=tuple(notes),
        )

    def _counts(self, client: Any) -> tuple[dict[tuple[str, int], Counts], list[str]]:
        try:
            return counts_of(client, self._where), []
        except ServerError as error:
            return {}, [f"no figures: {error}"]

    def _of_users(
        self, counts: Mapping[tuple[str, int], Counts], health_texts: Mapping[str, int]
    ) -> tuple[dict[tuple[str, int], Counts], set[tuple[str, int]]]:
        """Return users' part of the counts, and the versions of which it is not known."""
        noted = {} if self._repository is None else own_requests(self._repository.root, self._where)
        users, unknown = {}, set()
        for (name, version), total in counts.items():
            own = noted.get((name, version))
            if own is None or not total.includes(own):  # something else has loaded it since
                unknown.add((name, version))
                own = Counts()
            users[name, version] = (total - own).without(health_texts.get(name, 0))
        return users, unknown

    def _supervised(self) -> Supervised:
        return Supervised() if self._state_dir is None else supervised(self._state_dir)

    def _disagreements(
        self, serving: Mapping[str, int], aliases: Mapping[str, Mapping[str, int]]
    ) -> list[str]:
        """Return where config.pbtxt and the alias name another version than the one that answers.

        A companion such as `NAME.text` has no alias, and moves with its model.
        """
        found = []
        for name, version in serving.items():
            named = self._named(name)
            if named and max(named) != version:
                found.append(
                    f"{name}: version {version} answers, and its config.pbtxt names version "
                    f"{max(named)}, which serves after the next start of the server. Run: "
                    f"thresher rollout {name}/{version} to keep version {version}, or "
                    f"thresher rollout {name}/{max(named)}"
                )
            alias = aliases.get(name, {}).get(self._alias)
            if alias not in {None, version}:
                found.append(
                    f"{name}: version {version} answers, and {name}@{self._alias} in MLflow is "
                    f"version {alias}. Run: thresher rollout {name}/{version} to move the alias, "
                    f"or thresher rollout {name}@{self._alias}"
                )
        return found

    def _named(self, name: str) -> list[int]:
        """Return the versions that a model's config.pbtxt serves; none where it cannot be read."""
        if self._repository is None:
            return []
        try:
            return self._repository.served_versions(name)
        except ThresherError:  # a model of another folder; `thresher repository` says what is wrong
            return []

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


def _figures(counts: Counts | None, metrics: VersionMetrics | None) -> dict[str, Any]:
    """Return what statistics and metrics say of a version, by `VersionStatus`'s names."""
    metrics = metrics or VersionMetrics()
    counts, is_known = counts or Counts(), counts is not None
    return {
        "requests": counts.requests if is_known else None,
        "failures": counts.failures if is_known else None,
        "mean_ms": _mean(counts.total_ns / 1e6, counts.requests),
        "queue_ms": _mean(counts.queue_ns / 1e6, counts.queued if counts.requests else 0),
        "batch_size": _mean(counts.rows, counts.executions if counts.requests else 0),
        "rows": metrics.rows or None,
        "positive_rates": metrics.positive_rates,
    }


def _mean(total: float, number: int) -> float | None:
    return total / number if number else None
