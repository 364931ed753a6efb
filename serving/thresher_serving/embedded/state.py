"""A server on this machine: its processes, its addresses, and the state file that tells of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import TextIO

from thresher.errors import ServerError
from thresher.published_models import PublishedModels
from thresher.terminal import printable
from thresher_serving import control
from thresher_serving.connection import Connection
from thresher_serving.embedded import process
from thresher_serving.embedded.public import Security
from thresher_serving.own_requests import requests_begin

__all__ = [
    "HUNG_S",
    "STATE_DIR",
    "RunningServer",
    "from_json",
    "reachable",
    "running_server",
    "to_json",
    "write_state",
]

STATE_DIR = Path(".thresher")
"""Where the state file and the log are kept, in the working folder."""

HUNG_S = 30.0
"""How long a backend process may do nothing though a request waits, by default."""

_STATE_FILE = "server.json"
_STOPPED_FILE = "server.stopped"
"""Holds the process id of the server that was last stopped on purpose."""

_REACHABLE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared only


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

    backend_directory: str = ""
    """Where its backends are; one that is a model.py runs in processes of its own."""

    state_dir: str | None
    """Where its state file is; None if there is none."""

    problems: tuple[str, ...] = ()
    """One sentence for each model that was asked for and is not ready."""

    security: Security | None = None
    """How a hardened server is reached; None for a plain one."""

    hung_s: float = HUNG_S
    """How long a backend process may do nothing though a request waits; then it is ended."""

    watcher: tuple[int, float] | None = None
    """Process id and start of the process that watches a server in the background."""

    @property
    def grpc_url(self) -> str:
        """Host and port for gRPC clients on this machine."""
        return f"{reachable(self.host)}:{self.grpc_port}"

    @property
    def http_url(self) -> str:
        """Host and port for HTTP clients on this machine."""
        return f"{self._plain_host}:{self.http_port}"

    @property
    def metrics_url(self) -> str:
        """Where Prometheus metrics are read."""
        return f"http://{self._plain_host}:{self.metrics_port}/metrics"

    @property
    def _plain_host(self) -> str:
        """Where HTTP and metrics are: they know no TLS, so a hardened server keeps them here."""
        return reachable(self.host) if self.security is None else "127.0.0.1"

    @property
    def where(self) -> str | Connection:
        """How `Client` and `control` reach it from this machine.

        Raises:
            ConfigError: If its key cannot be found.
        """
        if self.security is None:
            return self.grpc_url
        return self.security.connection(self.grpc_url)

    @property
    def models(self) -> list[control.ModelState]:
        """The state of each model and version in its repository, asked for now."""
        return control.model_states(self.where)

    def is_alive(self) -> bool:
        """Return whether the process runs."""
        return process.is_alive(self.pid, self.created)

    def load_model(self, name: str, *, timeout_s: float = 120) -> list[control.ModelState]:
        """Return the model's states after a load; see `control.load_model`."""
        models = PublishedModels(Path(self.repository))
        config = models.read_config(name) if name in models.names() else None
        states = control.load_model(self.where, name, timeout_s=timeout_s, config=config)
        requests_begin(models.root, self.where, name, if_new=True)
        return states

    def unload_model(self, name: str, *, timeout_s: float = 60) -> None:
        """Take a model out of service; see `control.unload_model`."""
        control.unload_model(self.where, name, timeout_s=timeout_s)

    def stop(self, *, timeout_s: float = 35) -> bool:
        """End the server and everything it started; return whether it went by itself.

        Args:
            timeout_s: How long it may finish what is in flight (Triton's own limit is 30 s).
        """
        if self.state_dir is not None:
            with contextlib.suppress(OSError):
                (Path(self.state_dir) / _STOPPED_FILE).write_text(f"{self.pid}\n")
        if self.watcher is not None:  # first: the server's end is meant, and nothing to mend
            process.terminate(*self.watcher, timeout_s=2)
        went = process.terminate(self.pid, self.created, timeout_s=timeout_s)
        if self.state_dir is not None:
            (Path(self.state_dir) / _STATE_FILE).unlink(missing_ok=True)
        return went

    def wait(self, stream: TextIO | None = None) -> None:
        """Watch the server and copy its log until it ends; Ctrl-C or SIGTERM stops it.

        A backend process that dies meanwhile is started anew; see `watch`.

        Args:
            stream: Where the log goes; standard error by default.

        Raises:
            ServerError: If the server ended by itself; the message has its last lines. That
                another process stopped it (`thresher stop`) is no error.
        """
        from thresher_serving.embedded.watcher import watching

        out = sys.stderr if stream is None else stream
        try:
            with (
                _sigterm_as_interrupt(),
                watching(self),
                Path(self.log_file).open(encoding="utf-8", errors="replace") as log,
            ):
                while self.is_alive():
                    out.write(printable(log.read()))
                    out.flush()
                    time.sleep(0.1)
                out.write(printable(log.read()))
        except KeyboardInterrupt:
            self.stop()
            return
        if self._was_stopped():
            return
        self.stop()
        raise ServerError(
            f"the Triton server (process {self.pid}) ended by itself."
            f"{process.known_reason(Path(self.log_file))} The end of its log, "
            f"{self.log_file}:\n{process.last_lines(Path(self.log_file))}"
        )

    def _was_stopped(self) -> bool:
        """Return whether some process ended the server on purpose."""
        if self.state_dir is None:
            return False
        with contextlib.suppress(OSError):
            return (Path(self.state_dir) / _STOPPED_FILE).read_text() == f"{self.pid}\n"
        return False


def reachable(host: str) -> str:
    """Return the address at which this machine reaches a server that binds a host."""
    host = _REACHABLE.get(host, host)
    return f"[{host}]" if ":" in host else host


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def to_json(server: RunningServer) -> str:
    """Return a server's description as JSON that `from_json` reads; it holds no key."""
    return json.dumps(asdict(server), indent=2) + "\n"


def from_json(text: str) -> RunningServer:
    """Return the server that a JSON text describes.

    Raises:
        ValueError: If it describes none; TypeError and KeyError likewise.
    """
    content = json.loads(text)
    content["problems"] = tuple(content["problems"])
    if content.get("security"):
        content["security"] = Security(**content["security"])
    if content.get("watcher"):
        content["watcher"] = tuple(content["watcher"])
    return RunningServer(**content)


def write_state(server: RunningServer, state_dir: Path) -> None:
    """Write a state file, whole or not at all.

    Raises:
        ServerError: If the disk refuses.
    """
    path = state_dir / _STATE_FILE
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        temporary.write_text(to_json(server), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise ServerError(
            f"{path} cannot be written, so nothing would find the server again: {error.strerror}"
        ) from None


def running_server(state_dir: Path = STATE_DIR) -> RunningServer | None:
    """Return the server that a state file tells of, or None if it does not run (any more).

    A state file whose process is gone, or whose process id belongs to another process by now, is
    removed.
    """
    path = state_dir / _STATE_FILE
    try:
        server = from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):
        path.unlink(missing_ok=True)
        return None
    if server.is_alive():
        return server
    for pid, created in filter(None, (server.watcher, (server.pid, server.created))):
        process.terminate(pid, created, timeout_s=0)  # what it may have left behind
    path.unlink(missing_ok=True)
    return None
