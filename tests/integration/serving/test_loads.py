"""A load loads: whatever files' times say, the version that answers is the one that was meant."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from tritonclient.grpc import InferenceServerClient, InferInput

from support.triton import Triton, triton
from support.versions import ROWS, offset, publish_version
from thresher.cli.serve import serve
from thresher.errors import ServerError
from thresher.repository import ModelRepository
from thresher_serving import RunningServer, Runtime, control, start_server
from thresher_serving.rollout import roll_back, roll_out
from thresher_serving.rollout.configuration import naming


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("loads")


@pytest.fixture(scope="module")
def running(home: Path, runtime: Runtime) -> Iterator[RunningServer]:
    publish_version(home / "models", "first", 1)
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


def answers(url: str, name: str) -> int:
    """Return the version whose weights answer, by tritonclient alone; it must be the one named."""
    with InferenceServerClient(url) as client:
        rows = InferInput("features", list(ROWS.shape), "FP32").set_data_from_numpy(ROWS)
        got = client.infer(name, [rows])
    version = int(got.get_response().model_version)
    assert np.array_equal(got.as_numpy("logits"), ROWS + offset(version))
    return version


def an_hour_ahead(file: Path) -> None:
    then = time.time() + 3600
    os.utime(file, (then, then))


@pytest.mark.parametrize("ahead", ["1/model.onnx", "2/model.onnx", "labels.txt"])
def test_a_file_with_a_time_in_the_future_hides_no_later_change(
    home: Path, running: RunningServer, ahead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"ahead-{ahead.replace('/', '-')}"
    publish_version(home / "models", name, 1)
    repository = ModelRepository(home / "models")
    publish_version(home / "models", name, 2)
    an_hour_ahead(home / "models" / name / ahead)
    running.load_model(name)
    assert answers(running.grpc_url, name) == 1

    repository.serve_versions(name, [2])
    with InferenceServerClient(running.grpc_url) as client:
        client.load_model(name)
    assert answers(running.grpc_url, name) == 1, "Triton by itself sees no change"
    monkeypatch.chdir(home)
    done = CliRunner().invoke(serve, ["--background", "--repository", str(home / "models")])
    assert "its models are up to date" in done.stdout, done.output
    assert answers(running.grpc_url, name) == 2

    assert roll_out(repository, name, 1, running.grpc_url).previous == 2
    assert answers(running.grpc_url, name) == 1
    assert roll_back(repository, name, running.grpc_url).version == 2
    assert answers(running.grpc_url, name) == 2


def test_a_load_of_what_is_loaded_takes_no_time(running: RunningServer) -> None:
    begin = time.monotonic()
    running.load_model("first")
    assert time.monotonic() - begin < 1
    assert answers(running.grpc_url, "first") == 1


@pytest.fixture
def lazy(home: Path, running: RunningServer, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Let Triton not hear of a number of loads, as if its comparison of times held them back."""
    unheard = {"number": 0}
    load = InferenceServerClient.load_model

    def heard(client: Any, *arguments: Any, **options: Any) -> None:
        if unheard["number"]:
            unheard["number"] -= 1
            return
        load(client, *arguments, **options)

    monkeypatch.setattr(InferenceServerClient, "load_model", heard)
    return unheard


def test_a_load_without_effect_is_followed_by_unload_and_load(
    home: Path, running: RunningServer, lazy: dict[str, int]
) -> None:
    for version in (1, 2):
        publish_version(home / "models", "lazy", version)
    running.load_model("lazy")
    repository = ModelRepository(home / "models")
    lazy["number"] = 1
    both = control.load_model(
        running.grpc_url, "lazy", config=naming(repository.own_config("lazy", 2), [2])
    )
    assert [state.version for state in both if state.is_ready] == [2]
    assert answers(running.grpc_url, "lazy") == 2


def test_a_server_that_goes_on_with_another_version_or_decision_is_an_error(
    home: Path, running: RunningServer, lazy: dict[str, int]
) -> None:
    for version in (1, 2):
        publish_version(home / "models", "stuck", version)
    running.load_model("stuck")
    config = ModelRepository(home / "models").read_config("stuck")
    lazy["number"] = 2
    with pytest.raises(ServerError, match=r"no version answers, expected version 2"):
        control.load_model(running.grpc_url, "stuck", config=naming(config, [2]))
    running.load_model("stuck")
    config.parameters["thresher.decision/1"].string_value = "{}"
    lazy["number"] = 2
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(InferenceServerClient, "unload_model", lambda *_, **__: None)
        with pytest.raises(ServerError, match='another "thresher.decision/1" than its config'):
            control.load_model(running.grpc_url, "stuck", config=config)


def test_what_an_older_release_left_as_a_canary_is_ended(
    home: Path, running: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, name = home / "models", "tried"
    for version in (1, 2):
        publish_version(root, name, version)
    running.load_model(name)
    repository = ModelRepository(root)
    monkeypatch.chdir(home)

    def leave_canary(*, keeps_folder: bool) -> None:
        """Load a canary as the older release did: from a folder of links that it then removed."""
        folder = root / f".canary.{name}"
        (folder / "2").mkdir(parents=True)
        for file in ("2/model.onnx", "labels.txt"):
            os.link(root / name / file, folder / file)
        config = naming(repository.own_config(name, 2), [2], name=folder.name)
        config.parameters["thresher.canary"].string_value = "0.1"
        control.load_model(running.grpc_url, folder.name, config=config)
        if not keeps_folder:
            for path in (folder / "2/model.onnx", folder / "labels.txt"):
                path.unlink()
            (folder / "2").rmdir()
            folder.rmdir()
        assert answers(running.grpc_url, folder.name) == 2

    def is_gone() -> bool:
        with InferenceServerClient(running.grpc_url) as client:
            loaded = client.is_model_ready(f".canary.{name}")
        return not loaded and not (root / f".canary.{name}").exists()

    leave_canary(keeps_folder=False)
    done = CliRunner().invoke(serve, ["--background", "--repository", str(root)])
    assert "The canary of tried, which an earlier release of Thresher left, was" in done.stderr
    assert f"unloaded from {running.grpc_url}" in done.stderr
    assert is_gone()
    leave_canary(keeps_folder=True)
    steps: list[str] = []
    assert roll_out(repository, name, 2, running.grpc_url, progress=steps.append).version == 2
    (said,) = (step for step in steps if "canary" in step)
    assert f"unloaded from {running.grpc_url}, {root}/.canary.tried was removed" in said
    assert is_gone()
    again = CliRunner().invoke(serve, ["--background", "--repository", str(root)])
    assert "canary" not in again.output


def test_a_folder_that_a_canary_left_is_removed_where_no_server_runs(
    tmp_path: Path, runtime: Runtime
) -> None:
    from thresher_serving.rollout import end_left_canaries

    publish_version(tmp_path, "tried", 1)
    (tmp_path / ".canary.tried" / "1").mkdir(parents=True)
    (said,) = end_left_canaries(tmp_path, ["tried", "other"])
    assert "The canary of tried" in said
    assert not (tmp_path / ".canary.tried").exists()
    with triton(runtime, tmp_path, ["tried"], log=tmp_path / "log") as server:
        assert isinstance(server, Triton)
        assert end_left_canaries(tmp_path, ["tried"], server.grpc_url) == []
