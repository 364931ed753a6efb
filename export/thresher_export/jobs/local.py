"""Workers that are processes of this machine, bounded in threads and memory."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path

from thresher_export.jobs.worker import READY, Reply, Task

__all__ = ["LocalEngine", "LocalWorker", "available_bytes"]

_PROGRAM = "from thresher_export.jobs.worker import main; main()"
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_DYING_S = 5.0
"""From the closing of its end of the pair to a worker's end: a core dump may be written."""
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_MEMORY_FILES = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def available_bytes() -> int:
    """Return the memory that this process may use: the machine's, or its container's if less."""
    machine = os.sysconf("SC_PHYS_PAGES") * _PAGE_BYTES
    limits = [machine]
    for path in _MEMORY_FILES:
        with contextlib.suppress(OSError, ValueError):  # "max" is no number
            limits.append(int(Path(path).read_text(encoding="ascii")))
    return min(limits)


class LocalWorker:
    """One process, in a session of its own so that all of it can be ended at once.

    Args:
        log: Takes what it prints while it starts.
        num_threads: For each library that computes.
        memory_bytes: What it may allocate beyond its start; 0 for no limit.
    """

    def __init__(self, log: Path, *, num_threads: int, memory_bytes: int) -> None:
        self.log = log
        self.is_ready = False
        log.parent.mkdir(parents=True, exist_ok=True)
        ours, its = socket.socketpair()
        threads = dict.fromkeys(_THREADS, str(num_threads))
        with its, log.open("wb") as output:
            self._process = subprocess.Popen(
                # -P: a module that lies in the working folder is not taken for a package
                [sys.executable, "-P", "-c", _PROGRAM, str(its.fileno()), str(memory_bytes)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **threads},
                pass_fds=[its.fileno()],
                start_new_session=True,
            )
        self.connection = Connection(ours.detach())

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def submit(self, task: Task) -> None:
        """Give the worker a task; `receive` tells what came of it."""
        with contextlib.suppress(BrokenPipeError):  # it has died: `receive` says so
            self.connection.send(task)

    def receive(self) -> Reply | None:
        """Return the reply that has come; None where the worker says that it has started.

        Raises:
            EOFError: If the worker has died.
        """
        try:
            message = self.connection.recv()
        except (EOFError, ConnectionResetError):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=_DYING_S)
            raise EOFError from None
        if message == READY:
            self.is_ready = True
            return None
        assert isinstance(message, Reply)
        return message

    def resident_bytes(self) -> int | None:
        """Return the memory that it holds; None where the system does not say (no ``/proc``)."""
        try:
            fields = Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split()
            return int(fields[1]) * _PAGE_BYTES
        except (OSError, IndexError):
            return None

    def end(self) -> str:
        """End the process and all that it started; return how it had ended, if it had."""
        code = self._process.poll()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self.connection.close()
        if code is None:
            return "ended from here"
        if code < 0:
            return f"killed by {signal.Signals(-code).name}"
        return f"exit code {code}"


class LocalEngine:
    """Makes workers on this machine and waits for them.

    Args:
        logs: The folder for what workers print while they start.
        num_workers: How many there will be; threads and memory are shared out among them.
        memory_bytes: What each may hold; 0 shares four fifths of the memory out.
    """

    name = "local"
    start_timeout_s = 300.0

    def __init__(self, logs: Path, *, num_workers: int, memory_bytes: int = 0) -> None:
        self._logs = logs
        self._num_started = 0
        self.memory_bytes = memory_bytes or available_bytes() * 4 // 5 // num_workers
        self._num_threads = max(1, (os.cpu_count() or 1) // num_workers)

    def start(self) -> LocalWorker:
        """Return a new worker, which is starting."""
        self._num_started += 1
        return LocalWorker(
            self._logs / f"worker-{self._num_started}.log",
            num_threads=self._num_threads,
            memory_bytes=self.memory_bytes,
        )

    def wait(self, workers: Sequence[LocalWorker], timeout_s: float) -> list[LocalWorker]:
        """Return the workers that have something to say, as soon as one has or time is up."""
        if not workers:
            time.sleep(timeout_s)
            return []
        ready = wait([worker.connection for worker in workers], timeout_s)
        return [worker for worker in workers if worker.connection in ready]

    def close(self) -> None:
        """Nothing is left to end."""
