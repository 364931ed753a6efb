"""The command line that Triton is started with."""

from __future__ import annotations

import ipaddress
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from thresher.config_pbtxt import CONFIG_FILE, read_config
from thresher.errors import PublishError, ServerError
from thresher_serving.embedded.public import Public
from thresher_serving.embedded.runtime import Runtime

__all__ = ["check_host", "server_command"]


def check_host(host: str, public: Public | None) -> None:
    """Refuse an address that other machines can reach, unless the server is hardened.

    Raises:
        ServerError: If it is one; the message says what to do.
    """
    try:
        alone = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        alone = False
    if not alone and public is None:
        raise ServerError(
            f"--host {host} lets other machines in, and with them whoever wants to load, unload "
            "or replace models. Run: thresher serve --public --tls-cert FILE --tls-key FILE (key "
            "and TLS; see docs/safety.md), or leave --host out to serve this machine alone"
        )


def server_command(
    runtime: Runtime,
    repository: Path,
    *,
    host: str,
    ports: Mapping[str, int],
    models: Sequence[str],
    percentiles: bool = False,
    public: Public | None = None,
) -> tuple[list[str], dict[str, str]]:
    """Return the program and its arguments, and what some of them really are.

    Args:
        runtime: Which server.
        repository: The model repository, an absolute path.
        host: The address to bind.
        ports: A port for each option, such as ``{"--grpc-port": 8001}``.
        models: Which models to load.
        percentiles: Whether its metrics hold percentiles of latency, which cost every request.
        public: What a hardened server needs; None starts a plain one.
    """
    command = [
        str(runtime.server),
        f"--model-repository={repository}",
        f"--backend-directory={runtime.backend_directory}",
        "--model-control-mode=explicit",
        "--exit-on-error=false",  # one model that cannot load must not keep the others away
        "--strict-readiness=false",
        f"--grpc-address={host}",
        *(f"{option}={port}" for option, port in ports.items()),
        *(f"--load-model={name}" for name in models),
    ]
    if percentiles:
        command.append("--metrics-config=summary_latencies=true")
    hidden: dict[str, str] = {}
    if all(_is_complete(repository / name / CONFIG_FILE) for name in models):
        # a second process and a second of waiting, at each load of our backend
        command.append("--disable-auto-complete-config")
    if runtime.cache_directory is not None:
        command.append(f"--cache-directory={runtime.cache_directory}")
    if public is None:
        command += [f"--http-address={host}", f"--metrics-address={host}"]
    else:
        options, hidden = public.options(_offered(runtime))
        command += options
    return command, hidden


def _is_complete(path: Path) -> bool:
    """Return whether a configuration leaves nothing for Triton to complete."""
    try:
        config = read_config(path)
    except (OSError, PublishError):
        return False
    return bool(config.input and config.output)


def _offered(runtime: Runtime) -> str:
    """Return what a server says about its options; each release has others."""
    try:
        told = subprocess.run(
            [str(runtime.server), "--help"],
            env=runtime.environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServerError(f"{runtime.server} cannot be started: {error}") from None
    return told.stdout + told.stderr
