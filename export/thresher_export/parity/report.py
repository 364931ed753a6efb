"""What was compared and how it came out: comparisons, notes, figures by label and by layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from thresher.agreement import Agreement, Tolerances
from thresher.decision import Decision
from thresher.errors import ParityError
from thresher_export.parity.departure import Departure

__all__ = ["Check", "LabelRecord", "ParityReport", "WorstRows"]

_FEW_ROWS = 12
_FEW_NAMES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One comparison, named."""

    name: str
    agreement: Agreement
    rows: str = "split"
    """Which rows: ``split`` (real ones), ``made up`` or ``head`` (logits, probabilities)."""
    row_names: tuple[str, ...] = ()
    """What a made-up row is, row by row."""
    advice: str = ""
    """What to do where it fails."""

    def problems(self) -> list[str]:
        """Return what is wrong, a sentence each, with the comparison's name in front."""
        few = self.row_names if len(self.row_names) <= _FEW_ROWS else ()
        names = ", ".join(f"{row} {name}" for row, name in enumerate(few))
        legend = f" (rows: {names})" if names else ""
        found = [f"{self.name}: {text}{legend}" for text in self.agreement.problems()]
        return [*found, self.advice] if found and self.advice else found


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelRecord:
    """One label over all comparisons on real rows."""

    label: str
    threshold: float
    band_half_width: float
    logit_error: float
    probability_error: float
    num_flips: int
    margin: float
    """The nearest that any row's probability comes to the threshold."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WorstRows:
    """Rows on which a comparison failed, to reproduce it."""

    check: str
    inputs: Mapping[str, npt.NDArray[Any]]
    arrays: Mapping[str, npt.NDArray[Any]]
    """Outputs of both sides: ``reference_logits``, ``got_labels`` and so on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityReport:
    """All comparisons of one export."""

    checks: tuple[Check, ...]
    engines: tuple[str, ...]
    """What was compared with the reference."""
    decision: Decision
    precision: str
    tolerances: Tolerances
    providers: tuple[str, ...] = ()
    """ONNX Runtime's execution providers, with the options that were set."""
    faults: tuple[str, ...] = ()
    """What is wrong with the model itself, seen without running it."""
    notes: tuple[str, ...] = ()
    """What was left out and why, and what was seen that is not judged."""
    departure: Departure | None = None
    """How the error grows from node to node; with the first that departs where it failed."""
    worst: WorstRows | None = None
    remarks: tuple[str, ...] = ()
    """Those of the notes that a person should see: which validation decisions flip."""
    flipped: Mapping[str, npt.NDArray[np.bool_]] = field(default_factory=dict)
    """By split, bool [N, L]: decisions that differ, in any comparison on its rows, from those on
    the logits that training logged."""
    evidence: Path | None = field(default=None)
    """The folder in which the worst rows and the report were saved."""

    @property
    def num_flips(self) -> int:
        """Decisions that differ, summed over all comparisons."""
        return sum(check.agreement.num_flips for check in self.checks)

    @property
    def band_half_width(self) -> float:
        """Half the widest band around a threshold, over all comparisons on real rows."""
        widths = [c.agreement.band_half_width for c in self.checks if c.rows == "split"]
        return max(widths, default=self.tolerances.probabilities_atol)

    def problems(self) -> list[str]:
        """Return what is wrong, a sentence each, with the comparison's name in front."""
        return [*self.faults, *(text for check in self.checks for text in check.problems())]

    def raise_if_failed(self, what: str) -> None:
        """Raise ParityError if any comparison failed; `summary` is what it says."""
        lines = self.summary()
        if lines:
            listing = "\n  ".join(lines)
            raise ParityError(f"{what}: parity failed, nothing was published:\n  {listing}")

    def summary(self) -> list[str]:
        """Return what a message says of a failure; empty where there is none.

        The problems of the first comparison of each kind that failed, the names of the others, the
        first node that departs, and where the rows are.
        """
        failed = [check for check in self.checks if not check.agreement.ok]
        if not (failed or self.faults):
            return []
        firsts = list({check.rows: check for check in reversed(failed)}.values())[::-1]
        lines = [*self.faults, *(text for check in firsts for text in check.problems())]
        others = [f'"{check.name}"' for check in failed if check not in firsts]
        if others:
            more = f" and {len(others) - _FEW_NAMES} more" if len(others) > _FEW_NAMES else ""
            lines.append(f"So do {', '.join(others[:_FEW_NAMES])}{more}")
        if self.departure is not None:
            lines.append(self.departure.sentence())
        if self.evidence is not None:
            lines.append(f"To reproduce it: {self.evidence}")
        return lines

    def labels(self) -> list[LabelRecord]:
        """Return the figures label by label, over all comparisons on real rows."""
        by_label = [c.agreement.by_label for c in self.checks if c.rows == "split"]
        if not by_label:
            return []
        band_L, logit_L, probability_L = (
            np.max([getattr(figures, name) for figures in by_label], axis=0)
            for name in ("band_half_width", "logit_error", "probability_error")
        )
        flips_L = np.sum([figures.num_flips for figures in by_label], axis=0)
        margin_L = np.min([figures.margin for figures in by_label], axis=0)
        return [
            LabelRecord(
                label=label,
                threshold=float(self.decision.thresholds[k]),
                band_half_width=float(band_L[k]),
                logit_error=float(logit_L[k]),
                probability_error=float(probability_L[k]),
                num_flips=int(flips_L[k]),
                margin=float(margin_L[k]),
            )
            for k, label in enumerate(self.decision.labels)
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values for JSON."""
        return {
            "ok": not self.problems(),
            "num_flips": self.num_flips,
            "precision": self.precision,
            "tolerances": asdict(self.tolerances),
            "band_half_width": self.band_half_width,
            "engines": list(self.engines),
            "faults": list(self.faults),
            "notes": list(self.notes),
            "providers": list(self.providers),
            "checks": [
                {"name": c.name, "rows": c.rows, **c.agreement.to_dict()} for c in self.checks
            ],
            "labels": [asdict(label) for label in self.labels()],
            "layers": None if self.departure is None else self.departure.to_dict(),
        }
