"""What one cell means: a number, a yes or no, or nothing. The one definition for every reader.

Arrow columns take faster ways in `thresher.tables.numbers`; they give what these functions give.
"""

from __future__ import annotations

import datetime
import decimal
import math
import re
from typing import Any

import numpy as np

__all__ = [
    "MISSING",
    "ROUNDED",
    "as_dtype",
    "as_flag",
    "as_number",
    "exactly_held",
    "is_missing",
    "shown",
]

MISSING = (
    *("", "NA", "N/A", "n/a", "<NA>", "#N/A", "#NA", "NaN", "nan", "NAN", "-NaN", "-nan"),
    *("null", "NULL", "Null", "None", "?"),
)
"""Texts that mean "no value", in number, label and category cells: pandas', R's and ARFF's."""

_MISSING = frozenset(MISSING)
_WHOLE = re.compile(r"[+-]?[0-9]+", re.ASCII)
_REAL = re.compile(
    r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?(inf|infinity|nan)",
    re.ASCII | re.IGNORECASE,
)
ROUNDED = 2.0**53
"""From here on, float64 does not hold every whole number."""
_FLOAT_DIGITS = 309
"""A whole number with more digits is too large for any kind."""
_TIMES = (datetime.date, datetime.time, datetime.timedelta, np.datetime64, np.timedelta64)
_FLAGS = {"true": 1, "false": 0}
_ANSWERS = _FLAGS | {"yes": 1, "no": 0, "t": 1, "f": 0, "y": 1, "n": 0}


def shown(cell: object) -> str:
    """Return a cell as messages quote it: at most 40 characters, control characters escaped."""
    if isinstance(cell, int) and abs(cell) > 10**_FLOAT_DIGITS:
        return f"10^{_FLOAT_DIGITS} or more"  # Python may refuse to write it
    text = cell.decode(errors="replace") if isinstance(cell, bytes) else str(cell)
    text = text if len(text) <= 40 else f"{text[:39]}…"
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def is_missing(cell: object) -> bool:
    """Return whether a cell holds no value: None, NaN, NaT, or a text such as "" and "NA"."""
    if cell is None:
        return True
    if isinstance(cell, str):
        return cell.strip() in _MISSING
    if isinstance(cell, (float, np.floating)):
        return math.isnan(cell)
    if isinstance(cell, decimal.Decimal):
        return cell.is_nan()
    return type(cell).__name__ in ("NAType", "NaTType")  # pandas', which need not be installed


def as_number(cell: object) -> int | float:
    """Return the number in a cell: whole ones as int, to the last digit; NaN stays NaN.

    ``true`` and ``false`` are 1 and 0. Digits are ASCII, without separators: what one reader
    takes for a number and another does not is none.

    Raises:
        ValueError: If it is none; the message says what it is.
    """
    if isinstance(cell, (bool, np.bool_)):
        return int(cell)
    if isinstance(cell, _TIMES):  # before whole numbers: NumPy counts its timedelta64 among them
        reason = f'"{shown(cell)}" is a date or time, no number'
        raise ValueError(reason)  # noqa: TRY004 - the documented one
    if isinstance(cell, (int, np.integer)):
        return int(cell)
    if isinstance(cell, (float, np.floating)):
        return float(cell)
    if isinstance(cell, decimal.Decimal):
        is_whole = cell.is_finite() and cell == cell.to_integral_value()
        return int(cell) if is_whole and cell.adjusted() < _FLOAT_DIGITS else float(cell)
    if isinstance(cell, str):
        number = _number_in(cell.strip())
        if number is not None:
            return number
        reason = f'"{shown(cell)}" is no number'
    else:
        reason = f"a {type(cell).__name__} is no number"
    raise ValueError(reason)


def _number_in(text: str) -> int | float | None:
    """Return the number that a text is; None where it is none."""
    if _WHOLE.fullmatch(text):
        digits = text.lstrip("+-0")
        is_negative = text.startswith("-")
        if not digits:  # Arrow writes the float -0.0 as -0
            return -0.0 if is_negative else 0
        if len(digits) > _FLOAT_DIGITS:  # int() of a very long text is slow, and refused
            return -math.inf if is_negative else math.inf
        return -int(digits) if is_negative else int(digits)
    if _REAL.fullmatch(text):
        return float(text)
    return _FLAGS.get(text.lower())


def as_flag(cell: object) -> float:
    """Return a label's target: 1.0, 0.0, NaN where it is missing; soft targets between them.

    Numbers, true/false, t/f, yes/no and y/n, in any case.

    Raises:
        ValueError: If it is none of these.
    """
    if is_missing(cell):
        return math.nan
    if isinstance(cell, str) and cell.strip().lower() in _ANSWERS:
        return float(_ANSWERS[cell.strip().lower()])
    try:
        value = float(as_number(cell))
    except ValueError:
        raise ValueError(f'"{shown(cell)}", expected 0, 1 or nothing') from None
    if not 0 <= value <= 1:
        raise ValueError(f"{value:g}, expected 0, 1 or nothing")
    return value


def exactly_held(whole: int, dtype: np.dtype[Any]) -> bool:
    """Return whether a floating-point kind holds a whole number to the last digit."""
    if whole == 0:
        return True
    size = abs(whole)
    bits = size.bit_length() - ((size & -size).bit_length() - 1)
    return bits <= np.finfo(dtype).nmant + 1 and size <= float(np.finfo(dtype).max)


def as_dtype(number: int | float, dtype: np.dtype[Any], *, exact: bool = True) -> Any:
    """Return a number as a model's input holds it.

    Args:
        number: NaN is none.
        dtype: The input's kind.
        exact: Whether a whole number is refused that a floating-point kind would round, or may
            have rounded before. Other numbers are rounded to the nearest.

    Raises:
        ValueError: If the kind cannot hold it; the message says why.
    """
    if isinstance(number, float) and math.isnan(number):
        raise ValueError("NaN, expected a number")
    if dtype.kind in "iu":
        bounds = np.iinfo(dtype)
        is_whole = isinstance(number, int) or (math.isfinite(number) and number == int(number))
        if not is_whole or not bounds.min <= number <= bounds.max:
            raise ValueError(f"{shown(number)} is no {dtype}")
        if exact and isinstance(number, float) and abs(number) >= ROUNDED:
            raise ValueError(
                f"{shown(number)} is a floating-point number, which may have lost digits of a "
                f"whole one, expected {dtype}"
            )
        return dtype.type(int(number))
    if dtype.kind == "b":
        if number not in (0, 1):
            raise ValueError(f"{shown(number)} is neither 0 nor 1")
        return np.bool_(number)
    if isinstance(number, int) and exact and not exactly_held(number, dtype):
        raise ValueError(
            f"the whole number {shown(number)} cannot be held by {dtype} without rounding"
        )
    try:
        # by way of float64, as columns go: one rounding more could move the last bit
        wide = np.float64(number)
    except OverflowError:  # a whole number of more than 309 digits
        wide = np.float64(math.inf)
    with np.errstate(over="ignore"):
        found = dtype.type(wide)
    if not np.isfinite(found):
        raise ValueError(
            "infinite"
            if number in (math.inf, -math.inf)
            else f"{shown(number)} is too large for {dtype}"
        )
    return found
