"""Columns of numbers, lists and bytes as arrays, to the last digit or rejected."""

from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from thresher.tables.lists import list_arrays, raw_array
from thresher.tables.numbers import number_array


def made(
    cells: Any, dtype: str, fill: float | None = None, *, exact: bool = True
) -> tuple[list[Any], dict[int, str]]:
    """Return a column as a list, and the reasons of its rejects."""
    rejects: dict[int, str] = {}
    found = number_array(
        cells,
        "c",
        np.dtype(dtype),
        lambda row, why, _: rejects.update({row: why}),
        fill=fill,
        exact=exact,
    )
    return found.tolist(), rejects


def listed(cells: Any, shape: tuple[int, ...], dtype: str = "int64") -> tuple[Any, dict[int, str]]:
    rejects: dict[int, str] = {}
    found, _ = list_arrays(
        cells, "c", shape, np.dtype(dtype), lambda row, why, _: rejects.setdefault(row, why)
    )
    return found.tolist(), rejects


def test_half_infinities_are_no_whole_numbers() -> None:
    cells = pa.array(np.array([-np.inf, np.inf, 7], np.float16))
    for dtype in ("int64", "int32", "uint8"):
        found, rejects = made(cells, dtype)
        assert found == [0, 0, 7]
        assert list(rejects) == [0, 1]


@pytest.mark.parametrize("text", ["9007199254740993", "-9007199254740993", "100000000000000000001"])
def test_whole_texts_that_float64_would_round_are_rejected(text: str) -> None:
    assert list(made(pa.array([text, "1"]), "float64")[1]) == [0]
    assert list(made(pa.array([text, "NA"]), "float64", fill=0)[1]) == [0]


def test_arrow_s_own_notations_are_no_numbers() -> None:
    texts = pa.array(["0x10", "0X10", "1"])
    assert made(texts, "int64") == (
        [0, 0, 1],
        {n: f'"0{x}10" is no number' for n, x in [(0, "x"), (1, "X")]},
    )
    assert list(made(pa.array(["nan(1)", "nAn", "nan"]), "float32", fill=0)[1]) == [0, 1]


def test_decimals_are_what_their_texts_are() -> None:
    cells = pa.array([Decimal("20.49"), Decimal("0.07"), None], pa.decimal128(18, 2))
    assert made(cells, "float64", fill=0) == ([20.49, 0.07, 0.0], {})


def test_whole_decimals_keep_their_last_digit_whatever_their_scale() -> None:
    whole = Decimal("9007199254740993.00")
    for other in (Decimal("1.00"), Decimal("0.50")):
        cells = pa.array([whole, other], pa.decimal128(18, 2))
        assert made(cells, "int64")[0][0] == 9007199254740993
        assert list(made(cells, "float64")[1]) == [0]


def test_a_negative_zero_keeps_its_sign_from_texts_and_floats() -> None:
    for cells in (pa.array(["-0", "-0.0", "NA"]), pa.array([-0.0, -0.0, None])):
        found, _ = made(cells, "float32", fill=1)
        assert np.signbit(found).tolist() == [True, True, False]


def test_rounding_where_it_is_allowed_is_the_same_from_whole_numbers_and_texts() -> None:
    number = 2**60 + 2**36 + 1
    expected = [float(np.float32(np.float64(number)))]
    for cells in (pa.array([number]), pa.array([str(number)]), [number]):
        assert made(cells, "float32", exact=False) == (expected, {})


def test_numbers_too_large_for_any_kind_are_rejected_not_raised() -> None:
    cells = [10**400, "9" * 400, Decimal("1e999999"), -(10**5000)]
    for exact in (True, False):
        for dtype in ("float32", "float64", "int64"):
            assert list(made(cells, dtype, exact=exact)[1]) == [0, 1, 2, 3]


def test_leading_zeros_cost_no_digits() -> None:
    text = "0" * 60 + "9007199254740993"
    assert made([text], "int64") == made(pa.array([text]), "int64") == ([9007199254740993], {})


def test_tensors_keep_whole_numbers_next_to_a_null() -> None:
    kind = pa.fixed_shape_tensor(pa.int64(), [2, 2], permutation=[1, 0])
    storage = pa.array([[2**60 + 1, 2, 3, 4], None, [5, 6, 7, None]], pa.list_(pa.int64(), 4))
    found, rejects = listed(pa.ExtensionArray.from_storage(kind, storage), (2, 2))
    assert found[0] == [[2**60 + 1, 3], [2, 4]]
    assert list(rejects) == [1, 2]


def test_lists_of_another_depth_are_rejected() -> None:
    cells = pa.array([[[1, 2], [3, 4]]])
    assert listed(cells, (2, 2))[0] == [[[1, 2], [3, 4]]]
    for shape in ((4,), (2, 2, 1), (2, 2, 2)):
        assert "lists in 2 levels" in listed(cells, shape)[1][0]
    assert "lists in 0 levels, expected 1" in listed(pa.array([1]), (2,))[1][0]


def test_bytes_of_flags_are_zero_or_one() -> None:
    rejects: dict[int, str] = {}
    cells = pa.array([b"\0\1", b"\2\0", None], pa.binary(2))
    found = raw_array(
        cells, "c", (2,), np.dtype(bool), lambda row, why, _: rejects.update({row: why})
    )
    assert found[0].tolist() == [False, True]
    assert sorted(rejects) == [1, 2]


@pytest.mark.parametrize("kind", ["arrow", "text", "objects"])
def test_a_float_that_may_have_lost_digits_is_no_whole_number(kind: str) -> None:
    floats = [float(2**53 - 1), float(2**53), -(2.0**60), 7.0]
    cells: Any = {
        "arrow": pa.array(floats),
        "text": pa.array([f"{each:.17g}.0" if each == 7 else repr(each) for each in floats]),
        "objects": floats,
    }[kind]
    rejected: dict[int, str] = {}
    found = number_array(
        cells, "c", np.dtype(np.int64), lambda row, reason, _: rejected.update({row: reason})
    )
    assert found.tolist()[::3] == [2**53 - 1, 7]
    assert [*rejected] == [1, 2]
    assert "may have lost digits" in rejected[1]
