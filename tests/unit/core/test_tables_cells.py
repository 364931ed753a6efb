"""What one cell means."""

import datetime
import decimal
import math
from typing import Any

import numpy as np
import pytest

from thresher.tables.cells import MISSING, as_dtype, as_flag, as_number, is_missing, shown


@pytest.mark.parametrize(
    ("cell", "number"),
    [
        ("9223372036854775809", 2**63 + 1),
        (" 7\t", 7),
        ("+1", 1),
        ("1.", 1.0),
        (".5", 0.5),
        ("1E+05", 1e5),
        ("true", 1),
        (True, 1),
        ("0" * 100 + "7", 7),
        (decimal.Decimal("9007199254740993.00"), 2**53 + 1),
        (np.uint64(2**64 - 1), 2**64 - 1),
    ],
)
def test_numbers(cell: Any, number: float) -> None:
    assert as_number(cell) == number
    assert type(as_number(cell)) is type(number)


@pytest.mark.parametrize(
    "cell",
    [
        *("1_000", "1,5", "0x10", "\u0661\u0662", "1e", ".", "yes", "--1", "nan(1)", "1 2"),
        *(b"1", [1], 1j, datetime.date(2026, 1, 1)),
        *(np.timedelta64(5, "D"), np.datetime64("2026-01-01")),
    ],
)
def test_what_is_no_number(cell: Any) -> None:
    with pytest.raises(ValueError, match="no number"):
        as_number(cell)


def test_a_negative_zero_in_digits_is_the_float_s() -> None:
    assert math.copysign(1, as_number("-0")) == -1
    assert as_dtype(as_number("-0"), np.dtype(np.int64)) == 0


def test_missing() -> None:
    for cell in (*MISSING, " NA ", None, math.nan, np.float16("nan"), decimal.Decimal("sNaN")):
        assert is_missing(cell)
    for cell in ("0", 0, False, "none of these", "-", "nAn", b"", []):
        assert not is_missing(cell)


@pytest.mark.parametrize(
    ("number", "dtype"),
    [
        (2**24 + 1, "float32"),
        (2**53 + 1, "float64"),
        (2049, "float16"),
        (65520, "float16"),
        (1e39, "float32"),
        (math.inf, "float64"),
        (math.nan, "float32"),
        (math.nan, "int64"),
        (256, "uint8"),
        (-1, "uint64"),
        (2.0**63, "int64"),
        (0.5, "int32"),
        (2, "bool"),
        (10**400, "float64"),
    ],
)
def test_what_a_kind_cannot_hold_is_refused(number: float, dtype: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        as_dtype(number, np.dtype(dtype))


def test_flags() -> None:
    assert [as_flag(cell) for cell in ("Yes", "n", "1.0", True, 0.25)] == [1, 0, 1, 1, 0.25]
    assert math.isnan(as_flag("NA"))
    for cell in ("2", -1, "maybe", math.inf):
        with pytest.raises(ValueError, match="expected 0, 1 or nothing"):
            as_flag(cell)


def test_cells_are_shown_in_one_line_without_control_characters() -> None:
    assert shown("a\x1b[1m\nb") == "a\\x1b[1m\\nb"
    assert len(shown("x" * 999)) == 40
    assert shown(10**5000) == "10^309 or more"
