"""Rows that a network must be able to take, and that the first rows of the data need not hold.

The largest id of a vocabulary, and a row without any padding: what serving sends sooner or later.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from thresher_training.data import DataSet, Split

__all__ = ["full_rows", "largest_ids", "longest_that_works", "rows_of_extremes", "with_id"]

Arrays = Mapping[str, npt.NDArray[Any]]


def largest_ids(data: DataSet) -> dict[str, int]:
    """Return by input the largest id that a tokenizer, or the hashing of n-grams, can give."""
    rows = data.input_spec
    if rows is None:
        return {}
    if rows.ngrams is not None:
        return {"ngram_ids": rows.ngrams.num_buckets - 1}
    if rows.text is None or rows.text.tokenizer not in data.assets:
        return {}
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(data.assets[rows.text.tokenizer]))
    return {"input_ids": max(tokenizer.get_vocab(with_added_tokens=True).values())}


def rows_of_extremes(split: Split) -> Arrays | None:
    """Return the rows with the least and the largest number of each input of whole numbers.

    None where there is no such input. Pictures are left out: uint8 has no number to fear.
    """
    chosen: list[int] = []
    for array in split.inputs.values():
        if array.dtype.kind not in "iu" or array.dtype.itemsize == 1 or not array.size:
            continue
        by_row = array.reshape(len(array), -1)
        chosen += [int(by_row.min(axis=1).argmin()), int(by_row.max(axis=1).argmax())]
    if not chosen:
        return None
    rows = list(dict.fromkeys(chosen))
    rows += rows[:1] * (len(rows) == 1)
    return {name: array[rows] for name, array in split.inputs.items()}


def with_id(inputs: Arrays, name: str, largest: int) -> Arrays:
    """Return rows whose first number of an input is the largest id that there can be."""
    changed = inputs[name].copy()
    changed.reshape(len(changed), -1)[:, 0] = largest
    return {**inputs, name: changed}


def full_rows(inputs: Arrays, trim_by: str | None) -> Arrays | None:
    """Return rows of tokens with no padding: each row's own tokens, over and over.

    First and last token stay where they are, since a tokenizer marks a text's ends with them.

    Args:
        inputs: Rows by name.
        trim_by: The mask's name; else the one input [N, T] with "mask" in its name.

    Returns:
        None where no input [N, T] holds ids.
    """
    tables = {name: a for name, a in inputs.items() if a.ndim == 2 and a.shape[1] > 2}
    masks = [name for name in tables if name == trim_by or (trim_by is None and "mask" in name)]
    mask = tables[masks[0]] if masks else None
    ids = [
        name
        for name, a in tables.items()
        if a.dtype.kind in "iu" and name not in masks and (a > 1).any()
        if mask is None or mask.shape == a.shape
    ]
    if not ids:
        return None
    filled = dict(inputs)
    for name in ids:
        shown = _not_trailing(tables[name]) if mask is None else mask != 0
        filled[name] = np.stack(
            [_repeated(row, tokens) for row, tokens in zip(tables[name], shown, strict=True)]
        )
    for name in masks:
        filled[name] = np.ones_like(tables[name])
    return filled


def _repeated(row: npt.NDArray[Any], shown: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
    tokens = row[shown]
    if len(tokens) < 3 or shown.all():
        return row if not len(tokens) else np.resize(tokens, len(row))
    return np.concatenate([tokens[:1], np.resize(tokens[1:-1], len(row) - 2), tokens[-1:]])


def _not_trailing(ids: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return which ids stand before the run of equal ones that a row ends in, its padding."""
    is_last = ids == ids[:, -1:]
    num_equal = np.cumprod(is_last[:, ::-1], axis=1).sum(axis=1, keepdims=True)
    is_padding = np.arange(ids.shape[1]) >= ids.shape[1] - num_equal
    return np.where(num_equal > 1, ~is_padding, True)


def longest_that_works(works: Callable[[int], bool], length: int) -> int:
    """Return the largest number of columns below ``length`` that a network takes; 0 if none."""
    low, high = 0, length
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if works(middle) else (low, middle)
    return low
