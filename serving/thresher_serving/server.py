"""Starts, finds and stops a Triton server on this machine.

The server runs in a session of its own, in the background; a small state file says where. Models
are loaded explicitly: nothing is served because a folder happened to appear.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import TextIO

from thresher.errors import NotFoundError, ServerError, unknown_name
from thresher_serving import control, process
from thresher_serving.runtime import Runtime

__all__ = ["STATE_DIR", "RunningServer", "running_server", "start_server", "stop_server"]

STATE_DIR = Path(".thresher")
"""Where the state file and the log are kept, in the working folder."""

_STATE_FILE = "server.json"


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

    state_dir: str | None
    """Where its state file is; None if there is none."""

    problems: tuple[str, ...] = ()
    """One sentence for each model that was asked for and is not ready."""

    @property
    def grpc_url(self) -> str:
        """Host and port for gRPC clients on this machine."""
        return f"{_reachable(self.host)}:{self.grpc_port}"

    @property
    def http_url(self) -> str:
        """Host and port for HTTP clients on this machine."""
        return f"{_reachable(self.host)}:{self.http_port}"

    @property
    def metrics_url(self) -> str:
        """Where Prometheus metrics are read."""
        return f"http://{_reachable(self.host)}:{self.metrics_port}/metrics"

    @property
    def models(self) -> list[control.ModelState]:
        """The state of each model and version in its repository, asked for now."""
        return control.model_states(self.grpc_url)

    def is_alive(self) -> bool:
        """Return whether the process runs."""
        return process.is_alive(self.pid, self.created)

    def load_model(self, name: str, *, timeout_s: float = 120) -> list[control.ModelState]:
        """Return the model's states after a load; see `control.load_model`."""
        return control.load_model(self.grpc_url, name, timeout_s=timeout_s)

    def unload_model(self, name: str, *, timeout_s: float = 60) -> None:
        """Take a model out of service; see `control.unload_model`."""
        control.unload_model(self.grpc_url, name, timeout_s=timeout_s)

    def stop(self, *, timeout_s: float = 35) -> bool:
        """End the server and everything it started; return whether it went by itself.

        Args:
            timeout_s: How long it may finish what is in flight (Triton's own limit is 30 s).
        """
        went = process.terminate(self.pid, self.created, timeout_s=timeout_s)
        if self.state_dir is not None:
            (Path(self.state_dir) / _STATE_FILE).unlink(missing_ok=True)
        return went

    def wait(self, stream: TextIO | None = None) -> None:
        """Copy the log to a stream until the server ends; Ctrl-C or SIGTERM stops it.

        Args:
            stream: Where the log goes; standard error by default.

        Raises:
            ServerError: If the server ended by itself; the message has its last lines.
        """
        out = sys.stderr if stream is None else stream
        try:
            with (
                _sigterm_as_interrupt(),
                Path(self.log_file).open(encoding="utf-8", errors="replace") as log,
            ):
                while self.is_alive():
                    out.write(log.read())
                    out.flush()
                    time.sleep(0.1)
                out.write(log.read())
        except KeyboardInterrupt:
            self.stop()
            return
        self.stop()
        raise ServerError(
            f"the Triton server (process {self.pid}) ended by itself. The end of its log, "
            f"{self.log_file}:\n{process.last_lines(Path(self.log_file))}"
        )


def _reachable(host: str) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared only
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


def start_server(
    repository: Path,
    *,
    runtime: Runtime,
    grpc_port: int = 8001,
    http_port: int = 8000,
    metrics_port: int = 8002,
    host: str = "127.0.0.1",
    log_file: Path | None = None,
    timeout_s: float = 120,
    models: Sequence[str] | None = None,
    state_dir: Path | None = STATE_DIR,
) -> RunningServer:
    """Return a Triton server that is ready to answer.

    Args:
        repository: The model repository.
        runtime: Which server to start; see `find_runtime`.
        grpc_port: The port for gRPC; 0 takes a free one, as for the next two.
        http_port: The port for HTTP.
        metrics_port: The port for Prometheus metrics.
        host: The address to bind; 0.0.0.0 for every one of this machine.
        log_file: Where its output goes; by default ``server.log`` in the state folder.
        timeout_s: How long it may take to be ready, its models loaded and warmed up.
        models: Which models to load; by default each folder that holds a config.pbtxt.
        state_dir: Where the state file is kept, so that `stop_server` finds the server; None
            keeps none.

    Raises:
        NotFoundError: If there is no such repository, or no such model in it.
        ServerError: If one runs already, a port is in use, the server dies or is not ready in
            time, or not one model could be loaded. No process is left behind.
    """
    wanted = _wanted_models(repository, models)
    if state_dir is not None and (other := running_server(state_dir)):
        raise ServerError(
            f"a Triton server runs already: process {other.pid}, gRPC at {other.grpc_url}, "
            f"repository {other.repository}. Run: thresher stop"
        )
    wanted_ports = {
        "--grpc-port": grpc_port,
        "--http-port": http_port,
        "--metrics-port": metrics_port,
    }
    ports = process.choose_ports(host, wanted_ports)
    log = log_file or (STATE_DIR if state_dir is None else state_dir) / "server.log"
    command = _command(runtime, repository.resolve(), host, ports, wanted)
    with contextlib.ExitStack() as stack:
        with process.interrupts_deferred():
            pid = process.spawn(command, runtime.environment(), log)
            born = process.created(pid) or 0.0  # it has one until it is waited for
            stack.callback(process.terminate, pid, born, timeout_s=5)
        server = RunningServer(
            pid=pid,
            created=born,
            host=host,
            grpc_port=ports["--grpc-port"],
            http_port=ports["--http-port"],
            metrics_port=ports["--metrics-port"],
            repository=str(repository.resolve()),
            log_file=str(log.resolve()),
            runtime=f"{runtime.kind} {runtime.version}",
            state_dir=None if state_dir is None else str(state_dir.resolve()),
            problems=(),
        )
        _wait_live(server, timeout_s)
        problems = _problems(server, wanted)
        if problems and len(problems) == len(wanted):
            raise ServerError(
                "the Triton server started, but no model could be loaded:\n"
                + "\n".join(problems)
                + f"\nIts log: {server.log_file}"
            )
        server = RunningServer(**{**asdict(server), "problems": tuple(problems)})
        if server.state_dir is not None:
            _write_state(server, Path(server.state_dir))
        stack.pop_all()  # it is up: from here on, whoever called decides when it ends
    return server


