"""Each loss against its formula, torch's own losses, numerical gradients and hard numbers."""

import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import binary_cross_entropy_with_logits

from thresher_training.losses import (
    LOSSES,
    AsymmetricLoss,
    BceLoss,
    ClassBalancedLoss,
    DistributionBalancedLoss,
    FocalLoss,
)

L = 4
COUNTS = np.array([3, 10, 25, 50])


def train_targets():
    return np.float32(np.arange(100)[:, None] < COUNTS)


ALL = {
    "bce": BceLoss,
    "bce, weighted": lambda: BceLoss(
        weight_L=torch.tensor([0.5, 1.0, 1.5, 1.0]), pos_weight_L=torch.tensor([20.0, 1, 2, 0.1])
    ),
    "bce, smoothed": lambda: BceLoss(label_smoothing=0.1),
    "focal": FocalLoss,
    "focal, alpha": lambda: FocalLoss(gamma=0.5, alpha=0.25),
    "asymmetric": AsymmetricLoss,
    "asymmetric, no clip": lambda: AsymmetricLoss(gamma_neg=0.5, gamma_pos=1.0, clip=0.0),
    "class_balanced": lambda: ClassBalancedLoss(train_targets_NL=train_targets(), gamma=2.0),
    "distribution_balanced": lambda: DistributionBalancedLoss(train_targets_NL=train_targets()),
    "distribution_balanced, focal": lambda: DistributionBalancedLoss(
        train_targets_NL=train_targets(), gamma=2.0
    ),
}
every_loss = pytest.mark.parametrize("make", ALL.values(), ids=ALL)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(20, L, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, 2, (20, L), generator=generator).double()
    return logits.requires_grad_(), targets


def partly_known(targets):
    known = torch.rand(targets.shape, generator=torch.Generator().manual_seed(1)) > 0.3
    return torch.where(known, targets, torch.nan), known


# -- against independent references


@pytest.mark.parametrize("weight", [None, torch.tensor([0.5, 1.0, 1.5, 3.0])])
@pytest.mark.parametrize("pos_weight", [None, torch.tensor([1.0, 2.0, 0.5, 20.0])])
def test_bce_is_torchs_with_soft_targets_and_both_weights(batch, weight, pos_weight):
    logits, _ = batch
    soft = torch.rand(logits.shape, generator=torch.Generator().manual_seed(2)).double()
    loss = BceLoss(weight_L=weight, pos_weight_L=pos_weight)(logits, soft)
    torch.testing.assert_close(
        loss, binary_cross_entropy_with_logits(logits, soft, weight, pos_weight=pos_weight)
    )


def test_multi_label_soft_margin_is_bce_averaged_over_labels_and_nothing_else(batch):
    """No softmax, no tie between labels: equal in value and gradient, on any logits."""
    logits, targets = batch
    theirs = torch.nn.MultiLabelSoftMarginLoss()(logits, targets)
    (their_gradient,) = torch.autograd.grad(theirs, logits)
    torch_bce = binary_cross_entropy_with_logits(logits, targets)
    (bce_gradient,) = torch.autograd.grad(torch_bce, logits)
    torch.testing.assert_close(theirs, torch_bce)
    torch.testing.assert_close(their_gradient, bce_gradient)
    torch.testing.assert_close(theirs, LOSSES["soft_margin"]()(logits, targets))
    # what one label costs does not depend on another label's logit
    mixed = torch.autograd.functional.hessian(
        lambda z: torch.nn.MultiLabelSoftMarginLoss()(z, targets[:1]), logits[:1].detach()
    ).reshape(L, L)
    assert not mixed[~torch.eye(L, dtype=torch.bool)].any()


def exact(z, t, positive, negative):
    """Return the mean over all cells of t * positive(z) + (1 - t) * negative(z) in 50 digits."""
    z, t = z.tolist(), t.tolist()
    with mpmath.workdps(50):
        cells = [
            mpmath.mpf(tt) * positive(mpmath.mpf(zz), i, j)
            + (1 - mpmath.mpf(tt)) * negative(mpmath.mpf(zz), i, j)
            for i, (zs, ts) in enumerate(zip(z, t, strict=True))
            for j, (zz, tt) in enumerate(zip(zs, ts, strict=True))
        ]
        return float(sum(cells) / len(cells))


def p(z):
    return 1 / (1 + mpmath.exp(-z))


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (0.0, None), (0.5, 0.9)])
def test_focal_is_equation_5_of_its_paper(batch, gamma, alpha):
    logits, targets = batch
    a, b = (1, 1) if alpha is None else (alpha, 1 - alpha)
    expected = exact(
        logits,
        targets,
        lambda z, *_: -a * (1 - p(z)) ** gamma * mpmath.log(p(z)),
        lambda z, *_: -b * p(z) ** gamma * mpmath.log(1 - p(z)),
    )
    assert FocalLoss(gamma=gamma, alpha=alpha)(logits, targets).item() == pytest.approx(
        expected, rel=1e-12
    )


