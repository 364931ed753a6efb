"""Losses against torch's own."""

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from thresher_training import LossConfig
from thresher_training.losses import BceLoss, build_loss, neg_over_pos


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20, 4, generator=generator, requires_grad=True)
    return logits, torch.randint(0, 2, (20, 4), generator=generator).float()


@pytest.mark.parametrize("pos_weight", [None, torch.tensor([1.0, 2.0, 0.5, 20.0])])
def test_without_unknown_targets_it_is_torchs_loss(batch, pos_weight):
    logits, targets = batch
    expected = binary_cross_entropy_with_logits(logits, targets, pos_weight=pos_weight)
    torch.testing.assert_close(BceLoss(pos_weight)(logits, targets), expected)


def test_unknown_targets_count_for_nothing_in_value_and_gradient(batch):
    logits, targets = batch
    known = torch.rand(targets.shape, generator=torch.Generator().manual_seed(1)) > 0.3
    loss = BceLoss()(logits, torch.where(known, targets, torch.nan))
    torch.testing.assert_close(
        loss, binary_cross_entropy_with_logits(logits[known], targets[known])
    )
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.isfinite(gradient).all()
    assert not gradient[~known].any()


def test_no_known_target_gives_a_loss_of_zero(batch):
    logits, targets = batch
    assert BceLoss()(logits, torch.full_like(targets, torch.nan)).item() == 0


def test_neg_over_pos_counts_known_targets_caps_and_leaves_one_sided_labels_alone():
    nan = np.nan
    targets = np.float32([[1, 1, 0, 1, 0], [0, 1, 0, nan, 0], [0, 1, 0, 0, 1], [0, 0, 0, nan, 0]])
    assert neg_over_pos(targets, cap=2.5).tolist() == pytest.approx([2.5, 1 / 3, 1, 1, 2.5])
    assert neg_over_pos(targets, cap=100.0).tolist() == pytest.approx([3, 1 / 3, 1, 1, 3])
    assert neg_over_pos(np.ones((2, 1), np.float32), cap=9.0).tolist() == [1]


def test_a_recipe_picks_the_weights():
    targets = np.float32([[1, 0], [0, 0], [0, 1]])
    assert build_loss(LossConfig(), targets).pos_weight_L is None
    weighted = build_loss(LossConfig(pos_weight="neg_over_pos", pos_weight_cap=1.5), targets)
    assert weighted.pos_weight_L.tolist() == [1.5, 1.5]
