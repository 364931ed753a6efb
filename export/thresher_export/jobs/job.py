"""One job: select, skip what is published, export the rest in workers, report."""

from __future__ import annotations

import contextlib
import datetime
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any, Literal
from urllib.parse import quote

from thresher.errors import ConfigError, PublishError
from thresher.registry import ModelVersion
from thresher.repository import ModelRepository
from thresher.served_state import ServedState
from thresher_export.jobs.local import LocalEngine
from thresher_export.jobs.report import JobReport, Outcome
from thresher_export.jobs.schedule import Engine, Limits, Schedule
from thresher_export.jobs.select import select_versions, without_published
from thresher_export.jobs.worker import Task
from thresher_export.pipeline import ExportOptions

__all__ = ["JobOptions", "run_job"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """What a job exports, and what it may cost."""

    repository: Path | None
    """Where to publish; None proves without publishing."""
    logs: Path
    """A folder for what each version's export prints; made if it does not exist."""
    filter_string: str | None = None
    """MLflow's filter of model versions."""
    alias: str | None = None
    """Only versions that carry this alias."""
    num_workers: int = 1
    """Workers that run side by side."""
    time_limit_s: float = 600.0
    """What one version may take."""
    memory_limit_mb: int | None = None
    """What one worker may hold; None shares four fifths of the memory out."""
    engine: Literal["local", "ray"] = "local"
    """Processes of this machine, or Ray's."""
    export: ExportOptions = field(default_factory=ExportOptions)
    """How each version is converted and served."""

    def __post_init__(self) -> None:
        for name, low in (("num_workers", 1), ("time_limit_s", 0), ("memory_limit_mb", 1)):
            value = getattr(self, name)
            if value is not None and (value < low or value == 0):
                raise ConfigError(f"{name} is {value}, expected more than 0")


def run_job(options: JobOptions, emit: Callable[..., None] = lambda *_, **__: None) -> JobReport:
    """Export every selected version that is not published yet; return what came of each.

    SIGINT and SIGTERM end it early: workers are ended, staging is cleared, and the report that is
    returned names the signal. The same job afterwards goes on where it was.

    Args:
        options: What is exported, and what it may cost.
        emit: Called with the name of each event (``job_selected``, ``version_started``,
            ``version_finished``, ``worker_replaced``, ``job_finished``) and what belongs to it.

    Raises:
        ConfigError: If MLflow does not understand the filter.
        NotFoundError: If the registry is out of reach, or nothing is selected.
        PublishError: If workers cannot be started.
        MissingExtraError: If Ray is asked for and not installed.
    """
    start = time.monotonic()
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    repository = None if options.repository is None else ModelRepository(options.repository)
    outcomes: list[Outcome] = []
    num_replaced = 0
    with _signals() as stop:
        with contextlib.suppress(_StopNow):
            selected, todo, since = _select(options, repository)
            skipped = _without(selected, todo)
            outcomes += (Outcome(name=v.name, version=v.version, status="skipped") for v in skipped)
            emit("job_selected", versions=len(selected), skipped=len(skipped), todo=len(todo))
            if todo:
                if repository is not None:
                    with repository.staging("job"):
                        pass  # a disk that takes nothing is said once, not for each version
                stop.may_raise = False
                engine = _engine(options)
                schedule = Schedule(
                    [_task(version, options, since.get(version.name)) for version in todo],
                    engine,
                    num_workers=min(options.num_workers, len(todo)),
                    limits=Limits(time_s=options.time_limit_s),
                    emit=emit,
                    is_stopped=lambda: stop.signal is not None,
                )
                try:
                    outcomes += schedule.run()
                finally:
                    engine.close()
                    num_replaced = schedule.num_replaced
                    if repository is not None and (num_replaced or stop.signal):
                        repository.clear_left_behind()
        report = JobReport(
            outcomes=tuple(sorted(outcomes, key=lambda o: (o.name, o.version))),
            started=started,
            seconds=time.monotonic() - start,
            num_workers=options.num_workers,
            engine=options.engine,
            num_replaced=num_replaced,
            signal=stop.signal,
        )
    emit("job_finished", counts=report.counts, seconds=round(report.seconds, 3), signal=stop.signal)
    return report


def _select(
    options: JobOptions, repository: ModelRepository | None
) -> tuple[list[ModelVersion], list[ModelVersion], dict[str, ServedState]]:
    """Return what is selected, what of it has to be exported, and what serves of each model."""
    selected = select_versions(filter_string=options.filter_string, alias=options.alias)
    if repository is None:
        return selected, selected, {}
    since = {}
    for name in {version.name for version in selected}:
        with contextlib.suppress(PublishError):  # the worker says what is wrong
            since[name] = ServedState.of(repository, name)
    todo = without_published(selected, repository, options.export)
    ours: dict[str, list[int]] = {}
    for version in todo:
        ours.setdefault(version.name, []).append(version.version)
    since = {name: replace(was, ours=tuple(ours.get(name, ()))) for name, was in since.items()}
    return selected, todo, since


def _without(versions: Sequence[ModelVersion], todo: Sequence[ModelVersion]) -> list[ModelVersion]:
    left = {(version.name, version.version) for version in todo}
    return [version for version in versions if (version.name, version.version) not in left]


def _task(version: ModelVersion, options: JobOptions, since: ServedState | None) -> Task:
    file = f"{quote(version.name, safe=' ')}-{version.version}.log"
    return Task(
        name=version.name,
        version=version.version,
        repository=None if options.repository is None else str(options.repository.absolute()),
        options=options.export,
        log=str((options.logs / file).absolute()),
        since=since,
    )


def _engine(options: JobOptions) -> Engine:
    memory_bytes = (options.memory_limit_mb or 0) * 10**6
    if options.engine == "ray":
        from thresher_export.jobs.ray_engine import RayEngine

        return RayEngine(options.logs, memory_bytes=memory_bytes)
    return LocalEngine(options.logs, num_workers=options.num_workers, memory_bytes=memory_bytes)


class _StopNow(BaseException):
    """A signal came where there is nothing to tidy up."""


@dataclass(slots=True)
class _Stop:
    signal: int | None = None
    may_raise: bool = True


@contextlib.contextmanager
def _signals() -> Iterator[_Stop]:
    """Yield what notes the first of `_SIGNALS`; outside the main thread they are not seen."""
    stop = _Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def note(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 -- the handler's form
        stop.signal = stop.signal or number
        if stop.may_raise:
            stop.may_raise = False
            raise _StopNow

    before: dict[int, Any] = {number: signal.signal(number, note) for number in _SIGNALS}
    try:
        yield stop
    finally:
        stop.may_raise = False
        for number, handler in before.items():
            signal.signal(number, handler)