def test_focal_has_the_figures_that_its_paper_tells():
    """Section 3.2: with gamma 2, p_t = 0.9 costs 100 times less than cross-entropy; 0.968: 1000."""
    one = torch.ones(1, 1, dtype=torch.float64)
    for probability, factor in ((0.9, 100), (0.968, 1000)):
        z = torch.logit(probability * one)
        assert BceLoss()(z, one) / FocalLoss(gamma=2.0)(z, one) == pytest.approx(factor, rel=0.03)


@pytest.mark.parametrize(
    ("gamma_neg", "gamma_pos", "clip"), [(4.0, 0.0, 0.05), (4.0, 1.0, 0.05), (2.0, 0.5, 0.0)]
)
def test_asymmetric_is_equations_4_to_7_of_its_paper(batch, gamma_neg, gamma_pos, clip):
    logits, targets = batch

    def negative(z, *_):
        shifted = max(p(z) - mpmath.mpf(clip), mpmath.mpf(0))
        return -(shifted**gamma_neg) * mpmath.log(1 - shifted)

    expected = exact(
        logits, targets, lambda z, *_: -((1 - p(z)) ** gamma_pos) * mpmath.log(p(z)), negative
    )
    loss = AsymmetricLoss(gamma_neg=gamma_neg, gamma_pos=gamma_pos, clip=clip)
    assert loss(logits, targets).item() == pytest.approx(expected, rel=1e-10)


def test_class_balanced_is_bce_weighed_by_the_inverse_effective_number(batch):
    logits, targets = batch
    beta = 0.9
    inverse = np.array([(1 - beta) / (1 - beta**n) for n in COUNTS])  # Cui et al., equation 10
    weights = inverse * L / inverse.sum()  # section 4: they add up to the number of labels
    expected = exact(
        logits,
        targets,
        lambda z, _, j: -weights[j] * mpmath.log(p(z)),
        lambda z, _, j: -weights[j] * mpmath.log(1 - p(z)),
    )
    loss = ClassBalancedLoss(train_targets_NL=train_targets(), beta=beta)
    assert loss(logits, targets).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_distribution_balanced_is_what_its_paper_says(batch, gamma):
    logits, targets = batch
    targets = targets.clone()
    targets[:, 3] = 1  # every row has a positive: the paper's ratio is defined
    y = targets.numpy()
    alpha, beta, mu, scale, kappa = 0.1, 10.0, 0.2, 2.0, 0.025
    class_level = 1 / L / COUNTS  # P^C
    instance_level = (y / COUNTS).sum(axis=1) / L  # P^I
    ratio = class_level / instance_level[:, None]
    r = alpha + 1 / (1 + np.exp(-beta * (ratio - mu)))
    best_bias = -np.log(1 / (COUNTS / 100) - 1)
    v = -kappa * best_bias

    def positive(z, i, j):
        q = p(z - v[j])
        return -r[i, j] * (1 - q) ** gamma * mpmath.log(q)

    def negative(z, i, j):
        q = p(scale * (z - v[j]))
        return -r[i, j] / scale * q**gamma * mpmath.log(1 - q)

    loss = DistributionBalancedLoss(train_targets_NL=train_targets(), gamma=gamma)
    expected = exact(logits, targets, positive, negative)
    assert loss(logits, targets).item() == pytest.approx(expected, rel=1e-5)


def test_in_the_distribution_balanced_loss_a_row_without_positives_counts_most():
    loss = DistributionBalancedLoss(train_targets_NL=train_targets())
    importance = loss.importance(torch.tensor([[0.0, 0, 0, 0], [0, 0, 0, 1]]))
    assert importance[0].tolist() == pytest.approx([1.1] * L)
    assert importance[1, 3].item() == pytest.approx(1.1, abs=1e-3)  # the ratio is 1


def test_labels_without_positives_or_negatives_leave_balanced_losses_finite():
    targets = np.float32([[1, 0, np.nan], [1, 0, np.nan], [1, 0, np.nan]])
    for make in (ClassBalancedLoss, DistributionBalancedLoss):
        loss = make(train_targets_NL=targets)
        logits = torch.zeros(3, 3, requires_grad=True)
        value = loss(logits, torch.from_numpy(targets))
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(logits.grad).all()


# -- what holds for every loss


@every_loss
def test_its_gradient_is_the_numerical_one_with_unknown_and_soft_targets(make, batch):
    logits, _ = batch
    soft = torch.rand(logits.shape, generator=torch.Generator().manual_seed(3)).double()
    targets, _ = partly_known(soft)
    assert torch.autograd.gradcheck(lambda z: make()(z, targets), (logits,))


@every_loss
def test_unknown_targets_count_for_nothing_in_value_and_gradient(make, batch):
    logits, targets = batch
    targets, known = partly_known(targets)
    loss = make()
    (gradient,) = torch.autograd.grad(loss(logits, targets), logits)
    assert not gradient[~known].any()
    assert torch.isfinite(gradient).all()
    # whatever stands at an unknown target, even nothing
    for anything in (1e30, torch.nan, torch.inf):
        other = torch.where(known, logits, anything).detach().requires_grad_()
        assert loss(other, targets).item() == loss(logits, targets).item()
        (gradient,) = torch.autograd.grad(loss(other, targets), other)
        assert not gradient[~known].any()
        assert torch.isfinite(gradient).all()


