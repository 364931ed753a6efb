"""Losses that look at one logit and its target: binary cross-entropy, focal, asymmetric.

All are written with ``logsigmoid``, never with the logarithm of a sigmoid: in float32 a sigmoid is
exactly 1 from a logit of 17 on, and its logarithm's gradient is then lost or infinite.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from thresher_training.losses.base import MultiLabelLoss, checked_option

__all__ = ["AsymmetricLoss", "BceLoss", "FocalLoss"]


class BceLoss(MultiLabelLoss):
    """Binary cross-entropy with logits.

    Source: PyTorch 2.13, `torch.nn.functional.binary_cross_entropy_with_logits`;
    `torch.nn.MultiLabelSoftMarginLoss` is the same function.
    """

    def positive(self, logits_NL: Tensor) -> Tensor:
        """Return -log p."""
        return -logsigmoid(logits_NL)

    def negative(self, logits_NL: Tensor) -> Tensor:
        """Return -log(1 - p)."""
        return -logsigmoid(-logits_NL)


class FocalLoss(MultiLabelLoss):
    """Binary cross-entropy in which what is already right counts less.

    Args:
        gamma: How much less; 0 is binary cross-entropy.
        alpha: What positives weigh, 1 - alpha being what negatives weigh; both 1 where left out.
        weight_L: As in `MultiLabelLoss`, like the following.
        pos_weight_L: float32 [L].
        label_smoothing: In [0, 0.5].

    Source: T.-Y. Lin et al., "Focal loss for dense object detection", ICCV 2017, equation 5:
    ``-alpha_t (1 - p_t)^gamma log p_t`` (there gamma = 2, alpha = 0.25).
    """

    def __init__(
        self,
        *,
        gamma: float = 2.0,
        alpha: float | None = None,
        weight_L: Tensor | None = None,
        pos_weight_L: Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(
            weight_L=weight_L, pos_weight_L=pos_weight_L, label_smoothing=label_smoothing
        )
        self.gamma = checked_option("gamma", gamma)
        self.alpha = None if alpha is None else checked_option("alpha", alpha, at_most=1.0)

    def positive(self, logits_NL: Tensor) -> Tensor:
        """Return -alpha (1 - p)^gamma log p."""
        cost_NL = -focus(-logits_NL, self.gamma) * logsigmoid(logits_NL)
        return cost_NL if self.alpha is None else self.alpha * cost_NL

    def negative(self, logits_NL: Tensor) -> Tensor:
        """Return -(1 - alpha) p^gamma log(1 - p)."""
        cost_NL = -focus(logits_NL, self.gamma) * logsigmoid(-logits_NL)
        return cost_NL if self.alpha is None else (1 - self.alpha) * cost_NL


class AsymmetricLoss(MultiLabelLoss):
    """Focal loss with a focus of its own for negatives, the easiest of which are dropped.

    The gradient goes through the focusing factor too, as in the paper's analysis; its authors' code
    stops it there unless told otherwise.

    Args:
        gamma_neg: Focus on hard negatives.
        gamma_pos: Focus on hard positives.
        clip: m; a negative with a probability up to m costs nothing, others are judged at p - m.
        weight_L: As in `MultiLabelLoss`, like the following.
        pos_weight_L: float32 [L].
        label_smoothing: In [0, 0.5].

    Source: T. Ridnik et al., "Asymmetric loss for multi-label classification", ICCV 2021,
    equations 4 to 7: ``-(1 - p)^gamma_pos log p`` and ``-p_m^gamma_neg log(1 - p_m)`` with
    ``p_m = max(p - m, 0)`` (there, on MS-COCO, 4, 0 and 0.05).
    """

    def __init__(
        self,
        *,
        gamma_neg: float = 4.0,
        gamma_pos: float = 0.0,
        clip: float = 0.05,
        weight_L: Tensor | None = None,
        pos_weight_L: Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(
            weight_L=weight_L, pos_weight_L=pos_weight_L, label_smoothing=label_smoothing
        )
        self.gamma_neg = checked_option("gamma_neg", gamma_neg)
        self.gamma_pos = checked_option("gamma_pos", gamma_pos)
        self.clip = checked_option("clip", clip, at_most=0.99)

    def positive(self, logits_NL: Tensor) -> Tensor:
        """Return -(1 - p)^gamma_pos log p."""
        return -focus(-logits_NL, self.gamma_pos) * logsigmoid(logits_NL)

    def negative(self, logits_NL: Tensor) -> Tensor:
        """Return -p_m^gamma_neg log(1 - p_m)."""
        if not self.clip:
            return -focus(logits_NL, self.gamma_neg) * logsigmoid(-logits_NL)
        probability_NL = torch.sigmoid(logits_NL)
        counted_NL = probability_NL > self.clip
        # both sides of a `where` have a gradient, so the side that is left out is given 0.5
        shifted_NL = torch.where(counted_NL, probability_NL - self.clip, 0.5)
        # log(1 - p + m) from log(1 - p) and log m: never the logarithm of 0
        log_rest_NL = torch.logaddexp(
            logsigmoid(-logits_NL), torch.full_like(logits_NL, math.log(self.clip))
        )
        return torch.where(counted_NL, -(shifted_NL**self.gamma_neg) * log_rest_NL, 0.0)


def focus(logits_NL: Tensor, gamma: float) -> Tensor:
    """Return ``sigmoid(logits) ** gamma``, whose gradient is finite for every gamma >= 0."""
    return torch.exp(gamma * logsigmoid(logits_NL))
