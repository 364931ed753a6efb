"""The commands on a small published model and a real Triton, also when the input is bad."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

from support import weather
from support.fixtures import LogVersion
from thresher.cli import main
from thresher.registry import connect, resolve
from thresher_serving import Client, find_runtime, running_server, start_server

THRESHER = [sys.executable, "-c", "from thresher.cli import main; main()"]


def thresher(*arguments: str) -> Result:
    """Run a command in this process; an exception that is no SystemExit fails the test."""
    return CliRunner().invoke(main, arguments, catch_exceptions=False)


def fails(*arguments: str) -> str:
    """Run a command that must fail as a user's mistake does; return what it says."""
    outcome = thresher(*arguments)
    assert outcome.exit_code == 1, outcome.output
    assert "Traceback" not in outcome.output
    return outcome.stderr


@pytest.fixture
def published(log_version: LogVersion) -> Path:
    """A published weather model in the working folder."""
    log_version()
    assert thresher("export", "models:/weather@candidate").exit_code == 0
    return Path.cwd()


@pytest.fixture
def served(published: Path) -> Iterator[Path]:
    """The same, with a Triton that serves it."""
    server = start_server(
        Path("model_repository"),
        runtime=find_runtime(),
        grpc_port=0,
        http_port=0,
        metrics_port=0,
    )
    yield published
    server.stop()


def test_verify_finds_three_engines_alike(served: Path) -> None:
    outcome = thresher("verify", "weather", "--over-the-wire", "--json")
    assert outcome.exit_code == 0, outcome.output
    content = json.loads(outcome.stdout)
    assert (content["decision_flips"], content["num_rows"]) == (0, 150)
    assert len(content["pairs"]) == 3


def test_served_labels_follow_from_served_probabilities_bit_for_bit(served: Path) -> None:
    server = running_server()
    assert server
    rows = resolve("models:/weather/1").evaluation("test").inputs
    with Client(server.grpc_url) as client:
        answer = client.predict("weather", rows)
    assert answer.thresholds is not None
    np.testing.assert_array_equal(answer.thresholds, weather.DECISION.thresholds)
    np.testing.assert_array_equal(answer.labels, answer.probabilities >= answer.thresholds)
    assert answer.label_names == weather.LABELS
    assert answer.model_version == 1


def test_predict_shows_labels_and_refuses_what_does_not_fit(served: Path) -> None:
    rows = resolve("models:/weather/1").evaluation("test").inputs["features"]
    np.save("good.npy", rows[0])
    np.save("nan.npy", np.full(6, np.nan, np.float32))
    np.save("double.npy", rows[0].astype(np.float64))
    np.save("long.npy", np.zeros(7, np.float32))
    Path("text.npy").write_text("no array")
    shown = json.loads(thresher("predict", "weather", "good.npy", "--json").stdout)
    assert shown["version"] == 1
    expected = weather.DECISION.apply(resolve("models:/weather/1").evaluation("test").logits_NL)[1]
    assert [entry["label"] for entry in shown["examples"][0]["labels"]] == [
        name for name, yes in zip(weather.LABELS, expected[0], strict=True) if yes
    ]
    assert "NaN" in fails("predict", "weather", "good.npy", "nan.npy")
    assert "float64" in fails("predict", "weather", "double.npy")
    assert "long.npy" in fails("predict", "weather", "long.npy")
    assert "text.npy" in fails("predict", "weather", "text.npy")
    assert "missing.npy" in fails("predict", "weather", "missing.npy")
    assert 'did you mean "weather"' in fails("predict", "wether", "good.npy")
    said = fails("predict", "weather", "good.npy", "--model-version", "9")
    assert 'unknown version "9". Valid: 1' in said


