"""Comparisons on rows that no split has: random, extreme, at other sizes of the free axes."""

from __future__ import annotations

import numpy as np

from thresher.agreement import Outputs
from thresher.decision import FloatArray
from thresher.errors import DataError
from thresher_export.engines import Inputs
from thresher_export.parity.axes import further_axes
from thresher_export.parity.comparisons import Comparisons
from thresher_export.parity.mask_rows import EMPTY_ROWS, masked_rows
from thresher_export.parity.rows import (
    LARGE,
    MadeUpRows,
    at_size,
    extreme_rows,
    not_a_number_rows,
    random_rows,
    sizes_of,
)

__all__ = ["compare_beyond_the_splits"]

_EMPTY = (
    "An empty text comes as such a row, and would be decided otherwise than by torch. Guard the "
    "step in forward that divides by, or takes a softmax over, what the mask leaves (torch.where, "
    "clamp(min=1)), or let one token of each row be seen there; then train and export again"
)


def compare_beyond_the_splits(comparisons: Comparisons, real: Inputs) -> None:
    """Compare on made-up rows and at other sizes of every further axis; torch is needed.

    Args:
        comparisons: Takes the outcome.
        real: Real rows, which say what inputs look like.
    """
    if comparisons.torch is None:
        comparisons.notes.append(
            "Small batches, made-up rows, other sizes of axes and the comparison node by node were "
            "left out: the body is that of a version that was proven in all of them, byte for byte"
        )
        return
    _compare(comparisons, "random rows", random_rows(real))
    reach = LARGE if comparisons.precision == "fp32" else 1.0  # FP16 ends at 65,504
    _compare(comparisons, "extreme rows", extreme_rows(real, reach=reach))
    for name, made in masked_rows(real):
        _compare(comparisons, name, made, advice=_EMPTY if name.startswith(EMPTY_ROWS) else "")
    for axis in further_axes(comparisons.proto, comparisons.torch.program):
        name, place = next(iter(axis.inputs.items()))
        for size in sizes_of(real[name].shape[place], low=axis.low, high=axis.high):
            inputs = at_size(real, axis.inputs, size)
            made = MadeUpRows(inputs=inputs, names=(), is_unlike=False)
            _compare(comparisons, f"{axis.name} of size {size}", made)
    _note_what_is_not_a_number(comparisons, real)


def _compare(comparisons: Comparisons, name: str, made: MadeUpRows, *, advice: str = "") -> None:
    """Compare on made-up rows; what torch itself refuses is noted.

    Args:
        comparisons: Takes the outcome.
        name: Of the kind of rows.
        made: The rows.
        advice: What to do where they differ.
    """
    assert comparisons.torch is not None
    try:
        logits_NL = comparisons.torch.logits(made.inputs, batch_size=comparisons.max_batch_size)
    except DataError as error:
        what = "such rows" if made.is_unlike else "this size"
        comparisons.notes.append(f"{name}: left out, torch itself refuses {what}: {error!s:.300}")
        return
    for provider, engine in comparisons.engines.items():
        comparisons.add(
            f"{name}: torch = {provider.name}",
            lambda: (
                Outputs.of_logits(logits_NL, comparisons.decision),
                engine.run(made.inputs, batch_size=comparisons.max_batch_size),  # noqa: B023
            ),
            inputs=made.inputs,
            rows="made up",
            provider=provider,
            made_up=made,
            advice=advice,
        )
    if np.isnan(logits_NL).any():
        comparisons.notes.append(
            f"{name}: torch itself gives NaN, and so does what is served: a client that sends such "
            "a row gets an error, and a scoring job rejects it"
        )


def _note_what_is_not_a_number(comparisons: Comparisons, real: Inputs) -> None:
    """Note what NaN and infinity in an input give; engines' operators may differ in it."""
    assert comparisons.torch is not None
    made = not_a_number_rows(real)
    if made is None:
        return
    try:
        logits_NL = comparisons.torch.logits(made.inputs, batch_size=len(made.names))
    except DataError:
        return
    for provider, engine in comparisons.engines.items():
        got = engine.run(made.inputs, batch_size=len(made.names)).logits_NL
        if got is None:
            continue
        same = _finiteness(logits_NL) == _finiteness(got)
        differ = [n for n, row in zip(made.names, same, strict=True) if not row.all()]
        said = f"differ for {', '.join(differ)}" if differ else "are alike, label by label"
        comparisons.notes.append(
            f"NaN and infinity in an input, not judged: torch's and {provider.name}'s finite, "
            f"infinite and NaN logits {said}"
        )


def _finiteness(logits_NL: FloatArray) -> FloatArray:
    """Return 0 for finite, 1 and -1 for infinite values, 2 for NaN."""
    sign_NL = np.where(np.isinf(logits_NL), np.sign(logits_NL), 0)
    return np.asarray(np.where(np.isnan(logits_NL), 2, sign_NL), dtype=np.float32)
