"""Keys, certificates and options of a server that other machines can reach."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from support.hosts import write_certificate
from thresher.errors import ConfigError, ServerError
from thresher_serving.embedded.command import check_host
from thresher_serving.embedded.public import (
    RESTRICTED_BY_OPTION,
    Public,
    connection_from_environment,
    key_headers,
    public_server,
)

KEY = "a-key-that-is-long-enough"


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SERVER_KEY", "TLS_CA", "TLS_CERT", "TLS_KEY"):
        monkeypatch.delenv(f"THRESHER_{name}", raising=False)


def made(folder: Path, *, key_file: Path | None = None, clients_ca: Path | None = None) -> Public:
    return public_server(
        certificate=folder / "tls.crt",
        private_key=folder / "tls.key",
        key_file=key_file,
        clients_ca=clients_ca,
        state_dir=folder / "state",
    )


@pytest.mark.parametrize("host", ["models.example.org", "*.example.org", "10.1.2.3"])
def test_the_name_that_a_certificate_bears_is_found(tmp_path: Path, host: str) -> None:
    write_certificate(tmp_path, "tls", [host, "other.example.org"])
    assert made(tmp_path).security.server_name == host.replace("*", "any")


def test_an_expired_certificate_is_refused(tmp_path: Path) -> None:
    write_certificate(tmp_path, "tls", ["models.example.org"], is_expired=True)
    with pytest.raises(ConfigError, match=r"tls.crt: clients will refuse it: .*expired"):
        made(tmp_path)


def test_a_certificate_that_names_no_host_is_refused(tmp_path: Path) -> None:
    write_certificate(tmp_path, "tls", [])
    with pytest.raises(ConfigError, match=r"names no host .*openssl req"):
        made(tmp_path)


def test_a_certificate_with_another_key_is_refused(tmp_path: Path) -> None:
    write_certificate(tmp_path, "tls", ["a.example.org"])
    write_certificate(tmp_path, "other", ["a.example.org"])
    (tmp_path / "other.key").replace(tmp_path / "tls.key")
    with pytest.raises(ConfigError, match="not a certificate and its private key"):
        made(tmp_path)


@pytest.mark.parametrize("name", ["tls.crt", "tls.key", "ca.crt"])
def test_what_is_no_certificate_is_refused(tmp_path: Path, name: str) -> None:
    write_certificate(tmp_path, "tls", ["a.example.org"])
    (tmp_path / "ca.crt").write_bytes((tmp_path / "tls.crt").read_bytes())
    (tmp_path / name).write_text("nothing of the kind")
    with pytest.raises(ConfigError, match=name):
        made(tmp_path, clients_ca=tmp_path / "ca.crt")


def test_a_key_is_made_once_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    write_certificate(tmp_path, "tls", ["a.example.org"])
    first, second = made(tmp_path), made(tmp_path)
    assert first.key == second.key
    assert len(first.key) >= 32
    assert stat.S_IMODE((tmp_path / "state/server.key").stat().st_mode) == 0o600
    assert first.key not in repr(first)


def test_a_key_file_goes_before_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_certificate(tmp_path, "tls", ["a.example.org"])
    monkeypatch.setenv("THRESHER_SERVER_KEY", KEY)
    assert made(tmp_path).key == KEY
    assert not (tmp_path / "state").exists()
    given = tmp_path / "given"
    given.write_text("another-key-in-a-file\n")
    given.chmod(0o600)
    assert made(tmp_path, key_file=given).key == "another-key-in-a-file"


def test_a_key_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    write_certificate(tmp_path, "tls", ["a.example.org"])
    given = tmp_path / "given"
    given.write_text(KEY)
    given.chmod(0o640)
    with pytest.raises(ConfigError, match=r"mode 640, expected 600.*chmod 600"):
        made(tmp_path, key_file=given)


@pytest.mark.parametrize("key", ["short", "with spaces in between", "with=sign,and,commas"])
def test_a_key_that_triton_could_not_take_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    write_certificate(tmp_path, "tls", ["a.example.org"])
    monkeypatch.setenv("THRESHER_SERVER_KEY", key)
    with pytest.raises(ConfigError, match="THRESHER_SERVER_KEY.*16 to 512") as caught:
        made(tmp_path)
    assert key not in str(caught.value)


def test_options_show_no_key_and_set_the_limits_that_a_release_has(tmp_path: Path) -> None:
    write_certificate(tmp_path, "tls", ["a.example.org"])
    public = made(tmp_path)
    options, hidden = public.options("--http-max-input-size <integer>\n--allow-client-shm")
    assert "--http-max-input-size=67108864" in options
    assert "--allow-client-shm=false" in options
    assert public.key not in " ".join(options)
    for shown, real in hidden.items():
        assert shown in options
        assert real == shown.replace("(hidden)", public.key)
        assert all(name in real for name in RESTRICTED_BY_OPTION["--grpc-restricted-protocol"])
    assert not any("max-input" in option for option in public.options("")[0])


def test_the_environments_key_is_never_sent_over_a_network_in_the_clear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THRESHER_SERVER_KEY", KEY)
    for url in ("10.1.2.3:8001", "models.example.org:8001", "http://10.1.2.3:8000"):
        assert connection_from_environment(url).headers == {}
    for url in ("127.0.0.1:8001", "localhost:8001", "[::1]:8001", "grpcs://10.1.2.3:8001"):
        assert connection_from_environment(url).headers == key_headers(KEY)
    monkeypatch.setenv("THRESHER_TLS_CA", str(tmp_path / "ca.crt"))
    connection = connection_from_environment("10.1.2.3:8001")
    assert connection.headers == key_headers(KEY)
    assert connection.tls is not None
    assert connection.tls.ca == tmp_path / "ca.crt"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "models.example.org"])
def test_other_machines_are_let_in_with_the_hardened_preset_only(tmp_path: Path, host: str) -> None:
    with pytest.raises(ServerError, match=f"--host {host} .*thresher serve --public"):
        check_host(host, None)
    write_certificate(tmp_path, "tls", ["a.example.org"])
    check_host(host, made(tmp_path))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.1.1", "::1", "localhost"])
def test_this_machine_alone_needs_nothing(host: str) -> None:
    check_host(host, None)
