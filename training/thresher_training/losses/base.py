"""What all losses share: unknown targets left out, float32 inside, one way to weigh and to average.

A loss is a pair of functions of the logit: what a positive costs and what a negative costs. A
target t in [0, 1] costs ``t * positive + (1 - t) * negative``. That defines binary cross-entropy;
for the others, whose papers know hard targets only, it is the mean cost where a share t of such
examples is positive.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from thresher.errors import ConfigError

__all__ = ["MultiLabelLoss", "checked_option"]


class MultiLabelLoss(nn.Module):
    """Mean cost of the known targets; subclasses say what a positive and a negative cost.

    For the known targets (n, l), with w the label's weight, v the label's ``pos_weight`` and
    r the target's importance (1 but in losses that say otherwise):

        loss = sum of  w_l * r_nl * (t_nl * v_l * positive(z_nl) + (1 - t_nl) * negative(z_nl))
               / number of known targets

    The weights are not in the denominator, as in `torch.nn.BCEWithLogitsLoss`.

    Args:
        weight_L: float32 [L], what a label weighs against the others; 1 where left out.
        pos_weight_L: float32 [L], what a label's positive weighs against its negative; 1 where
            left out.
        label_smoothing: s; targets become ``t * (1 - s) + s / 2``.
    """

    weight_L: Tensor | None
    pos_weight_L: Tensor | None

    def __init__(
        self,
        *,
        weight_L: Tensor | None = None,
        pos_weight_L: Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        # not persistent: a checkpoint takes its loss from its recipe
        self.register_buffer("weight_L", weight_L, persistent=False)
        self.register_buffer("pos_weight_L", pos_weight_L, persistent=False)
        self.label_smoothing = checked_option("label_smoothing", label_smoothing, at_most=0.5)

    def forward(self, logits_NL: Tensor, targets_NL: Tensor) -> Tensor:
        """Return the loss, a scalar; 0 where no target is known.

        Args:
            logits_NL: [N, L] of any floating kind; worked on in float32 (float64 stays).
            targets_NL: [N, L] in [0, 1]; NaN where unknown.
        """
        total, num_known = self.terms(logits_NL, targets_NL)
        return total / num_known.clamp(min=1)

    def terms(self, logits_NL: Tensor, targets_NL: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sum over known targets and their number, two scalars of one kind.

        Several processes add up both before they divide.

        Args:
            logits_NL: [N, L] of any floating kind.
            targets_NL: [N, L] in [0, 1]; NaN where unknown.
        """
        with torch.autocast(logits_NL.device.type, enabled=False):
            kind = torch.float64 if logits_NL.dtype == torch.float64 else torch.float32
            known_NL = ~torch.isnan(targets_NL)
            # replaced before the formula and not after it: 0 times NaN is NaN in the gradient
            logits_NL = torch.where(known_NL, logits_NL.to(kind), 0.0)
            targets_NL = torch.where(known_NL, targets_NL.to(kind), 0.0)
            importance = self.importance(targets_NL)
            if self.label_smoothing:
                targets_NL = targets_NL * (1 - self.label_smoothing) + self.label_smoothing / 2
            positive_NL = targets_NL * self.positive(logits_NL)
            if self.pos_weight_L is not None:
                positive_NL = positive_NL * self.pos_weight_L
            each_NL = positive_NL + (1 - targets_NL) * self.negative(logits_NL)
            if self.weight_L is not None:
                each_NL = each_NL * self.weight_L
            if importance is not None:
                each_NL = each_NL * importance
            total = torch.where(known_NL, each_NL, 0.0).sum()
            return total, known_NL.sum().to(total.dtype)

    def positive(self, logits_NL: Tensor) -> Tensor:
        """Return what a positive costs at each logit, [N, L]."""
        raise NotImplementedError

    def negative(self, logits_NL: Tensor) -> Tensor:
        """Return what a negative costs at each logit, [N, L]."""
        raise NotImplementedError

    def importance(self, targets_NL: Tensor) -> Tensor | None:  # noqa: ARG002 -- for subclasses
        """Return what each target counts, [N, L]; None where each counts 1.

        Args:
            targets_NL: [N, L] in [0, 1] before smoothing; 0 where unknown.
        """
        return None


def checked_option(
    name: str, value: object, *, at_least: float = 0.0, at_most: float = math.inf
) -> float:
    """Return an option of a loss as a number.

    Raises:
        ConfigError: If it is no number or out of its range.
    """
    if (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and at_least <= value <= at_most
        and value != math.inf
    ):
        return float(value)
    most = "" if at_most == math.inf else f" and at most {at_most:g}"
    raise ConfigError(
        f"[loss.options] {name} is {value!r}, expected a number at least {at_least:g}{most}"
    )
