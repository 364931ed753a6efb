"""The doctor in a real run: `thresher doctor`, and `train` with a real MLflow store."""

import json
import os
import shutil
from pathlib import Path

import mlflow
import pytest
from click.testing import CliRunner

from thresher.cli import main
from thresher.config import load_toml
from thresher.errors import TrainingError
from thresher_training import Recipe, train

ROOT = Path(__file__).parents[3]
DATA = Path(os.environ.get("THRESHER_DATA") or ROOT.parent / "shared" / "data")

TASK = """
import numpy as np
from sklearn.datasets import load_digits
from torch import nn

from thresher_training import DataSet, Split
from thresher_training.networks import mlp


def scans(*, fault="none"):
    found = load_digits()
    features, digit = (found.data / 16).astype(np.float32), found.target
    features = features[:, features[:1000].std(axis=0) > 0]
    labels = ("even", "large", "prime", "zero")
    columns = [digit % 2 == 0, digit > 4, np.isin(digit, [2, 3, 5, 7]), digit == 0]
    targets = np.stack(columns, axis=1).astype(np.float32)
    if fault == "single label":
        labels = tuple("0123456789")
        targets = np.eye(10, dtype=np.float32)[digit]
    if fault == "class numbers":
        targets = digit
    if fault == "no positives":
        targets[:, 3] = 0
    if fault == "out of range":
        targets = 2 * targets - 1
    if fault == "no number":
        features[5, 2] = np.nan
    if fault == "leak":
        features[1400:1500], targets[1400:1500] = features[:100], targets[:100]
    parts = {"train": slice(0, 1000), "validation": slice(1000, 1400), "test": slice(1400, None)}
    splits = {
        name: Split(inputs={"features": features[rows]}, targets_NL=targets[rows])
        for name, rows in parts.items()
    }
    return DataSet(labels=labels, splits=splits, source="scikit-learn load_digits")


def network(*, num_labels, end="logits", num_features=NUM_FEATURES):
    body = mlp(num_labels=num_labels, num_features=num_features, hidden=(32,))
    ends = {"logits": nn.Identity(), "sigmoid": nn.Sigmoid(), "softmax": nn.Softmax(dim=1)}
    return Ended(body, ends[end])


class Ended(nn.Module):
    def __init__(self, body, end):
        super().__init__()
        self.body, self.end = body, end

    def forward(self, features):
        return self.end(self.body(features))


def wide(*, num_labels):
    return network(num_labels=num_labels + 1)
"""

