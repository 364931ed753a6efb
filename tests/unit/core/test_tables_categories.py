"""One value is one category, whatever the format and kind that it comes in."""

import datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from thresher.tables.categories import (
    category_ids,
    category_of,
    distinct_categories,
    holds_categories,
)


def _never(row: int, reason: str, column: str | None) -> None:
    raise AssertionError(reason)


@pytest.mark.parametrize(
    ("category", "cells"),
    [
        ("1", [1, 1.0, "1", "1.0", np.int8(1), np.float32(1), Decimal("1.0")]),
        ("0", [0, 0.0, -0.0, "0", "-0", "-0.0"]),
        ("true", [True, "True", "TRUE", np.bool_(True)]),
        ("0.1", [0.1, "0.1", np.float32(0.1)]),
        ("1.5e-07", [1.5e-7, "1.5e-07", "1.5e-7", np.float32(1.5e-7)]),
        ("10000000000000000", [10**16, 1e16, "1e+16", "10000000000000000"]),
        ("01", ["01"]),
        ("1e5", ["1e5"]),
        (" a", [" a"]),
        (None, [None, float("nan"), "", " NA ", "?"]),
    ],
)
def test_one_value_is_one_category(category: str | None, cells: list[Any]) -> None:
    assert {category_of(cell) for cell in cells} == {category}


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64()])
def test_floats_are_categories_by_their_shortest_digits(kind: Any) -> None:
    cells = pa.array(np.array([0.1, 2.0, np.nan], kind.to_pandas_dtype()))
    assert distinct_categories(cells, "c", _never) == {"0.1", "2"}
    assert category_ids(cells, "c", ("0.1",), _never).tolist() == [2, 0, 1]


def test_ids_are_the_same_from_plain_encoded_and_single_cells() -> None:
    texts = ["b", None, "a", "new", "NA", "b"]
    expected = [3, 1, 2, 0, 1, 3]
    plain = pa.array(texts)
    for cells in (plain, plain.dictionary_encode(), plain.cast(pa.large_binary()), texts):
        assert category_ids(cells, "c", ("a", "b"), _never).tolist() == expected
    assert category_ids(plain[:0], "c", ("a",), _never).tolist() == []


def test_times_and_lists_are_no_categories_and_dates_are() -> None:
    date, when = datetime.date(2026, 3, 1), datetime.datetime(2026, 3, 1)  # noqa: DTZ001
    rejected = {}
    cells = [date, "2026-03-01", when, np.datetime64(when), datetime.timedelta(1), ["a"]]
    found = category_ids(
        cells, "c", ("2026-03-01",), lambda row, reason, _: rejected.update({row: reason})
    )
    assert found[:2].tolist() == [2, 2]
    assert [*rejected] == [2, 3, 4, 5]
    assert rejected[2] == "a datetime, expected a text, a number or a date"
    assert category_ids(pa.array([date]), "c", ("2026-03-01",), _never).tolist() == [2]
    assert holds_categories(pa.date32())
    assert not holds_categories(pa.timestamp("s"))
