"""Checks of the inputs: rows that more than one split holds, and values that cannot be learned."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from thresher_training.data import DataSet, Split, SplitName
from thresher_training.doctor.diagnosis import Finding
from thresher_training.prepare import Prepared

__all__ = ["check_inputs"]

_ORDER: tuple[SplitName, ...] = ("train", "validation", "test")
_LEAK = 0.01
"""Share of a split's rows with a copy, targets included, from which on it is a warning."""

_BLOCK_BYTES = 32 * 2**20
_MOST_BYTES = 4 * 2**30
"""So much of a split's inputs is read at most; what is left out is told."""


def check_inputs(prepared: Prepared) -> Iterator[Finding]:
    """Yield what the inputs of all splits show."""
    data = prepared.data
    yield from _not_finite(data)
    yield from _without_a_token(data)
    digests = {name: _row_digests(split) for name, split in data.splits.items()}
    if len(set(digests["train"])) == 1 and len(digests["train"]) > 1:
        yield Finding(
            level="error",
            code="constant-features",
            what="All rows of the train split are the same: there is nothing to learn from.",
            evidence=f"{len(digests['train']):,} rows with one and the same input.",
            fix="Look at what the data source reads.",
        )
        return
    yield from _duplicates(data, digests)
    yield from _constant_columns(data.splits["train"])


def _not_finite(data: DataSet) -> Iterator[Finding]:
    """Yield infinite values; NaN is refused when the data arrive."""
    for name, split in data.splits.items():
        for key, array in split.inputs.items():
            if array.dtype.kind != "f":
                continue
            wrong = np.concatenate(
                [~np.isfinite(array[a:b].reshape(b - a, -1)).all(axis=1) for a, b in _blocks(array)]
            )
            if wrong.any():
                yield Finding(
                    level="error",
                    code="non-finite-features",
                    what=f'The {name} split\'s input "{key}" holds infinite values: '
                    "one of them makes the whole loss NaN.",
                    evidence=f"{int(wrong.sum()):,} of {len(wrong):,} rows "
                    f"(first: row {int(np.argmax(wrong))}).",
                    fix="Drop these rows, or replace the values (np.nan_to_num, np.clip) in the "
                    "data source; a division by 0 or a logarithm of 0 is the usual cause.",
                )


def _without_a_token(data: DataSet) -> Iterator[Finding]:
    """Yield rows whose mask shows nothing: texts that were empty, or came out so."""
    for name, split in data.splits.items():
        for key, array in split.inputs.items():
            if not _is_mask(key, array, split, trim_by=data.trim_by):
                continue
            hidden = (
                1 if "padding" in key.lower() else 0
            )  # PyTorch's padding masks mark what is not
            empty_N = np.concatenate(
                [(array[a:b].reshape(b - a, -1) == hidden).all(axis=1) for a, b in _blocks(array)]
            )
            if empty_N.any():
                rows = np.flatnonzero(empty_N)
                yield Finding(
                    level="warning",
                    code="empty-texts",
                    what=f'The {name} split has rows without a token: the mask "{key}" shows '
                    "nothing of them, and a mean or a softmax over nothing is NaN.",
                    evidence=f"{len(rows):,} of {len(array):,} rows "
                    f"(first: row {', '.join(map(str, rows[:5]))}).",
                    fix="Drop these rows, or see that each text has a token: tokenizers that add "
                    "[CLS] or <s> give one even to an empty text.",
                )


def _is_mask(key: str, array: npt.NDArray[Any], split: Split, *, trim_by: str | None) -> bool:
    """Whether an input says which places of another one count."""
    if array.ndim < 2 or array.dtype.kind not in "iubf" or not array.size:
        return False
    if key != trim_by and "mask" not in key.lower():
        return False
    others = [other for name, other in split.inputs.items() if name != key]
    return any(other.shape[: array.ndim] == array.shape for other in others) and all(
        bool(np.isin(array[a:b], (0, 1)).all()) for a, b in _blocks(array)
    )


