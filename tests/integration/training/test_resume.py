"""A run that is cut off goes on from its checkpoint, and ends as if nothing had happened."""

import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch

from thresher.config import load_toml
from thresher.errors import ConfigError, DataError, DecisionError, NotFoundError
from thresher.registry import resolve
from thresher_training import DecisionConfig, OptimizationConfig, Recipe, Split, train
from thresher_training.data import DataSet
from thresher_training.loop import Checkpoints, Interrupted
from thresher_training.networks import mlp

TASK = """
import numpy as np

from thresher_training import DataSet, Split


def data(seed=0):
    rng = np.random.default_rng(seed)

    def split(num_rows):
        x = rng.normal(size=(num_rows, 6)).astype(np.float32)
        noise = rng.normal(size=(num_rows, 2))
        targets = np.stack([x[:, 0] > 0, x[:, 1] > 1], axis=1) ^ (noise > 1.5)
        return Split(inputs={"features": x}, targets_NL=targets.astype(np.float32))

    sizes = {"train": 1200, "validation": 300, "test": 300}
    return DataSet(
        labels=("up", "high"),
        splits={name: split(size) for name, size in sizes.items()},
        source="random numbers",
    )
"""

RECIPE = """
name = "cut-off"

[data]
source = "own_task_that_is_cut_off:data"

[network]
factory = "thresher_training.networks:mlp"
options = { num_features = 6, hidden = [32], dropout = 0.2 }

[optimization]
epochs = 4
batch_size = 20
learning_rate = 3e-3
ema_decay = 0.99
checkpoint_minutes = 0
device = "cpu"
"""


class Place:
    """A working folder with its own store, and the command that trains in it."""

    def __init__(self, folder: Path, empty_mlflow_db: Path):
        self.folder = folder
        (folder / "own_task_that_is_cut_off.py").write_text(TASK, encoding="utf-8")
        (folder / "recipe.toml").write_text(RECIPE, encoding="utf-8")
        shutil.copy(empty_mlflow_db, folder / "mlflow.db")
        self.store = f"sqlite:///{folder}/mlflow.db"

    def start(self, *arguments):
        command = [sys.executable, "-m", "thresher", "train", "recipe.toml", *arguments]
        environment = {**os.environ, "MLFLOW_TRACKING_URI": self.store, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            command, cwd=self.folder, env=environment, stderr=subprocess.PIPE, text=True
        )

    def file(self, suffix=""):
        """The one checkpoint there is, or the one that is being written."""
        found = list(self.folder.glob(f".thresher/checkpoints/*/checkpoint.pt{suffix}"))
        return found[0] if found else None

    @property
    def run_id(self):
        return self.file().parent.name

    def changes(self):
        """Wait until a checkpoint is written that is not the one of now."""
        before = self.file().stat().st_mtime_ns if self.file() else None
        deadline = time.monotonic() + 120
        while not self.file() or self.file().stat().st_mtime_ns == before:
            assert time.monotonic() < deadline, "no checkpoint is written"
            time.sleep(0.005)

    def is_writing(self):
        while self.file(".partial") is None:
            pass


def finish(process):
    _, told = process.communicate(timeout=200)
    assert process.returncode == 0, told
    return told


