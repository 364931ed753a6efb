"""What a data source returns: named inputs and targets in three splits, checked on arrival.

A data source is any callable that returns a `DataSet`; a recipe names it by import path. Arrays may
be memory-mapped (``numpy.memmap``, mode ``"c"``): nothing here or in training reads more of them
than the rows in use.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from thresher.artifacts.input_spec import InputSpec
from thresher.decision import FloatArray
from thresher.errors import DataError

if TYPE_CHECKING:
    from torch import Generator, Tensor

__all__ = ["Augment", "DataSet", "Split", "SplitName"]

Augment = Callable[["dict[str, Tensor]", "Generator"], "dict[str, Tensor]"]
"""From a train batch's inputs by name to the same, altered at random by the generator alone."""

SplitName = Literal["train", "validation", "test"]

_SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
_CHECKED_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Split:
    """Inputs and targets of some examples.

    Args:
        inputs: The network's inputs by name, each numeric or bool, [N, ...].
        targets_NL: [N, L] of 0 and 1, NaN where unknown; kept as float32. In the train split
            anything between 0 and 1 is allowed too (soft labels).
        texts: What each example says to people, N of them; for text tasks, whose inputs are ids.

    Raises:
        DataError: If an array has no numbers, targets are not [N, L], or row counts differ.
    """

    inputs: Mapping[str, npt.NDArray[Any]]
    targets_NL: FloatArray
    texts: Sequence[str] | None = None

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
        if self.texts is not None and len(self.texts) != len(targets):
            raise DataError(f"there are {len(self.texts)} texts, targets have {len(targets)} rows")

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
        augment: Alters each train batch.
        trim_by: An input of 0 and 1, [N, T]. From every batch the last columns in which it is 0
            for all rows are cut off, there and in every other input [N, T]: padding costs nothing.
        assets: Files by name that whoever calls the model needs, such as a tokenizer; kept with
            the run under ``assets/``.
        input_spec: How the rows of a table become these inputs, for scoring and the client; None
            where the source does not know.

    Raises:
        DataError: If a split is missing or empty, labels repeat, shapes or kinds differ between
            splits, a target is not 0, 1 or NaN (in train: outside [0, 1]), an input holds NaN, or
            ``trim_by`` names no input [N, T].
    """

    labels: tuple[str, ...]
    splits: Mapping[SplitName, Split]
    source: str
    augment: Augment | None = None
    trim_by: str | None = None
    assets: Mapping[str, Path] = field(default_factory=dict)
    input_spec: InputSpec | None = None

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
        if self.trim_by is not None:
            mask = first.inputs.get(self.trim_by)
            if mask is None or mask.ndim != 2:
                raise DataError(
                    f'trim_by is "{self.trim_by}", expected an input of shape [N, T]; '
                    f"the inputs are {', '.join(first.inputs)}"
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
    soft = name == "train"
    for start, part in _row_blocks(targets_NL):
        right = ((part >= 0) & (part <= 1)) if soft else ((part == 0) | (part == 1))
        wrong = ~(right | np.isnan(part))
        if wrong.any():
            row, column = (int(i) for i in np.argwhere(wrong)[0])
            expected = "a number from 0 to 1, or NaN" if soft else "0, 1 or NaN"
            raise DataError(
                f'the {name} split: target of label "{labels[column]}" in row {start + row} is '
                f"{part[row, column]:g}, expected {expected} (NaN where unknown)"
            )


def _check_inputs(name: str, split: Split) -> None:
    for key, array in split.inputs.items():
        if array.dtype.kind != "f":
            continue
        num_rows, first = 0, -1
        for start, part in _row_blocks(array):
            rows = np.isnan(part.reshape(len(part), -1)).any(axis=1)
            if rows.any() and first < 0:
                first = start + int(np.argmax(rows))
            num_rows += int(rows.sum())
        if num_rows:
            raise DataError(
                f'the {name} split: input "{key}" holds NaN in {num_rows} of '
                f"{len(array)} rows (first: row {first})"
            )


def _row_blocks(array: npt.NDArray[Any]) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Yield first row and rows, block by block: an array may be larger than memory."""
    step = max(1, _CHECKED_BYTES // max(1, array[:1].nbytes))
    for start in range(0, len(array), step):
        yield start, array[start : start + step]
