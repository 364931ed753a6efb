"""A run that cross-fits: what it registers, and that it goes on where it was cut off."""

import itertools
import os
import signal

import mlflow
import numpy as np
import pytest
import torch

from thresher.registry import resolve
from thresher_training import DataSet, DecisionConfig, OptimizationConfig, Recipe, Split, train
from thresher_training.decisions import tune_decision
from thresher_training.loop import Checkpoints, Interrupted
from thresher_training.networks import mlp
from thresher_training.tuning import tune_version

RECIPE = Recipe(
    name="few-rows",
    cross_fit=3,
    optimization=OptimizationConfig(epochs=2, device="cpu", batch_size=32, learning_rate=0.05),
    decision=DecisionConfig(min_positives=1),
)
NUM_STEPS = 3  # of an epoch: 80 of 120 rows


def data(augment=None):
    rng = np.random.default_rng(0)

    def split(num_rows):
        x = rng.normal(size=(num_rows, 3)).astype(np.float32)
        noise = rng.normal(size=(num_rows, 2)) > 1.3
        targets = np.stack([x[:, 0] > 0, x[:, 1] > 0.5], axis=1) ^ noise
        return Split(inputs={"features": x}, targets_NL=targets.astype(np.float32))

    return DataSet(
        labels=("up", "high"),
        splits={"train": split(90), "validation": split(30), "test": split(60)},
        source="random numbers",
        augment=augment,
    )


def network(*, num_labels):
    return mlp(num_labels=num_labels, num_features=3, hidden=[8], dropout=0.3)


@pytest.fixture
def model(store):
    return train(RECIPE, data=data(), network=network)


def test_thresholds_come_from_networks_that_have_not_seen_the_row(model):
    version = resolve(model.uri)
    rows = version.evaluation("validation")
    assert len(rows) == 120
    assert rows.held_out_logits_NL is not None
    program = torch.export.load(version.model_folder() / "data" / "model.pt2").module()
    whole = program(torch.from_numpy(rows.inputs["features"])).detach().numpy()
    np.testing.assert_allclose(rows.logits_NL, whole, atol=1e-5)
    # one network's logits, not the mean's: they differ on every row
    assert (np.abs(rows.held_out_logits_NL - rows.logits_NL).max(axis=1) > 1e-3).all()
    expected = tune_decision(
        ("up", "high"), rows.held_out_logits_NL, rows.targets_NL, RECIPE.decision
    )
    assert version.decision() == expected.decision
    history = mlflow.MlflowClient().get_metric_history(model.run_id, "train/loss")
    assert [metric.step for metric in history] == [1, 2, 3, 4, 5, 6]


def test_new_thresholds_come_from_the_same_rows(model):
    rows = resolve(model.uri).evaluation("validation")
    config = DecisionConfig(objective="micro_f1", min_positives=1)
    tuned = tune_version(model.uri, config)
    expected = tune_decision(("up", "high"), rows.held_out_logits_NL, rows.targets_NL, config)
    assert tuned.tuned.decision == expected.decision


def test_a_run_that_is_cut_off_in_its_second_network_ends_as_an_undisturbed_one(model):
    counter = itertools.count(1)

    def cut_off(inputs, _):
        if next(counter) == 3 * NUM_STEPS + 1:  # the second network's second epoch
            os.kill(os.getpid(), signal.SIGTERM)
        return inputs

    with pytest.raises(Interrupted, match="in epoch 2") as info:
        train(RECIPE, data=data(cut_off), network=network)
    run_id = str(info.value).rpartition(" ")[2]
    again = train(RECIPE, data=data(), network=network, resume=run_id)
    assert again.run_id == run_id
    assert not Checkpoints(run_id).exists
    found, expected = (resolve(each.uri).evaluation("validation") for each in (again, model))
    np.testing.assert_array_equal(found.logits_NL, expected.logits_NL)
    np.testing.assert_array_equal(found.held_out_logits_NL, expected.held_out_logits_NL)
    history = mlflow.MlflowClient().get_metric_history(run_id, "train/loss")
    assert [metric.step for metric in history] == [1, 2, 3, 4, 5, 6]
