"""What tuning says about each label: plain values, for tables, plots and the explorer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from thresher.decision import Decision

__all__ = ["LabelReport", "TunedDecision"]

_MANY_ROWS = 0.1
_LOW_F1 = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelReport:
    """One label's row; all counts are over its known targets on the tuned rows."""

    label: str
    objective: str
    """What chose the threshold, such as ``"f1"``."""

    threshold: float
    origin: Literal["tuned", "shared", "shrunk", "fixed"]
    """Whether the label has a threshold of its own, the shared one, one in between, or a given."""

    reason: str = ""
    """Why it is not simply tuned; empty where it is."""

    gap: float
    """Distance between the scores around the threshold; of the pooled ones where it is shared."""

    loss: float = 0.0
    """What was given up of the objective's value for a gap that rounding does not cross; of a
    joint objective the label's share of it."""

    value: float
    """The objective's metric at the threshold, on the tuned rows."""

    tp: int
    fp: int
    fn: int
    tn: int

    value_interval: tuple[float, float] | None = None
    """95 % interval of the metric; None where it was not asked for."""

    threshold_interval: tuple[float, float] | None = None
    """95 % interval of the threshold; None where it was not asked for."""

    optimism: float | None = None
    """Metric on the tuned rows less the cross-validated one; None where it was not asked for."""

    warnings: tuple[str, ...] = ()
    """Such as "12 positives" or "never predicted"."""

    @property
    def f1(self) -> float:
        """F1 at the threshold, on the tuned rows, whatever the objective; 0 without any yes."""
        return 2 * self.tp / max(2 * self.tp + self.fp + self.fn, 1)

    @property
    def share(self) -> float:
        """The share of known rows that the label is given to."""
        return (self.tp + self.fp) / max(self.positives + self.negatives, 1)

    @property
    def is_given_too_often(self) -> bool:
        """Whether many rows get the label, and nearly all of them wrongly."""
        return self.share >= _MANY_ROWS and self.f1 < _LOW_F1

    @property
    def positives(self) -> int:
        """Known positives."""
        return self.tp + self.fn

    @property
    def negatives(self) -> int:
        """Known negatives."""
        return self.fp + self.tn


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedDecision:
    """The decision, the one with a single shared threshold, and how they came about."""

    decision: Decision
    shared: Decision
    """The same calibration with the shared threshold for every label."""

    report: tuple[LabelReport, ...]
    """A row for each label, in their order."""

    notes: tuple[str, ...] = ()
    """What concerns all labels, such as how many rows have no label at all."""

    @property
    def compared(self) -> dict[str, Decision]:
        """The decisions that figures are given for, by name: 0.5, shared and tuned thresholds."""
        half = Decision(
            labels=self.decision.labels,
            thresholds=np.full(self.decision.num_labels, 0.5),
            scale=self.decision.scale,
            bias=self.decision.bias,
        )
        return {"at_0.5": half, "shared": self.shared, "tuned": self.decision}

    @property
    def fell_back(self) -> tuple[str, ...]:
        """The labels that took the shared threshold."""
        return tuple(row.label for row in self.report if row.origin == "shared")
