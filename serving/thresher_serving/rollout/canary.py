"""Lets a version answer a share of the calls, beside the one that serves.

Triton gives each call that names no version to the highest one that is loaded; it splits nothing.
So the canary is a model of its own, and Thresher's clients look for it and draw the share
(`thresher_serving.client.canary`). What serves is not touched.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

from thresher.errors import NotFoundError, ServerError, ThresherError
from thresher.repository import ModelRepository
from thresher_serving import control
from thresher_serving.client.canary import SHARE_PARAMETER, canary_of, share_of
from thresher_serving.connection import Connection
from thresher_serving.rollout.checks import alone_on
from thresher_serving.rollout.plan import Progress, RolloutOptions
from thresher_serving.rollout.twin import load_once

__all__ = [
    "Canary",
    "CanaryEnd",
    "CanaryStart",
    "end_canary",
    "find_canary",
    "percent",
    "restart_canary",
    "start_canary",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """A canary that a server has loaded."""

    version: int
    share: float
    """Which share of the calls it gets, from 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryStart:
    """What the start of a canary did."""

    name: str
    version: int
    share: float
    serving: int
    """The version that all other calls get, as before."""
    replaced: int | None
    """The version of the canary whose place it took."""
    server: str
    num_rows: int | None
    """How many golden rows were compared over the wire; None where the version has none."""
    num_decisions: int
    num_flips: int
    seconds: float
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the outcome as plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryEnd:
    """What a rollback did that found a canary."""

    name: str
    version: int
    """The version that was the canary."""
    serving: int | None
    """The version that every call gets now, and that nothing was done to."""
    server: str

    def to_dict(self) -> dict[str, Any]:
        """Return the outcome as plain values for JSON."""
        return asdict(self)


def percent(share: float) -> str:
    """Return a share as a person reads it.

    Example:
        >>> percent(0.1), percent(0.005)
        ('10%', '0.5%')
    """
    return f"{share * 100:.4g}%"


def start_canary(
    repository: ModelRepository,
    name: str,
    version: int,
    where: str | Connection,
    *,
    share: float,
    options: RolloutOptions | None = None,
    progress: Progress = lambda _: None,
) -> CanaryStart:
    """Let a published version answer a share of the calls; it takes another canary's place.

    It is checked as for a rollout, then loaded under the canary's name, and compared again there.
    Neither what serves nor an alias changes.

    Args:
        repository: The repository that the server reads.
        name: The model.
        version: The version, published.
        where: The server's gRPC address, or how it is reached.
        share: Which share of the calls it gets, above 0 and below 1.
        options: What is allowed.
        progress: Called with a line for each step before it runs.

    Raises:
        NotFoundError: If the model or version is not published.
        DecisionError: If its labels are not those of what serves now.
        ParityError: If it is not what was proven, or does not answer as its golden rows say.
        ServerError: If no version serves, or this one does, or it cannot be loaded.
        PublishError: If the disk refuses.
    """
    with alone_on(repository, name, where, options, progress) as checks:
        ready = checks.ready()
        if not ready or version in ready:
            what = "serves already" if ready else "would be the only version, as none is served"
            raise ServerError(
                f"{name}/{version} {what}; a canary needs another version that serves. "
                + (f"Published: {repository.versions(name)}" if ready else "")
                + ("" if ready else f"Run: thresher rollout {name}/{version}")
            )
        serving = max(ready)
        golden = checks.on_disk(version, serving)
        before = find_canary(name, checks.where, checks.client)
        if before is None or before.version != version:
            checks.beside(version, golden, serving)
        instead = f", in place of version {before.version}" if before else ""
        progress(f"Loading {name}/{version} as a canary for {percent(share)} of calls{instead}")
        agreement = None
        try:
            canary = Canary(version=version, share=share)
            _load(repository, name, canary, checks.where, timeout_s=checks.options.timeout_s)
            if golden is not None:
                progress("Comparing the golden rows once more, on the canary")
                agreement = golden.compare(
                    checks.where, checks.client, model=canary_of(name), versioned=True
                )
        except BaseException as error:
            left = ""
            try:
                end_canary(name, checks.where, checks.client)
            except ThresherError as later:
                left = f" It could not be unloaded: {later}"
            if not isinstance(error, ThresherError):
                raise
            raise type(error)(
                f"{name}/{version} is no canary; version {serving} gets every call.{left} "
                f"Reason: {error}"
            ) from None
        return CanaryStart(
            name=name,
            version=version,
            share=share,
            serving=serving,
            replaced=before.version if before else None,
            server=checks.where.url,
            num_rows=agreement.num_rows if agreement else None,
            num_decisions=agreement.num_rows * agreement.num_labels if agreement else 0,
            num_flips=agreement.num_flips if agreement else 0,
            seconds=time.monotonic() - checks.begin,
            warnings=tuple(checks.warnings),
        )


def find_canary(name: str, where: Connection, client: Any) -> Canary | None:
    """Return a model's canary; None where there is none.

    Raises:
        ServerError: If the server does not answer.
    """
    model = canary_of(name)
    try:
        with control.translated(where, client, model=model):
            config = client.get_model_config(model, client_timeout=10).config
    except NotFoundError:
        return None
    versions = config.version_policy.specific.versions
    return Canary(version=int(versions[0]) if versions else 0, share=share_of(config))


def end_canary(name: str, where: Connection, client: Any) -> None:
    """Let every call get the version that serves; calls that the canary has taken are answered.

    Raises:
        ServerError: If the server does not answer.
    """
    model = canary_of(name)
    with control.translated(where, client, model=model):
        client.unload_model(model, client_timeout=10)


def restart_canary(
    repository: ModelRepository, name: str, where: str | Connection, *, timeout_s: float
) -> None:
    """Load a model's canary anew, whose backend process died; version and share stay.

    Args:
        repository: The repository that the server reads.
        name: The model.
        where: The server.
        timeout_s: How long the load may take.

    Raises:
        UnderWayError: If a rollout of the model is under way, which will see to the canary.
        NotFoundError: If there is none any more.
        ServerError: If it cannot be loaded; it is unloaded by then.
        PublishError: If the disk refuses.
    """
    with alone_on(repository, name, where, None, lambda _: None) as checks:
        canary = find_canary(name, checks.where, checks.client)
        if canary is None:
            raise NotFoundError(f"the canary of {name} was ended meanwhile")
        end_canary(name, checks.where, checks.client)
        _load(repository, name, canary, checks.where, timeout_s=timeout_s)


def _load(
    repository: ModelRepository, name: str, canary: Canary, where: Connection, *, timeout_s: float
) -> None:
    load_once(
        canary_of(name),
        repository,
        name,
        canary.version,
        where,
        timeout_s=timeout_s,
        parameters={SHARE_PARAMETER: f"{canary.share:.6g}"},
    )
