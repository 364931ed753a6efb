"""What runs in a worker: one version after another, torch imported once, output in logs.

`main` is the whole program of a local worker. It is given one end of a socket pair, through which
tasks come in and replies go out, pickled. The other end's closing ends the worker; where its parent
is killed the system kills it too (Linux).
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import re
import resource
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from thresher.errors import ThresherError
from thresher.repository import ModelRepository
from thresher.served_state import ServedState
from thresher_export.jobs.report import Cause, Status

if TYPE_CHECKING:
    from thresher_export.pipeline import ExportOptions

__all__ = ["READY", "Reply", "Task", "limit_memory", "main", "perform"]

READY = "ready"
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG, prctl(2)
_NO_MEMORY = re.compile(r"can't allocate memory|bad_alloc|[Cc]annot allocate memory|out of memory")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One version to export."""

    name: str
    version: int
    repository: str | None
    """The model repository's folder; None proves without publishing."""
    options: ExportOptions
    log: str
    since: ServedState | None = None
    """What served of the model when the job began."""

    @property
    def uri(self) -> str:
        """The URI that names exactly this version."""
        return f"models:/{self.name}/{self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came of it, from inside."""

    status: Status
    cause: Cause | None = None
    reason: str = ""
    reused: int | None = None
    is_spent: bool = False
    """Whether the worker should be replaced: it ran out of memory."""


def perform(task: Task) -> Reply:
    """Export one version, with everything that is printed meanwhile in the task's log."""
    with _output_into(Path(task.log)):
        try:
            return _export(task)
        except ThresherError as error:
            text = str(error)
            print(f"\n{type(error).__name__}: {text}", flush=True)  # noqa: T201 -- the log
            if _NO_MEMORY.search(text):
                return Reply(status="failed", cause="memory", reason=text, is_spent=True)
            return Reply(status="failed", cause="refused", reason=text)
        except BaseException as error:  # noqa: BLE001 -- SystemExit too: it must not end the worker
            traceback.print_exc()
            text = f"{type(error).__name__}: {error}".strip()
            if isinstance(error, MemoryError) or _NO_MEMORY.search(text):
                return Reply(status="failed", cause="memory", reason=text, is_spent=True)
            return Reply(status="failed", cause="unexpected", reason=text)


def _export(task: Task) -> Reply:
    from thresher_export.pipeline import export_version

    start = time.perf_counter()

    def show(text: str) -> None:
        print(f"{time.perf_counter() - start:8.2f} s  {text}", flush=True)  # noqa: T201 -- the log

    repository = None if task.repository is None else ModelRepository(Path(task.repository))
    done = export_version(
        task.uri, repository=repository, options=task.options, since=task.since, progress=show
    )
    show("done")
    if repository is None:
        return Reply(status="proven", reused=done.reused)
    status: Status = "published" if done.is_new else "unchanged"
    return Reply(status=status, reason=done.kept, reused=done.reused)


def limit_memory(num_bytes: int) -> None:
    """Let this process allocate so much more than it holds now; 0 sets no limit.

    Beyond it allocations fail, and the version with them, before the machine runs short.
    """
    if not num_bytes:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = _data_bytes() + num_bytes
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    with contextlib.suppress(OSError, ValueError):  # systems that know no such limit
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def _data_bytes() -> int:
    """Return what counts towards RLIMIT_DATA now; 0 where the system does not say."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return 0
    found = re.search(r"^VmData:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


@contextlib.contextmanager
def _output_into(log: Path) -> Iterator[None]:
    """Send standard output and error to a file: Python's, and what libraries in C++ write."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    before = os.dup(1), os.dup(2)
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, old in zip((1, 2), before, strict=True):
            os.dup2(old, descriptor)
            os.close(old)


def main() -> None:
    """Serve tasks until the other end is closed; arguments are its descriptor and a limit."""
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        return
    faulthandler.enable()  # a crash in C++ leaves its stack in the log
    fd, memory_bytes = int(sys.argv[1]), int(sys.argv[2])
    with Connection(fd) as pipe:
        import thresher_export.pipeline  # noqa: F401 -- before the first task's time runs
        from thresher.registry import connect

        connect()
        limit_memory(memory_bytes)
        pipe.send(READY)
        with contextlib.suppress(EOFError):
            while True:
                task: Task = pipe.recv()
                pipe.send(perform(task))
