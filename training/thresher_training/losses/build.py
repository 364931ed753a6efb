"""From a recipe's ``[loss]`` to the loss itself."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from thresher.decision import FloatArray
from thresher.errors import ConfigError, unknown_name
from thresher_training.imports import call_with_options, import_callable
from thresher_training.losses.balanced import ClassBalancedLoss, DistributionBalancedLoss
from thresher_training.losses.base import MultiLabelLoss
from thresher_training.losses.pointwise import AsymmetricLoss, BceLoss, FocalLoss
from thresher_training.recipe import LossConfig
from thresher_training.weights import label_weights

__all__ = ["LOSSES", "build_loss"]

LOSSES: Mapping[str, type[MultiLabelLoss]] = {
    "bce": BceLoss,
    "soft_margin": BceLoss,
    "focal": FocalLoss,
    "asymmetric": AsymmetricLoss,
    "class_balanced": ClassBalancedLoss,
    "distribution_balanced": DistributionBalancedLoss,
}
"""The losses by name; ``"soft_margin"`` is ``"bce"`` under the name that PyTorch gave it."""


def build_loss(
    config: LossConfig,
    train_targets_NL: FloatArray,
    labels: Sequence[str] = (),
    folders: Sequence[Path] = (),
) -> nn.Module:
    """Return the loss that a recipe asks for: from logits and targets, both [N, L], to a scalar.

    An own loss, named by import path, is made with ``config.options`` and, where its signature
    names them, ``labels`` and ``train_targets_NL``.

    Args:
        config: The recipe's section.
        train_targets_NL: float32 [N, L] of the train split, in [0, 1]; NaN where unknown.
        labels: L names; needed for given weights.
        folders: Searched for an own loss's module.

    Raises:
        ConfigError: If there is no such loss, option or label, or what an own loss's factory gives
            cannot be called.
    """
    known = {"labels": tuple(labels), "train_targets_NL": train_targets_NL}
    if ":" in config.name:
        return _own_loss(config, known, folders)
    if config.name not in LOSSES:
        raise ConfigError(
            f"loss.name: {unknown_name('loss', config.name, LOSSES)}; an own loss is named by an "
            'import path "package.module:callable"'
        )
    make = LOSSES[config.name]
    weight_L, pos_weight_L = label_weights(config, train_targets_NL, labels)
    loss: nn.Module = call_with_options(
        make,
        config.options,
        key="loss",
        **_taken(make, known),
        weight_L=weight_L,
        pos_weight_L=pos_weight_L,
        label_smoothing=config.label_smoothing,
    )
    return loss


class _OwnLoss(nn.Module):
    """A plain callable as a module."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, logits_NL: Tensor, targets_NL: Tensor) -> Tensor:
        """Return what the callable returns."""
        return self.function(logits_NL, targets_NL)


def _own_loss(config: LossConfig, known: Mapping[str, Any], folders: Sequence[Path]) -> nn.Module:
    for key, value, none in (
        ("pos_weight", config.pos_weight, "none"),
        ("weight", config.weight, "none"),
        ("label_smoothing", config.label_smoothing, 0.0),
    ):
        if value != none:
            raise ConfigError(
                f"loss.{key} is {value!r}, which is for Thresher's own losses; leave it out, and "
                f"hand {config.name} what it needs in [loss.options]"
            )
    make = import_callable(config.name, key="loss.name", folders=folders)
    found = call_with_options(make, config.options, key="loss", **_taken(make, known))
    if isinstance(found, nn.Module):
        return found
    if not callable(found):
        raise ConfigError(
            f"{config.name} gave a {type(found).__name__}, expected a callable of logits and "
            "targets, such as a torch.nn.Module"
        )
    return _OwnLoss(found)


def _taken(make: Callable[..., Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a signature names; nothing where it cannot be read."""
    try:
        parameters = inspect.signature(make).parameters
    except ValueError:
        return {}
    return {name: value for name, value in known.items() if name in parameters}
