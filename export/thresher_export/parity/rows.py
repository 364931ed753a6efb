"""Rows that no split has: random, extreme, cut to other lengths; and which real rows stand out.

Made-up rows stay inside what the real rows show of integer inputs: an id that is not in the
vocabulary fails in any engine. Masks are never made up: they come with the rows they belong to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from thresher_export.engines import Inputs

__all__ = [
    "LARGE",
    "MadeUpRows",
    "at_size",
    "extreme_rows",
    "masks_of",
    "not_a_number_rows",
    "random_rows",
    "real_rows",
    "sizes_of",
    "take",
]

Array = npt.NDArray[Any]

NUM_RANDOM = 64
LARGE = 1e3
"""How much larger than any real one a large float is."""

_DENORMAL = 1e-40

_MAX_VALUES = 2**25
"""Of so many values an input's columns are made out; of a larger input every few rows."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MadeUpRows:
    """Rows with a name for each."""

    inputs: Mapping[str, Array]
    names: tuple[str, ...]
    is_unlike: bool = True
    """Whether they are unlike real ones, rather than real ones cut or stretched."""


def take(inputs: Inputs, rows: Any) -> dict[str, Array]:
    """Return some rows of every input."""
    return {name: array[rows] for name, array in inputs.items()}


def masks_of(inputs: Inputs) -> list[str]:
    """Return the inputs that mark which values of another one count, the likeliest first.

    A mask holds 0 and 1, as integers, booleans or (where it goes with integers) as floats, and has
    the shape of another input, or of its first axes: frames [N, T, F] go with a mask [N, T].
    """
    found = []
    for name, array in inputs.items():
        others = [
            other
            for key, other in inputs.items()
            if key != name and other.shape[: array.ndim] == array.shape
        ]
        kinds = "iubf" if any(other.dtype.kind in "iu" for other in others) else "iub"
        if not others or array.ndim < 2 or array.dtype.kind not in kinds or not array.size:
            continue
        if np.isin(array, (0, 1)).all():
            found.append(name)
    return sorted(found, key=lambda name: ("mask" not in name.lower(), name))


def random_rows(inputs: Inputs, *, seed: int = 0) -> MadeUpRows:
    """Return rows of values that real ones have, each column drawn by itself.

    Floats lie three times as far from their column's mean as the real value that was drawn; whole
    numbers (ids, yes or no, counts, also where they come as floats) stay inside what their column
    shows, and pictures (uint8) are noise.

    Args:
        inputs: Real rows by input, [N, ...].
        seed: Of the noise.
    """
    noise = np.random.default_rng(seed)
    num_rows = min(NUM_RANDOM, max(8, len(next(iter(inputs.values())))))
    base = _repeated(inputs, num_rows, noise)
    masks = masks_of(inputs)
    made = {}
    for name, array in inputs.items():
        rows = base[name]
        if name in masks or array.dtype.kind not in "fiub":
            made[name] = rows
        elif array.dtype.kind == "f":
            made[name] = _random_floats(array, rows.shape, noise)
        else:
            low, high = _range(array, is_sequence=_is_sequence(inputs, name, masks))
            drawn = noise.integers(low, high, rows.shape, endpoint=True).astype(array.dtype)
            made[name] = _where_shown(drawn, rows, base, masks, name)
    return MadeUpRows(inputs=made, names=tuple(f"random {row}" for row in range(num_rows)))


