"""Starts and stops a Triton server on this machine.

Models are loaded explicitly: nothing is served because a folder happened to appear.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from thresher.errors import ServerError
from thresher_serving.connection import checked_timeout
from thresher_serving.embedded import process
from thresher_serving.embedded.command import check_host
from thresher_serving.embedded.launch import (
    PORT_OPTIONS,
    DiedError,
    ServeOptions,
    launched,
    outcome_of_loading,
    wait_open,
    wanted_models,
)
from thresher_serving.embedded.ports import choose_ports
from thresher_serving.embedded.runtime import Runtime
from thresher_serving.embedded.state import (
    STATE_DIR,
    RunningServer,
    ServerState,
    clear_state,
    read_state,
    running_server,
    server_state,
    try_lock,
    write_state,
)

__all__ = [
    "STATE_DIR",
    "RunningServer",
    "lock_folder",
    "running_server",
    "server_state",
    "start_server",
    "stop_server",
]

_WRITTEN_S = 1.0
"""How long a process that has just taken the lock may take to write who it is."""

_LET_GO_S = 5.0
"""How long a supervisor may take, after its server has ended or been killed, to end itself."""


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
    """Return a Triton server that is ready to answer; it outlives the calling process.

    It is not started again should it end: that is what `thresher serve` does.

    Args:
        repository: The model repository.
        runtime: Which server to start, as `find_runtime` returns it.
        grpc_port: The port for gRPC; 0 takes a free one, as for the next two.
        http_port: The port for HTTP.
        metrics_port: The port for Prometheus metrics.
        host: The address to bind, one of this machine's own.
        log_file: Where its output goes; by default ``server.log`` in the state folder.
        timeout_s: How long it may take to be ready, its models loaded and warmed up.
        models: Which models to load; by default each folder that holds a config.pbtxt.
        state_dir: Where the state file is kept, so that `stop_server` finds the server; None
            keeps none.

    Raises:
        ConfigError: If a time-out or a port is none.
        NotFoundError: If there is no such repository, or no such model in it.
        ServerError: If one runs already, a port is in use, the server dies or is not ready in
            time, or not one model could be loaded. No process is left behind.
    """
    check_host(host)
    checked_timeout(timeout_s)
    options = ServeOptions(
        repository=repository.resolve(),
        runtime=runtime,
        host=host,
        ports=dict(zip(PORT_OPTIONS, (grpc_port, http_port, metrics_port), strict=True)),
        log_file=log_file or (STATE_DIR if state_dir is None else state_dir) / "server.log",
        state_dir=state_dir,
        timeout_s=timeout_s,
        models=None if models is None else tuple(models),
    )
    wanted = wanted_models(repository, models)
    left_out = runtime.left_out(repository, wanted)
    wanted = [name for name in wanted if name not in left_out]
    with contextlib.ExitStack() as stack:
        if state_dir is not None:
            stack.callback(os.close, lock_folder(state_dir))
        ports = choose_ports(host, options.ports)
        on_failure = stack.enter_context(contextlib.ExitStack())
        with process.interrupts_deferred():
            server, configured = launched(options, ports, wanted)
            on_failure.callback(server.end, timeout_s=5)
            if state_dir is not None:
                on_failure.callback(clear_state, state_dir)
                _write(server, state_dir, is_ready=False)
        try:
            wait_open(server, timeout_s)
        except DiedError as error:
            raise ServerError(
                f"{error}. The end of its log, {options.log_file}:\n"
                f"{process.last_lines(options.log_file)}"
            ) from None
        server = outcome_of_loading(server, wanted, configured.named)
        server = replace(server, problems=(*left_out.values(), *server.problems))
        if state_dir is not None:
            _write(server, state_dir, is_ready=True)
        on_failure.pop_all()  # it is up: the caller decides from here on when it ends
    return server


def _write(server: RunningServer, state_dir: Path, *, is_ready: bool) -> None:
    write_state(
        ServerState(
            phase="ready" if is_ready else "starting", repository=server.repository, server=server
        ),
        state_dir,
    )


def lock_folder(state_dir: Path) -> int:
    """Return a descriptor that holds a state folder's lock; what a dead supervisor left is ended.

    Raises:
        ServerError: If a server runs there or is being started, or the disk refuses.
    """
    lock = try_lock(state_dir)
    state = read_state(state_dir)
    if lock is None:
        end = time.monotonic() + _WRITTEN_S
        while state is None and time.monotonic() < end:
            time.sleep(0.02)
            state = read_state(state_dir)
        pid = None if state is None else state.pid
        if state is not None and state.phase == "ready" and state.server is not None:
            raise _runs_already(state.server)
        raise ServerError(
            "a Triton server is being started in this folder"
            + (f" by process {pid}" if pid else "")
            + ". Wait for it, or end it: thresher stop"
        )
    if state is not None and state.supervisor is None and state.is_alive() and state.server:
        os.close(lock)
        raise _runs_already(state.server)
    try:
        clear_state(state_dir)
    except BaseException:
        os.close(lock)
        raise
    return lock


def _runs_already(server: RunningServer) -> ServerError:
    return ServerError(
        f"a Triton server runs already: process {server.pid}, gRPC at {server.grpc_url}, "
        f"repository {server.repository}. Run: thresher stop"
    )


def stop_server(state_dir: Path = STATE_DIR, *, timeout_s: float = 35) -> RunningServer | None:
    """Return the server that was stopped, or None if none was running.

    A server that is being started is stopped too. Its processes are gone afterwards.

    Args:
        state_dir: The state folder.
        timeout_s: How long it may finish what is in flight (Triton's own limit is 30 s).

    Raises:
        ServerError: If the process that starts it neither ends nor can be found.
    """
    if not state_dir.is_dir():
        return None
    begin = time.monotonic()
    signalled: dict[int, int] = {}
    stopped: RunningServer | None = None
    while True:
        lock = try_lock(state_dir)
        state = read_state(state_dir)
        server = None if state is None else state.server
        if server is not None and server.is_alive():
            stopped = server
        waited = time.monotonic() - begin
        if lock is not None:
            if server is not None:
                server.end(timeout_s=max(0.0, timeout_s - waited))
            clear_state(state_dir)
            os.close(lock)
            for pid in signalled:
                process.reap(pid, timeout_s=_LET_GO_S)
            return stopped
        if server is not None and state is not None and state.supervisor is None:
            server.end(timeout_s=timeout_s)  # its starter sees that it has ended
        elif state is not None and state.supervisor is not None and state.is_alive():
            _end_supervisor(state.supervisor[0], signalled, waited, timeout_s)
        if waited > timeout_s + 2 * _LET_GO_S:
            raise ServerError(f"{state_dir}: another process holds the lock, and says nothing")
        time.sleep(0.02)


def _end_supervisor(pid: int, signalled: dict[int, int], waited_s: float, timeout_s: float) -> None:
    """Send a supervisor what is due: SIGTERM, a second one that asks for haste, SIGKILL.

    Args:
        pid: Its process id.
        signalled: How many SIGTERM each process has got.
        waited_s: How long its end has been waited for.
        timeout_s: How long it may take.
    """
    sent = signalled.get(pid, 0)
    with contextlib.suppress(ProcessLookupError):
        if sent == 0 or (sent == 1 and waited_s > timeout_s):
            os.kill(pid, signal.SIGTERM)
            signalled[pid] = sent + 1
        elif waited_s > timeout_s + _LET_GO_S:
            os.kill(pid, signal.SIGKILL)