def test_new_version_goes_live_in_the_running_server(served: Path, log_version: LogVersion) -> None:
    from thresher import Decision

    thresholds = [0.05, 0.06, 0.07, 0.08]
    log_version(decision=Decision(labels=weather.LABELS, thresholds=thresholds))
    assert thresher("export", "models:/weather@candidate").exit_code == 0
    assert thresher("serve", "--background").exit_code == 0
    assert thresher("verify", "weather/2", "--over-the-wire").exit_code == 0
    server = running_server()
    assert server
    rows = resolve("models:/weather/2").evaluation("test").inputs
    with Client(server.grpc_url) as client:
        answer = client.predict("weather", rows)
    assert answer.model_version == 2
    np.testing.assert_array_equal(answer.thresholds, np.float32(thresholds))


def test_new_thresholds_go_live_and_back_with_two_commands(served: Path) -> None:
    done = thresher("tune", "models:/weather/1", "--objective", "f2", "--rollout")
    assert "weather version 2 serves on" in done.output
    client = connect().MlflowClient()
    assert int(client.get_model_version_by_alias("weather", "champion").version) == 2
    running = running_server()
    assert running is not None
    rows = {"features": np.zeros((3, 6), np.float32)}
    with Client(running.grpc_url) as served_by:
        answer = served_by.predict("weather", rows)
        assert answer.model_version == 2
        assert answer.thresholds is not None
        assert list(answer.thresholds) == list(resolve("models:/weather/2").decision().thresholds)
        thresher("rollback", "weather")
        assert served_by.predict("weather", rows).model_version == 1
    assert "weather" in thresher("status").output


def test_published_model_that_was_tampered_with_is_found(published: Path) -> None:
    path = published / "model_repository/weather/1/model.onnx"
    model = onnx.load(path)
    (tensor,) = [t for t in model.graph.initializer if t.name == "thresher.thresholds"]
    moved = onnx.numpy_helper.to_array(tensor) + np.float32(0.1)
    tensor.CopyFrom(onnx.numpy_helper.from_array(moved, tensor.name))
    onnx.save(model, path)
    assert "model.onnx has other bytes" in fails("verify", "weather")


def test_server_that_answers_with_another_version_is_found(
    served: Path, log_version: LogVersion
) -> None:
    """What runs is version 1; version 2 is published but was never loaded."""
    log_version()
    assert thresher("export", "models:/weather/2").exit_code == 0
    assert 'unknown version "2". Valid: 1' in fails("verify", "weather", "--over-the-wire")


def test_verify_without_a_server_says_how_to_start_one(published: Path) -> None:
    assert "thresher serve" in fails("verify", "weather", "--over-the-wire")
    assert "no Triton server answers" in fails(
        "verify", "weather", "--over-the-wire", "--server", "127.0.0.1:9"
    )


def test_unknown_names_say_what_there_is(published: Path) -> None:
    assert 'did you mean "weather"' in fails("verify", "wether")
    assert "published: [1]" in fails("verify", "weather/7")
    assert "has versions [1]" in fails("export", "models:/weather/7")
    assert "expected NAME, NAME/VERSION or NAME@ALIAS" in fails("verify", "weather/x")


