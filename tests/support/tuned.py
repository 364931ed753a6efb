"""Probabilities, targets and a tuned decision of made-up labels, for plots and the explorer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from thresher.decision import Decision, FloatArray
from thresher_training.decisions.report import LabelReport, TunedDecision

__all__ = ["tuned_case"]


def tuned_case(
    labels: Sequence[str], num_rows: int = 600, *, seed: int = 0
) -> tuple[FloatArray, FloatArray, TunedDecision]:
    """Return probabilities, targets (a twentieth unknown) and a decision with plain reports."""
    random = np.random.default_rng(seed)
    num_labels = len(labels)
    rate_L = 10 ** random.uniform(-2.5, -0.4, num_labels)
    targets_NL = (random.random((num_rows, num_labels)) < rate_L).astype(np.float32)
    logits_NL = np.log(rate_L) - 1 + 2.5 * targets_NL + random.normal(0, 1.2, targets_NL.shape)
    probabilities_NL = (1 / (1 + np.exp(-logits_NL))).astype(np.float32)
    targets_NL[random.random(targets_NL.shape) < 0.05] = np.nan
    thresholds_L = random.uniform(0.05, 0.6, num_labels).astype(np.float32)
    decision = Decision(
        labels=labels, thresholds=thresholds_L, scale=[1.25] * num_labels, bias=[-0.1] * num_labels
    )
    shared = Decision(
        labels=labels, thresholds=[0.37] * num_labels, scale=decision.scale, bias=decision.bias
    )
    yes_NL = decision.decide(probabilities_NL)
    reports = []
    for at, label in enumerate(labels):
        yes_N, true_N = yes_NL[:, at], targets_NL[:, at] == 1
        false_N = targets_NL[:, at] == 0
        tp, fp = int((yes_N & true_N).sum()), int((yes_N & false_N).sum())
        fn, tn = int((~yes_N & true_N).sum()), int((~yes_N & false_N).sum())
        value = 2 * tp / max(1, 2 * tp + fp + fn)
        is_rare = tp + fn < 25
        reports.append(
            LabelReport(
                label=label,
                objective="f1",
                threshold=float(thresholds_L[at]),
                origin="shared" if is_rare else "tuned",
                reason=f"{tp + fn} positives" if is_rare else "",
                gap=0.001,
                value=value,
                tp=tp,
                fp=fp,
                fn=fn,
                tn=tn,
                value_interval=(max(0, value - 0.1), min(1, value + 0.1)),
                warnings=(f"{tp + fn} positives",) if is_rare else (),
            )
        )
    return (
        probabilities_NL,
        targets_NL,
        TunedDecision(decision=decision, shared=shared, report=tuple(reports)),
    )
