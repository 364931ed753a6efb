"""Hands versions to workers: a time limit, a memory limit and a fresh worker for each that is lost.

Versions of one model follow each other, ascending, so that the highest is published last; models
run side by side.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from thresher.errors import PublishError
from thresher_export.jobs.report import Cause, Outcome
from thresher_export.jobs.worker import Reply, Task

__all__ = ["Engine", "Limits", "Schedule", "Worker"]

_POLL_S = 0.05
_MAX_FAILED_STARTS = 3


class Worker(Protocol):
    """What can be given a task at a time."""

    log: Path
    is_ready: bool

    @property
    def pid(self) -> int:
        """The process's number; 0 until it is known."""

    def submit(self, task: Task) -> None:
        """Give it a task."""

    def receive(self) -> Reply | None:
        """Return the reply that has come, None for being ready; EOFError if it died."""

    def resident_bytes(self) -> int | None:
        """Return the memory that it holds, None where nobody can say."""

    def end(self) -> str:
        """End it; return how it had ended by itself, if it had."""


class Engine(Protocol):
    """What makes workers and waits for them."""

    name: str
    memory_bytes: int
    start_timeout_s: float

    def start(self) -> Any:
        """Return a new worker, which is starting."""

    def wait(self, workers: Sequence[Any], timeout_s: float) -> Sequence[Any]:
        """Return the workers that have something to say, or none when time is up."""

    def close(self) -> None:
        """Give back what is held for all workers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one version may cost."""

    time_s: float = 600.0


@dataclass(slots=True, eq=False)
class _Seat:
    """A worker with its task."""

    worker: Worker
    since: float
    task: Task | None = None
    peak_bytes: int = 0
    usual_bytes: int = 0
    """What it held after its first version: torch and what the export imports."""


