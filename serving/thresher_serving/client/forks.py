"""Keeps gRPC usable over `os.fork`: a child opens connections of its own, or gets an error at once.

gRPC prepares itself for a fork only while no thread is inside one of its calls; a child that was
forked in the middle of one crashes or hangs as soon as it uses gRPC (grpcio 1.85: signal 11 in two
of five children). So a fork waits for the calls of this process's clients, and new ones wait for
the fork. Where that is not enough, the child is refused.

Source: grpc/grpc pull requests 16264 (fork handlers), 41455 and 41752 (which of them are on).
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any, Protocol

from thresher.errors import ServerError

__all__ = ["AWAITING", "CALLS", "check_usable", "reopen_after_fork"]

_WAIT_S = 5.0
"""How long a fork waits for calls that are under way."""

_OFF = frozenset({"0", "false", "f", "no", "n", "off"})


class _Reopened(Protocol):
    def open_again(self) -> None:
        """Forget the connections, which are the parent's."""


class _Calls:
    """A block that is inside gRPC; any number at a time, and none during a fork."""

    def __init__(self) -> None:
        self._changed = threading.Condition()  # re-entrant: a signal handler may fork
        self._under_way = 0
        self._is_forking = False
        self.is_used = False

    def __enter__(self) -> None:
        with self._changed:
            while self._is_forking:
                self._changed.wait()
            self._under_way += 1
            self.is_used = True

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._under_way -= 1
            if self._is_forking:
                self._changed.notify_all()

    def before_fork(self) -> None:
        """Wait until no call is under way, and let none begin."""
        self._changed.acquire()
        self._is_forking = True
        self._changed.wait_for(lambda: not self._under_way, _WAIT_S)

    def after_fork_in_parent(self) -> None:
        """Let calls begin again."""
        self._is_forking = False
        self._changed.notify_all()
        self._changed.release()

    def unusable_because(self) -> str:
        """Return why a child that was just forked cannot use gRPC; empty where it can."""
        if self._under_way:
            return f"{self._under_way} calls were under way for more than {_WAIT_S:g} s"
        if AWAITING:
            return "an AsyncClient was open"
        if self.is_used and os.environ.get("GRPC_ENABLE_FORK_SUPPORT", "1").lower() in _OFF:
            return "GRPC_ENABLE_FORK_SUPPORT is off"
        return ""


CALLS = _Calls()
"""To be entered for each blocking call of gRPC."""

AWAITING: weakref.WeakSet[Any] = weakref.WeakSet()
"""The open connections of event loops; a thread of gRPC's is inside a call as long as one lives."""

_CLIENTS: weakref.WeakSet[_Reopened] = weakref.WeakSet()
_INHERITED: list[Any] = []
"""The parent's connections: a child must not close them, not even as garbage."""

_pid = os.getpid()
_because = ""


def check_usable() -> None:
    """Do nothing where this process can use gRPC.

    Raises:
        ServerError: If it was forked in a way that gRPC does not survive.
    """
    because = _because
    if os.getpid() != _pid:  # what forks without Python's handlers, such as uWSGI by default
        because = "the fork did not run Python's handlers"
    if because:
        raise ServerError(
            "this process was forked from one that had used gRPC, which cannot be used here: "
            f"{because}. Fork before the first call, or start processes with the method spawn: "
            'multiprocessing.get_context("spawn")'
        )


def reopen_after_fork(client: _Reopened) -> None:
    """Have a client's `open_again` called in each child of this process."""
    _CLIENTS.add(client)


def keep(inherited: Any) -> None:
    """Keep what the parent opened from being closed in this process."""
    _INHERITED.append(inherited)


def _after_fork_in_child() -> None:
    global _pid, _because  # noqa: PLW0603 - there is one process
    _because = _because or CALLS.unusable_because()
    _pid = os.getpid()
    CALLS.__init__()  # type: ignore[misc] # its lock is held by the parent's thread
    for client in list(_CLIENTS):
        client.open_again()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=CALLS.before_fork,
        after_in_parent=CALLS.after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
