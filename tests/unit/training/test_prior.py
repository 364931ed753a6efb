"""The last layer's bias at the labels' log odds: loss at the start, and which layer it is."""

import numpy as np
import pytest
import torch
from torch import nn

from thresher.errors import ConfigError
from thresher_training.correlation import with_correlation
from thresher_training.losses import BceLoss
from thresher_training.networks import digits_cnn, mlp
from thresher_training.prior import log_odds, set_prior_bias
from thresher_training.recipe import CorrelationConfig

COUNTS = np.array([1, 50, 150, 199])
TARGETS = np.float32(np.arange(200)[:, None] < COUNTS)


def test_the_bias_is_each_labels_log_odds():
    network = mlp(num_labels=4, num_features=3)
    set_prior_bias(network, TARGETS)
    bias = network.layers[-1].bias.detach().numpy()
    assert bias == pytest.approx(np.log((COUNTS + 0.5) / (200 - COUNTS + 0.5)), rel=1e-6)
    assert bias == pytest.approx(np.log(COUNTS / (200 - COUNTS)), abs=0.45)


def test_the_first_loss_is_then_the_entropy_of_the_labels():
    network = nn.Sequential(nn.Linear(3, 4))
    set_prior_bias(network, TARGETS)
    loss = BceLoss()(network(torch.zeros(200, 3)), torch.from_numpy(TARGETS)).item()
    share = COUNTS / 200
    entropy = -(share * np.log(share) + (1 - share) * np.log(1 - share)).mean()
    assert loss == pytest.approx(entropy, rel=1e-3)
    assert loss < 0.6 * np.log(2)


def test_labels_without_positives_or_known_targets_have_finite_odds():
    odds = log_odds(np.float32([[0, 1, np.nan], [0, 1, np.nan]]))
    assert odds.tolist() == pytest.approx([np.log(0.2), np.log(5), 0])


def test_a_convolution_at_the_end_is_found():
    network = digits_cnn(num_labels=4, channels=(4, 4))
    set_prior_bias(network, TARGETS)
    assert network.places[-1].bias.detach().numpy() == pytest.approx(log_odds(TARGETS))


def test_with_a_correlation_head_the_networks_own_layer_is_set():
    network = with_correlation(mlp(num_labels=4, num_features=3), CorrelationConfig(hidden=4), 4)
    set_prior_bias(network, TARGETS)
    assert network.network.layers[-1].bias.detach().numpy() == pytest.approx(log_odds(TARGETS))
    assert not network.correlation.write.bias.any()


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Sequential(nn.Linear(3, 5)), "Sequential has no linear .* layer with 4 outputs"),
        (nn.Sequential(nn.Linear(3, 4, bias=False)), "Sequential.0 has no bias"),
        (nn.Sequential(nn.LazyLinear(4)), "Sequential.0 is lazy"),
    ],
)
def test_a_network_without_such_a_bias_is_refused(network, message):
    with pytest.raises(ConfigError, match=message):
        set_prior_bias(network, TARGETS)
