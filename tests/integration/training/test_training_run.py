"""A whole training run with a real MLflow store: what a version carries, what failure leaves."""

import csv
import subprocess
import sys

import mlflow
import numpy as np
import pytest
import torch
from torch import nn

from thresher.config import load_toml
from thresher.errors import ConfigError, DataError, ThresherError, TrainingError
from thresher.registry import resolve
from thresher_training import (
    DataConfig,
    DataSet,
    NetworkConfig,
    OptimizationConfig,
    Recipe,
    Split,
    train,
)
from thresher_training.loop import predict_logits, seeded
from thresher_training.networks import mlp
from thresher_training.recipe import CorrelationConfig

OWN_MODULE = """
import numpy as np
import torch
from torch import nn

from thresher_training import DataSet, Split


def data(*, num_rows=120, wrong_target=False, huge=False):
    rng = np.random.default_rng(0)

    def split():
        left = rng.normal(size=(num_rows, 3)).astype(np.float32)
        right = rng.integers(0, 9, size=(num_rows, 2))
        targets = np.stack([left[:, 0] > 0, right[:, 0] > 6, left[:, 1] > 1.2], axis=1)
        targets = targets.astype(np.float32)
        targets[0, 2] = 0.5 if wrong_target else np.nan
        if huge:
            left[:] = np.inf
        return Split(inputs={"left": left, "right": right}, targets_NL=targets)

    return DataSet(
        labels=("up", "many", "rare one"),
        splits={name: split() for name in ("train", "validation", "test")},
        source="random numbers",
    )


class TwoInputs(nn.Module):
    def __init__(self, num_labels):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(5, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, num_labels)
        )

    def forward(self, right, left):
        return self.layers(torch.cat([left, right.to(torch.float32) / 9], dim=1))


def network(*, num_labels):
    return TwoInputs(num_labels)


def wrong_network(*, num_labels):
    return TwoInputs(num_labels + 1)


def interrupted_network(*, num_labels):
    raise KeyboardInterrupt
"""

