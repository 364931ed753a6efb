"""Addresses, certificates and header keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from thresher.errors import ConfigError, NotFoundError, ServerError
from thresher_serving import Client
from thresher_serving.connection import Connection, Tls, as_connection


@pytest.mark.parametrize(
    ("url", "address", "http", "encrypted"),
    [
        ("127.0.0.1:8001", "127.0.0.1:8001", False, False),
        ("grpc://triton:8001", "triton:8001", False, False),
        ("grpcs://triton:8001", "triton:8001", False, True),
        ("http://triton:8000/", "triton:8000", True, False),
        ("https://triton", "triton", True, True),
    ],
)
def test_an_address_may_have_a_scheme(url: str, address: str, http: bool, encrypted: bool) -> None:
    connection = as_connection(url)
    found = connection.address, connection.is_http, connection.is_encrypted
    assert found == (address, http, encrypted)
    assert as_connection(connection) is connection


@pytest.mark.parametrize("url", ["", "ftp://triton:21", "grpc://"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="is no address of a Triton server"):
        Connection(url=url)
    with pytest.raises(ConfigError, match="is no address"):
        Client(url)


def test_no_server_at_all_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one HOST:PORT"):
        Client([])


@pytest.mark.parametrize(
    ("connection", "grpc", "http"),
    [
        (Connection(url="127.0.0.1"), "127.0.0.1:8001", "http://127.0.0.1:8000"),
        (Connection(url="[::1]"), "[::1]:8001", "http://[::1]:8000"),
        (
            Connection(url="triton.local", http_port=80),
            "triton.local:8001",
            "http://triton.local:80",
        ),
        (Connection(url="triton:81", http_port=80), "triton:81", "http://triton:80"),
        (Connection(url="triton:8001"), "triton:8001", None),
        (Connection(url="grpc://triton"), "triton", None),
        (Connection(url="http://triton"), "triton", None),
        (Connection(url="triton", tls=Tls()), "triton:8001", None),
    ],
)
def test_a_host_alone_is_tritons_usual_ports(
    connection: Connection, grpc: str, http: str | None
) -> None:
    assert connection.address == grpc
    assert (connection.over_http.url if connection.over_http else None) == http


def test_the_way_over_http_bears_the_same_keys() -> None:
    twin = Connection(url="127.0.0.1", headers={"thresher-key": "open sesame"}).over_http
    assert twin is not None
    assert twin.headers == {"thresher-key": "open sesame"}


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8001", "localhost:8001", "[::1]:8001", "127.0.0.1", "localhost", "[::1]"]
)
def test_loopback_addresses_are_known(url: str) -> None:
    assert Connection(url=url).is_loopback
    assert not Connection(url="triton.local:8001").is_loopback


@pytest.mark.parametrize(
    "headers", [{"bad name": "x"}, {"key": "two\nlines"}, {"key": "ключ"}, {"": "x"}]
)
def test_headers_that_cannot_be_sent_are_refused(headers: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="header"):
        Connection(headers=headers)


def test_keys_do_not_show_when_a_connection_is_printed() -> None:
    assert "secret" not in repr(Connection(headers={"triton-grpc-protocol-admin": "secret"}))


def test_a_certificate_goes_with_its_key() -> None:
    with pytest.raises(ConfigError, match="got a certificate and no key"):
        Tls(certificate=Path("me.crt"))
    with pytest.raises(ConfigError, match="got a key and no certificate"):
        Tls(key=Path("me.key"))


@pytest.mark.parametrize("url", ["grpcs://127.0.0.1:1", "https://127.0.0.1:1"])
def test_a_certificate_that_is_not_there_is_named(url: str, tmp_path: Path) -> None:
    missing = tmp_path / "none.pem"
    with pytest.raises(NotFoundError, match=r"tls: ca .*none\.pem cannot be read"):
        Client(url, tls=Tls(ca=missing)).wait_ready(timeout_s=0.001)


def test_model_control_over_http_is_refused_with_the_next_step() -> None:
    with pytest.raises(ServerError, match="goes over gRPC; give its HOST:PORT"):
        Connection(url="http://127.0.0.1:8000").open()


def test_shared_memory_over_http_is_refused() -> None:
    with pytest.raises(ConfigError, match="shared memory goes with gRPC"):
        Client("http://127.0.0.1:8000", shared_memory=True)