def _wanted_models(repository: Path, models: Sequence[str] | None) -> list[str]:
    if not repository.is_dir():
        raise NotFoundError(
            f"{repository}: no such folder; expected a Triton model repository. "
            "Run: thresher export models:/NAME@ALIAS"
        )
    folders = sorted(path.name for path in repository.iterdir() if path.is_dir())
    if models is not None:
        for name in models:
            if name not in folders:
                raise NotFoundError(f"{repository}: {unknown_name('model', name, folders)}")
        return list(dict.fromkeys(models))
    found = [name for name in folders if (repository / name / "config.pbtxt").is_file()]
    if not found:
        raise NotFoundError(
            f"{repository}: no folder with a config.pbtxt, so there is nothing to serve. "
            "Run: thresher export"
        )
    return found


def _command(
    runtime: Runtime, repository: Path, host: str, ports: dict[str, int], models: Sequence[str]
) -> list[str]:
    command = [
        str(runtime.server),
        f"--model-repository={repository}",
        f"--backend-directory={runtime.backend_directory}",
        "--model-control-mode=explicit",
        "--exit-on-error=false",  # one model that cannot load must not keep the others away
        "--strict-readiness=false",
        *(f"--{kind}-address={host}" for kind in ("grpc", "http", "metrics")),
        *(f"{option}={port}" for option, port in ports.items()),
        *(f"--load-model={name}" for name in models),
    ]
    if runtime.cache_directory is not None:
        command.append(f"--cache-directory={runtime.cache_directory}")
    return command


def _wait_live(server: RunningServer, timeout_s: float) -> None:
    """Wait until the server answers; it opens its ports once its models are loaded or refused."""
    end = time.monotonic() + timeout_s
    log = Path(server.log_file)
    address = (_reachable(server.host).strip("[]"), server.grpc_port)
    while True:
        if not server.is_alive():
            raise ServerError(
                f"the Triton server ended while it started. The end of its log, {log}:\n"
                f"{process.last_lines(log)}"
            )
        with contextlib.suppress(OSError), socket.create_connection(address, timeout=1):
            break
        if time.monotonic() > end:
            raise ServerError(
                f"the Triton server is not ready after {timeout_s:g} s (large models need "
                f"a longer timeout_s). The end of its log, {log}:\n{process.last_lines(log)}"
            )
        time.sleep(0.05)
    control.wait_ready(server.grpc_url, timeout_s=max(1.0, end - time.monotonic()))


def _problems(server: RunningServer, wanted: Sequence[str]) -> list[str]:
    states = server.models
    ready = {state.name for state in states if state.is_ready}
    problems = []
    for name in wanted:
        if name not in ready:
            reasons = [str(state) for state in states if state.name == name]
            problems.append("; ".join(reasons) or f"{name} is not known to the server")
    return problems


def _write_state(server: RunningServer, state_dir: Path) -> None:
    path = state_dir / _STATE_FILE
    state_dir.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(asdict(server), indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


def running_server(state_dir: Path = STATE_DIR) -> RunningServer | None:
    """Return the server that a state file tells of, or None if it does not run (any more).

    A state file whose process is gone, or whose process id belongs to another process by now, is
    removed.
    """
    path = state_dir / _STATE_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        content["problems"] = tuple(content["problems"])
        server = RunningServer(**content)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):
        path.unlink(missing_ok=True)
        return None
    if server.is_alive():
        return server
    process.terminate(server.pid, server.created, timeout_s=0)  # what it may have left behind
    path.unlink(missing_ok=True)
    return None


def stop_server(state_dir: Path = STATE_DIR, *, timeout_s: float = 35) -> RunningServer | None:
    """Return the server that was stopped, or None if none was running."""
    server = running_server(state_dir)
    if server is not None:
        server.stop(timeout_s=timeout_s)
    return server
