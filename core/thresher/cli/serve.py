"""`thresher serve` and `stop`, and how other commands reach the server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from thresher.cli.options import FiniteRange, repository_option
from thresher.cli.output import say, steps, tell
from thresher.cli.versions import repository_and_registry
from thresher.errors import ServerError

if TYPE_CHECKING:
    from thresher_serving.connection import Connection
    from thresher_serving.embedded.public import Public

__all__ = ["connect", "serve", "stop"]

_PORT = click.IntRange(0, 65_535)
_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


def connect(server: str | None) -> str | Connection:
    """Return how to reach the given server, else the one that was started here.

    The key of a hardened server, and the certificates of its TLS, come from the environment
    (THRESHER_SERVER_KEY, THRESHER_TLS_CA, THRESHER_TLS_CERT, THRESHER_TLS_KEY) for a server that
    is given, and from the state folder for the one started here.

    Args:
        server: The address that was given; None for the server started here.

    Raises:
        ServerError: If none is given and none runs.
    """
    from thresher_serving import running_server
    from thresher_serving.embedded.public import connection_from_environment

    if server is not None:
        return connection_from_environment(server)
    running = running_server()
    if running is None:
        raise ServerError(
            "no Triton server was started in this folder. Run: thresher serve --background, "
            "or give --server HOST:PORT"
        )
    return running.where


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
    help="Address to bind: 127.0.0.1 by default, with --public every one of this machine.",
)
@click.option(
    "--public",
    "is_public",
    is_flag=True,
    help="Let other machines in, over gRPC with TLS; models are controlled with a key only.",
)
@click.option("--tls-cert", type=_FILE, help="The server's certificate (PEM), for --public.")
@click.option("--tls-key", type=_FILE, help="Its private key (PEM).")
@click.option("--tls-ca", type=_FILE, help="Who signs clients' certificates: asks for them too.")
@click.option(
    "--key-file",
    type=_FILE,
    help="The key, in a file with mode 600; by default THRESHER_SERVER_KEY, then "
    ".thresher/server.key, made where it is missing.",
)
@click.option(
    "--tritonserver",
    type=click.Path(path_type=Path),
    help="A Triton server to use; by default TRITONSERVER, then /opt/tritonserver, then the "
    "server of the nvidia-pytriton wheel, installed at first use.",
)
@click.option(
    "--hung-after",
    type=FiniteRange(min=5),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="End a backend process that has done nothing for so long though a request waits.",
)
@click.option(
    "--percentiles",
    is_flag=True,
    help="Let `thresher status` show p50, p95 and p99; costs a busy server speed.",
)
@click.option("--unproven", is_flag=True, help="Serve versions without a proof of parity too.")
def serve(
    repository: Path,
    background: bool,
    grpc_port: int,
    http_port: int,
    metrics_port: int,
    host: str | None,
    is_public: bool,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_ca: Path | None,
    key_file: Path | None,
    tritonserver: Path | None,
    hung_after: float,
    percentiles: bool,
    unproven: bool,
) -> None:
    """Start NVIDIA Triton on the model repository.

    Where one runs on it already, models published since are loaded into that one. A version whose
    certificate is missing, or does not match its files, is refused. A backend process that dies or
    hangs is started anew.

    Example: thresher serve --background
    """
    from thresher_serving import find_runtime, running_server, start_server
    from thresher_serving.embedded.command import check_host

    public = None
    if is_public:
        public = _public(tls_cert, tls_key, tls_ca, key_file)
    elif tls_cert or tls_key or tls_ca or key_file:
        raise click.UsageError("--tls-cert, --tls-key, --tls-ca and --key-file go with --public")
    host = host or ("0.0.0.0" if is_public else "127.0.0.1")  # noqa: S104 -- hardened, and asked for
    check_host(host, public)
    _align_companions(repository)
    _check_proven(repository, unproven=unproven)
    running = running_server()
    if running and background and running.repository == str(repository.resolve()):
        from thresher.repository import ModelRepository

        for name in ModelRepository(repository).names():
            running.load_model(name)
        tell(f"Triton runs already at {running.grpc_url} (gRPC); its models are up to date")
        return
    with steps() as show:
        found = find_runtime(tritonserver, progress=show)
        show(f"Starting Triton {found.version} ({found.kind}) on {repository}")
        server = start_server(
            repository,
            runtime=found,
            grpc_port=grpc_port,
            http_port=http_port,
            metrics_port=metrics_port,
            host=host,
            public=public,
            percentiles=percentiles,
            watch=background,
            hung_s=hung_after,
        )
    for problem in server.problems:
        say(f"Warning: {problem}")
    ready = ", ".join(f"{m.name} version {m.version}" for m in server.models if m.is_ready)
    tell(f"Triton {found.version} serves {ready}")
    tell(f"  gRPC {server.grpc_url}   HTTP {server.http_url}   metrics {server.metrics_url}")
    if public is not None:
        where = public.security.key_file or "the environment"
        say(
            f"Hardened: gRPC with TLS on {server.host}; HTTP and metrics on this machine only; "
            f"models are controlled with the key in {where}."
        )
    if background:
        say(f"Log: {server.log_file}. Next: thresher predict NAME FILE..., thresher stop")
        return
    say("Ctrl-C stops it.")
    server.wait()


def _public(
    certificate: Path | None, private_key: Path | None, ca: Path | None, key_file: Path | None
) -> Public:
    """Return what a hardened server is started with."""
    from thresher_serving.embedded.public import public_server
    from thresher_serving.embedded.state import STATE_DIR

    if certificate is None or private_key is None:
        raise click.UsageError(
            "--public needs --tls-cert FILE and --tls-key FILE. For a certificate of your own: "
            "openssl req -x509 -newkey rsa:2048 -nodes -days 365 -keyout tls.key -out tls.crt "
            "-subj /CN=models -addext subjectAltName=DNS:models.example.org"
        )
    return public_server(
        certificate=certificate,
        private_key=private_key,
        clients_ca=ca,
        key_file=key_file,
        state_dir=STATE_DIR,
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

    stopped = stop_server()
    tell(
        f"Stopped Triton (process {stopped.pid})" if stopped else "No Triton server is running here"
    )
