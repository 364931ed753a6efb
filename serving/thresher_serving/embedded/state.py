"""The state folder: which server was started there, how it fares, and the lock of who starts one.

Who starts a server holds the lock, `thresher serve` for as long as it supervises one. The
kernel lets go of it when the holder ends, however it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from thresher.errors import ServerError
from thresher_serving import control
from thresher_serving.embedded import process
from thresher_serving.own_requests import requests_begin

__all__ = [
    "STATE_DIR",
    "Phase",
    "RunningServer",
    "ServerState",
    "clear_state",
    "read_state",
    "running_server",
    "server_state",
    "try_lock",
    "write_state",
]

STATE_DIR = Path(".thresher")
"""Where the state file, the lock and the log are kept, in the working folder."""

_STATE_FILE = "server.json"
_LOCK_FILE = "server.lock"

Phase = Literal["starting", "ready", "failed"]
"""How far a server is; "starting" again while one that has ended is started again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningServer:
    """A Triton server on this machine."""

    pid: int
    """Its process id; it leads a session of its own."""

    created: float
    """When the process was started, seconds since the epoch; tells it from a later namesake."""

    host: str
    """The address it binds."""

    grpc_port: int
    http_port: int
    metrics_port: int

    repository: str
    """The model repository's folder."""

    log_file: str
    """Where its output goes."""

    runtime: str
    """Which server this is, such as "wheel 2.51.0"."""

    shared_memory: str = ""
    """What the names of its regions of shared memory begin with."""

    state_dir: str | None
    """Where its state file is; None if there is none."""

    problems: tuple[str, ...] = ()
    """One sentence for each model that was asked for and is not ready."""

    ready: Mapping[str, list[int]] = field(default_factory=dict)
    """The versions of each model that were ready when the server was."""

    @property
    def grpc_url(self) -> str:
        """Host and port for gRPC clients on this machine."""
        return f"{self._host}:{self.grpc_port}"

    @property
    def http_url(self) -> str:
        """Host and port for HTTP clients on this machine."""
        return f"{self._host}:{self.http_port}"

    @property
    def metrics_url(self) -> str:
        """Where Prometheus metrics are read."""
        return f"http://{self._host}:{self.metrics_port}/metrics"

    @property
    def _host(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def where(self) -> str:
        """How `Client` and `control` reach it from this machine."""
        return self.grpc_url

    @property
    def models(self) -> list[control.ModelState]:
        """The state of each model and version in its repository, asked for now."""
        return control.model_states(self.where)

    def is_alive(self) -> bool:
        """Return whether the process runs."""
        return process.is_alive(self.pid, self.created)

    def load_model(self, name: str, *, timeout_s: float = 120) -> list[control.ModelState]:
        """Return the model's states after a load; see `control.load_model`."""
        from thresher.published_models import PublishedModels  # imports NumPy, which can wait

        models = PublishedModels(Path(self.repository))
        config = models.read_config(name) if name in models.names() else None
        states = control.load_model(self.where, name, timeout_s=timeout_s, config=config)
        requests_begin(models.root, self.where, name, if_new=True)
        return states

    def unload_model(self, name: str, *, timeout_s: float = 60) -> None:
        """Take a model out of service; see `control.unload_model`."""
        control.unload_model(self.where, name, timeout_s=timeout_s)

    def stop(self, *, timeout_s: float = 35) -> None:
        """End the server, everything it started, and what supervises it.

        Args:
            timeout_s: How long it may finish what is in flight (Triton's own limit is 30 s).
        """
        if self.state_dir is None:
            self.end(timeout_s=timeout_s)
            return
        from thresher_serving.embedded.server import stop_server

        stop_server(Path(self.state_dir), timeout_s=timeout_s)

    def end(self, *, timeout_s: float, is_urgent: Callable[[], bool] = lambda: False) -> None:
        """End the process and everything it started, whatever supervises it.

        Args:
            timeout_s: How long it may finish what is in flight.
            is_urgent: Asked all the while; once it returns True, it is given no more time.
        """
        process.terminate(self.pid, self.created, timeout_s=timeout_s, is_urgent=is_urgent)
        process.remove_shared_memory(self.shared_memory)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerState:
    """How the server of a state folder fares."""

    phase: Phase
    repository: str
    """The model repository's folder."""

    server: RunningServer | None = None
    """Triton's process; None before the first and between two."""

    supervisor: tuple[int, float] | None = None
    """Process id and start of the process that starts Triton again; None where nobody does."""

    reason: str = ""
    """Why it failed, or why Triton was last started again."""

    restarts: int = 0
    """How often Triton was started again."""

    left_out: Mapping[str, str] = field(default_factory=dict)
    """Why a model is not served, by name: its load ended the server, or it is not proven."""

    health_texts: Mapping[str, int] = field(default_factory=dict)
    """By name, how many of the requests that Triton has counted since a text model was loaded
    were sent to see whether it answers."""

    @property
    def pid(self) -> int | None:
        """The process that has to be there: the supervisor, else Triton's own."""
        if self.supervisor is not None:
            return self.supervisor[0]
        return None if self.server is None else self.server.pid

    def is_alive(self) -> bool:
        """Return whether that process runs."""
        if self.supervisor is not None:
            return process.is_alive(*self.supervisor)
        return self.server is not None and self.server.is_alive()


def server_state(state_dir: Path = STATE_DIR) -> ServerState | None:
    """Return how the server of a state folder fares; None if none runs there and none failed."""
    state = read_state(state_dir)
    if state is None or state.phase == "failed" or state.is_alive():
        return state
    return None


def running_server(state_dir: Path = STATE_DIR) -> RunningServer | None:
    """Return the server of a state folder that is ready, or None if there is none (any more)."""
    state = server_state(state_dir)
    return state.server if state is not None and state.phase == "ready" else None


def read_state(state_dir: Path) -> ServerState | None:
    """Return what a state file says, whether or not it is still so; None without one."""
    try:
        content = json.loads((state_dir / _STATE_FILE).read_text(encoding="utf-8"))
        if content["server"] is not None:
            content["server"]["problems"] = tuple(content["server"]["problems"])
            content["server"] = RunningServer(**content["server"])
        if content["supervisor"] is not None:
            pid, created = content["supervisor"]
            content["supervisor"] = int(pid), float(created)
        return ServerState(**content)
    except (OSError, ValueError, TypeError, KeyError):  # of an older release, for one
        return None


def write_state(state: ServerState, state_dir: Path) -> None:
    """Write a state file, whole or not at all.

    Raises:
        ServerError: If the disk refuses.
    """
    path = state_dir / _STATE_FILE
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(asdict(state), indent=2) + "\n", encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise ServerError(
            f"{path} cannot be written, so nothing would find the server again: {error.strerror}"
        ) from None


def clear_state(state_dir: Path) -> None:
    """End what a state file names and nobody supervises any more, and remove the file.

    The caller holds the lock.
    """
    state = read_state(state_dir)
    if state is not None and state.server is not None:
        state.server.end(timeout_s=5 if state.server.is_alive() else 0)
    (state_dir / _STATE_FILE).unlink(missing_ok=True)


def try_lock(state_dir: Path) -> int | None:
    """Return a descriptor that holds a state folder's lock until it is closed; None if it is held.

    Raises:
        ServerError: If the disk refuses.
    """
    path = state_dir / _LOCK_FILE
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise ServerError(
            f"{path} cannot be made, so two servers could be started at once: {error.strerror}"
        ) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
