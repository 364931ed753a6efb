"""Cross-fitting: folds that share the rows out, the mean of networks, the mean of their epochs."""

import copy
import pickle

import numpy as np
import pytest
import torch

from thresher.errors import ConfigError, DataError
from thresher_training import DataSet, OptimizationConfig, Recipe, Split
from thresher_training.cross_fit import Folds, MeanOfNetworks, mean_of_folds
from thresher_training.loop import EpochMetrics, FitResult
from thresher_training.networks import mlp
from thresher_training.preflight import check_network


def data(*, soft=False):
    rng = np.random.default_rng(0)

    def split(num_rows, start, soft=False):
        x = np.arange(start, start + num_rows, dtype=np.float32)[:, None]
        targets = (rng.random((num_rows, 2)) < 0.4).astype(np.float32)
        if soft:
            targets[0] = 0.5
        return Split(inputs={"features": x}, targets_NL=targets)

    splits = {"train": split(40, 0, soft), "validation": split(20, 40)}
    return DataSet(labels=("a", "b"), splits={**splits, "test": split(10, 60)}, source="numbers")


def test_each_row_is_held_out_by_one_fold_and_trains_all_others():
    folds = Folds.of(data(), 3, seed=0)
    np.testing.assert_array_equal(folds.rows.inputs["features"][:, 0], np.arange(60))
    held_out = []
    for fold, found in enumerate(folds.data_sets):
        train, validation = (found.splits[k].inputs["features"] for k in ("train", "validation"))
        assert set(train[:, 0]) | set(validation[:, 0]) == set(range(60))
        assert not set(train[:, 0]) & set(validation[:, 0])
        np.testing.assert_array_equal(validation[:, 0], np.flatnonzero(folds.fold_N == fold))
        np.testing.assert_array_equal(found.splits["test"].inputs["features"][:, 0], range(60, 70))
        held_out.append(len(validation))
    assert sum(held_out) == 60
    assert max(held_out) - min(held_out) <= 2


def test_the_seed_shares_the_rows_out():
    fold_N = [Folds.of(data(), 3, seed=seed).fold_N for seed in (0, 0, 1)]
    np.testing.assert_array_equal(fold_N[0], fold_N[1])
    assert (fold_N[0] != fold_N[2]).any()


def test_rows_with_soft_targets_cannot_be_held_out():
    with pytest.raises(DataError, match=r'the validation split: target of label "a".* is 0\.5'):
        Folds.of(data(soft=True), 3, seed=0)


def test_the_mean_of_networks_is_the_mean_of_their_logits():
    torch.manual_seed(0)
    networks = [mlp(num_labels=2, num_features=1, hidden=[4]) for _ in range(3)]
    mean = MeanOfNetworks(networks).eval()
    x = torch.randn(7, 1)
    expected = sum(network(x) for network in networks) / 3
    for found in (mean(x), mean(features=x)):
        torch.testing.assert_close(found, expected)
    for again in (copy.deepcopy(mean), pickle.loads(pickle.dumps(mean))):
        assert torch.equal(again(features=x), mean(x))
    assert check_network(mean, data().splits["train"]) == {"features": (0,)}


def epoch(number, loss):
    return EpochMetrics(
        epoch=number,
        train_loss=loss,
        validation_loss=loss + 1,
        validation={"macro_f1": loss / 10},
        learning_rate=0.1,
        gradient_norm=1.0,
        rows_per_s=10.0,
        data_wait_fraction=0.0,
        seconds=1.0,
    )


def test_the_mean_of_folds_ends_where_the_shortest_fold_does():
    long = FitResult(best_epoch=3, epochs=(epoch(1, 1.0), epoch(2, 3.0), epoch(3, 5.0)))
    short = FitResult(best_epoch=2, epochs=(epoch(1, 2.0), epoch(2, 4.0)))
    mean = mean_of_folds([long, short])
    assert [each.epoch for each in mean.epochs] == [1, 2]
    assert [each.train_loss for each in mean.epochs] == [1.5, 3.5]
    assert mean.epochs[1].validation == pytest.approx({"macro_f1": 0.35})
    assert mean.best_epoch == 2


@pytest.mark.parametrize("epochs", [0, 3])
def test_a_recipe_cross_fits_at_least_two_networks_that_are_trained(epochs):
    optimization = OptimizationConfig(epochs=epochs)
    with pytest.raises(ConfigError, match="cross_fit is 1" if epochs else "a network that is not"):
        Recipe(name="few-rows", cross_fit=1 if epochs else 5, optimization=optimization)
