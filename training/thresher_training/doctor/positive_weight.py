"""What a positive weighs against a negative, measured from the loss itself."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch

from thresher_training.doctor.diagnosis import Finding
from thresher_training.prepare import Prepared

__all__ = ["check_weights"]

_EXTREME_WEIGHT = 100.0
_OVERDONE = 10.0
"""How many times a positive may weigh what would balance its label."""


def check_weights(prepared: Prepared) -> Iterator[Finding]:
    """Yield labels whose positives weigh extremely much, or little, against their negatives.

    What a positive weighs is measured: the loss's slope at a positive with logit -2 over that at a
    negative with logit 2, which is as wrong. For weighted binary cross-entropy it is
    ``pos_weight``.
    """
    data, loss = prepared.data, prepared.loss
    slopes = []
    for target, logit in ((1.0, -2.0), (0.0, 2.0)):
        logits_NL = torch.full((1, data.num_labels), logit, requires_grad=True)
        try:
            with torch.enable_grad():
                value = loss(logits_NL, torch.full((1, data.num_labels), target))
                (slope_NL,) = torch.autograd.grad(value, logits_NL)
        except Exception:  # noqa: BLE001 -- a loss that refuses a probe has no weight to be told
            return
        slopes.append(slope_NL[0].abs().double().numpy())
    weight_L = slopes[0] / np.maximum(slopes[1], 1e-12)
    targets = data.splits["train"].targets_NL
    positives_L, negatives_L = np.nansum(targets, axis=0), np.nansum(1 - targets, axis=0)
    balance_L = np.maximum(negatives_L, 1) / np.maximum(positives_L, 1)
    extreme = (
        (weight_L > _EXTREME_WEIGHT)
        | (weight_L < 1 / _EXTREME_WEIGHT)
        | ((weight_L > _OVERDONE) & (weight_L > _OVERDONE * balance_L))
    ) & ((slopes[0] > 0) | (slopes[1] > 0))
    if not extreme.any():
        return
    worst = sorted(np.flatnonzero(extreme), key=lambda k: -abs(math.log(weight_L[k] + 1e-12)))[:4]
    shown = [
        f'"{data.labels[k]}" {weight_L[k]:.3g} ({balance_L[k]:.3g} negatives per positive)'
        for k in worst
    ]
    yield Finding(
        level="warning",
        code="extreme-pos-weight",
        what="The loss weighs positives extremely against negatives: a few rows rule the "
        "gradient, and probabilities are far from frequencies.",
        evidence=f"{int(extreme.sum())} of {data.num_labels} labels: {', '.join(shown)}.",
        fix="Cap it (loss.pos_weight_cap, 20 by default), or leave it out and let thresholds do "
        "the work: tuned thresholds make up for rare labels.",
    )
