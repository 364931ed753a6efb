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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MadeUpRows:
    """Rows with a name for each, and how much larger than real ones they are."""

    inputs: Mapping[str, Array]
    names: tuple[str, ...]
    magnitude_N: npt.NDArray[np.float64]
    """1 or more: the largest absolute float over the largest one in real rows."""
    is_unlike: bool = True
    """Whether they are unlike real ones, rather than real ones cut or stretched."""


def take(inputs: Inputs, rows: Any) -> dict[str, Array]:
    """Return some rows of every input."""
    return {name: array[rows] for name, array in inputs.items()}


def masks_of(inputs: Inputs) -> list[str]:
    """Return the inputs that mark which values of another one count, the likeliest first.

    A mask holds integers 0 and 1, has the shape of another input, and shows something in each row.
    """
    found = []
    for name, array in inputs.items():
        is_alike = any(other.shape == array.shape for key, other in inputs.items() if key != name)
        if not is_alike or array.ndim < 2 or array.dtype.kind not in "iub" or not array.size:
            continue
        if array.min() >= 0 and array.max() <= 1:
            found.append(name)
    return sorted(found, key=lambda name: ("mask" not in name.lower(), name))


def random_rows(inputs: Inputs, *, seed: int = 0) -> MadeUpRows:
    """Return rows of noise: floats three times as wide as real ones, integers from their range.

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
            real = array[np.isfinite(array)].astype(np.float64)
            spread, centre = (real.std(), real.mean()) if real.size else (1.0, 0.0)
            values = noise.normal(centre, 3 * spread or 1.0, rows.shape)
            made[name] = values.astype(array.dtype)
        else:
            low, high = _range(array)
            values = noise.integers(low, high, rows.shape, endpoint=True).astype(array.dtype)
            made[name] = _where_shown(values, rows, base, masks, name)
    names = tuple(f"random {row}" for row in range(num_rows))
    return MadeUpRows(inputs=made, names=names, magnitude_N=_magnitude(inputs, made))


def extreme_rows(inputs: Inputs, *, reach: float = LARGE) -> MadeUpRows:
    """Return rows at the ends of what each input can hold.

    Floats: zero, denormal, large (``reach`` times the largest real one) of either sign and of
    alternating signs. Pictures (uint8): 0, 255, alternating. Other integers: the smallest and the
    largest value seen, and both in turn. Masks: the shortest and the longest real row.

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
    parts: list[dict[str, Array]] = []
    names = []
    for end, length in zip(ends, ("shortest", "longest"), strict=True):
        real = take(inputs, [end])
        for kind in kinds:
            parts.append(
                {
                    name: array
                    if name in masks
                    else _where_shown(
                        _extreme(inputs[name], array, kind, reach), array, real, masks, name
                    )
                    for name, array in real.items()
                }
            )
            names.append(f"{kind} in the {length} row" if masks else kind)
        if not masks:
            break
    made = {name: np.concatenate([part[name] for part in parts]) for name in inputs}
    return MadeUpRows(inputs=made, names=tuple(names), magnitude_N=_magnitude(inputs, made))


def not_a_number_rows(inputs: Inputs) -> MadeUpRows | None:
    """Return rows with one NaN, +infinity, -infinity; None where no input is float."""
    at = next((n for n, a in inputs.items() if a.dtype.kind == "f" and a.size), None)
    if at is None:
        return None
    values = (np.nan, np.inf, -np.inf)
    made = {name: np.repeat(array[:1], len(values), axis=0) for name, array in inputs.items()}
    made[at] = made[at].copy()
    made[at].reshape(len(values), -1)[:, 0] = values
    return MadeUpRows(
        inputs=made, names=("NaN", "infinity", "-infinity"), magnitude_N=np.ones(len(values))
    )


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


def _range(array: Array) -> tuple[int, int]:
    """Return the ends of an integer input: all of uint8, else what real rows show."""
    if array.dtype == np.uint8:
        return 0, 255
    return int(array.min()), int(array.max())


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


def _extreme(seen: Array, row: Array, kind: str, reach: float) -> Array:
    """Return one input's row at an end of its range."""
    alternating = np.arange(row.size).reshape(row.shape) % 2 == 0
    if seen.dtype.kind == "f":
        finite = seen[np.isfinite(seen)]
        large = reach * max(float(np.abs(finite).max(initial=0.0)), 1.0)
        if seen.dtype == np.float16:
            large = min(large, 6e4)
        value: Any = {
            "zero": 0.0,
            "denormal": _DENORMAL,
            "large": large,
            "large, negative": -large,
            "large, alternating": np.where(alternating, large, -large),
        }[kind]
        return np.broadcast_to(np.asarray(value, dtype=np.float64), row.shape).astype(seen.dtype)
    if seen.dtype.kind not in "iub":
        return row
    low, high = _range(seen)
    value = {
        "smallest": low,
        "zero": low,
        "denormal": low,
        "largest": high,
        "large": high,
        "large, negative": low,
    }.get(kind, np.where(alternating, high, low))
    return np.broadcast_to(np.asarray(value), row.shape).astype(seen.dtype)


def _magnitude(real: Inputs, made: Inputs) -> npt.NDArray[np.float64]:
    """Return float64 [N]: how much larger a row's floats are than any real one's, 1 or more."""
    num_rows = len(next(iter(made.values())))
    factor_N = np.ones(num_rows)
    for name, array in made.items():
        if array.dtype.kind != "f" or not array.size:
            continue
        seen = real[name][np.isfinite(real[name])]
        largest = float(np.abs(seen).max(initial=0.0)) or 1.0
        row_N = np.abs(array.astype(np.float64)).reshape(num_rows, -1).max(axis=1)
        factor_N = np.maximum(factor_N, row_N / largest)
    return factor_N


def real_rows(inputs: Inputs, at_most: int) -> Iterator[int]:
    """Yield row numbers spread evenly over the rows."""
    num_rows = len(next(iter(inputs.values())))
    yield from range(0, num_rows, max(1, -(-num_rows // at_most)))
