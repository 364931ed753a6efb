"""The loop: learns, repeats itself exactly, keeps the best epoch and stops when told to."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from thresher.errors import ConfigError, TrainingError
from thresher_training import OptimizationConfig, Split
from thresher_training.loop import (
    FitResult,
    NoMemoryError,
    NonFiniteLossError,
    doubts,
    fit,
    predict_logits,
    seeded,
)
from thresher_training.losses import BceLoss
from thresher_training.networks import mlp


def make_split(seed, num_rows=300):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num_rows, 4)).astype(np.float32)
    return Split(inputs={"features": x}, targets_NL=np.stack([x[:, 0] > 0, x[:, 1] > 1], axis=1))


TRAIN, VALIDATION = make_split(0), make_split(1)


def make_network(seed=0, dropout=0.1):
    with seeded(seed):
        return mlp(num_labels=2, num_features=4, hidden=[16], dropout=dropout)


def train(
    seed=0,
    train_split=TRAIN,
    network=None,
    dropout=0.1,
    on_epoch=lambda _: None,
    augment=None,
    trim_by=None,
    **options,
):
    config = OptimizationConfig(**{"epochs": 4, "learning_rate": 1e-2, **options})
    network = network or make_network(seed, dropout)
    result = fit(
        *(network, train_split, VALIDATION, BceLoss(), config),
        seed=seed,
        on_epoch=on_epoch,
        augment=augment,
        trim_by=trim_by,
    )
    return result, predict_logits(network, VALIDATION.inputs)


def test_it_learns_and_tells_each_epoch():
    seen = []
    result, logits = train(epochs=8, learning_rate=5e-2, on_epoch=seen.append)
    assert tuple(seen) == result.epochs
    assert [epoch.epoch for epoch in seen] == list(range(1, 9))
    assert seen[-1].train_loss < seen[0].train_loss
    assert seen[-1].validation["macro_f1"] > 0.9
    assert seen[-1].learning_rate == pytest.approx(0, abs=1e-6)
    assert all(epoch.gradient_norm > 0 and epoch.rows_per_s > 0 for epoch in seen)
    assert all(0 <= epoch.data_wait_fraction <= 1 for epoch in seen)
    assert logits.dtype == np.float32
    assert logits.shape == (300, 2)


def test_the_same_seed_gives_the_same_logits_and_leaves_global_state_alone():
    torch.manual_seed(7)
    np.random.seed(7)
    random.seed(7)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    (_, first), (_, second), (_, other) = train(seed=3), train(seed=3), train(seed=4)
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]


@pytest.mark.parametrize("best_by", ["macro_f1", "micro_f1", "mean_average_precision", "loss"])
def test_the_kept_weights_are_those_of_the_best_epoch(best_by):
    result, logits = train(epochs=6, learning_rate=0.3, best_by=best_by)
    best = result.epochs[result.best_epoch - 1]

    def value(epoch):
        return -epoch.validation_loss if best_by == "loss" else epoch.validation[best_by]

    assert value(best) == max(map(value, result.epochs))
    loss = BceLoss()(torch.from_numpy(logits), torch.from_numpy(VALIDATION.targets_NL)).item()
    assert loss == pytest.approx(best.validation_loss, rel=1e-6)


def rare_labels(seed, num_rows=2000):
    """Eight labels that are true in 3 % of the rows, whose probabilities stay below 0.45."""
    x = np.random.default_rng(seed).normal(size=(num_rows, 10)).astype(np.float32)
    slopes = np.random.default_rng(9).normal(size=(10, 8))
    probabilities = np.minimum(1 / (1 + np.exp(4 - 0.3 * x @ slopes)), 0.45)
    drawn = np.random.default_rng(seed + 100).random(probabilities.shape)
    return Split(inputs={"features": x}, targets_NL=drawn < probabilities)


def fit_rare(validation=None, **options):
    with seeded(0):
        network = mlp(num_labels=8, num_features=10, hidden=[])
    config = OptimizationConfig(**{"epochs": 8, "learning_rate": 1e-2, **options})
    validation = validation or rare_labels(2)
    return fit(network, rare_labels(1), validation, BceLoss(), config, seed=0)


@pytest.mark.parametrize("options", [{}, {"ema_decay": 0.9}, {"early_stopping_patience": 3}])
def test_by_default_rare_labels_keep_the_epoch_that_ranks_best(options):
    result = fit_rare(**options)
    by_rank = [epoch.validation["mean_average_precision"] for epoch in result.epochs]
    at_half = [epoch.validation["macro_f1"] for epoch in result.epochs]
    assert at_half[0] == max(at_half)  # F1 at 0.5 would have kept the first epoch
    assert at_half[-1] == 0
    assert result.best_epoch == 1 + int(np.argmax(by_rank)) > 4
    assert doubts(result, "mean_average_precision") == []


def test_without_positives_in_validation_the_loss_picks_the_epoch():
    rows = rare_labels(2)
    nothing = Split(inputs=rows.inputs, targets_NL=np.zeros_like(rows.targets_NL))
    result = fit_rare(validation=nothing)
    losses = [epoch.validation_loss for epoch in result.epochs]
    assert np.isnan(result.epochs[0].validation["mean_average_precision"])
    assert result.best_epoch == 1 + int(np.argmin(losses))


@pytest.mark.parametrize("best_by", ["mean_average_precision", "macro_f1", "loss"])
def test_without_a_known_target_in_validation_the_last_epoch_is_kept_and_it_is_said(best_by):
    rows = rare_labels(2)
    unknown = np.full(rows.targets_NL.shape, np.nan, np.float32)
    nothing = Split(inputs=rows.inputs, targets_NL=unknown)
    result = fit_rare(validation=nothing, best_by=best_by, epochs=3, early_stopping_patience=1)
    assert result.best_epoch == 3
    (told,) = doubts(result, best_by)
    assert "no target of the validation split is known" in told


@pytest.mark.parametrize("best_by", ["macro_f1", "mean_average_precision"])
def test_epochs_that_are_alike_differ_in_their_validation_loss(best_by):
    class Bias(nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(torch.tensor([-0.2, -0.4]))

        def forward(self, features):
            return self.bias.expand(len(features), 2)

    targets = np.tile([[1, 0]] + 9 * [[0, 1]] + 40 * [[0, 0]], (6, 1))
    split = Split(inputs={"features": np.ones((300, 4), np.float32)}, targets_NL=targets)
    config = OptimizationConfig(epochs=5, learning_rate=0.02, best_by=best_by)
    result = fit(Bias(), split, split, BceLoss(), config, seed=0)
    assert len({epoch.validation[best_by] for epoch in result.epochs}) == 1
    losses = [epoch.validation_loss for epoch in result.epochs]
    assert result.best_epoch == 1 + int(np.argmin(losses)) > 1


def test_a_kept_epoch_that_may_not_be_the_best_is_said():
    result = fit_rare(best_by="macro_f1")
    (told,) = doubts(result, "macro_f1")
    assert result.best_epoch == 1
    assert f"{result.epochs[0].validation_loss:.4g}" in told
    assert '"mean_average_precision"' in told
    never = FitResult(best_epoch=5, epochs=result.epochs[3:])  # 0 throughout
    assert "0 after every epoch" in doubts(never, "macro_f1")[0]
    assert doubts(never, "loss") == []
    assert doubts(FitResult(best_epoch=0, epochs=()), "macro_f1") == []


def test_it_stops_early_when_nothing_gets_better():
    # a learning rate too small to change any decision: the first epoch stays the best
    result, _ = train(epochs=50, learning_rate=1e-9, early_stopping_patience=3)
    assert result.best_epoch == 1
    assert len(result.epochs) == 4


def test_no_epochs_leave_the_network_as_it_is():
    network = make_network()
    before = predict_logits(network, VALIDATION.inputs)
    result, logits = train(network=network, epochs=0)
    assert (result.best_epoch, result.epochs) == (0, ())
    np.testing.assert_array_equal(before, logits)


def test_unknown_targets_are_no_obstacle():
    targets = TRAIN.targets_NL.copy()
    targets[::2, 0] = np.nan
    partly = Split(inputs=TRAIN.inputs, targets_NL=targets)
    result, _ = train(train_split=partly, epochs=8, learning_rate=5e-2)
    assert result.epochs[-1].validation["macro_f1"] > 0.85


@pytest.mark.parametrize("max_gradient_norm", [None, 0.05])
def test_accumulation_makes_the_steps_of_a_large_batch(max_gradient_norm):
    # unknown targets are spread unevenly and the last step is short: a plain mean would be wrong
    targets = TRAIN.targets_NL.copy()
    targets[:200, 0] = np.nan
    partly = Split(inputs=TRAIN.inputs, targets_NL=targets)
    options = {"train_split": partly, "dropout": 0.0, "max_gradient_norm": max_gradient_norm}
    _, whole = train(batch_size=80, **options)
    _, cut = train(batch_size=16, accumulate=5, **options)
    np.testing.assert_allclose(cut, whole, atol=2e-5)


def test_a_small_limit_on_the_gradients_norm_changes_the_outcome():
    (_, free), (_, clipped) = train(), train(max_gradient_norm=1e-4)
    assert not np.allclose(free, clipped, atol=1e-3)


def test_the_average_of_the_weights_is_what_is_kept():
    (plain, raw), (averaged, smooth) = train(epochs=1), train(epochs=1, ema_decay=0.99)
    # the steps are the same; what is evaluated is not
    assert plain.epochs[0].train_loss == averaged.epochs[0].train_loss
    assert not np.array_equal(raw, smooth)
    with_norm = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))

    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = with_norm

        def forward(self, features):
            return self.layers(features)

    train(network=Normed(), ema_decay=0.9, epochs=1)


def test_bf16_trains_on_a_cpu_and_logits_stay_float32():
    result, logits = train(epochs=8, learning_rate=5e-2, precision="bf16")
    assert result.epochs[-1].validation["macro_f1"] > 0.85
    assert logits.dtype == np.float32
    _, auto = train(precision="auto", epochs=1)
    assert auto.dtype == np.float32


def test_fp16_is_refused_on_a_cpu():
    with pytest.raises(ConfigError, match='"fp16", which needs a GPU'):
        train(precision="fp16", device="cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(TrainingError, match="torch sees no GPU here"):
        train(device="cuda")


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.slow
def test_a_compiled_network_learns_and_the_plain_one_holds_its_weights():
    # one shape and no activation: what takes long is the C++ compiler
    found = []
    for is_compiled in (False, True):
        with seeded(0):
            network = mlp(num_labels=2, num_features=4, hidden=[])
        options = {"network": network, "batch_size": 300, "learning_rate": 0.1}
        found.append(train(**options, compile=is_compiled)[1])
    np.testing.assert_allclose(*found, atol=1e-4)


def test_label_aware_sampling_draws_rare_labels_more_often():
    seen = []
    targets = np.zeros((400, 2), np.float32)
    targets[:200, 0], targets[:4, 1] = 1, 1
    rows = np.arange(400, dtype=np.float32)[:, None].repeat(4, axis=1)

    def note(inputs, generator):
        seen.extend(inputs["features"][:, 0].tolist())
        return inputs

    split = Split(inputs={"features": rows}, targets_NL=targets)
    train(train_split=split, sampler="label_aware", epochs=1, augment=note)
    assert len(seen) == 400
    assert np.isin(seen, range(4)).mean() > 5 * 4 / 400


def test_augmentation_alters_train_batches_alone_and_repeats_itself():
    def noise(inputs, generator):
        x = inputs["features"]
        return {"features": x + 0.5 * torch.randn(x.shape, generator=generator)}

    (_, plain), (_, first), (_, second) = train(), train(augment=noise), train(augment=noise)
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(plain, first)


def test_a_loss_that_is_not_finite_stops_training_and_names_input_and_rows():
    x = TRAIN.inputs["features"].copy()
    x[7] = np.inf
    with pytest.raises(NonFiniteLossError, match=r"training loss is nan in epoch 1.*rows 7\)") as e:
        train(train_split=Split(inputs={"features": x}, targets_NL=TRAIN.targets_NL))
    assert 7 in e.value.arrays["rows"]
    assert e.value.arrays["inputs/features"].shape == (len(e.value.arrays["rows"]), 4)


def test_a_loss_that_runs_away_tells_logits_and_learning_rate():
    with pytest.raises(NonFiniteLossError, match=r"all inputs are finite.*learning rate of"):
        train(learning_rate=1e30, epochs=20)


class Failing(nn.Module):
    def __init__(self, error):
        super().__init__()
        self.linear, self.error = nn.Linear(4, 2), error

    def forward(self, features):
        if self.training and len(features) > 40:
            raise self.error
        return self.linear(features)


def test_too_little_memory_says_which_keys_help():
    error = RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes")
    with pytest.raises(NoMemoryError, match=r"batch_size=32 and optimization.accumulate=2"):
        train(network=Failing(error))
    train(network=Failing(error), batch_size=32, accumulate=2)


def test_memory_that_torch_really_cannot_get_is_told_so():
    class Hungry(Failing):
        def forward(self, features):
            return self.linear(features) + torch.empty(2**50).sum()

    with pytest.raises(NoMemoryError, match="out of memory in epoch 1, step 1"):
        train(network=Hungry(None))


def test_a_network_that_fails_in_training_says_where():
    with pytest.raises(TrainingError, match=r"Failing fails in epoch 1, step 1: KeyError: 'x'"):
        train(network=Failing(KeyError("x")))


def test_read_only_and_strided_arrays_can_be_trained_on():
    x = np.repeat(TRAIN.inputs["features"], 2, axis=0)[::-2]
    x.setflags(write=False)
    train(train_split=Split(inputs={"features": x}, targets_NL=TRAIN.targets_NL), epochs=1)


def test_mapped_arrays_give_the_weights_of_arrays_in_memory(tmp_path):
    np.save(tmp_path / "x.npy", TRAIN.inputs["features"])
    mapped = np.load(tmp_path / "x.npy", mmap_mode="c")
    split = Split(inputs={"features": mapped}, targets_NL=TRAIN.targets_NL)
    (_, first), (_, second) = train(), train(train_split=split)
    np.testing.assert_array_equal(first, second)


def test_prediction_is_in_evaluation_mode_and_leaves_the_mode():
    network = make_network(dropout=0.5).train()
    first, second = (predict_logits(network, VALIDATION.inputs) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert network.training


def test_a_batch_norm_with_one_row_at_a_time_is_said_with_what_to_do():
    network = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    network.forward = lambda features: nn.Sequential.forward(network, features)
    with pytest.raises(TrainingError, match=r"batch-norm.*optimization.batch_size is 1"):
        train(network=network, batch_size=1)


@pytest.mark.parametrize("batch_size", [299, 23, 2])
def test_a_last_batch_of_one_row_is_no_obstacle_to_a_batch_norm(batch_size):
    network = mlp(num_labels=2, num_features=4, scaling="standard")
    result, _ = train(network=network, epochs=1, batch_size=batch_size)
    assert len(result.epochs) == 1
