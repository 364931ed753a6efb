"""HTTP under TLS, as a proxy before Triton speaks it; Triton's own HTTP endpoint has no TLS."""

from __future__ import annotations

import asyncio
import http.server
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.certificates import write_certificates
from thresher.errors import ServerError
from thresher_serving import AsyncClient, Client, Tls


class Live(http.server.BaseHTTPRequestHandler):
    """Says that it is live to those that send the key."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        is_known = self.headers.get("key") == "open sesame"
        self.send_response(200 if is_known and self.path == "/triton/v2/health/live" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base names it
        """Stay silent."""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    write_certificates(folder)
    return folder


@pytest.fixture(scope="module")
def url(certificates: Path) -> Iterator[str]:
    """The address of a server that wants a client's certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.crt", certificates / "server.key")
    context.load_verify_locations(certificates / "ca.crt")
    context.verify_mode = ssl.CERT_REQUIRED
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Live)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"https://127.0.0.1:{server.server_port}/triton"
    server.shutdown()
    thread.join()
    server.server_close()


def wait_blocking(url: str, tls: Tls | None) -> None:
    with Client(url, tls=tls, headers={"key": "open sesame"}) as client:
        client.wait_ready(timeout_s=0.5)


def wait_awaiting(url: str, tls: Tls | None) -> None:
    async def waited() -> None:
        async with AsyncClient(url, tls=tls, headers={"key": "open sesame"}) as client:
            await client.wait_ready(timeout_s=0.5)

    asyncio.run(waited())


@pytest.mark.parametrize("wait", [wait_blocking, wait_awaiting])
def test_certificates_headers_and_path_are_used(url: str, certificates: Path, wait: object) -> None:
    assert callable(wait)
    ca = certificates / "ca.crt"
    own = {"certificate": certificates / "client.crt", "key": certificates / "client.key"}
    wait(url, Tls(ca=ca, **own))
    for tls in (None, Tls(**own), Tls(ca=ca)):
        with pytest.raises(ServerError):
            wait(url, tls)
