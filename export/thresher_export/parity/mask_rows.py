"""Rows that no real text need show, and any caller may send: of full length, of one token, of none.

What a mask leaves is summed, averaged or given to a softmax. Over nothing, a mean is 0/0 and a
softmax NaN, unless a network or an engine takes care; an empty text is all it takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from thresher_export.engines import Inputs
from thresher_export.parity.rows import Array, MadeUpRows, masks_of, real_rows, take

__all__ = ["EMPTY_ROWS", "masked_rows"]

EMPTY_ROWS = "rows without a token"
_NUM_ROWS = 4


def masked_rows(inputs: Inputs, *, seed: int = 0) -> Iterator[tuple[str, MadeUpRows]]:
    """Yield rows with a name for their kind; none where there is neither a mask nor padding.

    Args:
        inputs: Real rows by input, [N, ...].
        seed: Of the ids that are drawn; each was seen where its mask shows something.
    """
    noise = np.random.default_rng(seed)
    rows = take(inputs, list(real_rows(inputs, _NUM_ROWS))[:_NUM_ROWS])
    masks = [name for name in masks_of(inputs) if _may_be_set(name, inputs[name])]
    if masks:
        yield from _by_mask(inputs, rows, masks, noise)
        return
    padded = {name: pad for name in inputs if (pad := _padding(inputs[name])) is not None}
    if padded:
        yield from _by_padding(inputs, rows, padded, noise)


def _by_mask(
    inputs: Inputs, rows: Inputs, masks: list[str], noise: np.random.Generator
) -> Iterator[tuple[str, MadeUpRows]]:
    shape = inputs[masks[0]].shape
    shown = inputs[masks[0]] != 0
    ids = [
        name
        for name, array in inputs.items()
        if name not in masks and array.dtype.kind in "iu" and array.shape == shape
    ]
    drawn = {name: _drawn(inputs[name][shown], rows[name].shape, noise) for name in ids}
    first = {name: np.zeros_like(rows[name]) for name in masks}
    for mask in first.values():
        mask[(slice(None), *[slice(0, 1)] * (mask.ndim - 1))] = 1
    padding = {name: _hidden(inputs[name], shown, rows[name]) for name in ids}
    zeros = {name: np.zeros_like(rows[name]) for name in masks}
    ones = {name: np.ones_like(rows[name]) for name in masks}
    yield "rows of full length", _made({**rows, **drawn, **ones}, "full length")
    yield "rows with one token", _made({**rows, **drawn, **first}, "one token")
    what = f"the mask all 0 ({', '.join(masks)})"
    yield EMPTY_ROWS, _made({**rows, **padding, **zeros}, what)
    yield f"{EMPTY_ROWS}, ids in place", _made({**rows, **zeros}, what)


def _by_padding(
    inputs: Inputs, rows: Inputs, padded: dict[str, Any], noise: np.random.Generator
) -> Iterator[tuple[str, MadeUpRows]]:
    """Yield rows of inputs whose padding the network itself takes for a mask."""
    full = {
        name: _drawn(inputs[name][inputs[name] != pad], rows[name].shape, noise)
        for name, pad in padded.items()
    }
    yield "rows of full length", _made({**rows, **full}, "full length")
    empty = {name: np.full_like(rows[name], pad) for name, pad in padded.items()}
    yield EMPTY_ROWS, _made({**rows, **empty}, f"padding alone ({', '.join(padded)})")


def _made(inputs: dict[str, Array], name: str) -> MadeUpRows:
    num_rows = len(next(iter(inputs.values())))
    return MadeUpRows(inputs=inputs, names=(name,) * num_rows)


def _may_be_set(name: str, mask: Array) -> bool:
    """Whether 0 and 1 are both allowed: both were seen, or the name says that it is a mask."""
    return "mask" in name.lower() or bool(mask.any() and not mask.all())


def _drawn(seen: Array, shape: tuple[int, ...], noise: np.random.Generator) -> Array:
    """Return values that were seen, at random; zeros where none was."""
    return noise.choice(seen, shape) if seen.size else np.zeros(shape, seen.dtype)


def _hidden(array: Array, shown: Array, rows: Array) -> Array:
    """Return rows of what stands where nothing is shown; as they are where all is."""
    hidden = array[~shown]
    if not hidden.size:
        return rows
    values, counts = np.unique(hidden, return_counts=True)
    return np.full_like(rows, values[np.argmax(counts)])


def _padding(array: Array) -> Any:
    """Return the value that fills rows of ids up to one length, None where none does.

    It is the last one of some rows and stands at the end alone, from another place on in each.
    """
    if array.dtype.kind not in "iu" or array.ndim != 2 or array.shape[1] < 2:
        return None
    pad = array[np.argmax((array[:, 1:] == array[:, -1:]).sum(axis=1)), -1]
    is_pad = array == pad
    only_last = (is_pad[:, 1:] >= is_pad[:, :-1]).all()
    lengths = (~is_pad).sum(axis=1)
    return (
        pad if only_last and len(np.unique(lengths)) > 1 and is_pad[:, -2:].all(1).any() else None
    )
