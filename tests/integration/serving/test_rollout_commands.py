"""`thresher rollout`, `rollback` and `status`, on a server that `start_server` runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from support.versions import ROWS, publish_version
from thresher.cli.rollout import rollback, rollout
from thresher.cli.status import status
from thresher.errors import ThresherError
from thresher.registry import connect
from thresher_serving import Client, RunningServer, Runtime, start_server


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def running(home: Path, runtime: Runtime) -> Iterator[RunningServer]:
    for version in (1, 2):
        publish_version(home / "models", "weather", version, thresholds=version / 10)
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


def run(command: object, *arguments: str) -> Result:
    return CliRunner().invoke(command, list(arguments))  # type: ignore[arg-type]


def said_by(result: Result) -> str:
    """Return the message that `thresher` prints for an error that a user can mend."""
    assert isinstance(result.exception, ThresherError), result.output
    return str(result.exception)


def test_a_rollout_and_a_rollback_move_the_alias_and_show_their_steps(
    home: Path, running: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home}/registry.db")
    client = connect().MlflowClient()
    client.create_registered_model("weather")
    for _ in range(2):
        client.create_model_version("weather", str(home), run_id=None)
    client.set_registered_model_alias("weather", "candidate", "2")
    client.set_registered_model_alias("weather", "champion", "1")

    done = run(rollout, "weather@candidate")
    assert done.exit_code == 0, done.output
    assert f"weather version 2 serves on {running.grpc_url} in place of version 1" in done.stdout
    assert "(4 golden rows, 12 decisions, 0 flips)" in done.stdout
    for step in (
        "Asking MLflow which version weather@candidate is",
        "Checking the certificate of weather/2",
        "Loading weather/2 next to version 1",
        "Comparing 4 golden rows",
        "Moving weather@champion in MLflow to version 2",
        "Writing config.pbtxt, unloading version 1",
    ):
        assert step in done.stderr
    assert client.get_model_version_by_alias("weather", "champion").version in {"2", 2}

    found = json.loads(run(status, "--json").stdout)
    (shown,) = found["versions"]
    assert (shown["version"], shown["serves"], shown["proof"]) == (2, True, "ok")
    assert sorted(shown["aliases"]) == ["candidate", "champion"]
    assert found["previous"] == {"weather": 1}

    back = run(rollback, "weather", "--json")
    assert back.exit_code == 0, back.output
    assert json.loads(back.stdout)["version"] == 1
    assert client.get_model_version_by_alias("weather", "champion").version in {"1", 1}
    with Client(running.grpc_url) as asking:
        assert asking.predict("weather", ROWS).model_version == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["weather"], "names no version; expected NAME@ALIAS or NAME/VERSION, such as weather@"),
        (["weather/2", "--server", "127.0.0.1:1"], "no Triton server answers at 127.0.0.1:1"),
        (["weather/2", "--alias", "x"], "Registered Model with name=weather not found"),
        (["weather/9"], "unknown registered model"),
        (["weather/2", "--repository", "nowhere"], "nowhere: no such folder; expected the model"),
        (["other/1"], "tells no decision of version 1, so Thresher did not publish it"),
    ],
)
def test_what_cannot_be_rolled_out_is_explained(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/empty.db")
    Path("models/other/1").mkdir(parents=True, exist_ok=True)
    Path("models/other/config.pbtxt").write_text('backend: "onnxruntime"')
    if "--server" in arguments:
        arguments = [*arguments, "--repository", "models"]
    assert message in said_by(run(rollout, *arguments))


def test_status_shows_requests_failures_and_what_is_wrong(
    home: Path, running: RunningServer
) -> None:
    publish_version(home / "models", "changed", 1)
    publish_version(home / "models", "broken", 1, model=b"not an ONNX model")
    running.load_model("changed")
    with pytest.raises(ThresherError):
        running.load_model("broken")
    (home / "models/changed/1/note").write_text("not in the certificate")
    with Client(running.grpc_url) as client:
        for _ in range(3):
            client.predict("changed", ROWS)
    found = {each["model"]: each for each in json.loads(run(status, "--json").stdout)["versions"]}
    changed, broken = found["changed"], found["broken"]
    assert (changed["requests"], changed["failures"], changed["proof"]) == (3, 0, "WRONG")
    assert changed["mean_ms"] > 0
    assert changed["batch_size"] == len(ROWS)
    assert (broken["serves"], broken["requests"]) == (False, None)
    assert "Protobuf parsing failed" in broken["reason"]
    picture = run(status).stdout
    assert "Protobuf parsing failed" in picture
    assert "WRONG" in picture
    assert [line for line in picture.splitlines() if "changed" in line and "serves" in line]
