"""Rollouts and status of a hardened server: TLS, and a key for model control."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from support.hosts import write_certificate
from support.versions import ROWS, publish_version
from thresher.cli.rollout import rollback, rollout
from thresher.cli.status import status
from thresher.errors import ThresherError
from thresher_serving import Client, RunningServer, Runtime, Tls, start_server
from thresher_serving.embedded.public import public_server


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hardened")


@pytest.fixture(scope="module")
def server(home: Path, runtime: Runtime) -> Iterator[RunningServer]:
    write_certificate(home, "tls", ["127.0.0.1"])
    for version in (1, 2, 3):
        publish_version(home / "models", "weather", version, thresholds=version / 10)
    hardened = public_server(
        certificate=home / "tls.crt", private_key=home / "tls.key", state_dir=home / ".thresher"
    )
    started = start_server(
        home / "models",
        runtime=runtime,
        grpc_port=0,
        http_port=0,
        metrics_port=0,
        state_dir=home / ".thresher",
        public=hardened,
    )
    yield started
    started.stop(timeout_s=0.1)


def run(command: object, *arguments: str) -> Result:
    return CliRunner().invoke(command, list(arguments))  # type: ignore[arg-type]


def said(result: Result) -> str:
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def keyless(home: Path, server: RunningServer) -> Client:
    """Return a client that has no key: predictions are for everybody."""
    return Client(server.grpc_url, tls=Tls(ca=home / "tls.crt"))


def test_in_its_own_folder_every_command_finds_key_and_certificate(
    home: Path, server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    with keyless(home, server) as client:
        assert "in place of version 1" in said(run(rollout, "weather/2"))
        assert client.predict("weather", ROWS).model_version == 2
        (shown,) = json.loads(said(run(status, "--json")))["versions"]
        assert (shown["version"], shown["serves"], shown["requests"]) == (2, True, 1)
        assert "in place of version 2" in said(run(rollout, "weather/3"))
        assert "in place of version 3" in said(run(rollback, "weather"))
        assert "in place of version 2" in said(run(rollback, "weather"))
        assert client.predict("weather", ROWS).model_version == 1


def test_from_elsewhere_the_environment_names_key_and_certificate(
    home: Path, server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    where = ["--server", server.grpc_url, "--repository", str(home / "models")]
    monkeypatch.setenv("THRESHER_TLS_CA", str(home / "tls.crt"))
    for wrong in (None, "a-wrong-key-of-some-length"):
        if wrong:
            monkeypatch.setenv("THRESHER_SERVER_KEY", wrong)
        for command, arguments in ((rollout, ["weather/2"]), (rollback, ["weather"]), (status, [])):
            refused = run(command, *arguments, *where)
            assert isinstance(refused.exception, ThresherError), refused.output
            told = "does not take the key that was sent" if wrong else "wants a key for this call"
            assert told in str(refused.exception)
            assert "THRESHER_SERVER_KEY" in str(refused.exception)
    with keyless(home, server) as client:
        assert client.predict("weather", ROWS).model_version == 1
        key = (home / ".thresher/server.key").read_text().strip()
        monkeypatch.setenv("THRESHER_SERVER_KEY", key)
        assert "in place of version 1" in said(run(rollout, "weather/2", *where))
        assert "serves" in said(run(status, *where))
        assert "in place of version 2" in said(run(rollout, "weather/3", *where))
        assert client.predict("weather", ROWS).model_version == 3
        assert "in place of version 3" in said(run(rollback, "weather", *where))
        assert client.predict("weather", ROWS).model_version == 2
    monkeypatch.delenv("THRESHER_TLS_CA")
    plain = run(status, *where)
    assert isinstance(plain.exception, ThresherError)
    assert "If that server wants TLS: set THRESHER_TLS_CA" in str(plain.exception)