@every_loss
def test_it_is_the_mean_over_known_targets(make, batch):
    logits, targets = batch
    logits, targets = logits[:1], targets[:1]
    unknown = torch.full_like(targets, torch.nan)
    alone = make()(logits, targets)
    among = make()(logits.repeat(3, 1), torch.cat([unknown, targets, unknown]))
    torch.testing.assert_close(among, alone)


@every_loss
def test_no_known_target_gives_a_loss_of_zero(make, batch):
    logits, targets = batch
    loss = make()(logits, torch.full_like(targets, torch.nan))
    assert loss.item() == 0
    assert not torch.autograd.grad(loss, logits)[0].any()


@every_loss
def test_sums_of_parts_make_the_whole(make, batch):
    logits, targets = batch
    targets, _ = partly_known(targets)
    loss = make()
    parts = [loss.terms(logits[rows], targets[rows]) for rows in (slice(0, 3), slice(3, None))]
    total, count = (sum(each) for each in zip(*parts, strict=True))
    torch.testing.assert_close(total / count, loss(logits, targets))


@every_loss
def test_a_soft_target_costs_the_mixture_of_both_hard_ones(make, batch):
    logits, _ = batch
    loss = make()
    if isinstance(loss, DistributionBalancedLoss):  # rows' weights follow their targets: fix them
        loss.importance = lambda targets: None
    hard = [loss(logits, torch.full_like(logits, target)) for target in (0.0, 1.0)]
    torch.testing.assert_close(
        loss(logits, torch.full_like(logits, 0.3)), 0.7 * hard[0] + 0.3 * hard[1]
    )


@every_loss
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32])
def test_extreme_logits_of_any_kind_keep_loss_and_gradient_finite(make, kind):
    extremes = [-60000.0, -1000.0, -90.0, -17.0, -3.0, 0.0, 1e-4, 3.0, 17.0, 90.0, 1000.0, 60000.0]
    logits = torch.tensor(extremes, dtype=kind)[:, None].repeat(2, L).requires_grad_()
    targets = torch.cat([torch.zeros(len(extremes), L), torch.ones(len(extremes), L)])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = make()(logits, targets)
    assert loss.dtype == torch.float32
    assert math.isfinite(loss.item())
    loss.backward()
    assert torch.isfinite(logits.grad).all()
    assert logits.grad.dtype == kind


def test_the_logarithm_of_a_clamped_sigmoid_is_what_fails_in_fp16():
    """Why the losses are written with logsigmoid: 1e-8, the usual clamp, is 0 in float16."""
    logits = torch.tensor([[20.0, -20.0]], dtype=torch.float16)
    targets = torch.tensor([[1.0, 0.0]], dtype=torch.float16)
    p = torch.sigmoid(logits)
    clamped = targets * p.clamp(min=1e-8).log() + (1 - targets) * (1 - p).clamp(min=1e-8).log()
    assert clamped.isnan().any()
    assert AsymmetricLoss()(logits, targets).isfinite()


@every_loss
def test_autocast_changes_nothing(make, batch):
    logits, targets = batch
    logits, targets = logits.detach().float(), targets.float()
    plain = make()(logits, targets)
    for kind in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype=kind):
            assert make()(logits, targets).item() == plain.item()


@every_loss
def test_a_right_answer_costs_less_than_a_wrong_one(make):
    loss = make()
    for target in (0.0, 1.0):
        right = torch.full((1, L), 4.0 if target else -4.0)
        targets = torch.full((1, L), target)
        assert loss(right, targets) < loss(-right, targets)


@settings(max_examples=60, deadline=None)
@given(
    z=st.floats(-1e4, 1e4, width=32),
    target=st.floats(0, 1, width=32),
    gamma=st.floats(0, 8),
    clip=st.floats(0, 0.5),
)
def test_no_option_makes_a_loss_negative_or_its_gradient_infinite(z, target, gamma, clip):
    logits = torch.tensor([[z]], requires_grad=True)
    for loss in (
        FocalLoss(gamma=gamma),
        AsymmetricLoss(gamma_neg=gamma, gamma_pos=gamma / 2, clip=clip),
    ):
        value = loss(logits, torch.tensor([[target]]))
        (gradient,) = torch.autograd.grad(value, logits)
        assert math.isfinite(value.item())
        assert value.item() >= -1e-6
        assert torch.isfinite(gradient).all()


def test_label_smoothing_moves_targets_towards_the_middle(batch):
    logits, targets = batch
    smoothed = targets * 0.8 + 0.1  # 0 and 1 become s/2 and 1 - s/2
    torch.testing.assert_close(
        BceLoss(label_smoothing=0.2)(logits, targets), BceLoss()(logits, smoothed)
    )


def test_weights_move_with_the_module_and_stay_out_of_its_state():
    loss = BceLoss(weight_L=torch.ones(2), pos_weight_L=torch.ones(2))
    assert {name for name, _ in loss.named_buffers()} == {"weight_L", "pos_weight_L"}
    assert not loss.state_dict()
    assert loss.double().weight_L.dtype == torch.float64
