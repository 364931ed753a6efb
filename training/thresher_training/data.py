"""What a data source returns: named inputs and 0/1 targets in three splits, checked on arrival.

A data source is any callable that returns a `DataSet`; a recipe names it by import path.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from thresher.decision import FloatArray
from thresher.errors import DataError

__all__ = ["DataSet", "Split", "SplitName"]

SplitName = Literal["train", "validation", "test"]

_SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Split:
    """Inputs and targets of some examples.

    Args:
        inputs: The network's inputs by name, each numeric or bool, [N, ...].
        targets_NL: [N, L] of 0 and 1, NaN where unknown; kept as float32.

    Raises:
        DataError: If an array has no numbers, targets are not [N, L], or row counts differ.
    """

    inputs: Mapping[str, npt.NDArray[Any]]
    targets_NL: FloatArray

    def __post_init__(self) -> None:
        targets = np.asarray(self.targets_NL)
        if targets.dtype.kind not in "biuf" or targets.ndim != 2:
            raise DataError(
                f"targets are {targets.dtype} of shape {list(targets.shape)}, "
                "expected numbers of shape [N, L]"
            )
        object.__setattr__(self, "targets_NL", np.asarray(targets, dtype=np.float32))
        if not self.inputs:
            raise DataError('a split needs at least one input, such as {"image": array}')
        for name, array in self.inputs.items():
            if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
                kind = getattr(array, "dtype", type(array).__name__)
                raise DataError(f'input "{name}" is {kind}, expected a NumPy array of numbers')
            rows = len(array) if array.ndim else 0
            if rows != len(targets):
                raise DataError(f'input "{name}" has {rows} rows, targets have {len(targets)}')

    def __len__(self) -> int:
        return len(self.targets_NL)

    @property
    def digest(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 of every name, shape, kind and value."""
        state = hashlib.sha256()
        for name, array in sorted({**self.inputs, "": self.targets_NL}.items()):
            state.update(f"{name}:{array.dtype.str}:{array.shape};".encode())
            state.update(np.ascontiguousarray(array).data)
        return state.hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DataSet:
    """A task's labels and its train, validation and test splits.

    Args:
        labels: L distinct, non-empty names, in the order of the targets' columns.
        splits: The splits ``"train"``, ``"validation"`` and ``"test"``.
        source: One line that says where the data come from; kept with the MLflow run.

    Raises:
        DataError: If a split is missing or empty, labels repeat, shapes or kinds differ between
            splits, a target is not 0, 1 or NaN, or an input holds NaN.
    """

    labels: tuple[str, ...]
    splits: Mapping[SplitName, Split]
    source: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", tuple(self.labels))
        _check_labels(self.labels)
        if set(self.splits) != set(_SPLITS):
            raise DataError(f"splits are {sorted(self.splits)}, expected {sorted(_SPLITS)}")
        first = self.splits["train"]
        for name in _SPLITS:
            split = self.splits[name]
            if not len(split):
                raise DataError(f"the {name} split is empty, expected at least one row")
            _check_alike(name, split, first)
            _check_targets(name, split.targets_NL, self.labels)
            _check_inputs(name, split)
        if len(self.labels) > 1 and all(
            (split.targets_NL.sum(axis=1) == 1).all() for split in self.splits.values()
        ):
            _log.warning(
                "every row has exactly one positive label: this is single-label data, for which "
                "one choice among the labels (softmax with cross-entropy) is meant; "
                "training goes on with one yes or no per label"
            )

    @property
    def num_labels(self) -> int:
        """The number of labels, L."""
        return len(self.labels)


def _check_labels(labels: tuple[str, ...]) -> None:
    if not labels:
        raise DataError("a data set needs at least one label, got none")
    for name in labels:
        if not isinstance(name, str) or not name:
            raise DataError(f"label names are non-empty strings, got {name!r}")
    repeated = [name for name, count in Counter(labels).items() if count > 1]
    if repeated:
        raise DataError(f"label names must differ; repeated: {', '.join(repeated[:5])}")


def _check_alike(name: str, split: Split, first: Split) -> None:
    """Refuse a split whose inputs differ in name, shape or kind from the train split's."""

    def form(of: Split) -> dict[str, str]:
        return {
            k: f"{a.dtype} [N, {', '.join(map(str, a.shape[1:]))}]" for k, a in of.inputs.items()
        }

    if form(split) != form(first):
        raise DataError(f"the {name} split has inputs {form(split)}, train has {form(first)}")


def _check_targets(name: str, targets_NL: FloatArray, labels: tuple[str, ...]) -> None:
    if targets_NL.shape[1] != len(labels):
        raise DataError(
            f"the {name} split has {targets_NL.shape[1]} target columns for {len(labels)} labels"
        )
    wrong = (targets_NL != 0) & (targets_NL != 1) & ~np.isnan(targets_NL)
    if wrong.any():
        row, column = (int(i) for i in np.argwhere(wrong)[0])
        raise DataError(
            f'the {name} split: target of label "{labels[column]}" in row {row} is '
            f"{targets_NL[row, column]:g}, expected 0, 1 or NaN ({int(wrong.sum())} such targets)"
        )


def _check_inputs(name: str, split: Split) -> None:
    for key, array in split.inputs.items():
        if array.dtype.kind == "f":
            rows = np.isnan(array.reshape(len(array), -1)).any(axis=1)
            if rows.any():
                raise DataError(
                    f'the {name} split: input "{key}" holds NaN in {int(rows.sum())} of '
                    f"{len(rows)} rows (first: row {int(np.argmax(rows))})"
                )
