"""Client, rollout and status of a server with TLS, and a key for all but predictions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from support.guarded import KEY, guarded_triton
from support.triton import Triton
from support.versions import ROWS, publish_version
from thresher.cli.rollout import rollback, rollout
from thresher.cli.status import status
from thresher.errors import ServerError, ThresherError
from thresher_serving import Client, Connection, Runtime, Tls, control
from thresher_serving.connection_environment import connection_from_environment, key_headers


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SERVER_KEY", "TLS_CA", "TLS_CERT", "TLS_KEY"):
        monkeypatch.delenv(f"THRESHER_{name}", raising=False)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("guarded")
    for version in (1, 2):
        publish_version(path / "models", "weather", version, thresholds=version / 10)
    return path


@pytest.fixture(scope="module")
def server(home: Path, runtime: Runtime) -> Iterator[Triton]:
    with guarded_triton(runtime, home / "models", ["weather"], folder=home) as running:
        yield running


def run(command: object, *arguments: str) -> Result:
    return CliRunner().invoke(command, list(arguments))  # type: ignore[arg-type]


def said(result: Result) -> str:
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def test_predictions_need_the_certificate_and_no_key(server: Triton, home: Path) -> None:
    with Client(server.grpc_url, tls=Tls(ca=home / "ca.crt")) as client:
        answer = client.predict("weather", ROWS)
        assert (answer.model_version, len(answer)) == (1, len(ROWS))
        np.testing.assert_array_equal(answer.labels, answer.probabilities >= answer.thresholds)
    with Client(server.grpc_url) as plain, pytest.raises(ServerError, match="THRESHER_TLS_CA"):
        plain.predict("weather", ROWS, timeout_s=5)


@pytest.mark.parametrize("key", [None, "a-wrong-key-of-some-length", KEY])
def test_model_control_needs_the_key(server: Triton, home: Path, key: str | None) -> None:
    headers = {} if key is None else key_headers(key)
    where = Connection(url=server.grpc_url, tls=Tls(ca=home / "ca.crt"), headers=headers)
    if key == KEY:
        assert [str(state) for state in control.model_states(where)] == [
            "weather version 1 is READY"
        ]
        return
    with pytest.raises(ServerError, match="THRESHER_SERVER_KEY"):
        control.model_states(where)
    with pytest.raises(ServerError, match="THRESHER_SERVER_KEY"):
        control.unload_model(where, "weather")


def test_the_environment_names_key_and_certificate_for_commands(
    home: Path, server: Triton, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    where = ["--server", server.grpc_url, "--repository", str(home / "models")]
    monkeypatch.setenv("THRESHER_TLS_CA", str(home / "ca.crt"))
    for wrong in (None, "a-wrong-key-of-some-length"):
        if wrong:
            monkeypatch.setenv("THRESHER_SERVER_KEY", wrong)
        for command, arguments in ((rollout, ["weather/2"]), (rollback, ["weather"]), (status, [])):
            refused = run(command, *arguments, *where)
            assert isinstance(refused.exception, ThresherError), refused.output
            why = "does not take the key that was sent" if wrong else "wants a key for this call"
            assert why in str(refused.exception)
            assert "THRESHER_SERVER_KEY" in str(refused.exception)
    with Client(server.grpc_url, tls=Tls(ca=home / "ca.crt")) as client:
        assert client.predict("weather", ROWS).model_version == 1
        monkeypatch.setenv("THRESHER_SERVER_KEY", KEY)
        assert "in place of version 1" in said(run(rollout, "weather/2", *where))
        assert client.predict("weather", ROWS).model_version == 2
        (found,) = json.loads(said(run(status, "--json", *where)))["versions"]
        assert (found["version"], found["state"]) == (2, "READY")
        assert "in place of version 2" in said(run(rollback, "weather", *where))
        assert client.predict("weather", ROWS).model_version == 1
    monkeypatch.delenv("THRESHER_TLS_CA")
    plain = run(status, *where)
    assert isinstance(plain.exception, ThresherError)
    assert "If that server wants TLS: set THRESHER_TLS_CA" in str(plain.exception)


def test_where_clients_need_a_certificate_the_environment_names_it(
    home: Path, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THRESHER_SERVER_KEY", KEY)
    monkeypatch.setenv("THRESHER_TLS_CA", str(tmp_path / "ca.crt"))
    with guarded_triton(
        runtime, home / "models", ["weather"], folder=tmp_path, is_mutual=True
    ) as running:
        with pytest.raises(ServerError):
            control.wait_ready(connection_from_environment(running.grpc_url), timeout_s=3)
        monkeypatch.setenv("THRESHER_TLS_CERT", str(tmp_path / "client.crt"))
        monkeypatch.setenv("THRESHER_TLS_KEY", str(tmp_path / "client.key"))
        where = connection_from_environment(running.grpc_url)
        control.wait_ready(where, timeout_s=10)
        (state,) = control.model_states(where)
        assert state.is_ready
