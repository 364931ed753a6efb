"""What the doctor sees in a loss: each fault planted in one that a run would use, and found."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from support.patients import LABELS, Wrapped, data_of, network, patient, scans
from thresher_training import LossConfig
from thresher_training.doctor import examine
from thresher_training.losses import LOSSES

SINGLE = ("0", "1", "2")


def single_label():
    kinds = scans()[1][:, 4].astype(int) + 2 * scans()[1][:, 1].astype(int)
    return data_of(targets=np.eye(3, dtype=np.float32)[kinds], labels=SINGLE)


def found(loss, data=None, **changes):
    """The one finding."""
    diagnosis = examine(patient(data, loss=loss, **changes), fits=True)
    assert len(diagnosis.findings) == 1, diagnosis.findings
    return diagnosis.findings[0]


def ranking(logits, targets):
    """A pairwise ranking loss: every positive above every negative."""
    gaps = logits[:, :, None] - logits[:, None, :]
    pairs = targets[:, :, None] * (1 - targets[:, None, :])
    return (functional.softplus(-gaps) * pairs).sum() / pairs.sum().clamp(min=1)


def softmax_by_hand(logits, targets):
    return -(targets * functional.log_softmax(logits, dim=1)).sum(dim=1).mean()


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(),
        nn.CrossEntropyLoss(label_smoothing=0.1),
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2, 3, 4, 5])),
        softmax_by_hand,
        functional.cross_entropy,
    ],
)
def test_cross_entropy_on_several_labels_is_an_error(loss):
    finding = found(loss)
    assert (finding.level, finding.code) == ("error", "cross-entropy")
    cardinality = scans()[1][:1000].sum(axis=1).mean()
    assert f"{cardinality:.2f} labels on average" in finding.evidence


def test_cross_entropy_on_single_label_data_is_only_a_note():
    finding = found(nn.CrossEntropyLoss(), single_label())
    assert (finding.level, finding.code) == ("note", "single-label")


def test_a_loss_of_differences_is_a_warning():
    finding = found(ranking)
    assert (finding.level, finding.code) == ("warning", "relative-loss")
    assert finding.what.startswith("ranking ")


@pytest.mark.parametrize("loss", [nn.MSELoss(), nn.L1Loss(), functional.huber_loss])
def test_a_loss_that_pulls_logits_to_0_and_1_is_an_error(loss):
    finding = found(loss)
    assert (finding.level, finding.code) == ("error", "loss-without-sigmoid")
    assert "for target 0 the loss is lowest at logit 0, for target 1 at 1" in finding.evidence


def test_bce_without_logits_is_an_error_with_and_without_a_sigmoid_in_the_network():
    assert found(nn.BCELoss()).code == "loss-without-sigmoid"
    diagnosis = examine(patient(loss=nn.BCELoss(), network=Wrapped(nn.Sigmoid())), fits=True)
    assert diagnosis.codes == ("loss-without-sigmoid", "double-sigmoid")


@pytest.mark.parametrize(
    "loss",
    [
        nn.BCEWithLogitsLoss(),
        nn.MultiLabelSoftMarginLoss(),
        lambda z, y: functional.soft_margin_loss(z, 2 * y - 1),
        lambda z, y: functional.mse_loss(torch.sigmoid(z), y),
        lambda z, y: functional.hinge_embedding_loss(z * (1 - 2 * y) + 1, torch.ones_like(z)),
    ],
)
def test_losses_that_know_what_a_logit_is_are_no_fault(loss):
    codes = examine(patient(loss=loss), fits=True).codes
    assert not {"loss-without-sigmoid", "cross-entropy", "relative-loss", "loss-fails"} & set(codes)


@pytest.mark.parametrize("loss", [nn.MultiMarginLoss(), nn.MultiLabelMarginLoss()])
def test_a_loss_for_class_numbers_is_an_error(loss):
    finding = found(loss)
    assert (finding.level, finding.code) == ("error", "integer-targets")


def fails(logits, targets):
    raise ValueError("expected a mask")


def test_a_loss_that_fails_says_how():
    finding = found(fails)
    assert (finding.level, finding.code) == ("error", "loss-fails")
    assert "ValueError: expected a mask" in finding.evidence


def test_a_loss_that_gives_no_single_number_is_an_error():
    finding = found(nn.BCEWithLogitsLoss(reduction="none"))
    assert (finding.level, finding.code) == ("error", "loss-fails")
    assert "[64, 5]" in finding.evidence


def test_a_loss_that_takes_unknown_targets_for_numbers_is_an_error():
    targets = scans()[1].copy()
    targets[5, 2] = np.nan
    finding = found(nn.BCEWithLogitsLoss(), data_of(targets=targets))
    assert (finding.level, finding.code) == ("error", "loss-not-finite")
    assert "unknown (NaN) targets" in finding.what


def test_logarithms_of_sigmoids_that_overflow_are_an_error():
    def naive(logits, targets):
        p = torch.sigmoid(20 * logits)
        return -(targets * p.log() + (1 - targets) * (1 - p).log()).mean()

    assert found(naive).code == "loss-not-finite"


@pytest.mark.parametrize("weight", [500.0, 1e-3])
def test_extreme_weights_of_positives_are_measured(weight):
    weights = torch.tensor([1, 1, weight, 1, 1])
    finding = found(nn.BCEWithLogitsLoss(pos_weight=weights))
    assert (finding.level, finding.code) == ("warning", "extreme-pos-weight")
    assert f'1 of 5 labels: "loop" {weight:.3g} (' in finding.evidence


def test_a_weight_far_above_what_balances_a_common_label_is_extreme():
    weights = torch.tensor([25.0, 1, 1, 1, 9.0])  # "even" is on in half of the rows, "zero" in 10 %
    finding = found(nn.BCEWithLogitsLoss(pos_weight=weights))
    assert finding.evidence.startswith('1 of 5 labels: "even" 25 (')


def test_a_pos_weight_without_a_cap_is_seen_through_the_recipe():
    targets = scans()[1].copy()
    targets[:, 4] = 0
    targets[[0, 1000, 1400], 4] = 1
    config = LossConfig(pos_weight="neg_over_pos", pos_weight_cap=1e6)
    finding = found(None, data_of(targets=targets), config=config)
    assert finding.code == "extreme-pos-weight"
    assert '"zero" 999 (999 negatives per positive)' in finding.evidence


@pytest.mark.parametrize("name", LOSSES)
def test_own_losses_are_no_fault(name):
    assert examine(patient(config=LossConfig(name=name)), fits=True).codes == ()


@pytest.mark.parametrize("name", ["bce", "focal", "asymmetric"])
@pytest.mark.parametrize("weighting", ["neg_over_pos", "max_over_count", "effective_number"])
def test_weightings_with_their_cap_are_no_fault(name, weighting):
    config = LossConfig(name=name, pos_weight=weighting, label_smoothing=0.05)
    assert examine(patient(config=config), fits=True).codes == ()


def test_a_first_loss_far_from_the_frequencies_is_told_with_both_figures():
    given = network(num_labels=len(LABELS))
    with torch.no_grad():
        given.layers[-1].bias += 12
    finding = found(None, network=given)
    assert (finding.level, finding.code) == ("warning", "loss-at-start")
    frequency = scans()[1][:1000].mean(axis=0)
    entropy = -(frequency * np.log(frequency) + (1 - frequency) * np.log1p(-frequency)).mean()
    told = float(finding.evidence.split("; ")[1].split(" ")[0])
    assert told == pytest.approx(entropy, abs=0.03)
    assert f"{math.log(2):.4g} for logits of 0" in finding.evidence
    assert "prior_bias" in finding.fix


def rare_labels():
    drawn = np.random.default_rng(0)
    targets = (drawn.random((1797, 40)) < 0.01).astype(np.float32)
    for start in (0, 1000, 1400):  # each label in each split
        targets[start : start + 40] = np.eye(40)
    return data_of(targets=targets, labels=tuple(f"tag {k}" for k in range(40)))


def test_rare_labels_call_for_a_prior_bias_and_with_it_nothing_is_found():
    finding = found(None, rare_labels(), batch_size=128)
    assert (finding.level, finding.code) == ("note", "loss-at-start")
    assert "prior_bias = true" in finding.fix
    assert examine(patient(rare_labels(), prior_bias=True, batch_size=128), fits=True).codes == ()