def outcome(place, monkeypatch):
    """Weights and logits of the registered version, and its run."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", place.store)
    version = resolve("models:/cut-off@candidate")
    program = torch.export.load(version.model_folder() / "data" / "model.pt2")
    logits_NL = version.evaluation("test").logits_NL
    return program.state_dict, logits_NL, mlflow.MlflowClient().get_run(version.run_id)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_run_that_is_killed_ends_with_the_weights_of_one_that_is_not(
    tmp_path, empty_mlflow_db, monkeypatch
):
    places = []
    for name in ("cut", "whole"):
        (tmp_path / name).mkdir()
        places.append(Place(tmp_path / name, empty_mlflow_db))
    cut, whole = places
    undisturbed = whole.start()
    rng = random.Random(0)

    process = cut.start()
    cut.changes()
    time.sleep(rng.uniform(0, 0.5))
    process.kill()
    process.communicate()
    run_id = cut.run_id
    for at in ("writing", "SIGTERM"):
        process = cut.start("--resume", run_id)
        cut.changes()
        time.sleep(rng.uniform(0, 0.3))
        if at == "writing":
            cut.is_writing()
            process.kill()
        else:
            process.terminate()
        _, told = process.communicate(timeout=60)
        if at == "SIGTERM":
            assert process.returncode == 128 + signal.SIGTERM, told
            assert "stopped by SIGTERM" in told
            assert f"thresher train recipe.toml --resume {run_id}" in told
            assert "Traceback" not in told
            run = mlflow.MlflowClient(cut.store).get_run(run_id)
            assert run.info.status == "KILLED"
        else:
            assert process.returncode == -signal.SIGKILL, told

    finish(cut.start("--resume", run_id))
    finish(undisturbed)
    weights, logits_NL, run = outcome(cut, monkeypatch)
    expected, expected_NL, _ = outcome(whole, monkeypatch)
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    np.testing.assert_array_equal(logits_NL, expected_NL)
    assert (run.info.run_id, run.info.status) == (run_id, "FINISHED")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", cut.store)
    for name in ("train/loss", "validation/macro_f1", "train/learning_rate"):
        history = mlflow.MlflowClient().get_metric_history(run_id, name)
        assert [metric.step for metric in history] == [1, 2, 3, 4]
    assert cut.file() is None  # the version is registered
    refused = cut.start("--resume", run_id)
    _, told = refused.communicate(timeout=60)
    assert refused.returncode == 1
    assert "is done: it registered models:/cut-off/1" in told


def own_data(seed=0, augment=None):
    rng = np.random.default_rng(seed)

    def split():
        x = rng.normal(size=(200, 3)).astype(np.float32)
        return Split(inputs={"features": x}, targets_NL=np.stack([x[:, 0] > 0, x[:, 1] > 1], 1))

    return DataSet(
        labels=("up", "high"),
        splits={name: split() for name in ("train", "validation", "test")},
        source="random numbers",
        augment=augment,
    )


def network(*, num_labels):
    return mlp(num_labels=num_labels, num_features=3, hidden=[8])


def ended_after(num_batches, number=signal.SIGTERM):
    """An augmentation that changes nothing and sends a signal at the batch of that number."""
    counter = itertools.count(1)

    def augment(inputs, _):
        if next(counter) == num_batches:
            os.kill(os.getpid(), number)
        return inputs

    return augment


RECIPE_IN_PYTHON = Recipe(
    name="cut-off-in-python", optimization=OptimizationConfig(epochs=3, device="cpu")
)


def changed(**sections):
    return Recipe(
        **{
            "name": RECIPE_IN_PYTHON.name,
            "optimization": OptimizationConfig(epochs=3, device="cpu"),
            **sections,
        }
    )


@pytest.fixture
def cut_off(store):
    """The id of a run that a signal has ended in its second epoch."""
    with pytest.raises(
        Interrupted, match="stopped by SIGTERM after step 1 of 4 in epoch 2"
    ) as info:
        train(RECIPE_IN_PYTHON, data=own_data(augment=ended_after(5)), network=network)
    run_id = str(info.value).rpartition(" ")[2]
    assert Checkpoints(run_id).exists
    assert mlflow.MlflowClient().get_run(run_id).info.status == "KILLED"
    return run_id


def test_what_does_not_fit_the_run_is_refused_and_the_run_left_as_it_is(cut_off):
    smaller = changed(optimization=OptimizationConfig(epochs=3, device="cpu", learning_rate=1e-4))
    with pytest.raises(ConfigError, match=r"optimization\.learning_rate: 0\.001 then, 0\.0001 now"):
        train(smaller, data=own_data(), network=network, resume=cut_off)
    with pytest.raises(DataError, match="the splits train, validation, test have changed"):
        train(RECIPE_IN_PYTHON, data=own_data(seed=1), network=network, resume=cut_off)
    with pytest.raises(NotFoundError, match="no run 0123456789abcdef"):
        train(RECIPE_IN_PYTHON, data=own_data(), network=network, resume="0123456789abcdef")
    assert mlflow.MlflowClient().get_run(cut_off).info.status == "KILLED"
    Checkpoints(cut_off).remove()
    with pytest.raises(NotFoundError, match=f"run {cut_off} has no checkpoint"):
        train(RECIPE_IN_PYTHON, data=own_data(), network=network, resume=cut_off)


def test_ctrl_c_leaves_a_checkpoint_too_and_the_handlers_as_they_were(store):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt, match="stopped by SIGINT after step 2 of 4 in epoch 1"):
        train(
            RECIPE_IN_PYTHON,
            data=own_data(augment=ended_after(2, signal.SIGINT)),
            network=network,
        )
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_run_goes_on_with_smaller_batches_and_another_objective(cut_off):
    recipe = changed(
        optimization=OptimizationConfig(epochs=3, device="cpu", batch_size=32, accumulate=2),
        decision=DecisionConfig(objective="micro_f1"),
    )
    model = train(recipe, data=own_data(), network=network, resume=cut_off)
    assert model.run_id == cut_off
    resolved = load_toml(resolve(model.uri).artifact("recipe.toml"), Recipe)
    assert resolved.decision.objective == "micro_f1"
    assert not Checkpoints(cut_off).exists


def test_weights_outlive_an_objective_that_cannot_be_met(store):
    with pytest.raises(DecisionError, match=r"without training again: .* --resume") as info:
        train(
            changed(decision=DecisionConfig(objective="recall@precision>=0.9999", min_positives=1)),
            data=own_data(),
            network=network,
        )
    run_id = str(info.value).partition("--resume ")[2].split()[0]
    client = mlflow.MlflowClient()
    run = client.get_run(run_id)
    assert run.info.status == "FAILED"
    model = train(RECIPE_IN_PYTHON, data=own_data(), network=network, resume=run_id)
    assert model.run_id == run_id
    assert client.get_run(run_id).info.status == "FINISHED"
    # the weights were logged once, before the thresholds
    logged = client.search_logged_models(
        [run.info.experiment_id], filter_string=f"source_run_id = '{run_id}'"
    )
    assert len(logged) == 1
