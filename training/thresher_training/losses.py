"""Losses on logits, with unknown (NaN) targets left out."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from thresher.decision import FloatArray
from thresher_training.recipe import LossConfig

__all__ = ["BceLoss", "build_loss", "neg_over_pos"]


class BceLoss(nn.Module):
    """Mean binary cross-entropy with logits over the known targets.

    Args:
        pos_weight_L: float32 [L], what a positive weighs against a negative; 1 where left out.

    Source: PyTorch 2.13, `torch.nn.functional.binary_cross_entropy_with_logits`.
    """

    pos_weight_L: Tensor | None

    def __init__(self, pos_weight_L: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("pos_weight_L", pos_weight_L)

    def forward(self, logits_NL: Tensor, targets_NL: Tensor) -> Tensor:
        """Return the loss, a scalar; 0 where no target is known.

        Args:
            logits_NL: float32 [N, L].
            targets_NL: float32 [N, L] of 0 and 1; NaN where unknown.
        """
        known_NL = ~torch.isnan(targets_NL)
        # a NaN times 0 is still NaN, in the gradient too: replace it first, then leave it out
        each_NL = nn.functional.binary_cross_entropy_with_logits(
            logits_NL,
            torch.where(known_NL, targets_NL, 0.0),
            pos_weight=self.pos_weight_L,
            reduction="none",
        )
        return torch.where(known_NL, each_NL, 0.0).sum() / known_NL.sum().clamp(min=1)


def neg_over_pos(targets_NL: FloatArray, *, cap: float) -> FloatArray:
    """Return negatives over positives per label, float32 [L], at most ``cap``.

    A label with no positives or no negatives gets 1: there is nothing to balance.

    Args:
        targets_NL: float32 [N, L] of the train split alone; NaN where unknown.
        cap: The largest weight.

    Example:
        >>> neg_over_pos(np.float32([[1, 0], [0, 0], [0, np.nan], [0, 1]]), cap=2.5).tolist()
        [2.5, 2.0]
    """
    positives_L = (targets_NL == 1).sum(axis=0)
    negatives_L = (targets_NL == 0).sum(axis=0)
    ratio_L = np.where(negatives_L == 0, 1, negatives_L) / np.maximum(positives_L, 1)
    balanced_L = np.where((positives_L == 0) | (negatives_L == 0), 1.0, ratio_L)
    return np.minimum(balanced_L, cap).astype(np.float32)


def build_loss(config: LossConfig, train_targets_NL: FloatArray) -> BceLoss:
    """Return the loss that a recipe asks for.

    Args:
        config: The recipe's section.
        train_targets_NL: float32 [N, L] of the train split.
    """
    if config.pos_weight == "none":
        return BceLoss()
    return BceLoss(torch.from_numpy(neg_over_pos(train_targets_NL, cap=config.pos_weight_cap)))
