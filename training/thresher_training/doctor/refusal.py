"""What is refused before anything can be examined, as findings with a fix."""

from __future__ import annotations

import re

from thresher.errors import ConfigError, DataError, NotFoundError, ThresherError, TrainingError
from thresher_training.doctor.diagnosis import Finding

__all__ = ["as_finding"]

_WHOLE_NUMBER = re.compile(r"target of label .* is -?\d+, expected")

_KNOWN: tuple[tuple[re.Pattern[str], str, str, str], ...] = (
    (
        re.compile(r"targets are u?int\d+ of shape \[\d+\],"),
        "integer-targets",
        (
            "Targets are class numbers, one for each row; multi-label targets are one column "
            "of 0 and 1 for each label."
        ),
        (
            "Turn them into columns: targets_NL = numpy.eye(L, "
            "dtype=numpy.float32)[class_numbers]. If each row has exactly one label, cross- "
            "entropy is the loss that is meant for it."
        ),
    ),
    (
        _WHOLE_NUMBER,
        "targets-out-of-range",
        "A target is a whole number other than 0 and 1.",
        (
            "-1/1 targets become (t + 1) / 2; counts or ratings become t > 0; class numbers "
            "become one column for each label; unknown targets become NaN."
        ),
    ),
    (
        re.compile(r"target of label .* expected"),
        "targets-out-of-range",
        "A target is neither 0 nor 1.",
        (
            "Scale soft labels of the train split to 0 to 1, write NaN where a target is "
            "unknown, and keep validation and test at 0 and 1."
        ),
    ),
    (
        re.compile(r"input .* holds NaN"),
        "non-finite-features",
        "An input holds NaN: one of them makes the whole loss NaN.",
        (
            "Fill missing values in the data source (the column's median in train, and a "
            "column that says so), or drop the rows."
        ),
    ),
    (
        re.compile(r"target columns for \d+ labels|expected logits torch\.float32"),
        "label-count",
        "The number of labels does not fit.",
        "Targets, names and logits need one column for each label: let the factory use num_labels.",
    ),
)


def as_finding(error: ThresherError) -> Finding:
    """Return an error that stops the preparation as a finding of level error.

    Args:
        error: What the data source, the network, the loss or a check before training raised.
    """
    said = str(error)
    for pattern, code, what, fix in _KNOWN:
        if pattern.search(said):
            return Finding(level="error", code=code, what=what, evidence=said, fix=fix)
    code, what, fix = "recipe-refused", "The recipe cannot be followed.", "Mend the key it names."
    if isinstance(error, (DataError, NotFoundError)):
        code, what = "data-refused", "The data cannot be used."
        fix = "Mend the data source, or the files that it reads."
    elif isinstance(error, TrainingError):
        code, what = "network-refused", "The network does not fit the data or the export."
        fix = "Mend the network's forward; nothing else can be checked before."
    elif isinstance(error, ConfigError) and said.startswith("[data]"):
        code, what = "data-refused", "The data source fails."
        fix = "Run the data source by itself, in Python, and mend it."
    elif isinstance(error, ConfigError) and said.startswith("[network]"):
        code, what = "network-refused", "The network cannot be made."
        fix = "Call the factory by itself, in Python, and mend it."
    return Finding(level="error", code=code, what=what, evidence=said, fix=fix)
