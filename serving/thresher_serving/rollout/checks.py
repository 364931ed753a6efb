"""What is checked of a version before anybody gets an answer of it, by one who works on a model."""

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
from thresher_serving.rollout.companions import check_is_no_companion, companions
from thresher_serving.rollout.configuration import serving_config
from thresher_serving.rollout.golden_rows import GoldenRows
from thresher_serving.rollout.plan import Progress, RolloutOptions, label_change
from thresher_serving.rollout.twin import loaded_twin

__all__ = ["Checks", "UnderWayError", "alone_on"]


class UnderWayError(ServerError):
    """Somebody else works on the same model just now."""


@contextlib.contextmanager
def alone_on(
    repository: ModelRepository,
    name: str,
    where: str | Connection,
    options: RolloutOptions | None,
    progress: Progress,
) -> Iterator[Checks]:
    """Yield the checks, alone on this model; a second rollout is refused at once.

    Raises:
        NotFoundError: If there is no such model.
        UnderWayError: If another rollout of it is under way.
        ServerError: If it follows another model.
        PublishError: If the repository cannot be written to.
    """
    check_is_no_companion(repository, name)  # a model that is not there gets no lock either
    connection = as_connection(where)
    lock = filelock.FileLock(repository.root / f".{name}.rollout.lock")
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        raise UnderWayError(
            f"{name}: another rollout of this model is under way; try again when it is done"
        ) from None
    except OSError as error:
        raise PublishError(
            f"{repository.root} cannot be written to ({error.strerror}); a rollout needs "
            "that for the moment of a load, and to note what serves"
        ) from None
    client = connection.open()
    try:
        yield Checks(repository, name, connection, client, options or RolloutOptions(), progress)
    finally:
        client.close()
        lock.release()


@dataclass
class Checks:
    """One model, the server, what is allowed, and what was warned of."""

    repository: ModelRepository
    name: str
    where: Connection
    client: Any
    """A tritonclient gRPC client."""
    options: RolloutOptions
    progress: Progress
    warnings: list[str] = field(default_factory=list)
    begin: float = field(default_factory=time.monotonic)
    """When the work began, by the monotonic clock."""

    def ready(self) -> list[int]:
        """Return the versions of the model that the server answers for."""
        return sorted(control.served(self.where, self.client).get(self.name, []))

    def warn(self, text: str) -> None:
        """Say what is not as it should be, and does not hold the work up."""
        self.warnings.append(text)
        self.progress(f"WARNING: {text}")

    def on_disk(self, version: int, serving: int | None) -> GoldenRows | None:
        """Check what can be checked without the server; return the version's golden rows.

        Raises:
            NotFoundError: If the version is not published.
            DecisionError: If its labels are not those of what serves.
            ParityError: If it is not what was proven.
        """
        self.progress(f"Checking the certificate of {self.name}/{version}")
        decision = self.repository.decision(self.name, version)
        self._check_proven(self.name, version)
        if serving not in {None, version}:
            self._check_labels(version, decision, serving or 0)
        config = serving_config(self.repository, self.name, version)
        folder = self.repository.model_file(self.name, version).parent
        golden = GoldenRows.load(
            folder, self.name, version, decision, max_batch_size=config.max_batch_size
        )
        if golden is None:
            self.warn(
                f"{self.name}/{version} has no golden rows (it was published before there were "
                "any), so its answers are not compared"
            )
        return golden

    def companions_on_disk(self, version: int) -> None:
        """Check what is to ask a version of the model, such as `NAME.text`.

        Raises:
            ParityError: If it is not what was proven.
        """
        for companion in companions(self.repository, self.name, version):
            if companion.has_version:
                self._check_proven(companion.name, version)

    def _check_proven(self, name: str, version: int) -> None:
        try:
            self.repository.check_proven(name, version)
        except ParityError as error:
            if not self.options.unproven:
                raise
            self.warn(f"NOT PROVEN, and put into service all the same, as asked: {error}")

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
        self.warn(text)

    def on_server(self, version: int, golden: GoldenRows | None, serving: int | None) -> None:
        """Load the version under another name and compare its answers; nobody else gets them.

        Raises:
            ParityError: If it does not answer as its golden rows say.
            ServerError: If it cannot be loaded, or the server does not answer.
        """
        what = f"{self.name}/{version}"
        next_to = f" next to version {serving}" if serving else ""
        self.progress(f"Loading {what}{next_to}, under a name that nobody asks for")
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
