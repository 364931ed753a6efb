"""`thresher compare` on a small task: runs, table, winner by validation, one loss that fails."""

import json
import subprocess
import sys

import mlflow
import pytest

RECIPE = """
name = "weather"
[data]
source = "own:data"
[network]
factory = "thresher_training.networks:mlp"
[network.options]
num_features = 3
hidden = []
[optimization]
epochs = 2
learning_rate = 0.05
"""

OWN = """
import numpy as np
from thresher_training import DataSet, Split

def data():
    rng = np.random.default_rng(0)
    def split():
        features = rng.normal(size=(120, 3)).astype(np.float32)
        return Split(inputs={"features": features}, targets_NL=(features[:, :2] > 0.5))
    return DataSet(labels=("rain", "fog"), source="drawn at random",
                   splits={name: split() for name in ("train", "validation", "test")})

def broken(**_):
    raise ValueError("this loss is not finished")
"""


@pytest.fixture
def command(store):
    (store / "recipe.toml").write_text(RECIPE)
    (store / "own.py").write_text(OWN)

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "thresher", "compare", "recipe.toml", *arguments],
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.mark.slow
def test_a_failing_loss_costs_only_itself(command, store):
    done = command("--losses", "bce,bce+pos_weight,own:broken", "--seeds", "0,1", "--json")
    assert done.returncode == 1, done.stderr
    assert "Failed: own:broken, seed 0" in done.stderr
    assert "this loss is not finished" in done.stderr
    assert "Traceback" not in done.stderr
    told = json.loads(done.stdout)
    assert {row["loss"] for row in told["losses"]} == {"bce", "bce+pos_weight", "own:broken"}
    assert told["losses"][-1]["loss"] == "own:broken"
    by = told["chosen_by"]
    assert by == "validation/tuned/macro_f1"
    best = [sum(row["figures"][by]) for row in told["losses"][:2]]
    assert best == sorted(best, reverse=True)
    assert told["winner"] == told["losses"][0]["loss"]

    client = mlflow.MlflowClient()
    parent = client.get_run(told["run_id"])
    assert parent.data.tags["thresher.winner"] == told["winner"]
    assert "Best on validation" in parent.data.tags["mlflow.note.content"]
    files = {file.path for file in client.list_artifacts(told["run_id"])}
    assert {"comparison.csv", "comparison.md", "comparison.png", "data"} <= files
    children = client.search_runs(
        [parent.info.experiment_id], f"tags.mlflow.parentRunId = '{told['run_id']}'"
    )
    status = {run.info.run_name: run.info.status for run in children}
    assert len(status) == 6
    assert status["bce+pos_weight, seed 1"] == "FINISHED"
    assert status["own:broken, seed 0"] == "FAILED"
    assert not client.search_registered_models()


def test_what_is_wrong_with_the_recipe_is_told_once(command):
    done = command("--losses", "bce,focal", "--set", "network.options.num_features=4")
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) < 4
    assert command("--losses", "bce,bce").returncode == 1
    assert "--seeds" in command("--losses", "bce", "--seeds", "x").stderr
