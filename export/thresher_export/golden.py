"""Chooses a published version's golden rows and writes them beside the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from thresher.decision import Decision, FloatArray
from thresher.evaluation import EvaluationSplit
from thresher.golden import GOLDEN_FILE
from thresher_export.engines import OnnxRuntimeEngine
from thresher_export.parity.rows import real_rows

__all__ = ["write_golden"]

NUM_NEAR = 32
"""Rows on which some label is nearest to its threshold: the first to flip."""

NUM_SPREAD = 32
"""Rows spread evenly over the split."""


def write_golden(
    model: Path, split: EvaluationSplit, decision: Decision, *, batch_size: int
) -> Path | None:
    """Write golden rows beside a model and return the file; None for a split without rows.

    Args:
        model: The model with its head, as it will be published.
        split: Real rows.
        decision: What the model decides.
        batch_size: The most rows that are run at once.
    """
    if not len(split):
        return None
    rows = sorted({*nearest_rows(split.logits_NL, decision), *real_rows(split.inputs, NUM_SPREAD)})
    inputs = split.rows(rows)
    answered = OnnxRuntimeEngine(model).run(inputs, batch_size=batch_size)
    assert answered.logits_NL is not None
    path = model.with_name(GOLDEN_FILE)
    EvaluationSplit(
        inputs=inputs, targets_NL=split.targets_NL[rows], logits_NL=answered.logits_NL
    ).save(path)
    return path


def nearest_rows(logits_NL: FloatArray, decision: Decision) -> list[int]:
    """Return the rows on which some label's probability lies nearest to its threshold.

    Args:
        logits_NL: float32 [N, L].
        decision: Calibration and thresholds of the L labels.
    """
    margin_NL = np.abs(decision.probabilities(logits_NL) - decision.thresholds)
    margin_N = np.nan_to_num(margin_NL, nan=np.inf).min(axis=1, initial=np.inf)
    return [int(row) for row in np.argsort(margin_N, kind="stable")[:NUM_NEAR]]