def _blocks(array: npt.NDArray[Any]) -> Iterator[tuple[int, int]]:
    """Yield first and last row of blocks that fit into memory."""
    step = max(1, _BLOCK_BYTES // max(1, array[:1].nbytes))
    for start in range(0, len(array), step):
        yield start, min(start + step, len(array))


def _row_digests(split: Split) -> list[bytes]:
    """Return 8 bytes for each row that are the same where all inputs are."""
    states = [hashlib.blake2b(digest_size=8) for _ in range(_num_read(split))]
    for _, array in sorted(split.inputs.items()):
        for start, end in _blocks(array[: len(states)]):
            rows = np.ascontiguousarray(array[start:end])
            flat = rows.reshape(end - start, -1).view(np.uint8) if rows.size else rows
            for state, row in zip(states[start:end], flat, strict=True):
                state.update(row.data)
    return [state.digest() for state in states]


def _num_read(split: Split) -> int:
    row_bytes = max(1, sum(array[:1].nbytes for array in split.inputs.values()))
    return min(len(split), max(1, _MOST_BYTES // row_bytes))


def _duplicates(data: DataSet, digests: dict[SplitName, list[bytes]]) -> Iterator[Finding]:
    """Yield rows of one split that are exact copies of another split's rows."""
    parts: list[str] = []
    leak = 0.0
    for first, second in combinations(_ORDER, 2):
        at = {digest: row for row, digest in reversed(list(enumerate(digests[first])))}
        pairs = [(row, at[digest]) for row, digest in enumerate(digests[second]) if digest in at]
        if not pairs:
            continue
        whole = set(_with_targets(digests[first], data.splits[first]))
        alike = sum(row in whole for row in _with_targets(digests[second], data.splits[second]))
        leak = max(leak, alike / len(digests[second]))
        examples = ", ".join(f"row {row} is row {copy}" for row, copy in pairs[:2])
        parts.append(
            f"{len(pairs):,} of {len(digests[second]):,} {second} rows "
            f"({len(pairs) / len(digests[second]):.1%}) are in {first}, {alike:,} of them with the "
            f"same targets ({second} {examples} of {first})"
        )
    if not parts:
        return
    counted = Counter(digests["train"])
    repeated = sum(count for count in counted.values() if count > 1)
    parts.append(f"inside train {repeated:,} rows are copies of each other")
    for name, split in data.splits.items():
        if len(digests[name]) < len(split):
            parts.append(f"only the first {len(digests[name]):,} {name} rows were read")
    yield Finding(
        level="warning" if leak >= _LEAK else "note",
        code="duplicates",
        what="The same inputs are in more than one split: figures look better than they are.",
        evidence=f"{'; '.join(parts)}.",
        fix="Drop the copies from the split that is trained or tuned on, or split so that copies "
        "stay together (a group-aware split). Where inputs have few possible values, as short "
        "texts or a handful of yes/no features do, some copies are no leak.",
    )


def _with_targets(digests: list[bytes], split: Split) -> Iterator[bytes]:
    """Yield what is the same where inputs and targets are."""
    for digest, targets_L in zip(digests, split.targets_NL, strict=False):
        yield digest + np.nan_to_num(targets_L, nan=-1.0).tobytes()


def _constant_columns(train: Split) -> Iterator[Finding]:
    """Yield columns of float tables that hold one value; token ids and pixels may."""
    for key, array in train.inputs.items():
        if array.dtype.kind != "f" or array.ndim != 2 or len(array) < 2:
            continue
        first = np.asarray(array[:1])
        varies = np.zeros(array.shape[1], dtype=np.bool_)
        for start, end in _blocks(array):
            varies |= (array[start:end] != first).any(axis=0)
        columns = np.flatnonzero(~varies)
        if len(columns):
            yield Finding(
                level="note" if len(columns) <= array.shape[1] // 2 else "warning",
                code="constant-features",
                what=f'Columns of input "{key}" hold the same value in every train row.',
                evidence=f"{len(columns):,} of {array.shape[1]:,} columns "
                f"(first: {', '.join(map(str, columns[:5]))}).",
                fix="Leave them out; where they should vary, look at what the data source reads. "
                "Scaling by their standard deviation would divide by 0.",
            )
