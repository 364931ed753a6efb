"""The parts of scripts/gpu-check.sh as tests: training, losses, logits, NCCL, export, engines."""

import sys
from pathlib import Path

import pytest
import torch

from thresher_training import OptimizationConfig
from thresher_training.loop import NonFiniteLossError, fit
from thresher_training.losses import BceLoss
from thresher_training.networks import mlp

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from gpu_check import inference, training  # noqa: F401 -- inference registers its parts
from gpu_check.parts import PARTS, NotRun

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU"),
]


@pytest.mark.parametrize("name", PARTS)
def test_part(name):
    if PARTS[name].missing:
        pytest.skip(f"not installed: {', '.join(PARTS[name].missing)}")
    try:
        print(PARTS[name].run("cuda"), file=sys.stderr)
    except NotRun as error:
        pytest.skip(str(error))


def test_a_loss_that_is_not_finite_is_seen():
    with pytest.raises(NonFiniteLossError, match="training loss is"):
        fit(
            mlp(num_labels=2, num_features=4, hidden=[16]),
            *(training.split(0), training.split(1), BceLoss()),
            OptimizationConfig(learning_rate=1e30, device="cuda", epochs=20),
            seed=0,
        )