def extreme_rows(inputs: Inputs, *, reach: float = LARGE) -> MadeUpRows:
    """Return rows at the ends of what each input can hold.

    Floats: zero, denormal, large (``reach`` times the column's largest real one) of either sign
    and of alternating signs; columns of whole numbers at the ends of what they show. Pictures
    (uint8): 0, 255, alternating. Integers: the smallest and the largest value seen, and both in
    turn. Masks: the shortest and the longest real row.

    Args:
        inputs: Real rows by input, [N, ...].
        reach: How much larger than the largest real one a large float is.
    """
    masks = masks_of(inputs)
    num_real = len(next(iter(inputs.values())))
    ends = [0, num_real - 1]
    if masks:
        length_N = inputs[masks[0]].reshape(num_real, -1).sum(axis=1)
        ends = [int(np.argmin(length_N)), int(np.argmax(length_N))]
    kinds = ["zero", "denormal", "large", "large, negative", "large, alternating"]
    if not any(array.dtype.kind == "f" for array in inputs.values()):
        kinds = ["smallest", "largest", "alternating"]
    columns = {
        name: _extremes(array, kinds, reach, is_sequence=_is_sequence(inputs, name, masks))
        for name, array in inputs.items()
        if name not in masks and array.dtype.kind in "fiub"
    }
    parts: list[dict[str, Array]] = []
    names = []
    for end, length in zip(ends, ("shortest", "longest"), strict=True):
        real = take(inputs, [end])
        for at, kind in enumerate(kinds):
            parts.append(
                {
                    name: _where_shown(columns[name][at][None], array, real, masks, name)
                    if name in columns
                    else array
                    for name, array in real.items()
                }
            )
            names.append(f"{kind} in the {length} row" if masks else kind)
        if not masks:
            break
    made = {name: np.concatenate([part[name] for part in parts]) for name in inputs}
    return MadeUpRows(inputs=made, names=tuple(names))


def not_a_number_rows(inputs: Inputs) -> MadeUpRows | None:
    """Return rows with one NaN, +infinity, -infinity; None where no input is float."""
    at = next((n for n, a in inputs.items() if a.dtype.kind == "f" and a.size), None)
    if at is None:
        return None
    values = (np.nan, np.inf, -np.inf)
    made = {name: np.repeat(array[:1], len(values), axis=0) for name, array in inputs.items()}
    made[at] = made[at].copy()
    made[at].reshape(len(values), -1)[:, 0] = values
    return MadeUpRows(inputs=made, names=("NaN", "infinity", "-infinity"))


