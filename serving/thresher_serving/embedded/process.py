"""Starts Triton's process in a session of its own, and ends it with everything it started.

Source: Triton's server.cc and its python backend, release 24.10 (what a dead backend leaves).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from thresher.errors import ServerError

__all__ = [
    "created",
    "exit_words",
    "hide_shared_memory",
    "interrupts_deferred",
    "is_alive",
    "last_lines",
    "reap",
    "remove_shared_memory",
    "spawn",
    "terminate",
    "wait_for_child",
]

_SAME_S = 0.05
"""How far two readings of a process's start may differ."""

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Triton's python backend makes its regions

_BACKEND = "triton_python_b"
"""What Linux calls a backend process: the first 15 letters of its program's name."""

_DEAD_FOR_S = 2.0
"""How long nothing but dead backends may be left before a server is not waited for any longer."""

_EXIT_CODE_S = 5.0
"""How long the exit code of a process that has ended may take."""

_PR_SET_PDEATHSIG = 1
"""The option of prctl(2) by which a process gets a signal when its parent ends."""

_LIBC = ctypes.CDLL(None)

_CHILDREN: dict[int, subprocess.Popen[Any]] = {}
"""The servers and supervisors that this process started: each must be waited for here."""


@contextlib.contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Hold a Ctrl-C back until the block is done, so that no process is started and forgotten."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    seen: list[int] = []

    def remember(number: int, _frame: FrameType | None) -> None:
        seen.append(number)

    before = signal.signal(signal.SIGINT, remember)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if seen:
        raise KeyboardInterrupt


def spawn(
    command: Sequence[str],
    environment: Mapping[str, str],
    log_file: Path,
    *,
    new_log: bool = True,
    ends_with_us: bool = False,
) -> int:
    """Return the process id of a server started in a session of its own.

    Files that it makes are its user's alone.

    Args:
        command: The program and its arguments.
        environment: Its environment.
        log_file: Where its output goes, by appending: its supervisor writes there too.
        new_log: Whether the log is emptied first.
        ends_with_us: Whether the server gets SIGTERM when the calling thread ends, however it ends.

    Raises:
        ServerError: If the binary cannot be started or the log cannot be written.
    """
    parent = os.getpid()

    def end_with_parent() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it ended before the line above
            os._exit(1)

    try:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        if new_log:
            log_file.write_bytes(b"")
        with log_file.open("ab") as log:
            process = subprocess.Popen(
                command,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                umask=0o077,
                # it calls prctl(2) and nothing else
                preexec_fn=end_with_parent if ends_with_us else None,  # noqa: PLW1509
            )
    except OSError as error:
        raise ServerError(f"{command[0]} cannot be started, log {log_file}: {error}") from None
    wait_for_child(process)
    return process.pid


def wait_for_child(process: subprocess.Popen[Any]) -> None:
    """Have `is_alive` and `terminate` wait for a child of this process once it has ended."""
    _CHILDREN[process.pid] = process


def reap(pid: int, *, timeout_s: float) -> None:
    """Wait for the end of a process, where it is a child of this one."""
    if child := _CHILDREN.pop(pid, None):
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout_s)


def created(pid: int) -> float | None:
    """Return when a process was started, in seconds since the epoch; None if there is none."""
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return None


def is_alive(pid: int, created_at: float) -> bool:
    """Return whether the very process that was started then still runs (a zombie does not)."""
    child = _CHILDREN.get(pid)
    if child is not None and child.poll() is not None:
        return False
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - created_at) < _SAME_S
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def exit_words(pid: int) -> str:
    """Return how a server that this process started has ended, such as "ended by SIGKILL"."""
    child = _CHILDREN.get(pid)
    try:
        # Linux calls a process a zombie once its first thread has ended: others may still run
        code = None if child is None else child.wait(_EXIT_CODE_S)
    except subprocess.TimeoutExpired:
        code = None
    if code is None:
        return "ended"
    if code >= 0:
        return f"ended with exit code {code}"
    with contextlib.suppress(ValueError):
        return f"was ended by {signal.Signals(-code).name}"
    return f"was ended by signal {-code}"


def terminate(
    pid: int,
    created_at: float,
    *,
    timeout_s: float,
    is_urgent: Callable[[], bool] = lambda: False,
) -> bool:
    """End a server and all processes of its session; return whether it went by itself.

    SIGTERM goes to the server only, so that it can finish what is in flight and end its own
    helpers; what is left after the time goes with SIGKILL. So does a server that waits for nothing
    but backend processes that died before: Triton counts those as live models for ever.

    Args:
        pid: The server.
        created_at: When it was started.
        timeout_s: How long it may take.
        is_urgent: Asked all the while; once it returns True, the server is given no more time.
    """
    interrupted = False
    try:
        if is_alive(pid, created_at):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            _wait_gone(pid, created_at, timeout_s, is_urgent)
    except KeyboardInterrupt:  # a second Ctrl-C: the server is ended without grace
        interrupted = True
    went = not is_alive(pid, created_at)
    if not went:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + 5
    while (left := _session(pid, created_at)) and time.monotonic() < end:
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        time.sleep(0.01)
    if child := _CHILDREN.pop(pid, None):
        child.wait()
    if interrupted:
        raise KeyboardInterrupt
    return went


def hide_shared_memory(prefix: str) -> None:
    """Let no other user read a server's regions of shared memory, which hold requests' tensors.

    Triton's Python backend makes them readable to everybody, whatever its umask is (2.51.0: Boost
    sets the mode itself), when it starts to load a model; requests come later.

    Args:
        prefix: What the names of the regions begin with.
    """
    for region in _SHARED_MEMORY.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            region.chmod(0o600)


def remove_shared_memory(prefix: str) -> None:
    """Remove the regions of shared memory whose names begin so: a server that is killed does not.

    Args:
        prefix: What `server_command` gave the server; empty removes nothing.
    """
    if prefix:
        for region in _SHARED_MEMORY.glob(f"{prefix}*"):
            region.unlink(missing_ok=True)


def _wait_gone(
    pid: int, created_at: float, timeout_s: float, is_urgent: Callable[[], bool]
) -> None:
    """Wait until a server is gone, the time is over, or all that it waits for is dead."""
    now = time.monotonic()
    end, dead_since, look = now + timeout_s, None, now
    while is_alive(pid, created_at) and now < end and not is_urgent():
        time.sleep(0.02)
        now = time.monotonic()
        if now < look:
            continue
        look = now + 0.25
        if not _waits_for_the_dead(pid):
            dead_since = None
        elif dead_since is None:
            dead_since = now
        elif now - dead_since > _DEAD_FOR_S:
            return


def _waits_for_the_dead(pid: int) -> bool:
    """Return whether a server has children, and each is a backend process that has died."""
    with contextlib.suppress(psutil.Error):
        children = psutil.Process(pid).children()
        return bool(children) and all(
            child.status() == psutil.STATUS_ZOMBIE and child.name().startswith(_BACKEND)
            for child in children
        )
    return False


def _session(leader: int, created_at: float) -> list[psutil.Process]:
    """List the living processes of a server's session, it included.

    There are none if the server's process id belongs to somebody else by now.
    """
    now = created(leader)
    if now is not None and abs(now - created_at) >= _SAME_S:
        return []
    members = []
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, PermissionError, psutil.Error):
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                members.append(process)
    return members


def last_lines(path: Path, count: int = 15) -> str:
    """Return the end of a log, for an error message."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 16384))
            text = file.read(16384).decode("utf-8", errors="replace")
    except OSError as error:
        return f"(no log: {error})"
    return "\n".join(text.strip().splitlines()[-count:])
