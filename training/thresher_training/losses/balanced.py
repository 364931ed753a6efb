"""Class- and distribution-balanced loss: they know how often each label occurs.

Both take the train split's targets and weigh labels themselves, so ``loss.weight`` is refused.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from thresher.decision import FloatArray
from thresher.errors import ConfigError
from thresher_training.losses.base import MultiLabelLoss, checked_option
from thresher_training.losses.pointwise import FocalLoss, focus
from thresher_training.weights import effective_number, label_counts

__all__ = ["ClassBalancedLoss", "DistributionBalancedLoss"]


class ClassBalancedLoss(FocalLoss):
    """Focal loss, each label weighed by one over its effective number of positives.

    The weights have a mean of 1. A label without positives weighs as if it had one.

    Args:
        train_targets_NL: float32 [N, L] of the train split; NaN where unknown.
        beta: Of the effective number: 0 weighs all labels alike, towards 1 it is the inverse count.
        gamma: Of the focal loss; 0 is binary cross-entropy.
        weight_L: Refused.
        pos_weight_L: As in `MultiLabelLoss`, like the following.
        label_smoothing: In [0, 0.5].

    Raises:
        ConfigError: If an option is out of its range, or labels are weighed otherwise too.

    Source: Y. Cui et al., "Class-balanced loss based on effective number of samples", CVPR 2019,
    equation 10; for multi-label targets Y. Huang et al., "Balancing methods for multi-label text
    classification with long-tailed class distribution", EMNLP 2021 (one weight per label).
    """

    def __init__(
        self,
        *,
        train_targets_NL: FloatArray,
        beta: float = 0.999,
        gamma: float = 0.0,
        weight_L: Tensor | None = None,
        pos_weight_L: Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        _refuse_weight(weight_L, "class_balanced")
        self.beta = checked_option("beta", beta, at_most=0.999999)
        positives_L, _ = label_counts(train_targets_NL)
        inverse_L = 1 / effective_number(np.maximum(positives_L, 1.0), beta=self.beta)
        weight_L = torch.from_numpy((inverse_L / inverse_L.mean()).astype(np.float32))
        super().__init__(
            gamma=gamma,
            weight_L=weight_L,
            pos_weight_L=pos_weight_L,
            label_smoothing=label_smoothing,
        )


class DistributionBalancedLoss(MultiLabelLoss):
    """Binary cross-entropy for long-tailed labels that occur together.

    Rebalanced weighting undoes what drawing rows for one label does to the labels beside it; a
    negative tolerant logit lets a negative's gradient fade sooner than a positive's.

    With n_l positives of N known targets, and q_n the sum of 1 / n_l over row n's positives:

        r_nl     = alpha + sigmoid(beta * ((1 / n_l) / q_n - mu))
        v_l      = -kappa * log(p_l / (1 - p_l)),  p_l = n_l / N
        positive = (1 - sigmoid(z - v))^gamma * -log sigmoid(z - v)
        negative = sigmoid(scale * (z - v))^gamma * -log(1 - sigmoid(scale * (z - v))) / scale

    A row without positives has the limit for a q of 0, ``alpha + 1``. To stay finite, n_l is held
    between 1 and N - 1. For a soft target, q counts 1 / n_l by its value.

    Args:
        train_targets_NL: float32 [N, L] of the train split; NaN where unknown.
        alpha: The least that a target counts.
        beta: How sharply the weight rises with the ratio.
        mu: The ratio in the middle of that rise.
        scale: What negatives' logits are multiplied by (lambda in the paper).
        kappa: How far the label's log odds shift its logit.
        gamma: Focus on what is hard, as in the focal loss; 0 in the paper's formula, 2 in its code.
        weight_L: Refused.
        pos_weight_L: As in `MultiLabelLoss`, like the following.
        label_smoothing: In [0, 0.5].

    Raises:
        ConfigError: If an option is out of its range, or labels are weighed otherwise too.

    Source: T. Wu et al., "Distribution-balanced loss for multi-label classification in long-tailed
    datasets", ECCV 2020, sections 3.1 and 3.2; defaults from its code's configuration for COCO.
    """

    inverse_count_L: Tensor
    shift_L: Tensor

    def __init__(
        self,
        *,
        train_targets_NL: FloatArray,
        alpha: float = 0.1,
        beta: float = 10.0,
        mu: float = 0.2,
        scale: float = 2.0,
        kappa: float = 0.025,
        gamma: float = 0.0,
        weight_L: Tensor | None = None,
        pos_weight_L: Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        _refuse_weight(weight_L, "distribution_balanced")
        super().__init__(pos_weight_L=pos_weight_L, label_smoothing=label_smoothing)
        self.alpha = checked_option("alpha", alpha)
        self.beta = checked_option("beta", beta)
        self.mu = checked_option("mu", mu)
        self.scale = checked_option("scale", scale, at_least=1e-3)
        self.kappa = checked_option("kappa", kappa)
        self.gamma = checked_option("gamma", gamma)
        positives_L, negatives_L = label_counts(train_targets_NL)
        known_L = np.maximum(positives_L + negatives_L, 2.0)
        count_L = np.clip(positives_L, 1.0, known_L - 1.0)
        shift_L = -self.kappa * np.log(count_L / (known_L - count_L))
        for name, values_L in (("inverse_count_L", 1 / count_L), ("shift_L", shift_L)):
            self.register_buffer(
                name, torch.from_numpy(values_L.astype(np.float32)), persistent=False
            )

    def importance(self, targets_NL: Tensor) -> Tensor:
        """Return r, [N, L]."""
        q_N1 = (targets_NL * self.inverse_count_L).sum(dim=1, keepdim=True)
        ratio_NL = self.inverse_count_L / q_N1.clamp(min=torch.finfo(torch.float32).tiny)
        return self.alpha + torch.sigmoid(self.beta * (ratio_NL - self.mu))

    def positive(self, logits_NL: Tensor) -> Tensor:
        """Return what a positive costs at the shifted logit."""
        shifted_NL = logits_NL - self.shift_L
        cost_NL = -logsigmoid(shifted_NL)
        return cost_NL * focus(-shifted_NL, self.gamma) if self.gamma else cost_NL

    def negative(self, logits_NL: Tensor) -> Tensor:
        """Return what a negative costs at the shifted and scaled logit."""
        scaled_NL = self.scale * (logits_NL - self.shift_L)
        cost_NL = -logsigmoid(-scaled_NL) / self.scale
        return cost_NL * focus(scaled_NL, self.gamma) if self.gamma else cost_NL


def _refuse_weight(weight_L: Tensor | None, name: str) -> None:
    if weight_L is not None:
        raise ConfigError(
            f'the loss "{name}" weighs labels itself; leave loss.weight out (loss.pos_weight may '
            "stay)"
        )