def sizes_of(logged: int, *, low: int, high: int | None) -> list[int]:
    """Return sizes at which to try an axis: the shortest, an odd one, as logged, and longer.

    Args:
        logged: Its size in real rows.
        low: The smallest that the program takes.
        high: The largest, None where there is no end.
    """
    wanted = (max(1, low), max(3, low), max(1, logged // 2) | 1, logged, logged + logged // 2 + 1)
    return sorted({size for size in wanted if size >= low and (high is None or size <= high)})


def at_size(inputs: Inputs, axes: Mapping[str, int], size: int) -> dict[str, Array]:
    """Return rows with an axis cut or stretched to a size.

    Rows whose mask shows no more than ``size`` places lose padding only and come first; where there
    are none, the shortest are cut. Stretching repeats the last place, which a mask hides.

    Args:
        inputs: Real rows.
        axes: Which axis of which inputs has the size.
        size: At least 1.
    """
    masks = [name for name in masks_of(inputs) if name in axes]
    rows: Any = slice(None)
    if masks:
        length_N = inputs[masks[0]].reshape(len(inputs[masks[0]]), -1).sum(axis=1)
        fitting = np.flatnonzero(length_N <= size)
        rows = fitting if len(fitting) else np.argsort(length_N, kind="stable")
        rows = rows[:32]
    else:
        rows = slice(0, 32)
    made = {}
    for name, array in inputs.items():
        values = array[rows]
        if name in axes:
            axis, old = axes[name], array.shape[axes[name]]
            values = np.take(values, np.minimum(np.arange(size), old - 1), axis=axis)
            if name in masks and size > old:
                beyond = [slice(None)] * values.ndim
                beyond[axis] = slice(old, None)
                values[tuple(beyond)] = 0
        made[name] = np.ascontiguousarray(values)
    return made


def _repeated(inputs: Inputs, num_rows: int, noise: np.random.Generator) -> dict[str, Array]:
    """Return real rows drawn at random."""
    num_real = len(next(iter(inputs.values())))
    return take(inputs, noise.integers(0, num_real, num_rows))


def _is_sequence(inputs: Inputs, name: str, masks: list[str]) -> bool:
    """Whether an input's places share one vocabulary, as a mask of its shape says."""
    return any(inputs[mask].shape == inputs[name].shape for mask in masks)


def _range(array: Array, *, is_sequence: bool) -> tuple[Array, Array]:
    """Return the ends of an integer input, column by column, [...].

    Columns of a table may each have a vocabulary of their own; a sequence's places share one, and
    pixels take all of uint8.
    """
    if array.dtype == np.uint8 and array.ndim > 2:
        return np.asarray(0), np.asarray(255)
    axis = None if is_sequence else 0
    return np.asarray(array.min(axis=axis)), np.asarray(array.max(axis=axis))


def _random_floats(array: Array, shape: tuple[int, ...], noise: np.random.Generator) -> Array:
    """Return real values, each column's drawn by itself, whole numbers as they are, others far."""
    seen = _seen(array)
    at = noise.integers(0, len(seen), shape)
    drawn = np.take_along_axis(seen, at, axis=0)
    centre = seen.mean(axis=0)
    values = np.where(_is_whole(seen), drawn, centre + 3 * (drawn - centre))
    return _fitting(values, array.dtype)


def _seen(array: Array) -> npt.NDArray[np.float64]:
    """Return a float input's values, NaN and infinity as 0."""
    few = array[:: max(1, array.size // _MAX_VALUES)]
    return np.where(np.isfinite(few), few, 0).astype(np.float64)


def _is_whole(seen: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Return bool [...]: whether a column holds whole numbers alone."""
    return np.asarray((seen == np.round(seen)).all(axis=0))


def _fitting(values: npt.NDArray[np.float64], dtype: np.dtype[Any]) -> Array:
    """Return floats in another type; what would be infinite there is the largest finite one."""
    most = float(np.finfo(dtype).max)
    return np.clip(values, -most, most).astype(dtype)


def _where_shown(
    values: Array, real: Array, base: Mapping[str, Array], masks: list[str], name: str
) -> Array:
    """Return made-up values where the mask shows them, and the real padding elsewhere."""
    if (
        masks
        and name not in masks
        and real.dtype.kind in "iu"
        and (base[masks[0]].shape == real.shape)
    ):
        return np.where(base[masks[0]] != 0, values, real).astype(real.dtype)
    return values


def _extremes(array: Array, kinds: list[str], reach: float, *, is_sequence: bool) -> list[Array]:
    """Return one input's rows [...] at the ends of its range, one for each kind."""
    shape = array.shape[1:]
    alternating = np.arange(int(np.prod(shape))).reshape(shape) % 2 == 0
    if array.dtype.kind == "f":
        seen = _seen(array)
        low, high = seen.min(axis=0), seen.max(axis=0)
        # a column that is 0 throughout stays so: nothing says how large it could be
        large = np.where(_is_whole(seen), high, reach * np.maximum(np.abs(low), np.abs(high)))
        small = np.where(_is_whole(seen), low, -large)
        nearest = np.clip(0.0, low, high)  # to zero, of what the column shows
        zero = np.where(_is_whole(seen), nearest, 0.0)
        values = {"zero": zero, "denormal": np.where(_is_whole(seen), nearest, _DENORMAL)}
    else:
        small, large = _range(array, is_sequence=is_sequence)
        values = {"zero": small, "denormal": small}
    values |= {"smallest": small, "largest": large, "large": large, "large, negative": small}
    between = np.where(alternating, large, small)
    rows = [np.broadcast_to(values.get(kind, between), shape) for kind in kinds]
    if array.dtype.kind == "f":
        return [_fitting(row, array.dtype) for row in rows]
    return [row.astype(array.dtype) for row in rows]


def real_rows(inputs: Inputs, at_most: int) -> Iterator[int]:
    """Yield row numbers spread evenly over the rows."""
    num_rows = len(next(iter(inputs.values())))
    yield from range(0, num_rows, max(1, -(-num_rows // at_most)))