DIGITS = """
name = "tiny-digits"
alias = "trial"

[data]
source = "thresher_training.digits:digit_strips"
options = { num_train = 300, num_validation = 150, num_test = 150 }

[network]
factory = "thresher_training.networks:digits_cnn"
options = { channels = [4, 8] }

[loss]
pos_weight = "neg_over_pos"

[optimization]
epochs = 2

[examples]
folder = "pictures"
count = 6
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A working folder with its own MLflow store and a module beside the recipe."""
    folder = tmp_path_factory.mktemp("training")
    (folder / "recipes").mkdir()
    (folder / "recipes" / "own_task_for_training.py").write_text(OWN_MODULE, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        yield folder


def own_recipe(name, factory="network", **options):
    return Recipe(
        name=name,
        data=DataConfig(source="own_task_for_training:data", options=options),
        network=NetworkConfig(factory=f"own_task_for_training:{factory}"),
        optimization=OptimizationConfig(epochs=3, learning_rate=1e-2),
    )


def train_own(place, name, **changes):
    return train(own_recipe(name, **changes), recipe_folder=place / "recipes")


@pytest.fixture(scope="module")
def digits(place):
    path = place / "recipes" / "digits.toml"
    path.write_text(DIGITS, encoding="utf-8")
    return train(load_toml(path, Recipe), recipe_folder=path.parent)


@pytest.fixture(scope="module")
def own(place):
    return train_own(place, "own")


def last_run(name):
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(name)
    return client.search_runs([experiment.experiment_id])[0]


def registered_names():
    return [model.name for model in mlflow.MlflowClient().search_registered_models()]


def test_the_version_carries_decision_and_evaluation_rows(digits):
    version = resolve("models:/tiny-digits@trial")
    assert (version.name, version.version, version.run_id) == (
        digits.name,
        digits.version,
        digits.run_id,
    )
    assert digits.uri == version.uri
    decision = version.decision()
    assert decision.labels == tuple("0123456789")
    assert version.tags["thresher.decision_sha256"] == decision.digest
    for split in ("validation", "test"):
        rows = version.evaluation(split)
        assert rows.inputs["image"].shape == (150, 1, 24, 80)
        assert rows.logits_NL.shape == (150, 10)


def test_the_run_holds_parameters_metrics_and_what_it_was_trained_on(digits, place):
    run = mlflow.MlflowClient().get_run(digits.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["optimization.epochs"] == "2"
    assert run.data.params["data.options.num_train"] == "300"
    for name in ("train/loss", "validation/loss", "validation/macro_f1", "train/learning_rate"):
        history = mlflow.MlflowClient().get_metric_history(digits.run_id, name)
        assert [metric.step for metric in history] == [1, 2]
    for at in ("at_0.5", "shared", "tuned"):
        assert run.data.metrics[f"test/{at}/macro_f1"] == digits.metrics[f"test/{at}/macro_f1"]
    splits = {entry.tags[0].value: entry.dataset for entry in run.inputs.dataset_inputs}
    assert set(splits) == {"train", "validation", "test"}
    assert len({dataset.digest for dataset in splits.values()}) == 3
    assert "load_digits" in splits["train"].source
    resolved = load_toml(resolve(digits.uri).artifact("recipe.toml"), Recipe)
    assert resolved == load_toml(place / "recipes" / "digits.toml", Recipe)


def test_the_run_holds_plots_and_the_table_of_labels(digits):
    version = resolve(digits.uri)
    plots = version.artifact("plots")
    assert {path.name for path in plots.iterdir()} >= {"training.png", "labels.png", "pictures.png"}
    with version.artifact("labels.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    test, decision = version.evaluation("test"), version.decision()
    assert [row["label"] for row in rows] == list(decision.labels)
    assert [int(row["support"]) for row in rows] == test.targets_NL.sum(axis=0).tolist()
    assert [np.float32(row["threshold"]) for row in rows] == decision.thresholds.tolist()
    assert rows[9]["fell_back"] == "true"  # the rarest digit, in 150 pictures


def test_examples_lie_in_the_run_and_in_the_folder(digits, place):
    logged = resolve(digits.uri).artifact("examples")
    written = place / "pictures"
    names = {path.name for path in logged.iterdir()}
    assert names == {path.name for path in written.iterdir()}
    assert len(names) == 7
    text = (written / "metadata.csv").read_text(encoding="utf-8")
    assert text.startswith("file_name,labels\nexample-1.png,")
    assert "example-3.png,\n" in text  # an empty strip


def test_the_pt2_program_needs_no_thresher_and_gives_the_logged_logits(own, tmp_path):
    version = resolve(own.uri)
    rows = version.evaluation("test")
    assert set(rows.inputs) == {"left", "right"}
    np.savez(tmp_path / "rows.npz", logits=rows.logits_NL, **rows.inputs)
    code = f"""
import sys, warnings
sys.modules["thresher_training"] = sys.modules["own_task_for_training"] = None
import numpy as np, torch
warnings.simplefilter("ignore", FutureWarning)
program = torch.export.load({str(version.model_folder() / "data" / "model.pt2")!r})
rows = np.load({str(tmp_path / "rows.npz")!r})
assert program.graph_signature.user_inputs == ("right", "left"), program.graph_signature
for size in (1, 2, 120):
    inputs = [torch.from_numpy(rows[name][:size]) for name in ("right", "left")]
    logits = program.module()(*inputs).detach().numpy()
    np.testing.assert_allclose(logits, rows["logits"][:size], atol=1e-5)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_signature_names_inputs_in_forwards_order_with_a_free_batch(own):
    signature = mlflow.models.get_model_info(own.uri).signature
    assert [(spec.name, spec.shape) for spec in signature.inputs] == [
        ("right", (-1, 2)),
        ("left", (-1, 3)),
    ]
    assert [(spec.name, spec.shape) for spec in signature.outputs] == [("logits", (-1, 3))]


def test_the_same_recipe_gives_the_same_logits_as_the_next_version(own, place):
    again = train_own(place, "own")
    assert again.version == own.version + 1
    first, second = (resolve(model.uri) for model in (own, again))
    np.testing.assert_array_equal(
        first.evaluation("test").logits_NL, second.evaluation("test").logits_NL
    )
    assert first.decision() == second.decision()
    assert resolve("models:/own@candidate").version == again.version


@pytest.mark.parametrize(
    ("name", "changes", "error", "message"),
    [
        ("soft", {"wrong_target": True}, DataError, 'label "rare one" in row 0 is 0.5'),
        ("wide", {"factory": "wrong_network"}, TrainingError, r"\[3, 4\] for 3 rows"),
        ("huge", {"huge": True}, TrainingError, r"(?s)doctor stops this run.*non-finite-features"),
        ("typo", {"num_row": 3}, ConfigError, 'did you mean "num_rows"'),
    ],
)
def test_a_failing_run_is_marked_and_registers_nothing(place, name, changes, error, message):
    with pytest.raises(error, match=message):
        train_own(place, name, **changes)
    run = last_run(name)
    assert run.info.status == "FAILED"
    assert run.data.tags["thresher.failure"].startswith(error.__name__)
    assert run.data.params["name"] == name
    assert name not in registered_names()
    assert mlflow.active_run() is None


def test_an_interrupted_run_is_marked_and_registers_nothing(place):
    with pytest.raises(KeyboardInterrupt):
        train_own(place, "stopped", factory="interrupted_network")
    assert last_run("stopped").info.status == "KILLED"
    assert "stopped" not in registered_names()


def test_a_recipe_that_names_nothing_starts_no_run(place):
    with pytest.raises(ConfigError, match='unknown attribute "networks"; did you mean "network"'):
        train_own(place, "unnamed", factory="networks")
    assert mlflow.MlflowClient().get_experiment_by_name("unnamed") is None


def test_examples_of_data_without_pictures_are_refused(place):
    text = (place / "recipes" / "digits.toml").read_text(encoding="utf-8")
    path = place / "recipes" / "no_pictures.toml"
    path.write_text(
        "\n".join(line for line in text.splitlines() if not line.startswith("options"))
        .replace("tiny-digits", "no-pictures")
        .replace("thresher_training.digits:digit_strips", "own_task_for_training:data")
        .replace("thresher_training.networks:digits_cnn", "own_task_for_training:network"),
        encoding="utf-8",
    )
    with pytest.raises(ConfigError, match="needs exactly one input, a picture"):
        train(load_toml(path, Recipe), recipe_folder=path.parent)


def test_a_store_that_cannot_be_used_is_a_user_error(place, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://nowhere")
    with pytest.raises(ThresherError, match="MLflow at nonsense://nowhere"):
        train_own(place, "lost")


def numbers(**options):
    rng = np.random.default_rng(0)

    def split(num_rows):
        x = rng.normal(size=(num_rows, 3)).astype(np.float32)
        return Split(inputs={"features": x}, targets_NL=np.stack([x[:, 0] > 0, x[:, 1] > 1], 1))

    sizes = {"train": 200, "validation": 100, "test": 100}
    return DataSet(
        labels=("up", "high"),
        splits={name: split(size) for name, size in sizes.items()},
        source="random numbers",
        **options,
    )


def linear(*, num_labels):
    return mlp(num_labels=num_labels, num_features=3, hidden=[])


def test_python_alone_is_enough_and_data_bring_their_assets(place, tmp_path):
    (tmp_path / "vocabulary.txt").write_text("a b c", encoding="utf-8")
    recipe = Recipe(name="in-python", optimization=OptimizationConfig(epochs=2))
    data = numbers(assets={"tokenizer/vocabulary.txt": tmp_path / "vocabulary.txt"})
    model = train(recipe, data=data, network=linear, loss=nn.MultiLabelSoftMarginLoss())
    version = resolve(model.uri)
    assert version.artifact("assets/tokenizer/vocabulary.txt").read_text() == "a b c"
    assert (version.artifact("doctor") / "doctor.json").is_file()
    assert not (place / ".thresher" / "checkpoints" / model.run_id).exists()


def test_a_network_that_is_not_trained_is_evaluated_tuned_and_registered(place):
    with seeded(3):
        network = linear(num_labels=2)
    network.requires_grad_(requires_grad=False)
    data = numbers()
    expected = predict_logits(network, data.splits["test"].inputs)
    recipe = Recipe(name="untrained", optimization=OptimizationConfig(epochs=0))
    model = train(recipe, data=data, network=network)
    np.testing.assert_array_equal(resolve(model.uri).evaluation("test").logits_NL, expected)


def test_prior_and_correlation_are_put_on_the_network(place):
    recipe = Recipe(
        name="refined",
        network=NetworkConfig(prior_bias=True, correlation=CorrelationConfig(hidden=4)),
        optimization=OptimizationConfig(epochs=1),
    )
    model = train(recipe, data=numbers(), network=linear)
    weights = torch.export.load(resolve(model.uri).model_folder() / "data" / "model.pt2").state_dict
    assert len(weights) > 2


def test_a_loss_that_is_not_finite_leaves_its_batch_in_the_run(place):
    recipe = Recipe(name="diverged", optimization=OptimizationConfig(learning_rate=1e30))
    with pytest.raises(TrainingError, match=r"largest logit is .*failure/batch\.npz"):
        train(recipe, data=numbers(), network=linear)
    run = last_run("diverged")
    assert run.info.status == "FAILED"
    assert "diverged" not in registered_names()
    path = mlflow.artifacts.download_artifacts(
        run_id=run.info.run_id, artifact_path="failure/batch.npz"
    )
    with np.load(path) as batch:
        assert batch["inputs/features"].shape == (len(batch["rows"]), 3)
        assert batch["targets"].shape == batch["logits"].shape == (len(batch["rows"]), 2)


def test_too_little_memory_keeps_the_checkpoint_and_smaller_batches_go_on(place):
    class Hungry(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.calls = nn.Linear(3, 2), 0

        def forward(self, features):
            if self.training and len(features) > 40:
                self.calls += 1
                if self.calls > 5:
                    torch.empty(2**50)
            return self.linear(features)

    def hungry(*, num_labels):
        with seeded(0):
            return Hungry()

    recipe = Recipe(name="hungry", optimization=OptimizationConfig(epochs=3))
    with pytest.raises(TrainingError, match=r"optimization\.batch_size=32 .*accumulate=2") as info:
        train(recipe, data=numbers(), network=hungry)
    run = last_run("hungry")
    assert run.info.status == "FAILED"
    assert f"--resume {run.info.run_id}" in str(info.value)
    smaller = Recipe(
        name="hungry", optimization=OptimizationConfig(epochs=3, batch_size=32, accumulate=2)
    )
    model = train(smaller, data=numbers(), network=hungry, resume=run.info.run_id)
    assert model.run_id == run.info.run_id
