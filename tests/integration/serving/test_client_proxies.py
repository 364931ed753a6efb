"""Proxies that the environment names: not for this host's own servers, and for all others."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from thresher_serving import RunningServer

PROXY_VARIABLES = ("http_proxy", "https_proxy", "grpc_proxy")


class Proxy:
    """Notes what it is asked for, and refuses it."""

    def __init__(self, listening: socket.socket) -> None:
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        self.asked: list[str] = []
        self._listening = listening

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            with connection:
                self.asked.append(connection.recv(4096).decode("latin-1").partition("\r\n")[0])
                connection.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n")


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        proxy = Proxy(listening)
        thread = threading.Thread(target=proxy.serve, daemon=True)
        thread.start()
        yield proxy
        listening.shutdown(socket.SHUT_RDWR)
    thread.join(5)


def run(code: str, *arguments: str, **environment: str) -> str:
    plain = {
        name: value
        for name, value in os.environ.items()
        if name.lower() not in {*PROXY_VARIABLES, "no_proxy", "no_grpc_proxy", "all_proxy"}
    }
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=plain | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


ASK = """
import asyncio, sys
import numpy as np
from thresher_serving import AsyncClient, Client, control
rows = np.zeros((2, 3), np.float32)
port = sys.argv[1].rpartition(":")[2]
for host in ("127.0.0.1", "localhost"):
    url = f"{host}:{port}"
    with Client(url) as client:
        assert len(client.predict("weather", rows, timeout_s=20)) == 2
    async def asked():
        async with AsyncClient(url) as client:
            return len(await client.predict("weather", rows, timeout_s=20))
    assert asyncio.run(asked()) == 2
    assert any(state.name == "weather" for state in control.model_states(url))
    control.wait_ready(url, "weather", timeout_s=20)
"""


@pytest.mark.parametrize("variable", PROXY_VARIABLES)
def test_a_server_here_is_asked_past_the_proxy(
    server: RunningServer, proxy: Proxy, variable: str
) -> None:
    run(ASK, server.grpc_url, **{variable: proxy.url})
    assert not proxy.asked


def test_a_server_elsewhere_is_asked_through_the_proxy(proxy: Proxy) -> None:
    code = """
from thresher.errors import ServerError
from thresher_serving import Client, Retries
try:
    with Client("triton.invalid:8001", retries=Retries(attempts=1)) as client:
        client.metadata("weather", timeout_s=10)
except ServerError:
    print("refused")
"""
    assert run(code, http_proxy=proxy.url) == "refused\n"
    assert set(proxy.asked) == {"CONNECT triton.invalid:8001 HTTP/1.1"}
    proxy.asked.clear()
    run(code, http_proxy=proxy.url, no_proxy="triton.invalid")
    assert not proxy.asked
