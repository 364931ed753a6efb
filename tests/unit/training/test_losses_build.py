"""From a recipe's [loss] to the loss: names, options, weights, own losses, and errors that help."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from thresher.errors import ConfigError
from thresher_training import LossConfig
from thresher_training.losses import LOSSES, build_loss

LABELS = ("rain", "fog")
TARGETS = np.float32([[1, 0], [0, 0], [0, 1], [0, np.nan]])

OWN = """
import torch

class Hinge(torch.nn.Module):
    def __init__(self, labels, train_targets_NL, margin=1.0):
        super().__init__()
        self.labels, self.rows, self.margin = labels, len(train_targets_NL), margin

    def forward(self, logits, targets):
        return torch.relu(self.margin - (2 * targets - 1) * logits).nanmean()

def plain(*, power):
    return lambda logits, targets: ((logits - targets).abs() ** power).nanmean()

def no_loss():
    return 3

def keywords(**options):
    assert not options, options
    return torch.nn.BCEWithLogitsLoss()
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "own_losses.py").write_text(OWN, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("name", LOSSES)
def test_every_name_gives_a_loss_that_can_be_trained_with(name):
    loss = build_loss(LossConfig(name=name), TARGETS, LABELS)
    logits = torch.zeros(4, 2, requires_grad=True)
    value = loss(logits, torch.from_numpy(TARGETS))
    value.backward()
    assert value.shape == ()
    assert logits.grad.abs().sum() > 0
    assert logits.grad[3, 1] == 0


def test_options_reach_the_loss():
    config = LossConfig(name="asymmetric", options={"gamma_neg": 2, "clip": 0.0})
    loss = build_loss(config, TARGETS, LABELS)
    assert (loss.gamma_neg, loss.gamma_pos, loss.clip) == (2.0, 0.0, 0.0)


def test_weights_and_smoothing_are_those_of_the_recipe():
    config = LossConfig(
        pos_weight="neg_over_pos",
        pos_weight_cap=2.5,
        weight="inverse_frequency",
        label_smoothing=0.1,
    )
    loss = build_loss(config, TARGETS, LABELS)
    assert loss.pos_weight_L.tolist() == [2.5, 2.0]
    weight = np.array([4.0, 3.0]) / 3.5
    assert loss.weight_L.tolist() == pytest.approx(weight.tolist())
    logits = torch.tensor([[0.5, -1.0]])
    torch.testing.assert_close(
        loss(logits, torch.tensor([[1.0, 0.0]])),
        binary_cross_entropy_with_logits(
            logits,
            torch.tensor([[0.95, 0.05]]),
            torch.tensor(weight, dtype=torch.float32),
            pos_weight=torch.tensor([2.5, 2.0]),
        ),
    )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "bcee"}, 'loss.name: unknown loss "bcee"; did you mean "bce"'),
        ({"name": "asl"}, "an own loss is named by an import path"),
        ({"name": "focal", "options": {"gama": 2}}, 'unknown option "gama"; did you mean "gamma"'),
        ({"name": "focal", "options": {"gamma": -1}}, "gamma is -1, expected a number at least 0"),
        ({"name": "focal", "options": {"gamma": "2"}}, "gamma is '2', expected a number"),
        ({"name": "focal", "options": {"gamma": float("nan")}}, "gamma is nan"),
        ({"name": "focal", "options": {"gamma": float("inf")}}, "gamma is inf"),
        ({"name": "focal", "options": {"alpha": 2.0}}, "alpha is 2.0, expected .* at most 1"),
        ({"name": "asymmetric", "options": {"clip": 1.0}}, "clip is 1.0, expected .* at most 0.99"),
        ({"name": "bce", "options": {"weight_L": 1}}, "weight_L is given by Thresher"),
        ({"name": "class_balanced", "weight": "effective_number"}, "leave loss.weight out"),
        ({"name": "distribution_balanced", "weight": "neg_over_pos"}, "leave loss.weight out"),
        (
            {"pos_weight": "given", "given": {"rian": 2}},
            'unknown label "rian"; did you mean "rain"',
        ),
    ],
)
def test_what_does_not_exist_or_fit_is_named_with_what_does(config, message):
    with pytest.raises(ConfigError, match=message):
        build_loss(LossConfig(**config), TARGETS, LABELS)


def test_an_own_loss_gets_its_options_and_what_its_signature_names(folder):
    config = LossConfig(name="own_losses:Hinge", options={"margin": 2.0})
    loss = build_loss(config, TARGETS, LABELS, [folder])
    assert (loss.labels, loss.rows, loss.margin) == (LABELS, 4, 2.0)
    assert loss(torch.zeros(1, 2), torch.ones(1, 2)).item() == 2.0


def test_a_plain_function_becomes_a_module(folder):
    config = LossConfig(name="own_losses:plain", options={"power": 2})
    loss = build_loss(config, TARGETS, LABELS, [folder])
    assert isinstance(loss, nn.Module)
    assert loss(torch.zeros(2, 2), torch.ones(2, 2)).item() == 1.0


def test_torchs_own_losses_can_be_named_too():
    loss = build_loss(LossConfig(name="torch.nn:BCEWithLogitsLoss"), TARGETS, LABELS)
    assert isinstance(loss, nn.BCEWithLogitsLoss)


def test_a_factory_with_keywords_gets_no_more_than_its_options(folder):
    build_loss(LossConfig(name="own_losses:keywords"), TARGETS, LABELS, [folder])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "own_losses:Hing"}, 'unknown attribute "Hing"; did you mean "Hinge"'),
        ({"name": "own_lossses:Hinge"}, 'unknown module "own_lossses"; did you mean "own_losses"'),
        ({"name": "own_losses:no_loss"}, "own_losses:no_loss gave a int, expected a callable"),
        ({"name": "own_losses:plain"}, 'plain needs "power", which is missing'),
        ({"name": "own_losses:plain", "weight": "neg_over_pos"}, "loss.weight is 'neg_over_pos'"),
        ({"name": "own_losses:plain", "label_smoothing": 0.1}, "loss.label_smoothing is 0.1"),
    ],
)
def test_what_is_wrong_with_an_own_loss_is_said(folder, config, message):
    with pytest.raises(ConfigError, match=message):
        build_loss(LossConfig(**config), TARGETS, LABELS, [folder])
