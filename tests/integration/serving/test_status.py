"""`thresher status`: users' requests alone are counted, and disagreements are named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tritonclient.grpc import InferenceServerClient

from support.versions import ROWS, publish_version
from thresher.cli.status import status
from thresher.registry import connect
from thresher.repository import ModelRepository
from thresher_serving import Client, RunningServer, Runtime, start_server
from thresher_serving.embedded import state
from thresher_serving.own_requests import own_requests
from thresher_serving.rollout import StatusReader, Supervised, roll_back, roll_out
from thresher_serving.rollout import status as status_module


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def running(home: Path, runtime: Runtime) -> Iterator[RunningServer]:
    for version in (1, 2):
        # warm-up of three requests in each of two copies, which the compiled backend does not count
        publish_version(home / "models", "weather", version, slow_load=3, copies=2)
    server = start_server(
        home / "models",
        runtime=runtime,
        grpc_port=0,
        http_port=0,
        metrics_port=0,
        state_dir=home / ".thresher",
    )
    yield server
    server.stop(timeout_s=0.1)


@pytest.fixture(autouse=True)
def there(home: Path, running: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def ask(running: RunningServer, number: int) -> None:
    with Client(running.grpc_url) as client:
        for _ in range(number):
            client.predict("weather", ROWS)


def shown() -> dict[str, Any]:
    done = CliRunner().invoke(status, ["--json"])
    assert done.exit_code == 0, done.exception
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def weather() -> tuple[int, int, int, bool]:
    """Return version, requests, failures, and whether our own are among them."""
    (each,) = (each for each in shown()["versions"] if each["model"] == "weather")
    assert (each["mean_ms"] is None) == (each["requests"] == 0)
    return each["version"], each["requests"], each["failures"], each["has_own_requests"]


def test_requests_are_those_of_users(home: Path, running: RunningServer) -> None:
    repository, url = ModelRepository(home / "models"), running.grpc_url
    with InferenceServerClient(url) as client:
        output = client.get_inference_statistics("weather").model_stats[0]
    assert output.inference_stats.success.count == 0, "warm-up is no request"
    assert weather() == (1, 0, 0, False)
    ask(running, 3)
    assert weather() == (1, 3, 0, False)
    running.load_model("weather")
    assert weather() == (1, 3, 0, False), "a load of what is loaded changes nothing"
    roll_out(repository, "weather", 1, url)
    assert weather() == (1, 3, 0, False), "golden rows are compared again"
    roll_out(repository, "weather", 2, url)
    assert weather() == (2, 0, 0, False)
    ask(running, 2)
    with InferenceServerClient(url) as client, pytest.raises(Exception, match="inputs"):
        client.infer("weather", [])
    version, requests, failures, has_own = weather()
    assert (version, requests, has_own) == (2, 2, False)
    assert failures in {0, 1}  # what Triton refuses before it queues the request is not counted
    roll_back(repository, "weather", url)
    assert weather() == (1, 0, 0, False)
    ask(running, 1)
    assert weather() == (1, 1, 0, False)
    assert set(own_requests(repository.root, url)) == {("weather", 1)}


def test_health_texts_are_not_users_requests(
    home: Path, running: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    roll_out(ModelRepository(home / "models"), "weather", 2, running.grpc_url)
    ask(running, 5)
    output = Supervised(health_texts={"weather": 4})
    monkeypatch.setattr(status_module, "supervised", lambda _: output)
    assert weather() == (2, 1, 0, False)
    roll_back(ModelRepository(home / "models"), "weather", running.grpc_url)


def test_what_something_else_has_loaded_says_that_its_warm_up_may_count(
    home: Path, running: RunningServer
) -> None:
    ask(running, 30)
    with InferenceServerClient(running.grpc_url) as client:
        client.unload_model("weather")
        client.load_model("weather")
        assert weather() == (1, 0, 0, True)
        picture = CliRunner().invoke(status, []).stdout
        assert "requests of weather/1 may include warm-up: Thresher did not load it" in picture
        running.load_model("weather")
        assert weather() == (1, 0, 0, False), "counted from now on"


def test_a_disk_a_server_and_an_alias_that_disagree_are_named_with_what_mends_it(
    home: Path, running: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = ModelRepository(home / "models")
    assert shown()["warnings"] == []
    repository.serve_versions("weather", [2])
    (warning,) = shown()["warnings"]
    assert warning == (
        "weather: version 1 answers, and its config.pbtxt names version 2, which serves after the "
        "next start of the server. Run: thresher rollout weather/1 to keep version 1, or thresher "
        "rollout weather/2"
    )
    assert "WARNING: weather: version 1 answers" in CliRunner().invoke(status, []).stdout
    roll_out(repository, "weather", 1, running.grpc_url)
    assert shown()["warnings"] == []

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home}/registry.db")
    client = connect().MlflowClient()
    client.create_registered_model("weather")
    for _ in range(2):
        client.create_model_version("weather", str(home), run_id=None)
    client.set_registered_model_alias("weather", "candidate", "2")
    assert shown()["warnings"] == [], "only the alias that rollouts move is to name what serves"
    client.set_registered_model_alias("weather", "champion", "2")
    (warning,) = shown()["warnings"]
    assert warning == (
        "weather: version 1 answers, and weather@champion in MLflow is version 2. Run: thresher "
        "rollout weather/1 to move the alias, or thresher rollout weather@champion"
    )


def test_a_repository_that_cannot_be_written_to_hides_no_figures(
    home: Path, running: RunningServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ask(running, 6)
    reader = StatusReader(running.grpc_url, repository=ModelRepository(tmp_path))
    (each,) = reader.read().versions
    assert each.has_own_requests
    assert each.requests is not None
    assert each.requests >= 6


def test_restarts_and_models_left_out_are_shown(
    running: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = state.server_state()
    assert found is not None
    output = replace(found, restarts=2, reason="it got signal 11", left_out={"bad": "ended it"})
    monkeypatch.setattr(state, "server_state", lambda _=None: output)
    picture = " ".join(CliRunner().invoke(status, []).stdout.split())
    assert "started the server again 2 times; last after this: it got signal 11" in picture
    assert "bad is left out: ended it" in picture
