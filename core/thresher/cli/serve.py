"""`thresher serve` and `stop`, and how other commands reach the server."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from thresher.cli.options import repository_option
from thresher.cli.output import say, steps, tell
from thresher.cli.versions import repository_and_registry
from thresher.errors import ServerError

if TYPE_CHECKING:
    from thresher_serving.connection import Connection
    from thresher_serving.embedded.runtime import Runtime
    from thresher_serving.embedded.state import RunningServer, ServerState

__all__ = ["connect", "serve", "stop"]

_PORT = click.IntRange(0, 65_535)


def connect(server: str | None) -> str | Connection:
    """Return how to reach the given server, else the one that was started here.

    The key and the certificates of a server that is given come from the environment
    (THRESHER_SERVER_KEY, THRESHER_TLS_CA, THRESHER_TLS_CERT, THRESHER_TLS_KEY).

    Args:
        server: The address that was given; None for the server started here.

    Raises:
        ServerError: If none is given and none is ready.
    """
    from thresher_serving.connection_environment import connection_from_environment
    from thresher_serving.embedded.state import server_state

    if server is not None:
        return connection_from_environment(server)
    state = server_state()
    if state is None:
        raise ServerError(
            "no Triton server was started in this folder. Run: thresher serve --background, "
            "or give --server HOST:PORT"
        )
    if state.phase == "failed":
        raise ServerError(f"the Triton server of this folder failed: {state.reason}")
    if state.phase == "starting" or state.server is None:
        raise ServerError(
            f"the Triton server of this folder is being started (process {state.pid})"
            + (f" after this: {state.reason}" if state.reason else "")
            + ". Its log: .thresher/server.log"
        )
    return state.server.where


@click.command()
@repository_option
@click.option("--background", is_flag=True, help="Return as soon as it is ready.")
@click.option(
    "--grpc-port", type=_PORT, default=8001, show_default=True, help="0 takes a free one."
)
@click.option(
    "--http-port", type=_PORT, default=8000, show_default=True, help="0 takes a free one."
)
@click.option(
    "--metrics-port", type=_PORT, default=8002, show_default=True, help="0 takes a free one."
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to bind, one that only this machine reaches.",
)
@click.option(
    "--tritonserver",
    type=click.Path(path_type=Path),
    help="A Triton server to use; by default TRITONSERVER, then /opt/tritonserver, then the "
    "server of the nvidia-pytriton wheel, installed at first use.",
)
@click.option("--unproven", is_flag=True, help="Serve versions without a proof of parity too.")
def serve(
    repository: Path,
    background: bool,
    grpc_port: int,
    http_port: int,
    metrics_port: int,
    host: str,
    tritonserver: Path | None,
    unproven: bool,
) -> None:
    """Serve the model repository with NVIDIA Triton, on this machine alone.

    Where one serves it already, --background loads what was published since into that one. A
    version whose certificate is missing, or does not match its files, is refused. A Triton that
    dies is started again; what happened is in .thresher/server.log.

    Example: thresher serve --background
    """
    from thresher_serving import find_runtime, running_server
    from thresher_serving.embedded.background import serve as serve_here
    from thresher_serving.embedded.background import serve_in_background
    from thresher_serving.embedded.command import check_host
    from thresher_serving.embedded.launch import PORT_OPTIONS, ServeOptions
    from thresher_serving.embedded.state import STATE_DIR

    check_host(host)
    _warn_of_skipped(repository)
    _align_companions(repository)
    _check_proven(repository, unproven=unproven)
    running = running_server()
    is_here = running is not None and running.repository == str(repository.resolve())
    _end_left_canaries(repository, running.where if running and is_here else None)
    if running and background and is_here:
        _update(running, repository, find_runtime(tritonserver))
        return
    with contextlib.ExitStack() as spinner:
        show = spinner.enter_context(steps())
        found = find_runtime(tritonserver, progress=show)
        show(f"Starting Triton {found.version} ({found.kind}) on {repository}")
        options = ServeOptions(
            repository=repository.resolve(),
            runtime=found,
            host=host,
            ports=dict(zip(PORT_OPTIONS, (grpc_port, http_port, metrics_port), strict=True)),
            log_file=(STATE_DIR / "server.log").absolute(),
            state_dir=STATE_DIR.absolute(),
            unproven=unproven,
        )
        if background:
            state = serve_in_background(options, STATE_DIR)
            spinner.close()
            if state is None:
                raise click.Abort
            log = _tell_ready(state, found.version)
            say(f"Log: {log}. Next: thresher predict NAME FILE..., thresher stop")
            return

        def tell_ready(state: ServerState) -> None:
            spinner.close()
            _tell_ready(state, found.version)
            say("Ctrl-C stops it.")

        if not serve_here(options, STATE_DIR, on_ready=tell_ready, out=sys.stderr):
            raise click.Abort


def _tell_ready(state: ServerState, version: str) -> str:
    """Say what a server serves, and where; return where its log is."""
    server = state.server
    assert server is not None
    for problem in server.problems:
        say(f"Warning: {problem}")
    for name, why in state.left_out.items():
        say(f"Warning: {name} is left out: {why}")
    ready = ", ".join(
        f"{name} version {number}" for name, found in server.ready.items() for number in found
    )
    tell(f"Triton {version} serves {ready}")
    tell(f"  gRPC {server.grpc_url}   HTTP {server.http_url}   metrics {server.metrics_url}")
    return server.log_file


def _update(running: RunningServer, repository: Path, runtime: Runtime) -> None:
    """Load what was published since into a server that runs already."""
    from thresher.repository import ModelRepository
    from thresher_serving.embedded.launch import differing, read_configured

    names = ModelRepository(repository).names()
    left_out = runtime.left_out(repository, names)
    for name, why in left_out.items():
        say(f"Warning: {name} is left out: {why}")
    names = [name for name in names if name not in left_out]
    named = read_configured(repository, names).named
    for name in names:
        states = running.load_model(name)
        ready = [state.version for state in states if state.is_ready and state.version is not None]
        for problem in differing(name, ready, named.get(name, ())):
            raise ServerError(problem)
    tell(f"Triton runs already at {running.grpc_url} (gRPC); its models are up to date")


def _warn_of_skipped(repository: Path) -> None:
    from thresher.published_models import PublishedModels

    for name in PublishedModels(repository).skipped():
        say(
            f"Warning: {repository / name} is left out: a model's name is at most 128 of the "
            'characters a-z, A-Z, 0-9, "_", "." and "-", and begins with a letter or digit'
        )


def _align_companions(repository: Path) -> None:
    """Let NAME.text serve what NAME does, which an export that was killed may have left undone."""
    from thresher.errors import PublishError
    from thresher.repository import ModelRepository

    published = ModelRepository(repository)
    for name in published.names():
        try:
            published.align_companions(name)
        except PublishError as error:  # no right to write, for one
            say(f"Warning: {error}")


def _end_left_canaries(repository: Path, where: str | Connection | None) -> None:
    from thresher.repository import ModelRepository
    from thresher_serving.rollout import end_left_canaries

    published = ModelRepository(repository)
    for sentence in end_left_canaries(published.root, published.names(), where):
        say(sentence)


def _check_proven(repository: Path, *, unproven: bool) -> None:
    """Refuse versions that are to serve and are not what was proven; or say so, where allowed."""
    from thresher.errors import ParityError

    published = repository_and_registry(repository)
    for name in published.names():
        try:
            published.check_served(name)
        except ParityError as error:
            if not unproven:
                raise
            say(f"WARNING, serving all the same: {error}")


@click.command()
def stop() -> None:
    """Stop the Triton server that `thresher serve` started in this folder.

    Example: thresher stop
    """
    from thresher_serving import stop_server
    from thresher_serving.embedded.state import server_state

    state = server_state()
    stopped = stop_server()
    if stopped is not None:
        tell(f"Stopped Triton (process {stopped.pid})")
    elif state is not None and state.phase == "starting":
        tell(f"Stopped the start of a Triton server (process {state.pid})")
    else:
        tell("No Triton server is running here")
