"""What a threshold is chosen for: objectives as text, and their values as functions of counts.

An objective is written as it stands in a recipe::

    f1, f2, f0.5                 F-beta
    precision@recall>=0.9        the best precision among cuts with at least that recall
    recall@precision>=0.95       the best recall among cuts with at least that precision
    balanced_accuracy, youden    mean of both classes' recall; Youden's J, which is twice that - 1
    mcc                          Matthews correlation
    cost(fp=1,fn=5)              the lowest mean cost of a false positive and a false negative
    prevalence                   as many predicted positives as there are positives
    fixed=0.7                    a given threshold
    micro_f1, macro_f1, example_f1, shared_f1 (and f2, ...)   over all labels together

All values are float64 ratios of whole numbers, so equal outcomes have equal values.

Source: C. J. van Rijsbergen, "Information Retrieval", 1979, chapter 7 (F-beta); B. W. Matthews,
Biochimica et Biophysica Acta 405, 1975; W. J. Youden, Cancer 3, 1950.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from thresher.errors import ConfigError, unknown_name

__all__ = ["Kind", "Objective", "parse_objective"]

_Array = npt.NDArray[np.float64]
Kind = Literal[
    "f",
    "precision",
    "recall",
    "balanced_accuracy",
    "youden",
    "mcc",
    "cost",
    "prevalence",
    "fixed",
    "micro",
    "example",
    "shared",
]
_JOINT = ("micro", "example", "shared")
_EXAMPLES = (
    *("f1", "f2", "f0.5", "precision@recall>=0.9", "recall@precision>=0.95", "balanced_accuracy"),
    *("youden", "mcc", "cost(fp=1,fn=5)", "prevalence", "fixed=0.5", "micro_f1", "macro_f1"),
    *("example_f1", "shared_f1"),
)
_NUMBER = r"(\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What is maximised, for one label (or all labels together, where it is joint).

    Counts are arrays of any one shape (or numbers); what they give has that shape and is float64.
    A ratio with nothing below the line is 0, as scikit-learn's ``zero_division=0`` has it.

    Example:
        >>> cost = parse_objective("cost(fp=1, fn=5)")
        >>> float(cost.value(8, 2, 1, 9)), float(cost.metric(8, 2, 1, 9))
        (-0.35, 0.35)
    """

    text: str
    """The canonical form; `parse_objective` reads it back."""

    kind: Kind

    beta: float = 1.0
    """Of F-beta: how many times as much recall matters as precision."""

    bound: float = 0.0
    """The least recall (of ``precision@recall``) or precision (of ``recall@precision``)."""

    fp_cost: float = 1.0
    fn_cost: float = 1.0

    threshold: float = 0.5
    """Of ``fixed``."""

    @property
    def metric_name(self) -> str:
        """What `metric` is called: of a joint or fixed objective it is a label's own F-beta."""
        is_f = self.is_joint or self.kind == "fixed"
        return f"f{_short(self.beta)}" if is_f else self.text

    @property
    def is_joint(self) -> bool:
        """Whether labels cannot be tuned one by one."""
        return self.kind in _JOINT

    @property
    def is_monotone(self) -> bool:
        """Whether a true positive more never lowers the value, nor a false one more raises it."""
        return self.kind not in {"prevalence", "fixed"}

    @property
    def lower_is_better(self) -> bool:
        """Whether people want the metric small: it is the negative of the value."""
        return self.kind in {"cost", "prevalence"}

    def value(
        self, tp: npt.ArrayLike, fp: npt.ArrayLike, fn: npt.ArrayLike, tn: npt.ArrayLike
    ) -> _Array:
        """Return what is maximised, as float64.

        Where a bound is missed, the value is negative and grows towards meeting it, so the best
        cut is always the best that can be had.
        """
        tp, fp, fn, tn = (np.asarray(count, dtype=np.float64) for count in (tp, fp, fn, tn))
        match self.kind:
            case "precision" | "recall":
                recall, precision = _ratio(tp, tp + fn), _ratio(tp, tp + fp)
                wanted, bounded = (
                    (precision, recall) if self.kind == "precision" else (recall, precision)
                )
                return np.where(self._meets(tp, bounded), wanted, bounded - 2)
            case "balanced_accuracy":
                return _balanced_accuracy(tp, fp, fn, tn)
            case "youden":
                return 2 * _balanced_accuracy(tp, fp, fn, tn) - 1
            case "mcc":
                root = np.sqrt((tp + fp) * (fn + tn)) * np.sqrt((tp + fn) * (fp + tn))
                return _ratio(tp * tn - fp * fn, root)
            case "cost":
                return -_ratio(fp * self.fp_cost + fn * self.fn_cost, tp + fp + fn + tn)
            case "prevalence":
                return -_ratio(np.abs(fp - fn), tp + fp + fn + tn)
            case _:
                square = self.beta**2
                weighted = (1 + square) * tp
                return _ratio(weighted, weighted + square * fn + fp)

    def metric(
        self, tp: npt.ArrayLike, fp: npt.ArrayLike, fn: npt.ArrayLike, tn: npt.ArrayLike
    ) -> _Array:
        """Return what is shown to people, as float64.

        It is the value, but: the mean cost and the distance from the prevalence are shown
        positive, the bounded precision or recall as it is even where the bound is missed, and a
        fixed threshold by its F1.
        """
        if self.lower_is_better:
            return -self.value(tp, fp, fn, tn) + 0.0
        if self.kind in {"precision", "recall"}:
            wrong = fp if self.kind == "precision" else fn
            tp = np.asarray(tp, dtype=np.float64)
            return _ratio(tp, tp + wrong)
        return self.value(tp, fp, fn, tn)

    def tie_value(
        self, tp: npt.ArrayLike, fp: npt.ArrayLike, fn: npt.ArrayLike, tn: npt.ArrayLike
    ) -> _Array:
        """Return what decides between cuts of equal value: the bounded ratio, else nothing."""
        tp, fp, fn, tn = (np.asarray(count, dtype=np.float64) for count in (tp, fp, fn, tn))
        if self.kind in {"precision", "recall"}:
            return _ratio(tp, tp + (fn if self.kind == "precision" else fp))
        return np.zeros_like(tp)

    def is_met(
        self, tp: npt.ArrayLike, fp: npt.ArrayLike, fn: npt.ArrayLike, tn: npt.ArrayLike
    ) -> npt.NDArray[np.bool_]:
        """Return whether the objective's bound is met; True where it has none."""
        bounded = self.tie_value(tp, fp, fn, tn)
        if self.kind in {"precision", "recall"}:
            return self._meets(np.asarray(tp, dtype=np.float64), bounded)
        return np.ones(bounded.shape, dtype=np.bool_)

    def _meets(self, tp: _Array, bounded: _Array) -> npt.NDArray[np.bool_]:
        return np.asarray((bounded >= self.bound) & (tp > 0))


