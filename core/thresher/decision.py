"""What a decision is: labels, calibration and thresholds, and the one rule that applies them.

For logits ``z`` (float32, shape [N, L])::

    probability = sigmoid(z * scale + bias)
    label       = probability >= threshold

all in float32, the threshold included, with one scale, bias and threshold per label. NaN gives a
NaN probability and a label of False. Whoever holds the served probabilities and the thresholds can
recompute the served labels bit for bit: ``labels == (probabilities >= thresholds)``.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from thresher.errors import DecisionError, NotFoundError, unknown_name

__all__ = ["Decision", "FloatArray", "sigmoid"]

FloatArray = npt.NDArray[np.float32]

_FORMAT = "thresher-decision/1"


def sigmoid(x: FloatArray) -> FloatArray:
    """Return the logistic function of ``x`` in float32, without overflow at either end.

    Args:
        x: float32, any shape. NaN stays NaN.

    Example:
        >>> sigmoid(np.float32([-200, 0, 200])).tolist()
        [0.0, 0.5, 1.0]
    """
    x = np.asarray(x, dtype=np.float32)
    e = np.exp(-np.abs(x))
    one = np.float32(1)
    return np.asarray(np.where(x >= 0, one / (one + e), e / (one + e)), dtype=np.float32)


def _short(value: np.float32) -> float:
    """Return the shortest decimal that reads back as the very same float32."""
    short = float(str(value))
    return short if np.float32(short) == value else float(value)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Decision:
    """How logits become yes or no, label by label; immutable, equal by content.

    Args:
        labels: L distinct, non-empty names, in the order of the network's outputs.
        thresholds: float32 [L], each in [0, 1]. A probability equal to it is a yes.
        scale: float32 [L], finite and above 0; 1 where left out.
        bias: float32 [L], finite; 0 where left out.

    Raises:
        DecisionError: If lengths differ, a name repeats, or a number is out of range.

    Example:
        >>> d = Decision(labels=["cat", "dog"], thresholds=[0.5, 0.25])
        >>> p, y = d.apply(np.float32([[0.0, -2.0]]))
        >>> y.tolist()
        [[True, False]]
    """

    labels: tuple[str, ...]
    thresholds: FloatArray
    scale: FloatArray
    bias: FloatArray

    def __init__(
        self,
        *,
        labels: Sequence[str],
        thresholds: npt.ArrayLike,
        scale: npt.ArrayLike | None = None,
        bias: npt.ArrayLike | None = None,
    ) -> None:
        names = tuple(labels)
        n = len(names)
        if not n:
            raise DecisionError("a decision needs at least one label, got none")
        for name in names:
            if not isinstance(name, str) or not name:
                raise DecisionError(f"label names are non-empty strings, got {name!r}")
        repeated = [name for name, count in Counter(names).items() if count > 1]
        if repeated:
            raise DecisionError(f"label names must differ; repeated: {', '.join(repeated[:5])}")
        arrays = {
            "thresholds": _per_label("thresholds", thresholds, names),
            "scale": _per_label("scale", np.ones(n) if scale is None else scale, names),
            "bias": _per_label("bias", np.zeros(n) if bias is None else bias, names),
        }
        legal = {
            "thresholds": ((arrays["thresholds"] >= 0) & (arrays["thresholds"] <= 1), "in [0, 1]"),
            "scale": (arrays["scale"] > 0, "above 0"),
        }
        for what, (is_legal_L, expected) in legal.items():
            if not is_legal_L.all():
                at = int(np.argmin(is_legal_L))
                raise DecisionError(
                    f'{what} of label "{names[at]}" is {arrays[what][at]}, expected {expected}'
                )
        object.__setattr__(self, "labels", names)
        for key, value in arrays.items():
            value.setflags(write=False)
            object.__setattr__(self, key, value)

    @property
    def num_labels(self) -> int:
        """The number of labels, L."""
        return len(self.labels)

    @property
    def is_calibrated(self) -> bool:
        """Whether any scale differs from 1 or any bias from 0."""
        return bool((self.scale != 1).any() or (self.bias != 0).any())

    @property
    def digest(self) -> str:
        """SHA-256 of the content, as hexadecimal; two equal decisions have the same."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Decision) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def index(self, label: str) -> int:
        """Return the position of a label.

        Raises:
            NotFoundError: If there is no such label; the nearest names are listed.
        """
        if label not in self.labels:
            raise NotFoundError(unknown_name("label", label, self.labels))
        return self.labels.index(label)

    def probabilities(self, logits_NL: FloatArray) -> FloatArray:
        """Return float32 [N, L] probabilities of float32 [N, L] logits.

        Raises:
            DecisionError: If the last axis is not L long or the array is not float32.
        """
        logits_NL = np.asarray(logits_NL)
        if logits_NL.ndim != 2 or logits_NL.shape[1] != self.num_labels:
            raise DecisionError(
                f"logits have shape {list(logits_NL.shape)}, expected [N, {self.num_labels}] "
                f"for {self.num_labels} labels"
            )
        if logits_NL.dtype != np.float32:
            raise DecisionError(f"logits are {logits_NL.dtype}, expected float32")
        with np.errstate(over="ignore", invalid="ignore"):  # infinite logits are legal
            return sigmoid(logits_NL * self.scale + self.bias)

    def decide(self, probabilities_NL: FloatArray) -> npt.NDArray[np.bool_]:
        """Return bool [N, L]: which probabilities reach their threshold (NaN does not)."""
        return np.asarray(np.asarray(probabilities_NL, dtype=np.float32) >= self.thresholds)

    def apply(self, logits_NL: FloatArray) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
        """Return probabilities (float32 [N, L]) and labels (bool [N, L]) of logits."""
        probabilities_NL = self.probabilities(logits_NL)
        return probabilities_NL, self.decide(probabilities_NL)

    def to_dict(self) -> dict[str, Any]:
        """Return the content as plain Python values; numbers read back as the same float32."""
        return {
            "format": _FORMAT,
            "labels": list(self.labels),
            "thresholds": [_short(x) for x in self.thresholds],
            "scale": [_short(x) for x in self.scale],
            "bias": [_short(x) for x in self.bias],
        }

    def to_json(self) -> str:
        """Return the content as one line of JSON; equal decisions give equal text."""
        return json.dumps(self.to_dict(), ensure_ascii=False, separators=(",", ":"))

    def save(self, path: Path) -> None:
        """Write the decision as JSON with one line per field."""
        lines = ",\n".join(
            f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}"
            for key, value in self.to_dict().items()
        )
        path.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")

    @classmethod
    def from_json(cls, text: str, *, where: str = "decision.json") -> Decision:
        """Return the decision that a JSON text holds.

        Args:
            text: What `to_json` or `save` wrote; scale and bias may be left out together.
            where: What to call the text in an error, such as its path.

        Raises:
            DecisionError: If the text is no decision, or its parts do not fit together.
        """
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise DecisionError(f"{where}: not JSON: {error}") from None
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            got = content.get("format") if isinstance(content, dict) else type(content).__name__
            raise DecisionError(
                f'{where}: format is {got!r}, expected a JSON object with "format": "{_FORMAT}"'
            )
        keys = {"format", "labels", "thresholds", "scale", "bias"}
        missing, unknown = keys - set(content), set(content) - keys
        if missing == {"scale", "bias"}:  # written by hand, for probabilities as they are
            missing = set()
        if missing or unknown:
            raise DecisionError(
                f"{where}: missing keys {sorted(missing)}, unknown keys {sorted(unknown)}; "
                f"expected {sorted(keys)}"
            )
        del content["format"]
        try:
            return cls(**content)
        except DecisionError as error:
            raise DecisionError(f"{where}: {error}") from None

    @classmethod
    def load(cls, path: Path) -> Decision:
        """Return the decision in a JSON file.

        Raises:
            DecisionError: If the file is no decision.
            NotFoundError: If there is no such file.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise NotFoundError(f"{path}: no such file; expected a decision.json") from None
        except UnicodeDecodeError:
            raise DecisionError(f"{path}: not UTF-8 text, expected a decision.json") from None
        return cls.from_json(text, where=str(path))


def _per_label(what: str, values: npt.ArrayLike, labels: tuple[str, ...]) -> FloatArray:
    """Return a fresh float32 [L] array, or say which labels have no value."""
    try:
        array = np.array(values, dtype=np.float32) + np.float32(0)  # -0 is 0: one digest
    except (TypeError, ValueError):
        raise DecisionError(f"{what} must be a list of numbers, got {values!r:.80}") from None
    if array.shape != (len(labels),):
        got = array.shape[0] if array.ndim == 1 else f"shape {list(array.shape)} of"
        missing = ", ".join(f'"{name}"' for name in labels[array.size :][:5])
        names = f" (missing {missing})" if array.ndim == 1 and missing else ""
        raise DecisionError(f"{got} {what} for {len(labels)} labels{names}")
    if not np.isfinite(array).all():
        at = int(np.flatnonzero(~np.isfinite(array))[0])
        raise DecisionError(f'{what} of label "{labels[at]}" is {array[at]}, expected a number')
    return array