def test_port_in_use_is_named_with_the_option_that_changes_it(served: Path) -> None:
    server = running_server()
    assert server
    command = [*THRESHER, "serve", "--background", "--grpc-port", str(server.grpc_port)]
    other = served / "elsewhere"
    other.mkdir()
    repository = str(served / "model_repository")
    done = subprocess.run(
        [*command, "--repository", repository],
        cwd=other,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert str(server.grpc_port) in done.stderr
    assert "--grpc-port" in done.stderr
    assert "Traceback" not in done.stderr


def test_serving_an_empty_folder_is_refused(store: Path) -> None:
    assert "thresher export" in fails("serve", "--background")


def test_stop_without_a_server_is_no_error(store: Path) -> None:
    assert thresher("stop").exit_code == 0


def interrupt(command: list[str], words: str, folder: Path) -> tuple[int, str]:
    """Start a command, press Ctrl-C once it has said certain words, wait for its end."""
    with subprocess.Popen(
        [*THRESHER, *command],
        cwd=folder,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stderr
        said = ""
        for line in process.stderr:
            if words in line and words not in said:
                process.send_signal(signal.SIGINT)
            said += line
    return process.returncode, said


@pytest.mark.parametrize("words", ["Converting", "Parity: validation", "Parity: test"])
def test_interrupted_export_publishes_nothing(
    log_version: LogVersion, store: Path, words: str
) -> None:
    log_version()
    code, said = interrupt(["export", "models:/weather@candidate"], words, store)
    assert code != 0, said
    assert "Traceback" not in said
    assert not list(store.glob("model_repository/weather/*"))
    assert not list(store.glob(".model_repository.staging/weather-*"))


def test_interrupted_start_leaves_no_server(published: Path) -> None:
    ports = ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0"]
    code, said = interrupt(["serve", "--background", *ports], "Starting Triton", published)
    assert code != 0, said
    time.sleep(0.5)
    assert running_server() is None
    assert "Traceback" not in said
    left = subprocess.run(
        ["pgrep", "-f", f"tritonserver.*{published}"], capture_output=True, text=True, check=False
    )
    assert left.stdout == ""


def test_wrong_recipe_names_file_and_key(store: Path) -> None:
    Path("recipe.toml").write_text('name = "x"\nepoch = 3\n')
    assert "recipe.toml: unknown key" in fails("train", "recipe.toml")
    assert "no such file" in fails("train", "nowhere.toml")


TARGETS = """
import numpy as np
import torch
from thresher_training import DataSet, Split

def load(bad: float = 1.0):
    def split(seed):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(60, 3)).astype("float32")
        return Split(inputs={"x": x}, targets_NL=(x[:, :2] > 0).astype("float32"))
    splits = {name: split(i) for i, name in enumerate(("train", "validation", "test"))}
    splits["validation"].targets_NL[5, 1] = bad
    return DataSet(labels=("a", "b"), splits=splits, source="test")

class Net(torch.nn.Module):
    def __init__(self, num_labels):
        super().__init__()
        self.layer = torch.nn.Linear(3, num_labels)
    def forward(self, x):
        return self.layer(x)
"""

RECIPE = """
name = "toy"
[data]
source = "toy:load"
[network]
factory = "toy:Net"
[optimization]
epochs = 2
"""


def test_targets_that_are_not_0_or_1_stop_training_and_register_nothing(store: Path) -> None:
    Path("toy.py").write_text(TARGETS)
    Path("toy.toml").write_text(RECIPE)
    said = fails("train", "toy.toml", "--set", "data.options.bad=2.0")
    assert 'label "b" in row 5 is 2' in said
    client = connect().MlflowClient()
    assert not client.search_registered_models()
    (experiment,) = [e for e in client.search_experiments() if e.name == "toy"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FAILED"


def test_interrupted_training_is_marked_killed_and_registers_nothing(store: Path) -> None:
    Path("toy.py").write_text(TARGETS)
    Path("toy.toml").write_text(RECIPE)
    many = "optimization.epochs=100000"
    code, said = interrupt(["train", "toy.toml", "--set", many], "epoch 3", store)
    assert code != 0
    assert "Traceback" not in said
    client = connect().MlflowClient()
    assert not client.search_registered_models()
    (experiment,) = [e for e in client.search_experiments() if e.name == "toy"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "KILLED"


def test_ui_listens_on_loopback_and_shows_the_store(store: Path) -> None:
    import socket
    import urllib.request

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [*THRESHER, "ui", "--port", str(port)],
        cwd=store,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        for _ in range(300):
            time.sleep(0.2)
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as page:
                    assert page.status == 200
                    break
            except OSError:
                assert process.poll() is None, "the UI ended"
        else:
            pytest.fail("the UI did not come up")
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)
