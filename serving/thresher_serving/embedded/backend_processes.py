"""The processes in which a server's Python-based backend runs, one for each instance of a model."""

from __future__ import annotations

from pathlib import Path

import psutil

__all__ = ["BackendProcesses"]

_STUB = "triton_python_backend_stub"


class BackendProcesses:
    """Which of a server's backend processes have died.

    Triton waits for each process that it ends itself, and for none that died: such a one stays in
    the list of processes as a zombie, without its command line. So a version has lost a process
    where fewer live than when it last answered, and a zombie is there that was not before.

    Args:
        server: The server's process id.
        repository: Its model repository; a process's second argument is a file in there.
    """

    def __init__(self, server: int, repository: Path) -> None:
        self._server = server
        self._repository = repository.resolve()
        self._buried: set[int] = self._now()[1]
        self._known: dict[tuple[str, int], int] = {}

    def living(self, name: str, version: int) -> int:
        """Return how many processes a version has."""
        return self._now()[0].count((name, version))

    def remember(self, name: str, version: int) -> None:
        """Take the processes that a version has now for those that it needs."""
        self._known[name, version] = self.living(name, version)

    def has_died(self, name: str, version: int) -> bool:
        """Return whether a version has fewer processes than it had, and one is dead."""
        known = self._known.get((name, version), 0)
        if not known:
            return False
        living, dead = self._now()
        return living.count((name, version)) < known and bool(dead - self._buried)

    def bury(self) -> None:
        """Take those that are dead now for known."""
        self._buried |= self._now()[1]

    def _now(self) -> tuple[list[tuple[str, int]], set[int]]:
        """Return the model and version of each living process, and the ids of the dead."""
        living: list[tuple[str, int]] = []
        dead: set[int] = set()
        try:
            children = psutil.Process(self._server).children()
        except psutil.Error:
            return living, dead
        for child in children:
            try:
                if child.status() == psutil.STATUS_ZOMBIE:
                    if _STUB.startswith(child.name()):
                        dead.add(child.pid)
                    continue
                program, *arguments = child.cmdline() or [""]
            except psutil.Error:
                continue
            if Path(program).name != _STUB or not arguments:
                continue
            path = Path(arguments[0])
            if path.is_relative_to(self._repository):
                parts = path.relative_to(self._repository).parts
                if len(parts) > 2 and parts[1].isdecimal():
                    living.append((parts[0], int(parts[1])))
        return living, dead
