"""Checkpoints: wherever training is cut off, it ends with the very same weights."""

import signal

import numpy as np
import pytest
import torch
from torch import nn

from thresher.errors import NotFoundError, TrainingError
from thresher_training import OptimizationConfig, Split
from thresher_training.loop import Checkpoints, Interrupted, Stop, fit, seeded
from thresher_training.losses import BceLoss


def make_split(seed, num_rows=90):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num_rows, 4)).astype(np.float32)
    return Split(inputs={"features": x}, targets_NL=np.stack([x[:, 0] > 0, x[:, 1] > 1], axis=1))


class Random(nn.Module):
    """Draws from every generator there is, and has running figures."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 2)
        )

    def forward(self, features):
        if self.training:
            features = features + 0.1 * float(np.random.random())
        return self.layers(features)


def noise(inputs, generator):
    x = inputs["features"]
    return {"features": x + 0.1 * torch.randn(x.shape, generator=generator)}


class Ending(Stop):
    """Asks for an end at one of the times that it is asked."""

    def __init__(self, at):
        super().__init__()
        self.left = at

    @property
    def requested(self):
        self.left -= 1
        if self.left == 0:
            self.signal_number = signal.SIGTERM
        return super().requested


CONFIG = OptimizationConfig(
    epochs=3,
    batch_size=8,
    accumulate=2,
    learning_rate=0.05,
    schedule="one_cycle",
    ema_decay=0.9,
    max_gradient_norm=0.5,
    sampler="label_aware",
    best_by="loss",
    early_stopping_patience=2,
)


def run(root, *, stop=None, resume=False, seed=0):
    with seeded(5):
        network = Random()
    checkpoints = Checkpoints("a", {"what": "test"}, root=root)
    result = fit(
        *(network, make_split(0), make_split(1), BceLoss(), CONFIG),
        seed=seed,
        augment=noise,
        checkpoints=checkpoints,
        resume_from=checkpoints.load() if resume else None,
        stop=stop,
    )
    return network.state_dict(), result


def without_times(result):
    return [
        (
            *(e.epoch, e.train_loss, e.validation_loss, e.validation, e.learning_rate),
            pytest.approx(e.gradient_norm, rel=1e-12),
        )
        for e in result.epochs
    ]


def test_wherever_it_stops_the_weights_are_those_of_an_undisturbed_run(tmp_path):
    weights, result = run(tmp_path)
    ends = 0
    for at in range(1, 25):
        try:
            run(tmp_path, stop=Ending(at))
        except Interrupted:
            ends += 1
        resumed, again = run(tmp_path, resume=True)
        assert all(torch.equal(weights[name], resumed[name]) for name in weights), at
        assert without_times(again) == without_times(result)
        assert again.best_epoch == result.best_epoch
    assert ends > 20  # in steps and in validations


def test_a_run_may_stop_again_and_again(tmp_path):
    weights, _ = run(tmp_path)
    with pytest.raises(Interrupted, match="stopped by SIGTERM after step 1 of 6 in epoch 1"):
        run(tmp_path, stop=Ending(1))
    for _ in range(6):
        with pytest.raises(Interrupted):
            run(tmp_path, stop=Ending(2), resume=True)
    resumed, _ = run(tmp_path, resume=True)
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)


def test_a_checkpoint_that_is_half_written_is_not_looked_at(tmp_path):
    weights, _ = run(tmp_path)
    with pytest.raises(Interrupted):
        run(tmp_path, stop=Ending(8))
    (tmp_path / "a" / "checkpoint.pt.partial").write_bytes(b"half")
    resumed, _ = run(tmp_path, resume=True)
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)
    assert not (tmp_path / "a" / "checkpoint.pt.partial").exists()


def test_what_cannot_be_loaded_says_why(tmp_path):
    checkpoints = Checkpoints("gone", root=tmp_path)
    with pytest.raises(NotFoundError, match="run gone has no checkpoint.*there are none"):
        checkpoints.load()
    Checkpoints("here", root=tmp_path).save({"x": 1})
    with pytest.raises(NotFoundError, match="there are checkpoints of: here"):
        checkpoints.load()
    (tmp_path / "here" / "checkpoint.pt").write_bytes(b"broken")
    with pytest.raises(TrainingError, match="not a checkpoint that can be read"):
        Checkpoints("here", root=tmp_path).load()


def test_a_disk_that_takes_nothing_is_told(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TrainingError, match="the checkpoint cannot be written"):
        Checkpoints("a", root=tmp_path / "file").save({})


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    checkpoints = Checkpoints("a", root=tmp_path)
    run(tmp_path)
    split = make_split(0)
    other = nn.Sequential(nn.Linear(4, 2))
    with pytest.raises(TrainingError, match="does not fit this network"):
        fit(
            *(other, split, split, BceLoss(), CONFIG),
            seed=0,
            checkpoints=checkpoints,
            resume_from=checkpoints.load(),
        )
