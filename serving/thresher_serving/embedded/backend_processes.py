"""The processes in which a server's Python-based backend runs, one for each instance of a model."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from thresher_serving.embedded.version_health import IDLE_SHARE

__all__ = ["BackendProcesses", "Children", "num_processes"]

_STUB = "triton_python_backend_stub"

_LISTED_S = 0.2
"""How old a list of children may be: to make one, every process of the machine is looked at."""


class Children:
    """The processes that a server has started; threads share what one of them has listed.

    Args:
        server: The server's process id.
    """

    def __init__(self, server: int) -> None:
        self._server = server
        self._lock = threading.Lock()
        self._listed = float("-inf")
        self._found: list[psutil.Process] = []

    def found(self, *, is_new: bool) -> list[psutil.Process]:
        """Return them, as of now or, unless `is_new`, of a moment ago; some may be gone."""
        with self._lock:
            now = time.monotonic()
            if is_new or now - self._listed > _LISTED_S:
                self._listed = now
                try:
                    self._found = psutil.Process(self._server).children()
                except psutil.Error:
                    self._found = []
            return self._found


def num_processes(config: Any, backend_directory: Path) -> int:
    """Return in how many processes a version of a model runs; 0 where it runs inside Triton.

    Args:
        config: tritonclient's ModelConfig, as the server tells it.
        backend_directory: Where the server's backends are.

    Source: Triton's backend documents, release 24.10 (Python-based backends).
    """
    is_python = (backend_directory / config.backend / "model.py").is_file()
    if not is_python and config.backend != "python":
        return 0
    return sum(group.count * max(1, len(group.gpus)) for group in config.instance_group)


@dataclass(frozen=True, slots=True)
class _Backend:
    """A living backend process."""

    process: psutil.Process
    name: str
    version: int


@dataclass(frozen=True, slots=True)
class _Stillness:
    """Since when a backend process has done nothing, and has not waited for a request either."""

    since: float
    wakes: int
    cpu_s: float


class BackendProcesses:
    """Which of a server's backend processes have died, do not run, or do nothing.

    Triton waits for each process that it ends itself, and for none that died: such a one stays in
    the list of processes as a zombie, without its command line, which goes a little earlier. So a
    version has lost a process where fewer live than it needs, and one is dead that was not before.

    Args:
        children: The server's processes.
        repository: Its model repository; a process's second argument is a file in there.
    """

    def __init__(self, children: Children, repository: Path) -> None:
        self._children = children
        self._repository = repository.resolve()
        self._known: dict[tuple[str, int], int] = {}
        self._pulses: dict[int, int] = {}
        self._beats: dict[int, tuple[int, float]] = {}
        self._judged = time.monotonic()
        self._still: dict[int, _Stillness] = {}
        self._left: dict[int, tuple[float, float]] = {}
        self._buried: set[int] = set()
        self.look(is_new=True)

    def look(self, *, is_new: bool = False) -> None:
        """Look at them now; what the other methods tell is as of then.

        Args:
            is_new: Whether a process that was started in this moment must be seen too.
        """
        self._living: list[_Backend] = []
        self._dead: set[int] = set()
        for child in self._children.found(is_new=is_new):
            with contextlib.suppress(psutil.Error):
                is_zombie = child.status() == psutil.STATUS_ZOMBIE
                command = [] if is_zombie else child.cmdline()
                if command:
                    self._living += self._backend(child, command)
                elif _STUB.startswith(child.name()):
                    self._dead.add(child.pid)

    def _backend(self, process: psutil.Process, command: list[str]) -> list[_Backend]:
        program, *arguments = command
        if Path(program).name != _STUB or not arguments:
            return []
        path = Path(arguments[0])
        parts = path.parts[len(self._repository.parts) :]
        if not path.is_relative_to(self._repository) or len(parts) < 3 or not parts[1].isdecimal():
            return []
        return [_Backend(process, parts[0], int(parts[1]))]

    def _of(self, name: str, version: int) -> list[_Backend]:
        return [
            one
            for one in self._living
            if (one.name, one.version) == (name, version) and one.process.pid not in self._left
        ]

    def pids(self, name: str, version: int) -> list[int]:
        """Return the ids of a version's living processes."""
        return [one.process.pid for one in self._of(name, version)]

    def expect(self, name: str, version: int, count: int) -> None:
        """Take a number of processes for those that a version needs; it has just been loaded."""
        self._known[name, version] = count

    def remember(self, name: str, version: int) -> None:
        """Take the processes that a version has for those that it needs; it answers."""
        if pids := self.pids(name, version):
            self._known[name, version] = len(pids)

    def has_dead(self) -> bool:
        """Return whether a process is dead that was not known to be."""
        return bool(self._dead - self._buried)

    def has_died(self, name: str, version: int) -> bool:
        """Return whether a version has fewer processes than it needs, and one is dead."""
        lost = len(self.pids(name, version)) < self._known.get((name, version), 0)
        return lost and self.has_dead()

    def bury(self) -> None:
        """Take those that are dead now for known."""
        self.look(is_new=True)
        self._buried |= self._dead

    def kill_stalled(self, *, after_s: float) -> dict[tuple[str, int], list[int]]:
        """Kill the processes whose heartbeat has stopped; return their ids by name and version.

        Nobody is judged by a time in which this process itself did not run. One that ends, as its
        version is unloaded, has ended its heartbeat first; to kill it then would hurt Triton.
        """
        now, killed = time.monotonic(), defaultdict(list)
        if now - self._judged > after_s / 2:
            self._beats.clear()
        self._judged, before = now, self._beats
        self._beats, pulses, self._pulses = {}, self._pulses, {}
        for one in self._living:
            pid = one.process.pid
            pulse = pulses.get(pid) or _pulse(pid)
            if pulse is None:
                continue
            self._pulses[pid] = pulse
            beats = _switches(pid, pulse)
            if not beats:  # Triton waits for the first one without an end; after the last it ends
                continue
            count, since = before.get(pid, (beats, now))
            self._beats[pid] = beats, since if beats == count else now
            if beats == count and now - since > after_s and _kill(one):
                killed[one.name, one.version].append(pid)
        return dict(killed)

    def stuck(self, name: str, version: int, *, after_s: float) -> list[int]:
        """Return the ids of a version's processes that have hung at one request for so long.

        The others may well answer. One that waits for a request wakes every second, and one that
        computes uses the processor.

        Source: python_backend r24.10, pb_stub.cc (PopMessage).
        """
        now, found = time.monotonic(), []
        for one in self._of(name, version):
            pid, used = one.process.pid, _cpu_s(one)
            wakes = _switches(pid, pid)
            before = self._still.get(pid)
            if (
                before is None
                or wakes != before.wakes
                or used - before.cpu_s > IDLE_SHARE * (now - before.since)
            ):
                self._still[pid] = _Stillness(now, wakes, used)
            elif now - before.since > after_s:
                found.append(pid)
        return found

    def needed(self, name: str, version: int) -> int:
        """Return how many processes a version needs; 0 where that is not known."""
        return self._known.get((name, version), 0)

    def replaced(self, name: str, version: int, pids: Collection[int], *, by: int) -> None:
        """Take processes for left over if their version runs in so many others now.

        Triton ends them as a rule. It does not where one of them died at a request.
        """
        now, living = time.monotonic(), self._of(name, version)
        old = {one.process.pid: (now, _cpu_s(one)) for one in living if one.process.pid in pids}
        if len(living) - len(old) >= max(1, by):
            self._left |= old
            self.remember(name, version)

    def end_left(self, *, after_s: float) -> dict[tuple[str, int], list[int]]:
        """Kill what was left over so long ago and does nothing; return ids by name and version."""
        now, before, killed = time.monotonic(), self._left, defaultdict(list)
        self._left = {}
        for one in self._living:
            pid = one.process.pid
            if pid not in before:
                continue
            (since, used), now_used = before[pid], _cpu_s(one)
            if now_used - used > IDLE_SHARE * (now - since):
                self._left[pid] = now, now_used  # it is at a request still
            elif now - since <= after_s:
                self._left[pid] = since, used
            elif _kill(one):
                self._buried.add(pid)
                killed[one.name, one.version].append(pid)
        return dict(killed)

    def kill(self, name: str, version: int, pids: Collection[int] | None = None) -> None:
        """Kill a version's processes, or those of them that are named."""
        for one in self._of(name, version):
            if pids is None or one.process.pid in pids:
                _kill(one)

    def cpu_s(self, name: str, version: int) -> float:
        """Return the processor time that a version's living processes have used, in seconds."""
        return sum(map(_cpu_s, self._of(name, version)))


def _kill(one: _Backend) -> bool:
    try:
        one.process.kill()
    except psutil.Error:
        return False
    return True


def _cpu_s(one: _Backend) -> float:
    try:
        times = one.process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def _pulse(pid: int) -> int | None:
    """Return the thread of a backend process that is its heartbeat; None where it has none yet.

    The first thread that it starts sleeps for 0.3 seconds, tells Triton that it lives, and so on,
    whatever the others do. It tells by itself whether the process runs at all.

    Source: python_backend r24.10, pb_stub.cc (main).
    """
    with contextlib.suppress(OSError, IndexError):
        return int(os.listdir(f"/proc/{pid}/task")[1])  # noqa: PTH208 - in the order they started
    return None


def _switches(pid: int, thread: int) -> int:
    """Return how often a thread of a process has gone to sleep; 0 where there is no such thread."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        status = Path(f"/proc/{pid}/task/{thread}/status").read_text()
        return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])
    return 0
