"""Rolls a published version out, or back to the one that served before."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import filelock

from thresher.decision import Decision
from thresher.errors import (
    DecisionError,
    NotFoundError,
    ParityError,
    PublishError,
    ServerError,
    ThresherError,
)
from thresher.repository import ModelRepository
from thresher_serving import control
from thresher_serving.connection import Connection, as_connection
from thresher_serving.rollout.configuration import serving_config
from thresher_serving.rollout.golden_rows import GoldenRows
from thresher_serving.rollout.history import History
from thresher_serving.rollout.plan import Alias, Progress, Rollout, RolloutOptions, label_change
from thresher_serving.rollout.switch import Switch
from thresher_serving.rollout.twin import loaded_twin

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

    Its certificate is checked; it is loaded beside the version that serves, under another name,
    and its golden rows are compared over the wire, decision by decision; then it is loaded under
    the model's name, and compared again; then the alias is moved, and the old version drained and
    unloaded. Where anything is wrong, the server goes back to the old version.

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
    with _work(repository, name, where, options or RolloutOptions(), progress) as work:
        return work.put(version, alias, going_back=False)


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
    with _work(repository, name, where, options or RolloutOptions(), progress) as work:
        published = repository.versions(name)
        ready = work.ready()
        serving = max(ready) if ready else repository.serving_version(name)
        previous = History.load(repository.root, name, serving=serving).previous(published)
        if previous is None:
            others = ", ".join(f"{name}/{v}" for v in published if v != serving) or "none"
            raise NotFoundError(
                f"{name}: nothing tells which version served before version {serving}. Name one: "
                f"thresher rollout {name}/VERSION. Published besides: {others}"
            )
        until = f", which served until {previous.until}" if previous.until else ""
        progress(f"Going back from version {serving} to version {previous.version}{until}")
        return work.put(previous.version, alias, going_back=True)


@contextlib.contextmanager
def _work(
    repository: ModelRepository,
    name: str,
    where: str | Connection,
    options: RolloutOptions,
    progress: Progress,
) -> Iterator[_Work]:
    """Yield what does the work, alone on this model; a second rollout is told so at once."""
    repository.read_config(name)  # a model that is not there gets no lock
    connection = as_connection(where)
    lock = filelock.FileLock(repository.root / f".{name}.rollout.lock")
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        raise ServerError(
            f"{name}: another rollout of this model is under way; try again when it is done"
        ) from None
    client = connection.open()
    try:
        yield _Work(repository, name, connection, client, options, progress)
    finally:
        client.close()
        lock.release()


@dataclass
class _Work:
    repository: ModelRepository
    name: str
    where: Connection
    client: Any
    options: RolloutOptions
    progress: Progress
    warnings: list[str] = field(default_factory=list)
    begin: float = field(default_factory=time.monotonic)

    def ready(self) -> list[int]:
        """Return the versions of the model that the server answers for."""
        return sorted(control.served(self.where, self.client).get(self.name, []))

    def put(self, version: int, alias: Alias | None, *, going_back: bool) -> Rollout:
        """Check a version, put it into service, and note that."""
        ready = self.ready()
        serving = max(ready) if ready else None
        golden = self._checked(version, serving)
        is_new = ready != [version] or self.repository.served_versions(self.name) != [version]
        if version not in ready:
            self._check_beside(version, golden, serving)
        switch = Switch(
            repository=self.repository,
            name=self.name,
            version=version,
            old=[number for number in ready if number != version],
            where=self.where,
            client=self.client,
            timeout_s=self.options.timeout_s,
            progress=self.progress,
            warn=self._warn,
        )
        if is_new:
            agreement = switch.run(golden, alias, alias_must_move=not going_back)
        else:
            agreement = switch.confirm(golden, alias, alias_must_move=not going_back)
        try:
            history = History.load(self.repository.root, self.name, serving=serving)
            (history.rolled_back if going_back else history.rolled_out)(version).save()
        except PublishError as error:  # the version serves all the same
            self._warn(f"a later rollback will not know what served before: {error}")
        return Rollout(
            name=self.name,
            version=version,
            previous=max((number for number in ready if number != version), default=None),
            server=self.where.url,
            is_new=is_new,
            num_rows=agreement.num_rows if agreement else None,
            num_decisions=agreement.num_rows * agreement.num_labels if agreement else 0,
            num_flips=agreement.num_flips if agreement else 0,
            live_after_s=switch.live_at - self.begin if switch.is_live else None,
            seconds=time.monotonic() - self.begin,
            warnings=tuple(self.warnings),
        )

    def _warn(self, text: str) -> None:
        self.warnings.append(text)
        self.progress(f"WARNING: {text}")

    def _checked(self, version: int, serving: int | None) -> GoldenRows | None:
        """Check what can be checked without the server; return the version's golden rows."""
        self.progress(f"Checking the certificate of {self.name}/{version}")
        decision = self.repository.decision(self.name, version)
        try:
            self.repository.check_proven(self.name, version)
        except ParityError as error:
            if not self.options.unproven:
                raise
            self._warn(f"NOT PROVEN, and put into service all the same, as asked: {error}")
        if serving not in {None, version}:
            self._check_labels(version, decision, serving or 0)
        config = serving_config(self.repository, self.name, version)
        folder = self.repository.model_file(self.name, version).parent
        golden = GoldenRows.load(
            folder, self.name, version, decision, max_batch_size=config.max_batch_size
        )
        if golden is None:
            self._warn(
                f"{self.name}/{version} has no golden rows (it was published before there were "
                "any), so its answers are not compared"
            )
        return golden

    def _check_labels(self, version: int, decision: Decision, serving: int) -> None:
        try:
            before = self.repository.decision(self.name, serving).labels
        except NotFoundError:
            return  # another tool's version, which tells no labels
        change = label_change(before, decision.labels)
        if not change:
            return
        text = f"{self.name}/{version} has other labels than version {serving}: {change}"
        if not self.options.allow_label_change:
            raise DecisionError(
                f"{text}. Who reads answers by position would read them wrongly. If everybody "
                "reads them by name, go on with --allow-label-change"
            )
        self._warn(text)

    def _check_beside(self, version: int, golden: GoldenRows | None, serving: int | None) -> None:
        """Load the version under another name and compare its answers; nobody else gets them."""
        what = f"{self.name}/{version}"
        beside = f" beside version {serving}" if serving else ""
        self.progress(f"Loading {what}{beside}, under a name that nobody asks for")
        try:
            with loaded_twin(
                self.repository,
                self.name,
                version,
                self.where,
                self.client,
                timeout_s=self.options.timeout_s,
            ) as twin:
                if golden is not None:
                    rows = len(golden.split)
                    self.progress(f"Comparing {rows} golden rows, decision by decision")
                    golden.compare(self.where, self.client, model=twin, versioned=True)
        except ThresherError as error:
            stays = f"version {serving} serves, untouched" if serving else "it is not served"
            raise type(error)(f"{what} was not rolled out; {stays}. Reason: {error}") from None
