"""The ports of a server: chosen before it starts, and known for its own once it listens."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping

import psutil

from thresher.errors import ConfigError, ServerError
from thresher_serving.connection import MOST_PORT

__all__ = ["choose_ports", "listening_ports"]


def choose_ports(host: str, wanted: Mapping[str, int]) -> dict[str, int]:
    """Return a port for each option; 0 becomes a free one.

    Args:
        host: The address that the server will bind.
        wanted: A port for each option, such as ``{"--grpc-port": 8001}``.

    Raises:
        ConfigError: If one is no port, or two are the same.
        ServerError: If a port is in use; the message names it and its option.
    """
    for option, port in wanted.items():
        if not 0 <= port <= MOST_PORT:
            raise ConfigError(f"{option} is {port}, expected 0 to {MOST_PORT}; 0 takes a free one")
    fixed = [port for port in wanted.values() if port]
    if len(set(fixed)) < len(fixed):
        given = ", ".join(f"{option} {port}" for option, port in wanted.items())
        raise ConfigError(f"each port serves one thing; got {given}")
    with contextlib.ExitStack() as stack:
        chosen: dict[str, int] = {}
        for option, port in wanted.items():
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            probe = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
                probe.listen()  # another listener is noticed here at the latest
            except OSError as error:
                raise ServerError(
                    f"port {port} on {host} cannot be used: {error.strerror}. Choose another with "
                    f"{option} (0 takes a free one), or stop what uses it: thresher stop"
                ) from None
            chosen[option] = int(probe.getsockname()[1])
        return chosen


def listening_ports(pid: int) -> set[int]:
    """Return the TCP ports that a process itself listens on; none once it has ended.

    That a port answers says nothing: another process may have taken it in between.
    """
    try:
        connections = psutil.Process(pid).net_connections("tcp")
    except psutil.Error:
        return set()
    return {c.laddr.port for c in connections if c.status == psutil.CONN_LISTEN}
