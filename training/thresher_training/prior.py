"""The last layer's bias from the labels' frequencies: what training would have to learn first."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from thresher.decision import FloatArray
from thresher.errors import ConfigError
from thresher_training.correlation import CorrelationHead
from thresher_training.weights import label_counts

__all__ = ["log_odds", "set_prior_bias"]

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def log_odds(targets_NL: FloatArray) -> FloatArray:
    """Return each label's log odds in the train split, float32 [L].

    Half an example is added on either side, so that labels without positives or negatives have
    odds too.

    Args:
        targets_NL: float32 [N, L] in [0, 1]; NaN where unknown.

    Source: J. B. S. Haldane, 1956, and F. J. Anscombe, 1956 (the half).

    Example:
        >>> log_odds(np.float32([[1, 0], [0, 0], [1, 0], [0, 0]])).round(2)
        array([ 0. , -2.2], dtype=float32)
    """
    positives_L, negatives_L = label_counts(targets_NL)
    return np.log((positives_L + 0.5) / (negatives_L + 0.5)).astype(np.float32)


def set_prior_bias(network: nn.Module, train_targets_NL: FloatArray) -> None:
    """Set the bias of the last layer with L outputs to the labels' log odds.

    The last is the last linear or convolutional layer that the network registered; those of a
    `CorrelationHead` are left alone, which adds to logits and starts with nothing.

    Args:
        network: Changed in place.
        train_targets_NL: float32 [N, L] of the train split; NaN where unknown.

    Raises:
        ConfigError: If there is no such layer, it has no bias, or its shape is not known yet.

    Source: T.-Y. Lin et al., "Focal loss for dense object detection", ICCV 2017, section 3.3 (the
    same for one prior).
    """
    num_labels = train_targets_NL.shape[1]
    name, layer = _last_layer(network, num_labels)
    what = f"prior_bias: {type(network).__name__}.{name}"
    if layer.bias is None:
        raise ConfigError(f"{what} has no bias; give it one, or leave prior_bias out")
    if is_lazy(layer.bias):
        raise ConfigError(
            f"{what} is lazy and has no shape yet; give it its number of inputs, or leave "
            "prior_bias out"
        )
    with torch.no_grad():
        layer.bias.copy_(torch.from_numpy(log_odds(train_targets_NL)))


def _last_layer(
    network: nn.Module, num_labels: int
) -> tuple[str, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d]:
    refining = {
        id(inner)
        for module in network.modules()
        if isinstance(module, CorrelationHead)
        for inner in module.modules()
    }
    found = None
    for name, module in network.named_modules():
        if not isinstance(module, _LAYERS) or id(module) in refining:
            continue
        width = module.out_features if isinstance(module, nn.Linear) else module.out_channels
        if width == num_labels:
            found = name, module
    if found is None:
        raise ConfigError(
            f"prior_bias: {type(network).__name__} has no linear or convolutional layer with "
            f"{num_labels} outputs, one per label; leave prior_bias out"
        )
    return found
