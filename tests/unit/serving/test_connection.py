"""Addresses, certificates and header keys."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from thresher.errors import ConfigError, NotFoundError
from thresher_serving import AsyncClient, Client
from thresher_serving.connection import Connection, Tls, as_connection


@pytest.mark.parametrize(
    ("url", "address", "encrypted"),
    [
        ("127.0.0.1:8001", "127.0.0.1:8001", False),
        ("grpc://triton:9001", "triton:9001", False),
        ("grpcs://triton:9001/", "triton:9001", True),
        ("grpcs://triton", "triton:8001", True),
        ("triton", "triton:8001", False),
        ("[::1]", "[::1]:8001", False),
    ],
)
def test_an_address_may_have_a_scheme_and_a_port(url: str, address: str, encrypted: bool) -> None:
    connection = as_connection(url)
    assert (connection.address, connection.is_encrypted) == (address, encrypted)
    assert as_connection(connection) is connection


@pytest.mark.parametrize(
    ("url", "grpc"),
    [
        ("http://127.0.0.1:8000", "127.0.0.1:8001"),
        ("https://triton.example/v2/models/x", "triton.example:8001"),
        ("http://[::1]:8000", "[::1]:8001"),
        ("http://", "HOST:8001"),
    ],
)
@pytest.mark.parametrize("kind", [Client, AsyncClient, as_connection])
def test_an_http_address_is_answered_with_the_grpc_one_and_the_page(
    url: str, grpc: str, kind: Callable[[str], object]
) -> None:
    with pytest.raises(ConfigError) as error:
        kind(url)
    assert f"{url} is an HTTP address, and this goes over gRPC: give {grpc}, or" in str(error.value)
    page, section = re.search(r'(docs/\S+\.md), "(.*?)"', str(error.value)).groups()  # type: ignore
    text = (Path(__file__).parents[3] / page).read_text(encoding="utf-8")
    assert f"\n## {section}\n" in text
    assert "tritonclient.http" in text


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
    ("url", "here"),
    [
        ("127.0.0.1:8001", True),
        ("127.9.8.7", True),
        ("localhost:8001", True),
        ("LOCALHOST:8001", True),
        ("localhost.:8001", True),
        ("localhost.example:8001", False),
        ("[::1]", True),
        ("grpcs://[::1]:8001", True),
        ("0.0.0.0:8001", True),
        ("127.0.0.1.example:8001", False),
        ("127.example:8001", False),
        ("triton.local:8001", False),
        ("192.168.0.1:8001", False),
        ("[fe80::1%eth0]:8001", False),
    ],
)
def test_loopback_addresses_are_known(url: str, here: bool) -> None:
    assert Connection(url=url).is_loopback is here


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


@pytest.mark.parametrize("url", ["grpcs://127.0.0.1:1", "127.0.0.1:1"])
def test_a_certificate_that_is_not_there_is_named(url: str, tmp_path: Path) -> None:
    missing = tmp_path / "none.pem"
    with pytest.raises(NotFoundError, match=r"tls: ca .*none\.pem cannot be read"):
        Client(url, tls=Tls(ca=missing)).wait_ready(timeout_s=0.001)
