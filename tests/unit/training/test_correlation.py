"""The correlation head: nothing at the start, the same forward, and what it can learn."""

import copy
import inspect
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from thresher_training import Split
from thresher_training.correlation import CorrelationHead, with_correlation
from thresher_training.losses import BceLoss
from thresher_training.networks import mlp
from thresher_training.preflight import check_network, forward_order
from thresher_training.recipe import CorrelationConfig


class TwoInputs(nn.Module):
    """Takes two inputs and an optional one."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 4)

    def forward(self, picture, place, scale=1.0):
        return self.layer(torch.cat([picture, place], dim=1)) * scale


@pytest.fixture
def network():
    torch.manual_seed(0)
    return with_correlation(TwoInputs(), CorrelationConfig(hidden=3), 4)


INPUTS = {"picture": np.ones((6, 3), np.float32), "place": np.zeros((6, 2), np.float32)}


def test_it_starts_as_the_identity():
    logits = torch.randn(7, 4) * 10
    assert torch.equal(CorrelationHead(4, hidden=3)(logits), logits)


def test_it_is_its_papers_formula():
    """Xun et al., KDD 2020: z + W2 elu(W1 sigmoid(z) + b1) + b2."""
    torch.manual_seed(0)
    head = CorrelationHead(4, hidden=3).double()
    for parameter in head.parameters():
        nn.init.normal_(parameter)
    logits = torch.randn(5, 4, dtype=torch.float64)
    w1, b1, w2, b2 = (p.detach().numpy() for p in head.parameters())
    z = logits.numpy()
    h = 1 / (1 + np.exp(-z)) @ w1.T + b1
    expected = z + np.where(h > 0, h, np.expm1(h)) @ w2.T + b2
    np.testing.assert_allclose(head(logits).detach().numpy(), expected, rtol=1e-10)


def test_forward_keeps_the_networks_parameters(network):
    assert forward_order(network, ("place", "picture")) == ("picture", "place")
    assert list(inspect.signature(network.forward).parameters) == ["picture", "place", "scale"]
    picture, place = torch.ones(2, 3), torch.zeros(2, 2)
    assert torch.equal(network(picture, place), network(place=place, picture=picture))
    assert torch.equal(network(picture, place), network.network(picture, place))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda n: pickle.loads(pickle.dumps(n))])
def test_a_copy_is_a_network_of_its_own_with_the_same_forward(network, copied):
    other = copied(network)
    assert forward_order(other, ("picture", "place")) == ("picture", "place")
    with torch.no_grad():
        other.correlation.write.bias += 1
    inputs = {name: torch.from_numpy(array) for name, array in INPUTS.items()}
    torch.testing.assert_close(other(**inputs), network(**inputs) + 1)


def test_it_passes_what_is_checked_before_training(network):
    split = Split(inputs=INPUTS, targets_NL=np.zeros((6, 4), np.float32))
    assert check_network(network, split) == {"picture": (0,), "place": (0,)}


def test_weights_have_names_that_do_not_change(network):
    assert set(network.state_dict()) == {
        "network.layer.weight",
        "network.layer.bias",
        "correlation.read.weight",
        "correlation.read.bias",
        "correlation.write.weight",
        "correlation.write.bias",
    }


def test_it_learns_a_tie_that_a_linear_network_cannot_see():
    """The third label is the first two's exclusive or: no line of the inputs tells it."""
    rows = torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1]]).repeat(16, 1)
    targets = torch.cat([rows, (rows[:, :1] != rows[:, 1:]).float()], dim=1)

    def trained(with_head):
        torch.manual_seed(0)
        network = mlp(num_labels=3, num_features=2, hidden=())
        if with_head:
            network = with_correlation(network, CorrelationConfig(hidden=8), 3)
        optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
        for _ in range(300):
            optimizer.zero_grad()
            BceLoss()(network(rows), targets).backward()
            optimizer.step()
        return ((network(rows) >= 0).float() == targets).all(dim=1).float().mean().item()

    assert trained(with_head=False) <= 0.75
    assert trained(with_head=True) == 1.0
