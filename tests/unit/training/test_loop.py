"""The loop: learns, repeats itself exactly, keeps the best epoch and stops when told to."""

import numpy as np
import pytest
import torch

from thresher.errors import TrainingError
from thresher_training import OptimizationConfig, Split
from thresher_training.loop import fit, predict_logits, seeded
from thresher_training.losses import BceLoss
from thresher_training.networks import mlp


def make_split(seed, num_rows=300):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num_rows, 4)).astype(np.float32)
    return Split(inputs={"features": x}, targets_NL=np.stack([x[:, 0] > 0, x[:, 1] > 1], axis=1))


TRAIN, VALIDATION = make_split(0), make_split(1)


def train(seed=0, train_split=TRAIN, on_epoch=lambda _: None, **options):
    config = OptimizationConfig(**{"epochs": 4, "learning_rate": 1e-2, **options})
    with seeded(seed):
        network = mlp(num_labels=2, num_features=4, hidden=[16], dropout=0.1)
    result = fit(network, train_split, VALIDATION, BceLoss(), config, seed=seed, on_epoch=on_epoch)
    return result, predict_logits(network, VALIDATION.inputs)


def test_it_learns_and_tells_each_epoch():
    seen = []
    result, logits = train(epochs=8, learning_rate=5e-2, on_epoch=seen.append)
    assert tuple(seen) == result.epochs
    assert [epoch.epoch for epoch in seen] == list(range(1, 9))
    assert seen[-1].train_loss < seen[0].train_loss
    assert seen[-1].validation_macro_f1 > 0.9
    assert seen[-1].learning_rate == pytest.approx(0, abs=1e-6)
    assert logits.dtype == np.float32
    assert logits.shape == (300, 2)


def test_the_same_seed_gives_the_same_logits_and_leaves_global_state_alone():
    torch.manual_seed(7)
    before = torch.get_rng_state()
    (_, first), (_, second), (_, other) = train(seed=3), train(seed=3), train(seed=4)
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("best_by", ["macro_f1", "micro_f1", "loss"])
def test_the_kept_weights_are_those_of_the_best_epoch(best_by):
    result, logits = train(epochs=6, learning_rate=0.3, best_by=best_by)
    best = result.epochs[result.best_epoch - 1]
    values = [getattr(epoch, f"validation_{best_by}") for epoch in result.epochs]
    assert getattr(best, f"validation_{best_by}") == (min if best_by == "loss" else max)(values)
    loss = BceLoss()(torch.from_numpy(logits), torch.from_numpy(VALIDATION.targets_NL)).item()
    assert loss == pytest.approx(best.validation_loss, rel=1e-6)


def test_it_stops_early_when_nothing_gets_better():
    # a learning rate too small to change any decision: the first epoch stays the best
    result, _ = train(epochs=50, learning_rate=1e-9, early_stopping_patience=3)
    assert result.best_epoch == 1
    assert len(result.epochs) == 4


def test_unknown_targets_are_no_obstacle():
    targets = TRAIN.targets_NL.copy()
    targets[::2, 0] = np.nan
    partly = Split(inputs=TRAIN.inputs, targets_NL=targets)
    result, _ = train(train_split=partly, epochs=8, learning_rate=5e-2)
    assert result.epochs[-1].validation_macro_f1 > 0.85


def test_a_loss_that_is_not_finite_stops_training():
    x = TRAIN.inputs["features"].copy()
    x[7] = np.inf
    with pytest.raises(TrainingError, match="training loss is nan in epoch 1"):
        train(train_split=Split(inputs={"features": x}, targets_NL=TRAIN.targets_NL))


def test_read_only_and_strided_arrays_can_be_trained_on():
    x = np.repeat(TRAIN.inputs["features"], 2, axis=0)[::-2]
    x.setflags(write=False)
    train(train_split=Split(inputs={"features": x}, targets_NL=TRAIN.targets_NL), epochs=1)


def test_prediction_is_in_evaluation_mode_and_leaves_the_mode():
    with seeded(0):
        network = mlp(num_labels=2, num_features=4, dropout=0.5).train()
    first, second = (predict_logits(network, VALIDATION.inputs) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert network.training
