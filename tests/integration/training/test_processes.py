"""Two processes by torchrun give what one gives; one that dies does not leave the other hanging."""

import os
import shutil
import subprocess
import sys
import time

import mlflow
import numpy as np
import pytest

from thresher.registry import resolve

TASK = """
import os
import signal

import numpy as np
import torch
from torch import nn

from thresher_training import DataSet, Split


def data():
    rng = np.random.default_rng(0)

    def split(num_rows):
        x = rng.normal(size=(num_rows, 6)).astype(np.float32)
        mask = (np.arange(6) < rng.integers(2, 7, size=num_rows)[:, None]).astype(np.int64)
        targets = np.stack([x[:, 0] > 0, x[:, 1] > 1], axis=1).astype(np.float32)
        targets[: num_rows // 2, 1] = np.nan  # half the processes' rows know less
        return Split(inputs={"x": x, "mask": mask}, targets_NL=targets)

    # no split can be cut into two equal halves, and the last step has a single row of two
    sizes = {"train": 162, "validation": 101, "test": 101}
    return DataSet(
        labels=("up", "high"),
        splits={name: split(size) for name, size in sizes.items()},
        source="random numbers",
        trim_by="mask",
    )


class Network(nn.Module):
    def __init__(self, num_labels, dies=False):
        super().__init__()
        self.dies, self.calls = dies, 0
        self.hidden, self.last = nn.Linear(2, 16), nn.Linear(16, num_labels)
        self.unused = nn.Linear(3, 3)

    def forward(self, x, mask):
        if self.dies and self.training and os.environ.get("RANK") == "1":
            self.calls += 1
            if self.calls > 3:
                os.kill(os.getpid(), signal.SIGKILL)
        shown = x * mask
        return self.last(torch.tanh(self.hidden(shown[:, :2])))


def network(*, num_labels, dies=False):
    return Network(num_labels, dies)
"""

RECIPE = """
name = "NAME"

[data]
source = "own_task_of_two:data"

[network]
factory = "own_task_of_two:network"

[optimization]
epochs = 3
batch_size = 32
accumulate = 2
learning_rate = 0.05
max_gradient_norm = 0.5
device = "cpu"
"""


@pytest.fixture
def place(tmp_path, empty_mlflow_db, monkeypatch):
    shutil.copy(empty_mlflow_db, tmp_path / "mlflow.db")
    (tmp_path / "own_task_of_two.py").write_text(TASK, encoding="utf-8")
    for name in ("one", "two"):
        (tmp_path / f"{name}.toml").write_text(RECIPE.replace("NAME", name), encoding="utf-8")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return tmp_path


def start(place, recipe, *arguments, num_processes=1):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    command = [sys.executable, *launcher, str(num_processes)] if num_processes > 1 else []
    return subprocess.Popen(
        [*(command or [sys.executable]), "-m", "thresher", "train", recipe, *arguments],
        cwd=place,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_processes_give_the_weights_and_the_decision_of_one(place):
    one, two = start(place, "one.toml"), start(place, "two.toml", num_processes=2)
    for process in (one, two):
        out, told = process.communicate(timeout=250)
        assert process.returncode == 0, told
        assert out.count("Registered") == 1
    first, second = resolve("models:/one@candidate"), resolve("models:/two@candidate")
    assert second.version == 1  # one of the two has registered
    for split in ("validation", "test"):
        alone, together = first.evaluation(split), second.evaluation(split)
        np.testing.assert_array_equal(together.targets_NL, alone.targets_NL)
        np.testing.assert_allclose(together.logits_NL, alone.logits_NL, atol=1e-4)
        decided = [
            version.decision().apply(rows.logits_NL)[1]
            for version, rows in ((first, alone), (second, together))
        ]
        np.testing.assert_array_equal(*decided)
    runs = [mlflow.MlflowClient().get_run(version.run_id) for version in (first, second)]
    for name, value in runs[0].data.metrics.items():
        if name.startswith(("train/loss", "train/gradient_norm", "validation/", "test/")):
            assert runs[1].data.metrics[name] == pytest.approx(value, abs=1e-3), name
    history = mlflow.MlflowClient().get_metric_history(second.run_id, "train/loss")
    assert [metric.step for metric in history] == [1, 2, 3]


def test_a_process_that_dies_ends_the_run(place):
    started = time.monotonic()
    process = start(place, "two.toml", "--set", "network.options.dies=true", num_processes=2)
    _, told = process.communicate(timeout=200)
    assert process.returncode != 0
    assert time.monotonic() - started < 150, told
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("two").experiment_id])
    assert run.info.status in ("FAILED", "KILLED"), told
    assert not client.search_model_versions("name='two'")
    assert list(place.glob(".thresher/checkpoints/*/checkpoint.pt"))
