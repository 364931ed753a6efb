"""A user's own rows for `thresher verify --data`."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from onnx import ModelProto, TensorProto, helper

from thresher.errors import DataError, NotFoundError
from thresher_export.rows_file import read_rows

LABELS = ("sun", "rain")


def model(**inputs: tuple[int, list[object]]) -> ModelProto:
    values = [
        helper.make_tensor_value_info(name, kind, ["batch", *dims])
        for name, (kind, dims) in inputs.items()
    ]
    return helper.make_model(helper.make_graph([], "g", values, []))


FEATURES = model(features=(TensorProto.FLOAT, [3]))
TEXTS = model(
    input_ids=(TensorProto.INT64, ["sequence"]), attention_mask=(TensorProto.INT64, ["sequence"])
)


@pytest.mark.parametrize("prefix", ["", "input/"])
def test_npz_gives_inputs_in_the_models_kind_and_targets(tmp_path: Path, prefix: str) -> None:
    path = tmp_path / "rows.npz"
    np.savez(path, **{f"{prefix}features": np.arange(6.0).reshape(2, 3)}, targets=np.eye(2))
    rows = read_rows(path, FEATURES, LABELS)
    assert rows.inputs["features"].dtype == np.float32
    np.testing.assert_array_equal(rows.inputs["features"], [[0, 1, 2], [3, 4, 5]])
    assert rows.targets_NL is not None
    np.testing.assert_array_equal(rows.targets_NL, np.eye(2))


def test_parquet_gives_lists_as_rows_and_a_column_for_each_label(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    columns = {
        "input_ids": [[5, 6, 7], [8, 9, 0]],
        "attention_mask": [[1, 1, 1], [1, 1, 0]],
        "sun": [1, 0],
        "rain": [None, 1],
        "note": ["a", "b"],
    }
    pq.write_table(pa.table(columns), path)
    rows = read_rows(path, TEXTS, LABELS)
    assert rows.inputs["input_ids"].dtype == np.int64
    np.testing.assert_array_equal(rows.inputs["input_ids"], columns["input_ids"])
    assert rows.targets_NL is not None
    np.testing.assert_array_equal(rows.targets_NL, [[1, np.nan], [0, 1]])


def test_targets_may_be_left_out(tmp_path: Path) -> None:
    path = tmp_path / "rows.npz"
    np.savez(path, features=np.zeros((4, 3), np.float32))
    assert read_rows(path, FEATURES, LABELS).targets_NL is None


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"feature": np.zeros((2, 3))}, 'unknown input "features"; did you mean "feature"'),
        ({"features": np.zeros((2, 4))}, r"shape \[2, 4\], expected \[N, 3\]"),
        ({"features": np.zeros((0, 3))}, "number of rows"),
        ({"features": np.zeros((2, 3)), "targets": np.zeros((2, 3))}, r"expected \[2, 2\]"),
        ({"features": np.zeros((2, 3)), "targets": np.full((2, 2), 3)}, "must be 0, 1 or unknown"),
    ],
)
def test_what_does_not_fit_is_named(
    tmp_path: Path, arrays: dict[str, np.ndarray], words: str
) -> None:
    path = tmp_path / "rows.npz"
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=words):
        read_rows(path, FEATURES, LABELS)


def test_ids_that_are_no_integers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.npz"
    np.savez(path, input_ids=np.full((2, 3), 1.5), attention_mask=np.ones((2, 3)))
    with pytest.raises(DataError, match='"input_ids" holds float64 values that are no int64'):
        read_rows(path, TEXTS, LABELS)


def test_ragged_lists_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"input_ids": [[5], [6, 7]], "attention_mask": [[1], [1, 1]]}), path)
    with pytest.raises(DataError, match='input "input_ids"'):
        read_rows(path, TEXTS, LABELS)


@pytest.mark.parametrize("name", ["rows.npz", "rows.parquet"])
def test_broken_files_are_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match=name):
        read_rows(tmp_path / name, FEATURES, LABELS)


def test_other_files_and_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such file"):
        read_rows(tmp_path / "rows.npz", FEATURES, LABELS)
    (tmp_path / "rows.csv").touch()
    with pytest.raises(DataError, match="expected .npz or .parquet"):
        read_rows(tmp_path / "rows.csv", FEATURES, LABELS)


def test_pickles_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.npz"
    np.savez(path, features=np.array([{"a": 1}, None], dtype=object))
    with pytest.raises(DataError, match="not an NPZ file of plain arrays"):
        read_rows(path, FEATURES, LABELS)
