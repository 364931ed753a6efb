"""Starts a program with arguments that no list of processes shows.

Triton takes its keys as command line options and in no other way, and each user of a machine can
read each command line. So the program is stopped before its first instruction, and the pointers to
such arguments are turned to environment variables, which only its own user can read.

Source: Linux, ptrace(2), proc(5) (stat, field 28); System V ABI, "Initial Process Stack".
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import IO

__all__ = ["start_hidden"]

_PTRACE_DETACH = 17
_REFUSED = 77
_VARIABLE = "THRESHER_HIDDEN_"

_LAUNCHER = f"""
import ctypes, os, sys
libc = ctypes.CDLL(None)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
if libc.ptrace(0, 0, None, None):  # PTRACE_TRACEME: it stops as soon as it is the program
    sys.exit({_REFUSED})
os.execv(sys.argv[1], sys.argv[1:])
"""


def start_hidden(
    command: Sequence[str],
    hidden: Mapping[str, str],
    environment: Mapping[str, str],
    log: IO[bytes],
) -> subprocess.Popen[bytes]:
    """Return a program started in a session of its own, whose command line does not tell all.

    Where the machine does not allow it (ptrace is switched off), the program is started with the
    arguments in plain sight, and the log says so.

    Args:
        command: The program's path and its arguments.
        hidden: For an argument of the command, the one that the program sees in its place.
        environment: Its environment; the hidden arguments come on top.
        log: Where its output goes.

    Raises:
        OSError: If the program cannot be started.
    """
    names = {shown: f"{_VARIABLE}{at}" for at, shown in enumerate(hidden)}
    extra = {names[shown]: value for shown, value in hidden.items()}
    launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER]
    process = _start([*launcher, *command], {**environment, **extra}, log)
    try:
        _, status = os.waitpid(process.pid, 0)
        if os.WIFSTOPPED(status) and os.WSTOPSIG(status) == signal.SIGTRAP:
            _exchange(process.pid, command, names)
            _detach(process.pid)
            return process
        process.returncode = os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else -1
        reason = f"exit code {process.returncode}"
    except (OSError, LookupError, struct.error) as error:
        reason = str(error)
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)
    process.wait()
    line = f"thresher: ptrace is refused here ({reason}): the server's key can be seen with ps\n"
    log.write(line.encode())
    log.flush()
    return _start([hidden.get(argument, argument) for argument in command], environment, log)


def _start(
    command: Sequence[str], environment: Mapping[str, str], log: IO[bytes]
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _exchange(pid: int, command: Sequence[str], names: Mapping[str, str]) -> None:
    """Turn pointers to arguments of a stopped program to the values of environment variables."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:  # noqa: PTH123 - not a path of ours
        start_stack = int(stat.read().rpartition(")")[2].split()[28 - 3])
    with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:  # noqa: PTH123

        def word(at: int) -> int:
            memory.seek(at)
            return int(struct.unpack("<Q", memory.read(8))[0])

        def variables() -> Iterator[tuple[str, int]]:
            at = start_stack + 8 * (1 + len(command) + 1)  # the count, the arguments, a null
            while pointer := word(at):
                memory.seek(pointer)
                name = memory.read(len(_VARIABLE) + 8).partition(b"=")[0].decode("latin-1")
                yield name, pointer + len(name) + 1
                at += 8

        if word(start_stack) != len(command):
            raise LookupError("the stack is not as expected")
        values = dict(variables())
        for at, argument in enumerate(command, start=1):
            if argument in names:
                memory.seek(start_stack + 8 * at)
                memory.write(struct.pack("<Q", values[names[argument]]))


def _detach(pid: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    if libc.ptrace(_PTRACE_DETACH, pid, None, None):
        raise OSError(ctypes.get_errno(), "ptrace")
