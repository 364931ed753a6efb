"""The training loop on an NVIDIA GPU."""

import numpy as np
import pytest
import torch

from thresher_training import OptimizationConfig, Split
from thresher_training.loop import (
    Checkpoints,
    Interrupted,
    NonFiniteLossError,
    Stop,
    fit,
    predict_logits,
    seeded,
)
from thresher_training.losses import BceLoss
from thresher_training.networks import mlp

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU"),
]


def make_split(seed, num_rows=600):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num_rows, 4)).astype(np.float32)
    return Split(inputs={"features": x}, targets_NL=np.stack([x[:, 0] > 0, x[:, 1] > 1], axis=1))


def train(**options):
    call = {
        name: options.pop(name)
        for name in ("checkpoints", "resume_from", "stop")
        if name in options
    }
    config = OptimizationConfig(epochs=6, learning_rate=5e-2, device="cuda", **options)
    with seeded(0):
        network = mlp(num_labels=2, num_features=4, hidden=[16])
    result = fit(*(network, make_split(0), make_split(1), BceLoss(), config), seed=0, **call)
    return result, network


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16", "auto"])
def test_it_learns_in_each_precision_and_the_network_comes_back(precision):
    result, network = train(precision=precision, ema_decay=0.9, max_gradient_norm=1.0)
    assert result.epochs[-1].validation["macro_f1"] > 0.85
    assert {parameter.device.type for parameter in network.parameters()} == {"cpu"}
    on_cpu = predict_logits(network, make_split(1).inputs)
    on_gpu = predict_logits(network.cuda(), make_split(1).inputs)
    np.testing.assert_allclose(on_gpu, on_cpu, atol=1e-4)


def test_a_run_that_is_cut_off_goes_on(tmp_path):
    class Ending(Stop):
        calls = 0

        @property
        def requested(self):
            self.calls += 1
            return self.calls >= 13

    checkpoints = Checkpoints("a", root=tmp_path)
    whole, _ = train(precision="fp16")
    with pytest.raises(Interrupted):
        train(precision="fp16", checkpoints=checkpoints, stop=Ending())
    resumed, _ = train(precision="fp16", checkpoints=checkpoints, resume_from=checkpoints.load())
    assert [e.epoch for e in resumed.epochs] == [e.epoch for e in whole.epochs]
    for one, other in zip(resumed.epochs, whole.epochs, strict=True):
        assert one.train_loss == pytest.approx(other.train_loss, rel=1e-2)


def test_a_loss_that_is_not_finite_is_seen():
    with pytest.raises(NonFiniteLossError, match="training loss is"):
        fit(
            mlp(num_labels=2, num_features=4, hidden=[16]),
            make_split(0),
            make_split(1),
            BceLoss(),
            OptimizationConfig(learning_rate=1e30, device="cuda", epochs=20),
            seed=0,
        )
