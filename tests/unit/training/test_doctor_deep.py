"""What the doctor sees when it trains a copy: each fault planted in a network, and found."""

import numpy as np
import pytest
import torch
from torch import nn

from support.patients import Wrapped, data_of, network, patient, scans
from thresher_training import Split
from thresher_training.doctor import examine

WIDTH = scans()[0].shape[1]


def found(given=network, data=None, **changes):
    """The deep diagnosis."""
    return examine(patient(data, network=given, **changes), deep=True, fits=True)


def one(diagnosis, code):
    """The finding with this code."""
    matching = [finding for finding in diagnosis.findings if finding.code == code]
    assert matching, diagnosis.findings
    return matching[0]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("hidden", [(), (64,), (64, 64)])
def test_nothing_is_found_in_networks_that_learn(hidden, seed):
    from thresher_training.networks import mlp

    torch.manual_seed(seed)
    given = mlp(num_labels=5, num_features=WIDTH, hidden=hidden, dropout=0.3)
    diagnosis = found(given, learning_rate=3e-3)
    assert diagnosis.findings == ()
    assert diagnosis.deep
    assert len(diagnosis.gradients) == len(hidden) + 1
    assert diagnosis.range_test.low < diagnosis.range_test.high


class Blind(nn.Module):
    """Hardly looks at its inputs."""

    def __init__(self):
        super().__init__()
        self.body = network(num_labels=5)

    def forward(self, features):
        return self.body(features * 0 + features.mean() * 0 + 1)


def test_a_network_that_does_not_look_at_its_inputs_cannot_overfit():
    finding = one(found(Blind()), "cannot-overfit")
    assert finding.level == "error"
    assert "8 train rows" in finding.what


class Detached(Wrapped):
    def forward(self, features):
        return self.after(self.body(features).detach())


def test_layers_that_no_gradient_reaches_are_named():
    finding = one(found(Detached(nn.Linear(5, 5))), "dead-gradients")
    assert finding.level == "error"
    assert '"body.layers.0", "body.layers.3"' in finding.evidence


def test_relus_that_are_dead_for_every_row_are_found():
    given = network(num_labels=5)
    with torch.no_grad():
        given.layers[0].bias -= 100
    diagnosis = found(given)
    assert one(diagnosis, "dead-gradients").evidence.count('"layers.0"') == 1
    assert "cannot-overfit" in diagnosis.codes


def stack(depth, activation, gain=1.0):
    layers = []
    for at in range(depth):
        layers += [nn.Linear(WIDTH if at == 0 else 16, 16), activation()]
    with torch.no_grad():
        for layer in layers[::2]:
            layer.weight *= gain
    return Plain(nn.Sequential(*layers, nn.Linear(16, 5)))


class Plain(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def forward(self, features):
        return self.layers(features)


def test_gradients_that_fade_through_many_sigmoids_are_told_by_layer():
    torch.manual_seed(0)
    finding = one(found(stack(12, nn.Sigmoid)), "vanishing-gradients")
    assert finding.level == "warning"
    assert "layers.0 " in finding.evidence


def test_gradients_that_explode_are_told_by_layer():
    torch.manual_seed(0)
    finding = one(found(stack(10, nn.Identity, gain=8.0)), "exploding-gradients")
    assert "max_gradient_norm" in finding.fix


@pytest.mark.parametrize(
    ("rate", "code"),
    [(1e-7, "learning-rate-low"), (1e-5, "learning-rate-low"), (1.0, "learning-rate-high")],
)
def test_a_learning_rate_far_off_is_told_with_a_better_one(rate, code):
    finding = one(found(learning_rate=rate), code)
    assert finding.level == "warning"
    proposed = float(finding.fix.split("near ")[1].split(",")[0])
    assert 1e-4 < proposed < 1e-1
    assert found(learning_rate=proposed).codes == ()


def test_where_no_learning_rate_helps_the_loss_does_not_fall():
    given = Blind()
    with torch.no_grad():
        given.body.layers[-1].bias[:] = torch.logit(torch.tensor(scans()[1][:1000].mean(axis=0)))
        given.body.layers[-1].weight *= 0
    for parameter in given.body.layers[0].parameters():
        parameter.requires_grad = False
    assert "loss-does-not-fall" in found(given, batch_size=256).codes


def test_a_handful_of_rows_is_enough():
    features, targets = scans()
    splits = {
        name: Split(inputs={"features": features[at : at + 3]}, targets_NL=targets[at : at + 3])
        for at, name in zip((0, 50, 90), data_of().splits, strict=True)
    }
    diagnosis = found(data=data_of(**splits))
    assert "check-failed" not in diagnosis.codes
    assert not diagnosis.errors


def test_broken_losses_are_not_trained_with():
    diagnosis = found(loss=nn.BCELoss())
    assert diagnosis.codes == ("loss-without-sigmoid",)
    assert diagnosis.range_test is None
    assert diagnosis.gradients == ()


def test_soft_targets_and_unknown_ones_are_no_fault():
    targets = scans()[1].copy()
    targets[:1000] = np.clip(targets[:1000], 0.1, 0.9)
    targets[:1000:7, 2] = np.nan
    assert found(data=data_of(targets=targets), learning_rate=3e-3).codes == ()
