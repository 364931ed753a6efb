"""The errors that a user of Thresher can mend.

    ThresherError
    ├── ConfigError            a recipe or another TOML file
    ├── DataError              inputs, targets, pictures, arrays
    │   └── NotANumberError    rows for which a model gives NaN
    ├── DecisionError          labels, thresholds, calibration
    ├── TrainingError          a network, a loss or a training run
    ├── NotFoundError          a model, version, alias, run or file that does not exist
    ├── ConversionError        torch to ONNX, or an ONNX model that cannot be used
    ├── ParityError            two engines do not decide alike
    ├── PublishError           the model repository on disk
    ├── RuntimeUnavailableError  no Triton server can be found or installed here
    ├── ServerError            a Triton server that does not start, answer or obey
    └── MissingExtraError      a command whose packages are not installed

A message says what, where, what was got, what was expected, and what to do next.
The command line prints it and exits with 1; anything else that escapes is our bug.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = [
    "ConfigError",
    "ConversionError",
    "DataError",
    "DecisionError",
    "MissingExtraError",
    "NotANumberError",
    "NotFoundError",
    "ParityError",
    "PublishError",
    "RuntimeUnavailableError",
    "ServerError",
    "ThresherError",
    "TrainingError",
    "counted",
    "unknown_name",
]


class ThresherError(Exception):
    """Base of every error that a user can mend."""


class ConfigError(ThresherError):
    """A configuration file is wrong; the message names file and key."""


class DataError(ThresherError):
    """Inputs or targets are wrong; the message names the row, the column or the file."""


class NotANumberError(DataError):
    """A model gives NaN for some rows, which is no decision.

    Attributes:
        rows: Their numbers, from 0.
        prediction: The whole answer: the other rows' are right.
    """

    def __init__(self, message: str, *, rows: Sequence[int] = (), prediction: Any = None) -> None:
        super().__init__(message)
        self.rows = tuple(rows)
        self.prediction = prediction


class DecisionError(ThresherError):
    """Labels, thresholds or calibration do not fit together."""


class TrainingError(ThresherError):
    """A network, a loss or a training run cannot go on."""


class NotFoundError(ThresherError):
    """Something named does not exist; the message lists what does, nearest first."""


class ConversionError(ThresherError):
    """A model cannot be converted to ONNX, or an ONNX model cannot be used."""


class ParityError(ThresherError):
    """Two engines do not decide alike; the message says label, row and by how much."""


class PublishError(ThresherError):
    """The model repository cannot take a version; nothing half-written is left."""


class RuntimeUnavailableError(ThresherError):
    """No Triton server can be found or installed on this machine."""


class ServerError(ThresherError):
    """A Triton server does not start, answer or obey."""


class MissingExtraError(ThresherError):
    """The packages that a command needs are not installed."""


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, for messages.

    Example:
        >>> counted(1, "row"), counted(2500, "row")
        ('1 row', '2,500 rows')
    """
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def unknown_name(kind: str, name: str, valid: Iterable[str], *, at_most: int = 8) -> str:
    """Return a sentence that names an unknown name and the valid ones, nearest first.

    Args:
        kind: What the name stands for, such as ``"key"`` or ``"label"``.
        name: The name that was given.
        valid: The names that exist.
        at_most: How many valid names are listed.

    Example:
        >>> unknown_name("key", "epoch", ["lr", "epochs"])
        'unknown key "epoch"; did you mean "epochs"? Valid: epochs, lr'
        >>> unknown_name("model", "digits", [])
        'unknown model "digits"; there are none'
    """
    names = sorted(set(valid))
    if not names:
        return f'unknown {kind} "{name}"; there are none'

    def distance(other: str) -> float:
        return -difflib.SequenceMatcher(None, name.lower(), other.lower()).ratio()

    names.sort(key=distance)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    hint = f'; did you mean "{close[0]}"?' if close else "."
    more = f", and {len(names) - at_most} more" if len(names) > at_most else ""
    return f'unknown {kind} "{name}"{hint} Valid: {", ".join(names[:at_most])}{more}'