def _ratio(above: Any, below: Any) -> _Array:
    """Return above / below as float64, 0 where below is 0."""
    above, below = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    # nothing below the line means nothing above it: x / max(x, tiny) is 0 there
    return np.asarray(np.divide(above, np.maximum(below, 1e-300)))


def _balanced_accuracy(tp: _Array, fp: _Array, fn: _Array, tn: _Array) -> _Array:
    """Return the mean recall of the classes that occur, in one division."""
    positives, negatives = tp + fn, fp + tn
    both = (tp * negatives + tn * positives) / np.maximum(2 * positives * negatives, 1)
    one = (tp + tn) / np.maximum(positives + negatives, 1)
    return np.where((positives > 0) & (negatives > 0), both, one)


def parse_objective(text: str) -> Objective:
    """Return the objective that a text names; spaces do not matter.

    Args:
        text: Such as ``"f1"`` or ``"precision@recall>=0.9"``; the module lists all forms.

    Raises:
        ConfigError: If there is no such objective (the valid forms are listed, nearest first), or
            its number is out of range.

    Example:
        >>> parse_objective("precision @ recall >= 0.90").text
        'precision@recall>=0.9'
        >>> parse_objective("macro_f1").text
        'f1'
    """
    bare: Any = "".join(str(text).split())
    if bare in {"balanced_accuracy", "youden", "mcc", "prevalence"}:
        return Objective(text=bare, kind=bare)
    if match := re.fullmatch(rf"(micro_|macro_|example_|shared_)?f{_NUMBER}", bare):
        prefix, beta = match[1] or "", float(match[2])
        _in_range(text, "beta", beta, low=0.0, high=100.0)
        prefix = "" if prefix == "macro_" else prefix
        kind: Any = prefix.rstrip("_") or "f"
        return Objective(text=f"{prefix}f{_short(beta)}", kind=kind, beta=beta)
    if match := re.fullmatch(rf"(precision@recall|recall@precision)>={_NUMBER}", bare):
        bound, kind = float(match[2]), match[1].partition("@")[0]
        _in_range(text, "the bound", bound, low=0.0, high=1.0)
        return Objective(text=f"{match[1]}>={_short(bound)}", kind=kind, bound=bound)
    if match := re.fullmatch(rf"cost\(fp={_NUMBER},fn={_NUMBER}\)", bare):
        fp, fn = float(match[1]), float(match[2])
        _in_range(text, "the cost fp", fp, low=0.0, high=1e12)
        _in_range(text, "the cost fn", fn, low=0.0, high=1e12)
        return Objective(
            text=f"cost(fp={_short(fp)},fn={_short(fn)})", kind="cost", fp_cost=fp, fn_cost=fn
        )
    if match := re.fullmatch(rf"fixed={_NUMBER}", bare):
        threshold = float(match[1])
        if threshold > 1:
            raise ConfigError(f'objective "{text}": a threshold lies in [0, 1]')
        return Objective(text=f"fixed={_short(threshold)}", kind="fixed", threshold=threshold)
    raise ConfigError(unknown_name("objective", bare, _EXAMPLES, at_most=len(_EXAMPLES)))


def _short(number: float) -> str:
    """Return the shortest text of a number, without a needless ".0"."""
    return repr(int(number)) if number.is_integer() else repr(number)


def _in_range(text: str, what: str, number: float, *, low: float, high: float) -> None:
    if not low < number <= high or math.isinf(number):
        raise ConfigError(
            f'objective "{text}": {what} is {number:g}, expected above {low:g}, at most {high:g}'
        )
