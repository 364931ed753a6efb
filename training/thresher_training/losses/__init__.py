"""Losses on logits [N, L] for multi-label targets; ``docs/losses.md`` says which one to take."""

from thresher_training.losses.balanced import ClassBalancedLoss, DistributionBalancedLoss
from thresher_training.losses.base import MultiLabelLoss
from thresher_training.losses.build import LOSSES, build_loss
from thresher_training.losses.pointwise import AsymmetricLoss, BceLoss, FocalLoss

__all__ = [
    "LOSSES",
    "AsymmetricLoss",
    "BceLoss",
    "ClassBalancedLoss",
    "DistributionBalancedLoss",
    "FocalLoss",
    "MultiLabelLoss",
    "build_loss",
]
