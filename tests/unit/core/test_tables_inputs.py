"""Tables in memory as inputs: what fits is taken to the last digit, all else is refused by name."""

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from thresher.artifacts.input_spec import InputSpec
from thresher.errors import DataError
from thresher.tables.inputs import InputMaker
from thresher.tables.memory import memory_rows


class Tensor:
    def __init__(self, shape: tuple[int, ...], dtype: str) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)


def made(
    data: Any, shape: tuple[int, ...], dtype: str = "float32", spec: InputSpec | None = None
) -> tuple[list[Any], list[int | None], list[int] | None]:
    """Return an input, the rows that are rejected, and the rows' lengths."""
    types, (rows,) = (pair := memory_rows(data))[0], list(pair[1])
    maker = InputMaker(spec or InputSpec(), {"x": Tensor(shape, dtype)}, types, title="net")
    maker.check(types, "the table")
    found = maker.make(rows)
    lengths = None if found.lengths is None else found.lengths.tolist()
    return found.arrays["x"].tolist(), [reject.row for reject in found.rejects], lengths


def test_lists_in_memory_keep_whole_numbers_next_to_real_ones() -> None:
    cells = [[2**60 + 1, 0.5], [2**63 + 1, -1], [1, 0.5]]
    assert made({"x": cells}, (2,), "float64") == ([[1.0, 0.5]], [0, 1], None)


def test_lists_of_another_shape_are_rejected() -> None:
    cells = [[1, 2], [1, 2, 3], None, [[1, 2]], 5, "ab", [1, None], np.array([3, 4])]
    found, rejects, _ = made({"x": cells}, (2,))
    assert found == [[1, 2], [3, 4]]
    assert rejects == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("cells", [[None, None], [1.0, 2.0], ["a", "b"]])
def test_columns_without_lists_are_no_input_of_several_numbers(cells: list[Any]) -> None:
    assert made({"x": cells}, (2,)) == ([], [0, 1], None)
    with pytest.raises(DataError, match="holds 2 numbers, got 1 columns: x"):
        made(pa.table({"x": cells}), (2,))


def test_lists_of_free_length_have_the_same_lengths_from_memory_and_arrow() -> None:
    cells = [[1], [1, 2], [], None]
    expected = ([[1, 0], [1, 2]], [2, 3], [1, 2])
    assert made({"x": cells}, (-1,)) == made(pa.table({"x": cells}), (-1,)) == expected


def test_columns_of_lists_and_numbers_stand_side_by_side_from_memory_and_arrow() -> None:
    spec = InputSpec(columns={"x": ("pair", "one")}, widths={"pair": 2})
    data = {"pair": [[1, 2], [3, 4]], "one": [5, 6]}
    expected = [[1, 2, 5], [3, 4, 6]]
    for table in (data, pa.table(data), pd.DataFrame(data)):
        assert made(table, (3,), spec=spec) == (expected, [], None)


def test_the_rule_for_large_whole_numbers_is_the_spec_s_for_lists_too() -> None:
    spec = InputSpec(exact=False)
    assert made({"x": [[2**24 + 1, 1]]}, (2,), spec=spec)[0] == [[2.0**24, 1]]
    assert made({"x": [[2**24 + 1, 1]]}, (2,))[1] == [0]


def test_times_are_no_numbers() -> None:
    for cells in (np.array([5], "m8[D]"), np.array([5], "M8[D]"), [pd.Timestamp("2026-01-01")]):
        assert made({"x": cells}, (1,))[1] == [0]


@pytest.mark.parametrize(
    "column",
    [
        [2**70, 1],
        [1 + 2j],
        pd.Series(["\ud800"], dtype=object),
        pd.arrays.SparseArray([0, 1]),
        pd.Series([1, "a"], dtype=object),
    ],
)
def test_frames_that_arrow_cannot_hold_are_refused(column: Any) -> None:
    with pytest.raises(DataError, match="the table: a column"):
        made(pd.DataFrame({"x": column}), (1,))


def test_missing_cells_of_every_library_are_missing() -> None:
    cells = [pd.NA, pd.NaT, np.nan, None, np.float32("nan"), "NA", 1]
    spec = InputSpec(columns={"x": ("x",)}, fill_missing=0)
    assert made({"x": cells}, (1,), spec=spec) == ([[0]] * 6 + [[1]], [], None)


def test_one_column_and_its_flag_are_read_alike_from_memory_and_arrow() -> None:
    spec = InputSpec(columns={"x": ("a",)}, fill_missing=9, flagged={"x": ("a",)})
    data = {"a": [1.5, None, 3.0]}
    expected = [[1.5, 0], [9, 1], [3, 0]]
    for table in (data, [{"a": a} for a in data["a"]], pa.table(data), pd.DataFrame(data)):
        assert made(table, (2,), spec=spec) == (expected, [], None)
