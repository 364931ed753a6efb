"""What an examination gives: findings, and the measurements behind them."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

__all__ = ["CODES", "Diagnosis", "Finding", "LayerGradient", "Level", "RangeTest", "listed"]

Level = Literal["error", "warning", "note"]

CODES = (
    # the targets
    *("single-label", "integer-targets", "targets-out-of-range", "no-positives", "no-negatives"),
    *("label-count", "label-names", "label-order", "label-shift", "empty-batches"),
    # the inputs
    *("duplicates", "constant-features", "non-finite-features", "empty-texts", "feature-scale"),
    # the network
    *("double-sigmoid", "softmax-in-network", "bounded-outputs"),
    *("random-at-evaluation", "batch-norm-at-evaluation"),
    # the loss
    *("cross-entropy", "relative-loss", "loss-without-sigmoid", "loss-fails", "loss-not-finite"),
    *("loss-at-start", "extreme-pos-weight"),
    # training a copy
    *("cannot-overfit", "dead-gradients", "vanishing-gradients", "exploding-gradients"),
    *("learning-rate-low", "learning-rate-high", "loss-does-not-fall"),
    # what could not be examined
    *("recipe-refused", "data-refused", "network-refused", "check-cut-short", "check-failed"),
)
"""All codes; docs/doctor.md says what each means and what to do."""

_ORDER: tuple[Level, ...] = ("error", "warning", "note")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong, or that a person should know."""

    level: Level
    """An error stops training; a warning costs quality; a note is a fact."""

    code: str
    """One of `CODES`; a code stays the same from version to version."""

    what: str
    """One sentence."""

    evidence: str
    """The figures that were measured."""

    fix: str
    """What to do."""

    def __post_init__(self) -> None:
        assert self.code in CODES, self.code

    def __str__(self) -> str:
        return f"{self.level} [{self.code}] {self.what} Evidence: {self.evidence} Fix: {self.fix}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerGradient:
    """A layer's gradient over the first steps of training."""

    layer: str
    """Its name in the network; "(network)" for parameters of the network itself."""

    gradient_norm: float
    """The largest of the steps; 0 where none arrived."""

    weight_norm: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeTest:
    """How the loss went while the learning rate rose from step to step."""

    recipe_rate: float
    """The recipe's learning rate."""

    learning_rates: tuple[float, ...]
    losses: tuple[float, ...]
    """Smoothed, one for each learning rate; it ends where the loss runs away."""

    low: float | None
    """From here on the loss falls visibly; None where it never does."""

    high: float | None
    """The loss was lowest here: beyond it, training becomes unstable."""

    runaway: float | None
    """Here the loss had run away; None where it never did."""

    finished: bool
    """Whether there was time enough to come to the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What the doctor found."""

    name: str
    """The recipe's name."""

    findings: tuple[Finding, ...]
    """Errors first, then warnings, then notes."""

    deep: bool
    """Whether the checks that train a copy were made too."""

    seconds: float

    range_test: RangeTest | None = None
    gradients: tuple[LayerGradient, ...] = ()

    def __post_init__(self) -> None:
        ordered = sorted(self.findings, key=lambda finding: _ORDER.index(finding.level))
        object.__setattr__(self, "findings", tuple(ordered))

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that stop training."""
        return tuple(finding for finding in self.findings if finding.level == "error")

    @property
    def codes(self) -> tuple[str, ...]:
        """The findings' codes, in their order."""
        return tuple(finding.code for finding in self.findings)

    def summary(self) -> str:
        """Return one line that counts the findings by level."""
        counts = Counter(finding.level for finding in self.findings)
        parts = [f"{n} {level}{'s' * (n > 1)}" for level in _ORDER if (n := counts[level])]
        which = "all checks" if self.deep else "the quick checks"
        return f"{', '.join(parts) or 'nothing found'} ({which}, {self.seconds:.1f} s)"

    def complaint(self) -> str:
        """Return the errors as one text, for the exception that stops training."""
        found = [
            f"[{error.code}] {error.what} {error.evidence} Fix: {error.fix}"
            for error in self.errors
        ]
        return "the doctor stops this run before it trains:\n" + "\n".join(found)

    def to_json(self) -> dict[str, Any]:
        """Return everything as what JSON can hold."""
        content = asdict(self)
        return {"name": self.name, "summary": self.summary(), **content}

    def write(self, folder: Path) -> None:
        """Write ``doctor.json`` and ``doctor.md``, and ``doctor.png`` after the deep checks.

        Args:
            folder: Made where it does not exist.
        """
        # what draws is heavy, and most diagnoses are never written
        from thresher_training.doctor.report import write_diagnosis

        write_diagnosis(self, folder)


def listed(names: tuple[str, ...] | list[str], *, at_most: int = 5) -> str:
    """Return names in quotes, the first few of many.

    Example:
        >>> listed(["rain", "fog"])
        '"rain", "fog"'
        >>> listed(["a", "b", "c"], at_most=2)
        '"a", "b" and 1 more'
    """
    text = ", ".join(f'"{name}"' for name in names[:at_most])
    more = len(names) - at_most
    return f"{text} and {more} more" if more > 0 else text
