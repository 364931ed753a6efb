"""The processes in which a server's Python-based backend runs, one for each instance of a model."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import psutil

__all__ = ["BackendProcesses", "Children"]

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


@dataclass(frozen=True, slots=True)
class _Backend:
    """A living backend process."""

    process: psutil.Process
    name: str
    version: int


class BackendProcesses:
    """Which of a server's backend processes have died, do not run, or do nothing.

    Triton waits for each process that it ends itself, and for none that died: such a one stays in
    the list of processes as a zombie, without its command line, which goes a little earlier. So a
    version has lost a process where fewer live than when it last answered, and one is dead that
    was not before.

    Args:
        children: The server's processes.
        repository: Its model repository; a process's second argument is a file in there.
    """

    def __init__(self, children: Children, repository: Path) -> None:
        self._children = children
        self._repository = repository.resolve()
        self._known: dict[tuple[str, int], int] = {}
        self._beats: dict[int, tuple[int, float]] = {}
        self._judged = time.monotonic()
        self.look(is_new=True)
        self._buried = set(self._dead)
        for one in self._living:  # so that one is missed which dies before its version is asked
            self.remember(one.name, one.version)

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
        return [one for one in self._living if (one.name, one.version) == (name, version)]

    def pids(self, name: str, version: int) -> list[int]:
        """Return the ids of a version's living processes."""
        return [one.process.pid for one in self._of(name, version)]

    def remember(self, name: str, version: int) -> None:
        """Take the processes that a version has for those that it needs; it answers."""
        if pids := self.pids(name, version):
            self._known[name, version] = len(pids)

    def has_dead(self) -> bool:
        """Return whether a process is dead that was not known to be."""
        return bool(self._dead - self._buried)

    def has_died(self, name: str, version: int) -> bool:
        """Return whether a version has fewer processes than it had, and one is dead."""
        lost = len(self.pids(name, version)) < self._known.get((name, version), 0)
        return lost and self.has_dead()

    def bury(self) -> None:
        """Take those that are dead now for known."""
        self.look(is_new=True)
        self._buried |= self._dead

    def kill_stalled(self, *, after_s: float) -> dict[tuple[str, int], list[int]]:
        """Kill the processes whose heartbeat has stopped; return their ids by name and version.

        Nobody is judged by a time in which this process itself did not run.
        """
        now, killed = time.monotonic(), defaultdict(list)
        if now - self._judged > after_s / 2:
            self._beats.clear()
        self._judged, before = now, self._beats
        self._beats = {}
        for one in self._living:
            pid, beats = one.process.pid, _heartbeats(one.process.pid)
            if beats is None:
                continue
            count, since = before.get(pid, (beats, now))
            self._beats[pid] = beats, since if beats == count else now
            if beats == count and now - since > after_s and _kill(one):
                killed[one.name, one.version].append(pid)
        return dict(killed)

    def kill(self, name: str, version: int) -> None:
        """Kill a version's processes."""
        for one in self._of(name, version):
            _kill(one)

    def cpu_s(self, name: str, version: int) -> float:
        """Return the processor time that a version's living processes have used, in seconds."""
        used = 0.0
        for one in self._of(name, version):
            with contextlib.suppress(psutil.Error):
                times = one.process.cpu_times()
                used += times.user + times.system
        return used


def _kill(one: _Backend) -> bool:
    try:
        one.process.kill()
    except psutil.Error:
        return False
    return True


def _heartbeats(pid: int) -> int | None:
    """Return a number that grows with each heartbeat of a backend process; None before its first.

    Until then Triton waits for it without an end, and would not notice that it is gone.

    The first thread that it starts sleeps for 0.3 seconds, tells Triton that it lives, and so on,
    whatever the others do. It tells by itself whether the process runs at all.

    Source: python_backend r24.10, pb_stub.cc (main).
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        thread = os.listdir(f"/proc/{pid}/task")[1]  # noqa: PTH208 - in the order they started in
        status = Path(f"/proc/{pid}/task/{thread}/status").read_text()
        return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0]) or None
    return None
