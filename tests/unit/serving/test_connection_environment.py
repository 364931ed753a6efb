"""Keys and certificates that environment variables name."""

from __future__ import annotations

from pathlib import Path

import pytest

from thresher_serving.connection_environment import connection_from_environment, key_headers

KEY = "a-key-that-is-long-enough"


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SERVER_KEY", "TLS_CA", "TLS_CERT", "TLS_KEY"):
        monkeypatch.delenv(f"THRESHER_{name}", raising=False)


def test_the_key_is_never_sent_over_a_network_in_the_clear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THRESHER_SERVER_KEY", KEY)
    for url in ("10.1.2.3:8001", "models.example.org:8001"):
        assert connection_from_environment(url).headers == {}
    for url in ("127.0.0.1:8001", "localhost:8001", "[::1]:8001", "grpcs://10.1.2.3:8001"):
        assert connection_from_environment(url).headers == key_headers(KEY)
    monkeypatch.setenv("THRESHER_TLS_CA", str(tmp_path / "ca.crt"))
    connection = connection_from_environment("10.1.2.3:8001")
    assert connection.headers == key_headers(KEY)
    assert connection.tls is not None
    assert connection.tls.ca == tmp_path / "ca.crt"


def test_without_variables_it_is_a_plain_connection() -> None:
    connection = connection_from_environment("10.1.2.3:8001")
    assert (connection.headers, connection.tls, connection.is_encrypted) == ({}, None, False)
