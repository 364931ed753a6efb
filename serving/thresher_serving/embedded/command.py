"""The command line that Triton is started with."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from pathlib import Path

from thresher.config_pbtxt import CONFIG_FILE, read_config
from thresher.errors import PublishError, ServerError
from thresher_serving.embedded.runtime import Runtime

__all__ = ["check_host", "is_complete", "server_command"]


def check_host(host: str) -> None:
    """Refuse an address that other machines can reach.

    Raises:
        ServerError: If it is one; the message says what to do.
    """
    try:
        is_loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise ServerError(
            f"--host {host} would let other machines in, and this server is for this machine "
            "alone: it has neither keys nor TLS, and its Triton predates security fixes. For "
            "other machines run NVIDIA's image with serving/deploy: see docs/deployment.md"
        )


def server_command(
    runtime: Runtime,
    repository: Path,
    *,
    host: str,
    ports: Mapping[str, int],
    models: Sequence[str],
    shared_memory: str,
    complete: bool,
) -> list[str]:
    """Return the program and its arguments.

    Args:
        runtime: Which server.
        repository: The model repository, an absolute path.
        host: The address to bind.
        ports: A port for each option, such as ``{"--grpc-port": 8001}``.
        models: Which models to load.
        shared_memory: What the names of its regions of shared memory begin with.
        complete: Whether every model's configuration is; see `is_complete`.
    """
    command = [
        str(runtime.server),
        f"--model-repository={repository}",
        f"--backend-directory={runtime.backend_directory}",
        f"--backend-config=python,shm-region-prefix-name={shared_memory}",
        "--model-control-mode=explicit",
        "--exit-on-error=false",  # one model that cannot load must not keep the others away
        "--strict-readiness=false",
        f"--grpc-address={host}",
        f"--http-address={host}",
        f"--metrics-address={host}",
        *(f"{option}={port}" for option, port in ports.items()),
        *(f"--load-model={name}" for name in models),
    ]
    if complete:  # what is missing is completed by a process of its own, a second at each load
        command.append("--disable-auto-complete-config")
    if runtime.cache_directory is not None:
        command.append(f"--cache-directory={runtime.cache_directory}")
    return command


def is_complete(repository: Path, models: Sequence[str]) -> bool:
    """Return whether models' configurations leave nothing for Triton to complete."""
    for name in models:
        try:
            config = read_config(repository / name / CONFIG_FILE)
        except (OSError, PublishError):
            return False
        if not (config.input and config.output):
            return False
    return True