RECIPE = """
name = "scans"

[data]
source = "doctor_task:scans"

[network]
factory = "doctor_task:network"

[optimization]
epochs = 2
learning_rate = 3e-3
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, empty_mlflow_db):
    """A working folder with a recipe, its module, and an MLflow store."""
    from sklearn.datasets import load_digits

    width = int((load_digits().data[:1000].std(axis=0) > 0).sum())
    folder = tmp_path_factory.mktemp("doctor")
    task = TASK.replace("NUM_FEATURES", str(width))
    (folder / "doctor_task.py").write_text(task, encoding="utf-8")
    shutil.copy(empty_mlflow_db, folder / "mlflow.db")
    (folder / "scans.toml").write_text(RECIPE, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        yield folder


def doctor(path, *arguments):
    return CliRunner().invoke(main, ["doctor", str(path), *arguments])


def codes(path, *arguments):
    outcome = doctor(path, "--quick", "--json", *arguments)
    found = json.loads(outcome.stdout)["findings"]
    assert outcome.exit_code == (1 if any(each["level"] == "error" for each in found) else 0)
    return [each["code"] for each in found]


def test_a_clean_recipe_has_no_findings_even_when_looked_at_deeply(folder):
    outcome = doctor(folder / "scans.toml")
    assert outcome.exit_code == 0, outcome.output
    assert outcome.stdout.startswith("scans: nothing found (all checks, ")


@pytest.mark.parametrize(
    ("key", "code"),
    [
        ("network.options.end=sigmoid", "double-sigmoid"),
        ("network.options.end=softmax", "softmax-in-network"),
        ("network.options.num_features=9", "network-refused"),
        ("network.options.nothing=9", "recipe-refused"),
        ("network.factory=doctor_task:wide", "label-count"),
        ("data.options.fault=single label", "single-label"),
        ("data.options.fault=class numbers", "integer-targets"),
        ("data.options.fault=out of range", "targets-out-of-range"),
        ("data.options.fault=no number", "non-finite-features"),
        ("data.options.fault=leak", "duplicates"),
        ("loss.name=torch.nn:CrossEntropyLoss", "cross-entropy"),
        ("loss.name=torch.nn:BCELoss", "loss-without-sigmoid"),
        ("loss.name=torch.nn:MSELoss", "loss-without-sigmoid"),
    ],
)
def test_a_planted_fault_is_named_by_its_code(folder, key, code):
    assert codes(folder / "scans.toml", "--set", key) == [code]


def test_a_label_without_positives_is_named_for_each_split(folder):
    found = codes(folder / "scans.toml", "--set", "data.options.fault=no positives")
    assert found == ["no-positives"] * 3


def test_a_stranger_can_read_what_is_printed(folder):
    arguments = ("--quick", "--set", "network.options.end=sigmoid", "--output", "seen")
    outcome = doctor(folder / "scans.toml", *arguments)
    assert outcome.exit_code == 1
    lines = [line.rstrip() for line in outcome.stdout.splitlines()]
    assert lines[0] == "ERROR  double-sigmoid"
    assert lines[1].startswith("  what     The network ends in a sigmoid")
    assert any(line.startswith("  evidence outputs of 128 train rows lie") for line in lines)
    assert any(line.startswith("  fix      Take it out") for line in lines)
    assert lines[-1].startswith("scans: 1 error (the quick checks, ")
    assert max(map(len, lines)) <= 100
    assert (folder / "seen" / "doctor.md").is_file()


def test_a_recipe_that_cannot_be_read_is_an_ordinary_error(folder):
    outcome = doctor(folder / "nowhere.toml")
    assert outcome.exit_code == 1
    assert "no such file" in outcome.output
    assert "Traceback" not in outcome.output


def trained(folder, *overrides):
    recipe = load_toml(folder / "scans.toml", Recipe, overrides)
    return train(recipe, recipe_folder=folder)


def last_run():
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("scans")
    return client.search_runs([experiment.experiment_id])[0]


def logged_findings(run_id):
    path = mlflow.artifacts.download_artifacts(f"runs:/{run_id}/doctor/doctor.json")
    return json.loads(Path(path).read_text(encoding="utf-8"))["findings"]


def test_an_error_stops_training_before_the_first_epoch(folder):
    with pytest.raises(TrainingError, match=r"\[double-sigmoid\] The network ends in a sigmoid"):
        trained(folder, "network.options.end=sigmoid")
    run = last_run()
    assert run.info.status == "FAILED"
    assert [finding["code"] for finding in logged_findings(run.info.run_id)] == ["double-sigmoid"]
    assert not [metric for metric in run.data.metrics if metric.startswith("train")]
    assert not mlflow.MlflowClient().search_registered_models()


@pytest.mark.parametrize(
    ("fault", "expected"),
    [("single label", {"single-label"}), ("no positives", {"no-positives"}), ("none", set())],
)
def test_warnings_are_kept_with_the_run_and_do_not_stop_it(folder, fault, expected):
    done = trained(folder, f"data.options.fault={fault}")
    assert {finding["code"] for finding in logged_findings(done.run_id)} == expected


def test_the_digits_recipe_is_healthy(folder):
    sizes = ("num_train=1500", "num_validation=600", "num_test=600")
    arguments = [part for size in sizes for part in ("--set", f"data.options.{size}")]
    outcome = doctor(ROOT / "training" / "recipes" / "digits.toml", *arguments)
    assert outcome.exit_code == 0
    assert outcome.stdout.startswith("digits: nothing found (all checks"), outcome.stdout


YEAST = """
name = "yeast"

[data]
source = "thresher_training.sources:mulan"
options = { path = "PATH" }

[network]
factory = "thresher_training.networks:mlp"
options = { num_features = 103, hidden = [128], dropout = 0.3 }
"""


def test_yeast_is_healthy(folder):
    path = DATA / "mulan" / "yeast"
    if not path.is_dir():
        pytest.skip("no yeast; set THRESHER_DATA to the folder that holds mulan/yeast")
    (folder / "yeast.toml").write_text(YEAST.replace("PATH", str(path)), encoding="utf-8")
    outcome = doctor(folder / "yeast.toml")
    assert outcome.exit_code == 0
    assert outcome.stdout.startswith("yeast: nothing found (all checks"), outcome.stdout


def test_delicious_shows_what_is_true_of_it_and_nothing_else(folder):
    path = DATA / "mulan" / "delicious"
    if not path.is_dir():
        pytest.skip("no delicious; set THRESHER_DATA to the folder that holds mulan/delicious")
    text = YEAST.replace("PATH", str(path)).replace("103", "500").replace("yeast", "delicious")
    (folder / "delicious.toml").write_text(text, encoding="utf-8")
    outcome = doctor(folder / "delicious.toml", "--quick", "--json")
    found = json.loads(outcome.stdout)
    assert {each["code"] for each in found["findings"]} <= {
        "duplicates",
        "no-positives",
        "loss-at-start",
    }
    assert "duplicates" in {each["code"] for each in found["findings"]}
    assert outcome.exit_code == 0
