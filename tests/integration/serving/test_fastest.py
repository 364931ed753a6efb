"""An address without a port: both ends of a server, and the faster one for each request."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.served_weather import THRESHOLDS, write_weather
from support.triton import Triton, triton
from thresher.errors import NotFoundError, ServerError
from thresher_serving import AsyncClient, Client, Prediction, Runtime
from thresher_serving.client.fastest import FastestTransport
from thresher_serving.connection import Connection

BATCH = 120_000
ROWS = np.random.default_rng(0).normal(0, 3, (BATCH, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    write_weather(root, max_batch_size=BATCH)
    return root


@pytest.fixture(scope="module")
def server(
    models: Path, runtime: Runtime, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Triton]:
    log = tmp_path_factory.mktemp("server") / "log"
    with triton(runtime, models, ["weather"], "--log-verbose=1", log=log) as running:
        yield running


def both(server: Triton, http_port: int | None = None) -> Connection:
    """Return how a client is told of both ends of a server that has ports of its own."""
    return Connection(url=server.grpc_url, http_port=http_port or server.http_port)


def asked_over_http(server: Triton) -> int:
    """Return how many predictions a server was asked for over HTTP, as its log has them."""
    log = server.log.read_text(errors="replace")
    return sum("HTTP request" in line and "/infer" in line for line in log.splitlines())


def check(got: Prediction, rows: np.ndarray, thresholds: Sequence[float] = THRESHOLDS) -> None:
    expected = 1 / (1 + np.exp(-rows.astype(np.float64)))
    np.testing.assert_allclose(got.probabilities, expected, atol=1e-6)
    np.testing.assert_array_equal(got.labels, got.probabilities >= np.float32(thresholds))


@contextmanager
def listening(status: int, body: bytes) -> Iterator[tuple[int, list[str]]]:
    """Run a server of HTTP that is no Triton; yield its port, and the paths it is asked for."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    other = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=other.serve_forever, daemon=True)
    thread.start()
    try:
        yield other.server_address[1], paths
    finally:
        other.shutdown()
        other.server_close()
        thread.join()


def test_small_requests_go_over_http_and_large_ones_through_memory(server: Triton) -> None:
    before = asked_over_http(server)
    with Client(both(server)) as client:
        for turn in range(5):
            check(client.predict("weather", ROWS[turn : turn + 3]), ROWS[turn : turn + 3])
        assert asked_over_http(server) == before + 5
        check(client.predict("weather", ROWS), ROWS)
        assert asked_over_http(server) == before + 5
        assert client.metadata("weather").version == 1


def test_from_an_event_loop_too(server: Triton) -> None:
    async def asked() -> None:
        async with AsyncClient(both(server)) as client:
            parts = [ROWS[i : i + 1 + i % 3] for i in range(40)]
            answers = await asyncio.gather(*(client.predict("weather", p) for p in parts))
            for part, got in zip(parts, answers, strict=True):
                check(got, part)
            check(await client.predict("weather", ROWS), ROWS)

    asyncio.run(asked())


@pytest.mark.parametrize(
    ("status", "body"),
    [(404, b"not found"), (200, b"<html>hello</html>"), (200, b"[1, 2]"), (200, b"{}")],
)
def test_what_is_no_triton_is_not_used(server: Triton, status: int, body: bytes) -> None:
    with listening(status, body) as (port, paths), Client(both(server, port)) as client:
        for _ in range(3):
            check(client.predict("weather", ROWS[:3]), ROWS[:3])
        assert len(paths) == 1, "it is asked once"
        assert not any("infer" in path for path in paths)


def test_a_closed_port_is_not_used(server: Triton) -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        with Client(both(server, taken.getsockname()[1])) as client:
            for _ in range(3):
                check(client.predict("weather", ROWS[:3]), ROWS[:3])


def test_another_triton_is_not_used(server: Triton, runtime: Runtime, tmp_path: Path) -> None:
    """It serves a model of the same name, with other thresholds."""
    write_weather(tmp_path / "models", thresholds=(0.1, 0.2, 0.3))
    log = tmp_path / "log"
    with (
        triton(runtime, tmp_path / "models", ["weather"], "--log-verbose=1", log=log) as other,
        Client(both(server, other.http_port)) as client,
    ):
        for _ in range(3):
            check(client.predict("weather", ROWS[:3]), ROWS[:3])
        assert asked_over_http(other) == 0


def test_a_server_that_wants_a_key_for_http_is_asked_over_grpc(
    models: Path, runtime: Runtime, tmp_path: Path
) -> None:
    option = "--http-restricted-api=inference:wanted=open sesame"
    with (
        triton(runtime, models, ["weather"], option, log=tmp_path / "log") as hardened,
        Client(both(hardened)) as client,
    ):
        for _ in range(3):
            check(client.predict("weather", ROWS[:3]), ROWS[:3])


def test_when_http_goes_away_grpc_takes_over(
    models: Path, runtime: Runtime, tmp_path: Path
) -> None:
    """The server ends, and comes back without HTTP where it was."""
    log = tmp_path / "log"
    with triton(runtime, models, ["weather"], log=log) as first:
        client = Client(both(first))
        check(client.predict("weather", ROWS[:3]), ROWS[:3])
    with triton(runtime, models, ["weather"], log=log, grpc_port=first.grpc_port), client:
        check(client.predict("weather", ROWS[:3]), ROWS[:3])
        check(client.predict("weather", ROWS[:5]), ROWS[:5])


def test_errors_are_those_of_grpc(server: Triton) -> None:
    with Client(both(server)) as client:
        client.predict("weather", ROWS[:3])
        with pytest.raises(NotFoundError, match='unknown version "9". Valid: 1'):
            client.predict("weather", ROWS[:3], version=9)
        with pytest.raises(NotFoundError, match='unknown model "wether"; did you mean "weather"'):
            client.predict("wether", ROWS[:3])
    nobody = Connection(url="127.0.0.1:1", http_port=server.http_port)
    with Client(nobody) as client, pytest.raises(ServerError, match=r"answers at 127\.0\.0\.1:1\."):
        client.predict("weather", ROWS[:3])


def test_an_address_without_a_port_means_both_ends() -> None:
    with Client("127.0.0.1") as client:
        assert isinstance(client._session.servers.current, FastestTransport)
    with Client("127.0.0.1:8001") as client:
        assert not isinstance(client._session.servers.current, FastestTransport)
