"""MLflow's own command line and Python API deploy to a real Triton."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow.deployments import get_deploy_client
from mlflow.deployments.interface import plugin_store, run_local
from mlflow.exceptions import MlflowException

from support.networks import publish_network
from support.triton import Triton, triton
from support.versions import LABELS, ROWS, offset, publish_version
from thresher.artifacts.input_spec import InputSpec
from thresher.registry import connect
from thresher_serving import Runtime

PLUGIN = "thresher_serving.mlflow_deployments"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("deployments")
    for version in (1, 2):
        publish_version(home / "models", "weather", version, thresholds=version / 10)
    publish_version(home / "models", "weather", 3, golden="wrong")
    # what an installed package brings: an entry point
    about = home / "site" / "plugin-0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 0\n")
    (about / "entry_points.txt").write_text(f"[mlflow.deployments]\ntriton = {PLUGIN}\n")
    return home


@pytest.fixture(scope="module")
def server(home: Path, runtime: Runtime) -> Iterator[Triton]:
    log = home / "log"
    with triton(runtime, home / "models", [], "--disable-auto-complete-config", log=log) as running:
        yield running


@pytest.fixture(autouse=True)
def there(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home}/registry.db")
    monkeypatch.setitem(plugin_store.registry, "triton", None)
    plugin_store.register("triton", PLUGIN)


def test_versions_go_round_through_the_python_api(home: Path, server: Triton) -> None:
    registry = connect().MlflowClient()
    registry.create_registered_model("weather")
    for _ in range(2):
        registry.create_model_version("weather", str(home), run_id=None)
    registry.set_registered_model_alias("weather", "candidate", "2")
    client = get_deploy_client(f"triton:{server.grpc_url}")
    config = {"repository": "models", "alias": "champion"}

    assert client.list_deployments() == []
    made = client.create_deployment("weather", "models:/weather/1", config=config)
    assert (made["name"], made["version"], made["state"]) == ("weather", 1, "READY")
    with pytest.raises(MlflowException, match="is deployed on .* already; update it"):
        client.create_deployment("weather", "models:/weather/1", config=config)

    changed = client.update_deployment("weather", "models:/weather@candidate", config=config)
    assert changed["version"] == 2
    assert int(registry.get_model_version_by_alias("weather", "champion").version) == 2
    with pytest.raises(MlflowException, match=r"version 2 serves, untouched.*golden rows say"):
        client.update_deployment("weather", "models:/weather/3", config=config)
    assert client.get_deployment("weather")["version"] == 2

    (row, *_) = client.predict("weather", {"features": ROWS})["predictions"]
    expected = 1 / (1 + np.exp(-(ROWS[0] + offset(2))))
    assert row["probabilities"] == pytest.approx(dict(zip(LABELS, expected, strict=True)))
    assert row["labels"] == [k for k, p in row["probabilities"].items() if p >= np.float32(0.2)]
    assert row["version"] == 2

    client.delete_deployment("weather")
    client.delete_deployment("weather")
    assert client.list_deployments() == []
    with pytest.raises(MlflowException, match="weather is not deployed on .*; there: nothing"):
        client.get_deployment("weather")


@pytest.mark.parametrize(
    ("name", "uri", "config", "message"),
    [
        ("other", "models:/weather/1", {}, "Run: --name weather"),
        ("weather", "models:/weather/9", {}, "thresher export models:/weather/9"),
        ("weather", "runs:/x/model", {}, "expected NAME, NAME/VERSION or NAME@ALIAS"),
        (
            "weather",
            "models:/weather/1",
            {"aliass": "x"},
            'unknown key "aliass". Valid: repository',
        ),
    ],
)
def test_what_cannot_be_deployed_is_explained(
    name: str, uri: str, config: dict[str, str], message: str, server: Triton
) -> None:
    client = get_deploy_client(f"triton:{server.grpc_url}")
    with pytest.raises(MlflowException, match=message):
        client.create_deployment(name, uri, config={"repository": "models", **config})


@pytest.mark.slow
def test_mlflows_command_line_finds_the_installed_plugin(home: Path, server: Triton) -> None:
    def mlflow(*arguments: str) -> str:
        paths = [str(home / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]
        done = subprocess.run(
            [sys.executable, "-m", "mlflow", "deployments", *arguments],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    target = ("-t", f"triton:{server.grpc_url}")
    assert "triton:HOST:PORT" in mlflow("help", "-t", "triton")
    name = ("--name", "weather")
    made = mlflow("create", *target, *name, "-m", "models:/weather/1", "-C", "repository=models")
    assert "onnx deployment weather is created" in made
    (home / "rows.json").write_text(json.dumps([{"features": row.tolist()} for row in ROWS]))
    rows = json.loads(mlflow("predict", *target, *name, "-I", "rows.json"))["predictions"]
    assert [row["version"] for row in rows] == [1] * len(ROWS)
    mlflow("delete", *target, *name)
    assert "weather" not in mlflow("list", *target)


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory, runtime: Runtime) -> Iterator[Triton]:
    """A server of a model whose logits are wind, sun and rain."""
    folder = tmp_path_factory.mktemp("named")
    spec = InputSpec(columns={"features": ("wind", "sun", "rain")})
    nodes = [("Identity", ["features"], ["logits"])]
    inputs = {"features": (1, [3])}
    publish_network(folder / "models", nodes, inputs, labels=("wind", "sun", "rain"), spec=spec)
    with triton(runtime, folder / "models", ["net"], log=folder / "log") as running:
        yield running


COLUMNS = {"wind": [0.5, -2.0], "sun": [1.5, 0.0], "rain": [-1.0, 3.0]}


@pytest.mark.parametrize("order", [*itertools.permutations(COLUMNS)], ids=",".join)
def test_columns_are_taken_by_name_whatever_their_order(
    named: Triton, order: tuple[str, ...]
) -> None:
    client = get_deploy_client(f"triton:{named.grpc_url}")
    table = {name: COLUMNS[name] for name in order}
    for given in (pd.DataFrame(table), table, {k: np.array(v) for k, v in table.items()}):
        for row, answer in enumerate(client.predict("net", given)["predictions"]):
            told = {name: 1 / (1 + np.exp(-COLUMNS[name][row])) for name in COLUMNS}
            assert answer["probabilities"] == pytest.approx(told)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["wind", "suns", "rain"], 'unknown column "suns"; did you mean "sun"'),
        (["wind", "sun"], "rain"),
        (["wind", "sun", "rain", "id"], 'unknown column "id"'),
        (["wind", "sun", "rain", "sun"], 'column names must differ; repeated: "sun"'),
    ],
)
def test_columns_that_are_missing_unknown_or_repeated_are_refused(
    named: Triton, columns: list[str], message: str
) -> None:
    client = get_deploy_client(f"triton:{named.grpc_url}")
    frame = pd.DataFrame(np.zeros((2, len(columns))), columns=columns)
    with pytest.raises(MlflowException, match=message):
        client.predict("net", frame)


def test_arrays_are_taken_by_the_name_of_their_input(named: Triton) -> None:
    client = get_deploy_client(f"triton:{named.grpc_url}")
    rows = np.stack([*COLUMNS.values()], axis=1)
    answers = [
        client.predict("net", given)["predictions"]
        for given in (rows, rows.tolist(), {"features": rows}, {"features": rows.tolist()})
    ]
    assert all(answer == answers[0] for answer in answers)
    frame = pd.DataFrame({"features": rows.tolist()})
    assert client.predict("net", frame)["predictions"] == answers[0]
    with pytest.raises(MlflowException, match="row 1.*missing, expected a number"):
        client.predict("net", {"features": [[1.0, 2, 3], [1.0, float("nan"), 3]]})


def test_run_local_needs_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MlflowException, match="no such folder; expected a Triton model repository"):
        run_local("triton", "weather", "models:/weather/1")
