"""Starts and stops a Triton server on this machine.

The server runs in a session of its own, in the background; a small state file says where. Models
are loaded explicitly: nothing is served because a folder happened to appear.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from thresher.errors import NotFoundError, ServerError, unknown_name
from thresher_serving import control
from thresher_serving.connection import checked_timeout
from thresher_serving.embedded import process
from thresher_serving.embedded.command import check_host, server_command
from thresher_serving.embedded.public import Public
from thresher_serving.embedded.runtime import Runtime
from thresher_serving.embedded.state import (
    HUNG_S,
    STATE_DIR,
    RunningServer,
    running_server,
    write_state,
)
from thresher_serving.embedded.watcher import start_watcher
from thresher_serving.own_requests import requests_begin

__all__ = ["STATE_DIR", "RunningServer", "running_server", "start_server", "stop_server"]

_OTHER_PORTS_S = 5.0
"""How long HTTP and metrics, which some builds of Triton lack, are waited for after gRPC."""

_HANDSHAKE_S = 15.0
"""How long a server whose port is open may take until a call through TLS succeeds."""


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
    public: Public | None = None,
    percentiles: bool = False,
    watch: bool = False,
    hung_s: float = HUNG_S,
) -> RunningServer:
    """Return a Triton server that is ready to answer.

    Args:
        repository: The model repository.
        runtime: Which server to start; see `find_runtime`.
        grpc_port: The port for gRPC; 0 takes a free one, as for the next two.
        http_port: The port for HTTP.
        metrics_port: The port for Prometheus metrics.
        host: The address to bind; one that other machines can reach needs `public`.
        log_file: Where its output goes; by default ``server.log`` in the state folder.
        timeout_s: How long it may take to be ready, its models loaded and warmed up.
        models: Which models to load; by default each folder that holds a config.pbtxt.
        state_dir: Where the state file is kept, so that `stop_server` finds the server; None
            keeps none.
        public: What a hardened server needs, see `public_server`; None starts a plain one.
        percentiles: Whether its metrics hold percentiles of latency. Under full load they take
            15 to 25 % of the requests a second, and double the slowest percent (Triton 2.51.0).
        watch: Whether a process of its own watches the server, and mends models whose backend
            process died, until the server is stopped. `RunningServer.wait` does that itself.
        hung_s: How long a backend process may do nothing though a request waits; then whoever
            watches the server ends it, and has the model loaded anew.

    Raises:
        ConfigError: If a time-out or a port is none.
        NotFoundError: If there is no such repository, or no such model in it.
        ServerError: If one runs already, a port is in use, the server dies or is not ready in
            time, or not one model could be loaded. No process is left behind.
    """
    check_host(host, public)
    checked_timeout(timeout_s)
    checked_timeout(hung_s, "hung_s")
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
    command, hidden = server_command(
        runtime,
        repository.resolve(),
        host=host,
        ports=ports,
        models=wanted,
        percentiles=percentiles,
        public=public,
    )
    with contextlib.ExitStack() as stack:
        with process.interrupts_deferred():
            pid = process.spawn(command, runtime.environment(), log, hidden=hidden)
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
            backend_directory=str(runtime.backend_directory),
            state_dir=None if state_dir is None else str(state_dir.resolve()),
            security=None if public is None else public.security,
            hung_s=hung_s,
        )
        _wait_live(server, timeout_s)
        problems = _problems(server, wanted)
        if problems and len(problems) == len(wanted):
            raise ServerError(
                "the Triton server started, but no model could be loaded:\n"
                + "\n".join(problems)
                + f"\nIts log: {server.log_file}"
            )
        server = replace(server, problems=tuple(problems))
        requests_begin(repository, server.where)
        if watch:
            with process.interrupts_deferred():
                server = replace(server, watcher=start_watcher(server))
        if server.state_dir is not None:
            write_state(server, Path(server.state_dir))
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


def _wait_live(server: RunningServer, timeout_s: float) -> None:
    """Wait until the server answers; it opens its ports once its models are loaded or refused.

    gRPC comes first, HTTP and metrics some milliseconds later.
    """
    end = time.monotonic() + timeout_s
    log = Path(server.log_file)
    while not _is_open(server.grpc_url):
        if not server.is_alive():
            raise ServerError(
                f"the Triton server ended while it started. The end of its log, {log}:\n"
                f"{process.last_lines(log)}"
            )
        if time.monotonic() > end:
            raise ServerError(
                f"the Triton server is not ready after {timeout_s:g} s (large models need "
                f"a longer timeout_s). The end of its log, {log}:\n{process.last_lines(log)}"
            )
        time.sleep(0.05)
    others_end = time.monotonic() + _OTHER_PORTS_S
    others = (server.http_url, server.metrics_url.split("/")[2])
    while not all(map(_is_open, others)) and time.monotonic() < others_end:
        time.sleep(0.02)
    if server.security is None:
        control.wait_ready(server.where, timeout_s=max(1.0, end - time.monotonic()))
        return
    try:
        control.wait_ready(server.where, timeout_s=_HANDSHAKE_S)
    except ServerError as error:
        raise ServerError(
            f"the Triton server started, but its own tools cannot reach it through TLS: {error} "
            "They show the server's own certificate where clients need one: --tls-ca must have "
            "signed it, and it must be allowed for clients too (extendedKeyUsage). The end of its "
            f"log, {log}:\n{process.last_lines(log)}"
        ) from None


def _is_open(url: str) -> bool:
    host, _, port = url.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=1).close()
    except OSError:
        return False
    return True


def _problems(server: RunningServer, wanted: Sequence[str]) -> list[str]:
    states = server.models
    ready = {state.name for state in states if state.is_ready}
    problems = []
    for name in wanted:
        if name not in ready:
            reasons = [str(state) for state in states if state.name == name]
            problems.append("; ".join(reasons) or f"{name} is not known to the server")
    return problems


def stop_server(state_dir: Path = STATE_DIR, *, timeout_s: float = 35) -> RunningServer | None:
    """Return the server that was stopped, or None if none was running."""
    server = running_server(state_dir)
    if server is not None:
        server.stop(timeout_s=timeout_s)
    return server
