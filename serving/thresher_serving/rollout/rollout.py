"""Rolls a published version out, or back to the one that served before."""

from __future__ import annotations

import time

from thresher.errors import NotFoundError, PublishError
from thresher.repository import ModelRepository
from thresher_serving.connection import Connection
from thresher_serving.rollout.checks import Checks, alone_on
from thresher_serving.rollout.history import History
from thresher_serving.rollout.left_canaries import end_left_canaries
from thresher_serving.rollout.plan import Alias, Progress, Rollout, RolloutOptions
from thresher_serving.rollout.switch import Switch

__all__ = ["roll_back", "roll_out"]


def roll_out(
    repository: ModelRepository,
    name: str,
    version: int,
    where: str | Connection,
    *,
    options: RolloutOptions | None = None,
    alias: Alias | None = None,
    progress: Progress = lambda _: None,
) -> Rollout:
    """Put a published version into service without a request that fails.

    Its certificate is checked; it is loaded under another name, next to the version that serves,
    and its golden rows are compared over the wire, decision by decision; then it is loaded under
    the model's name, and compared again; then the alias is moved, and the old version drained and
    unloaded. Where anything is wrong, the server goes back to the old version.

    Companions, such as `NAME.text`, are checked too, and move while both versions are loaded.

    Args:
        repository: The repository that the server reads.
        name: The model.
        version: The version, published.
        where: The server's gRPC address, or how it is reached.
        options: What is allowed.
        alias: What is moved in the registry; None moves none.
        progress: Called with a line for each step before it runs.

    Raises:
        NotFoundError: If the model or version is not published.
        DecisionError: If its labels are not those of what serves now.
        ParityError: If it is not what was proven, or does not answer as its golden rows say.
        ServerError: If it cannot be loaded, or the server does not answer.
        PublishError: If the disk refuses.
    """
    with alone_on(repository, name, where, options, progress) as checks:
        return _put(checks, version, alias, going_back=False)


def roll_back(
    repository: ModelRepository,
    name: str,
    where: str | Connection,
    *,
    options: RolloutOptions | None = None,
    alias: Alias | None = None,
    progress: Progress = lambda _: None,
) -> Rollout:
    """Put the version that served before into service again, as `roll_out` does.

    An alias that cannot be moved does not hold a rollback up: that becomes a warning.

    Raises:
        NotFoundError: If nothing is known to have served before.
        DecisionError: As for `roll_out`, and all its other errors.
    """
    with alone_on(repository, name, where, options, progress) as checks:
        ready = checks.ready()
        published = repository.versions(name)
        serving = max(ready) if ready else repository.serving_version(name)
        previous = History.load(repository.root, name, serving=serving).previous(published)
        if previous is None:
            others = ", ".join(f"{name}/{v}" for v in published if v != serving) or "none"
            raise NotFoundError(
                f"{name}: nothing tells which version served before version {serving}. Name one: "
                f"thresher rollout {name}/VERSION. Also published: {others}"
            )
        until = f", which served until {previous.until}" if previous.until else ""
        progress(f"Going back from version {serving} to version {previous.version}{until}")
        return _put(checks, previous.version, alias, going_back=True)


def _put(checks: Checks, version: int, alias: Alias | None, *, going_back: bool) -> Rollout:
    """Check a version, put it into service, and note that."""
    ready = checks.ready()
    serving = max(ready) if ready else None
    golden = checks.on_disk(version, serving)
    checks.companions_on_disk(version)
    is_new = ready != [version] or checks.repository.served_versions(checks.name) != [version]
    for sentence in end_left_canaries(checks.repository.root, [checks.name], checks.where):
        checks.progress(sentence)
    if version not in ready:
        checks.on_server(version, golden, serving)
    switch = Switch(
        repository=checks.repository,
        name=checks.name,
        version=version,
        old=[number for number in ready if number != version],
        where=checks.where,
        client=checks.client,
        timeout_s=checks.options.timeout_s,
        progress=checks.progress,
        warn=checks.warn,
    )
    if is_new:
        agreement = switch.run(golden, alias, alias_must_move=not going_back)
    else:
        agreement = switch.confirm(golden, alias, alias_must_move=not going_back)
    try:
        history = History.load(checks.repository.root, checks.name, serving=serving)
        (history.rolled_back if going_back else history.rolled_out)(version).save()
    except PublishError as error:  # the version serves all the same
        checks.warn(f"a later rollback will not know what served before: {error}")
    return Rollout(
        name=checks.name,
        version=version,
        previous=max((number for number in ready if number != version), default=None),
        server=checks.where.url,
        is_new=is_new,
        num_rows=agreement.num_rows if agreement else None,
        num_decisions=agreement.num_rows * agreement.num_labels if agreement else 0,
        num_flips=agreement.num_flips if agreement else 0,
        live_after_s=switch.live_at - checks.begin if switch.is_live else None,
        seconds=time.monotonic() - checks.begin,
        warnings=tuple(checks.warnings),
    )
