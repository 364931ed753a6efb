"""A rollout whose MLflow server is killed between two of its steps."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.mlflow_server import MlflowServer
from support.triton import Triton, triton
from support.versions import ROWS, publish_version
from thresher.registry import connect
from thresher.repository import ModelRepository
from thresher_serving import Client, Runtime

ROLLOUT = """
import os, signal, sys
from thresher.cli import main
from thresher_serving.rollout.switch import Switch

moves = Switch._move_alias

def kill_first(self, alias, *, must):  # between the look-up and the move of the alias
    os.killpg(int(os.environ["KILLED"]), signal.SIGKILL)
    return moves(self, alias, must=must)

if "KILLED" in os.environ:
    Switch._move_alias = kill_first
sys.argv[0] = "thresher"
main()
"""


@pytest.fixture
def mlflow(
    empty_mlflow_db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[MlflowServer]:
    (tmp_path / "store.db").write_bytes(empty_mlflow_db.read_bytes())
    store = f"sqlite:///{tmp_path / 'store.db'}"
    client = connect().MlflowClient(store)
    client.create_registered_model("m")
    for _ in range(2):
        client.create_model_version("m", str(tmp_path), run_id=None)
    client.set_registered_model_alias("m", "candidate", "2")
    client.set_registered_model_alias("m", "champion", "1")
    with MlflowServer(tmp_path, store=store, artifacts=str(tmp_path / "kept")) as running:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", running.uri)
        yield running


@pytest.fixture
def server(runtime: Runtime, tmp_path: Path) -> Iterator[Triton]:
    for version in (1, 2):
        publish_version(tmp_path / "models", "m", version, thresholds=version / 10)
    options = ["--disable-auto-complete-config"]
    with triton(runtime, tmp_path / "models", ["m"], *options, log=tmp_path / "log") as running:
        yield running


def thresher(
    folder: Path, *arguments: str, killed: int | None = None
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **({"KILLED": str(killed)} if killed else {})}
    return subprocess.run(
        [sys.executable, "-c", ROLLOUT, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.slow
def test_an_mlflow_server_killed_in_the_middle_leaves_the_old_version_and_a_rollback_goes_through(
    mlflow: MlflowServer, server: Triton, tmp_path: Path
) -> None:
    where = ["--server", server.grpc_url, "--repository", "models"]
    done = thresher(tmp_path, "rollout", "m@candidate", *where, killed=mlflow.pid)
    assert done.returncode == 1, done.stderr
    assert "Asking MLflow which version m@candidate is" in done.stderr
    assert "m/2 was not rolled out; version 1 serves as before. Reason: m@champion" in done.stderr
    assert "Traceback" not in done.stderr
    with Client(server.grpc_url) as client:
        assert client.predict("m", ROWS).model_version == 1
        repository = ModelRepository(tmp_path / "models")
        assert repository.served_versions("m") == [1]

        looked_up = thresher(tmp_path, "rollout", "m@candidate", *where)
        assert looked_up.returncode == 1
        assert "models:/m@candidate: the registry does not answer" in looked_up.stderr
        assert "Traceback" not in looked_up.stderr
        assert client.predict("m", ROWS).model_version == 1

        by_number = thresher(tmp_path, "rollout", "m/2", *where)
        assert by_number.returncode == 0, by_number.stderr
        assert "No alias is moved" in by_number.stderr
        assert client.predict("m", ROWS).model_version == 2

        back = thresher(tmp_path, "rollback", "m", *where)
        assert back.returncode == 0, back.stderr
        assert "WARNING: m@champion in MLflow was not moved" in back.stderr
        assert client.predict("m", ROWS).model_version == 1

        mlflow.kill()  # has been dead for long; this buries it
        mlflow.start()
        registry = connect().MlflowClient()
        assert str(registry.get_model_version_by_alias("m", "champion").version) == "1"
        assert thresher(tmp_path, "rollout", "m@candidate", *where).returncode == 0
        assert client.predict("m", ROWS).model_version == 2
        assert str(registry.get_model_version_by_alias("m", "champion").version) == "2"
