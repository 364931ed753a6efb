"""Real data and networks for the doctor: scikit-learn's scans, asked several questions at once."""

from __future__ import annotations

from functools import cache

import numpy as np
from sklearn.datasets import load_digits
from torch import nn

from thresher_training import (
    DataSet,
    LossConfig,
    NetworkConfig,
    OptimizationConfig,
    Recipe,
    Split,
)
from thresher_training.networks import mlp
from thresher_training.prepare import Prepared, prepare

__all__ = ["LABELS", "data_of", "network", "patient", "scans"]

LABELS = ("even", "large", "loop", "prime", "zero")


@cache
def scans():
    """Features [1797, 64] from 0 to 1, and targets [1797, 5] of the digit that each scan shows."""
    found = load_digits()
    digit = found.target
    members = ([0, 2, 4, 6, 8], [5, 6, 7, 8, 9], [0, 6, 8, 9], [2, 3, 5, 7], [0])
    targets = np.stack([np.isin(digit, each) for each in members], axis=1)
    # pixels that are 0 in every scan would be found, rightly, as constant columns
    varying = found.data[:1000].std(axis=0) > 0
    return (found.data[:, varying] / 16).astype(np.float32), targets.astype(np.float32)


def data_of(features=None, targets=None, labels=LABELS, **changes):
    """The scans as a data set: 1,000 for training, 400 for validation, 397 for test."""
    own_features, own_targets = scans()
    features = own_features if features is None else features
    targets = own_targets if targets is None else targets
    parts = {"train": slice(0, 1000), "validation": slice(1000, 1400), "test": slice(1400, None)}
    splits = {
        name: Split(inputs={"features": features[rows]}, targets_NL=targets[rows])
        for name, rows in parts.items()
    }
    return DataSet(labels=labels, splits={**splits, **changes}, source="scikit-learn load_digits")


def network(*, num_labels):
    """A network that can learn them."""
    return mlp(num_labels=num_labels, num_features=scans()[0].shape[1], hidden=(32,), dropout=0.2)


class Wrapped(nn.Module):
    """A network with something after it."""

    def __init__(self, after):
        super().__init__()
        self.body = network(num_labels=len(LABELS))
        self.after = after

    def forward(self, features):
        return self.after(self.body(features))


def patient(
    data=None, *, network=network, loss=None, prior_bias=False, config=None, **optimization
):
    """Everything that a training run would be started with.

    Args:
        data: A data set; the scans where left out.
        network: A factory or a network.
        loss: A loss, instead of what ``config`` names.
        prior_bias: Of the recipe's [network].
        config: The recipe's [loss].
        optimization: Keys of the recipe's [optimization].
    """
    recipe = Recipe(
        name="scans",
        network=NetworkConfig(prior_bias=prior_bias),
        loss=config or LossConfig(),
        optimization=OptimizationConfig(**optimization),
    )
    found: Prepared = prepare(recipe, data=data or data_of(), network=network, loss=loss)
    return found