class Schedule:
    """Runs tasks on workers until all are done or it is told to stop.

    Args:
        tasks: Versions of one model stand in the order in which they are published.
        engine: Makes workers.
        num_workers: How many run side by side.
        limits: What one version may cost.
        emit: Called with the name of each event and what belongs to it.
        is_stopped: Asked often; True ends all workers at once.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        engine: Engine,
        *,
        num_workers: int,
        limits: Limits,
        emit: Callable[..., None],
        is_stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._waiting: dict[str, deque[Task]] = {}
        for task in tasks:
            self._waiting.setdefault(task.name, deque()).append(task)
        self._order = deque(self._waiting)
        self._engine = engine
        self._num_workers = num_workers
        self._limits = limits
        self._emit = emit
        self._is_stopped = is_stopped
        self._seats: list[_Seat] = []
        self._failed_starts = 0
        self.num_replaced = 0
        self.outcomes: list[Outcome] = []

    def run(self) -> list[Outcome]:
        """Return what came of each task; what was in work when it was stopped is said to be.

        Raises:
            PublishError: If workers cannot be started at all.
        """
        try:
            while (self._order or self._seats) and not self._is_stopped():
                self._fill()
                self._step()
        finally:
            for seat in self._seats:
                seat.worker.end()
                if seat.task is not None:
                    self._finish(seat, "stopped", None, "the job was ended from outside")
            self._seats.clear()
            for task in (task for queue in self._waiting.values() for task in queue):
                self.outcomes.append(
                    Outcome(name=task.name, version=task.version, status="not reached")
                )
        return self.outcomes

    def _fill(self) -> None:
        """Start as many workers as there is work for, and give work to those that are ready."""
        idle = [seat for seat in self._seats if seat.task is None]
        for seat in idle:
            if not self._order:
                seat.worker.end()
                self._seats.remove(seat)
                continue
            if not seat.worker.is_ready:
                continue
            name = self._order.popleft()
            seat.task = self._waiting[name].popleft()
            seat.since, seat.peak_bytes = time.monotonic(), 0
            self._emit("version_started", **_of(seat.task), worker=seat.worker.pid)
            seat.worker.submit(seat.task)
        num_needed = len(self._order) - sum(seat.task is None for seat in self._seats)
        for _ in range(min(num_needed, self._num_workers - len(self._seats))):
            self._seats.append(_Seat(self._engine.start(), time.monotonic()))

    def _step(self) -> None:
        """Wait a moment; take replies, and end workers that are over a limit or dead."""
        by_worker = {id(seat.worker): seat for seat in self._seats}
        for worker in self._engine.wait([seat.worker for seat in self._seats], _POLL_S):
            seat = by_worker[id(worker)]
            try:
                reply = worker.receive()
            except EOFError:
                self._lost(seat)
                continue
            if reply is None:
                self._failed_starts = 0  # they can start after all
            else:
                self._take(seat, reply)
        for seat in list(self._seats):
            if (broken := self._broken_limit(seat)) is not None:
                self._replace(seat, *broken)

    def _take(self, seat: _Seat, reply: Reply) -> None:
        held = self._watch(seat)
        seat.usual_bytes = seat.usual_bytes or held
        self._finish(seat, reply.status, reply.cause, reply.reason, reused=reply.reused)
        # one that has grown to most of what it may hold leaks: the next version would pay for it
        has_grown = held > max(0.8 * self._engine.memory_bytes, 1.25 * seat.usual_bytes)
        if reply.is_spent or (has_grown and self._engine.memory_bytes):
            self._discard(seat, "it had run out of memory" if reply.is_spent else "it had grown")

    def _lost(self, seat: _Seat) -> None:
        """Take note of a worker that died by itself."""
        how = seat.worker.end()
        if seat.task is None:
            self._seats.remove(seat)
            self._failed_starts += not seat.worker.is_ready
            if self._failed_starts >= _MAX_FAILED_STARTS:
                raise PublishError(
                    f"{self._failed_starts} workers died while they started, the last with {how}: "
                    f"{_tail(seat.worker.log)}"
                )
            return
        reason = f"it took its worker with it: {how}"
        if last := _tail(Path(seat.task.log)):
            reason += f"; the log ends with: {last}"
        self._replace(seat, "died", reason)

    def _broken_limit(self, seat: _Seat) -> tuple[Cause, str] | None:
        age_s = time.monotonic() - seat.since
        if seat.task is None:
            if not seat.worker.is_ready and age_s > self._engine.start_timeout_s:
                raise PublishError(
                    f"a worker did not start within {self._engine.start_timeout_s:g} s: "
                    f"{_tail(seat.worker.log)}"
                )
            return None
        if age_s > self._limits.time_s:
            return "time", f"not done after {self._limits.time_s:g} s, the time limit"
        held = self._watch(seat)
        limit = self._engine.memory_bytes
        if limit and held > limit:
            return "memory", (
                f"its worker held {held / 1e6:,.0f} MB, the memory limit is {limit / 1e6:,.0f} MB"
            )
        return None

    def _watch(self, seat: _Seat) -> int:
        held = seat.worker.resident_bytes() or 0
        seat.peak_bytes = max(seat.peak_bytes, held)
        return held

    def _replace(self, seat: _Seat, cause: Cause, reason: str) -> None:
        self._finish(seat, "failed", cause, reason)
        self._discard(seat, reason)

    def _discard(self, seat: _Seat, reason: str) -> None:
        pid = seat.worker.pid
        seat.worker.end()
        self._seats.remove(seat)
        self.num_replaced += 1
        self._emit("worker_replaced", worker=pid, reason=reason)

    def _finish(
        self, seat: _Seat, status: Any, cause: Cause | None, reason: str, reused: int | None = None
    ) -> None:
        task = seat.task
        assert task is not None
        seat.task = None
        outcome = Outcome(
            name=task.name,
            version=task.version,
            status=status,
            cause=cause,
            reason=reason,
            seconds=time.monotonic() - seat.since,
            peak_mb=round(seat.peak_bytes / 1e6, 1) if seat.peak_bytes else None,
            reused=reused,
            log=task.log,
        )
        self.outcomes.append(outcome)
        if self._waiting[task.name]:
            self._order.appendleft(task.name)  # the model's next version is free to go
        else:
            del self._waiting[task.name]
        self._emit(
            "version_finished",
            **_of(task),
            status=status,
            cause=cause,
            reason=reason,
            seconds=round(outcome.seconds, 3),
            log=task.log,
        )


def _of(task: Task) -> dict[str, Any]:
    return {"name": task.name, "version": task.version}


def _tail(log: Path) -> str:
    """Return the last words of a log as one line; of a crash, what crashed and where."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    crash = [at for at, line in enumerate(lines) if line.startswith("Fatal Python error")]
    if crash:
        stack = (line for line in lines[crash[-1] :] if line.startswith("File "))
        lines = [lines[crash[-1]], *stack][:2]
    return " / ".join(lines[-3:])[-400:]
