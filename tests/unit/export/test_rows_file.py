"""A user's own rows for `thresher verify --data`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from onnx import ModelProto, TensorProto, helper
from PIL import Image

from support.text_models import write_tokenizer
from thresher.artifacts.input_spec import InputSpec, PictureSpec, TextSpec
from thresher.errors import DataError, NotFoundError
from thresher.tables.csv_files import CsvOptions
from thresher_export.rows_file import read_labelled_rows

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
PICTURES = model(image=(TensorProto.UINT8, [3, "height", "width"]))
SPEC = InputSpec(columns={"features": ("wind", "cloud", "fog")}, fills={"fog": 7})


@pytest.mark.parametrize("prefix", ["", "input/"])
def test_npz_gives_inputs_in_the_models_kind_and_targets(tmp_path: Path, prefix: str) -> None:
    path = tmp_path / "rows.npz"
    np.savez(path, **{f"{prefix}features": np.arange(6.0).reshape(2, 3)}, targets=np.eye(2))
    rows = read_labelled_rows(path, FEATURES, LABELS)
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
    rows = read_labelled_rows(path, TEXTS, LABELS)
    assert rows.inputs["input_ids"].dtype == np.int64
    np.testing.assert_array_equal(rows.inputs["input_ids"], columns["input_ids"])
    assert rows.targets_NL is not None
    np.testing.assert_array_equal(rows.targets_NL, [[1, np.nan], [0, 1]])


def test_targets_may_be_left_out(tmp_path: Path) -> None:
    path = tmp_path / "rows.npz"
    np.savez(path, features=np.zeros((4, 3), np.float32))
    assert read_labelled_rows(path, FEATURES, LABELS).targets_NL is None


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"feature": np.zeros((2, 3))}, 'input "features" .*the columns are feature'),
        ({"features": np.zeros((2, 4))}, "row 0: .*a list of 4 numbers, expected 3; and 1 more"),
        ({"features": np.zeros((0, 3))}, "holds no rows"),
        ({"features": np.zeros((2, 3)), "targets": np.zeros((2, 3))}, "expected 2 targets, got 3"),
        ({"features": np.zeros((2, 3)), "targets": np.full((2, 2), 3)}, "3, expected 0, 1 or"),
        ({"features": np.zeros((2, 3)), "targets": np.full((2, 2), 0.5)}, "0.5, expected 0, 1 or"),
    ],
)
def test_what_does_not_fit_is_named(
    tmp_path: Path, arrays: dict[str, np.ndarray], words: str
) -> None:
    path = tmp_path / "rows.npz"
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=words):
        read_labelled_rows(path, FEATURES, LABELS)


def test_ids_that_are_no_integers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.npz"
    np.savez(path, input_ids=np.full((2, 3), 1.5), attention_mask=np.ones((2, 3)))
    with pytest.raises(DataError, match='column "input_ids": 1.5 is no int64'):
        read_labelled_rows(path, TEXTS, LABELS)


def test_lists_of_several_lengths_are_filled_up_with_zeros(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"input_ids": [[5], [6, 7]], "attention_mask": [[1], [1, 1]]}), path)
    found = read_labelled_rows(path, TEXTS, LABELS).inputs
    np.testing.assert_array_equal(found["input_ids"], [[5, 0], [6, 7]])
    np.testing.assert_array_equal(found["attention_mask"], [[1, 0], [1, 1]])


@pytest.mark.parametrize("name", ["rows.npz", "rows.parquet"])
def test_broken_files_are_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match=name):
        read_labelled_rows(tmp_path / name, FEATURES, LABELS)


def test_other_files_and_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"rows\.npz"):
        read_labelled_rows(tmp_path / "rows.npz", FEATURES, LABELS)
    (tmp_path / "rows.docx").touch()
    with pytest.raises(NotFoundError, match="expected .parquet"):
        read_labelled_rows(tmp_path / "rows.docx", FEATURES, LABELS)


def test_pickles_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.npz"
    np.savez(path, features=np.array([{"a": 1}, None], dtype=object))
    with pytest.raises(DataError, match="holds Python objects"):
        read_labelled_rows(path, FEATURES, LABELS)


@pytest.mark.parametrize("suffix", ["parquet", "csv", "arrow", "arff"])
def test_every_format_gives_what_the_spec_says_of_its_columns(tmp_path: Path, suffix: str) -> None:
    columns = {
        "rain": [1, 0, None],
        "cloud": [0.25, -1.5, 3.0],
        "fog": [1.0, None, 2.0],
        "sun": [0, 1, 1],
        "wind": [10.0, 20.0, 30.0],
    }
    path, table = tmp_path / f"rows.{suffix}", pa.table(columns)
    if suffix == "parquet":
        pq.write_table(table, path)
    elif suffix == "csv":
        pacsv.write_csv(table, path)
    elif suffix == "arrow":
        feather.write_feather(table, path, compression="uncompressed")
    else:
        head = "".join(f"@attribute {name} numeric\n" for name in columns)
        rows = [
            ",".join("?" if cell is None else str(cell) for cell in row)
            for row in zip(*columns.values(), strict=True)
        ]
        path.write_text(f"@relation r\n{head}@data\n" + "\n".join(rows) + "\n")
    found = read_labelled_rows(path, FEATURES, LABELS, spec=SPEC)
    told = [[10, 0.25, 1], [20, -1.5, 7], [30, 3, 2]]
    np.testing.assert_array_equal(found.inputs["features"], np.float32(told))
    assert found.targets_NL is not None
    np.testing.assert_array_equal(found.targets_NL, [[0, 1], [1, 0], [1, np.nan]])


def test_a_row_that_cannot_be_used_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("wind,cloud,fog\n1,2,3\n\n1,x,3\n")
    with pytest.raises(DataError, match=r'rows.csv, line 4: column "cloud": "x" is no number'):
        read_labelled_rows(path, FEATURES, LABELS, spec=SPEC)


def test_texts_are_tokenized_and_pictures_decoded(tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "tokenizer.json")
    (tmp_path / "rows.csv").write_text("text,sun,rain\nso sad,yes,no\ni love this so,1,\n")
    spec = InputSpec(text=TextSpec(max_length=3))
    found = read_labelled_rows(tmp_path / "rows.csv", TEXTS, LABELS, spec=spec, folder=tmp_path)
    np.testing.assert_array_equal(found.inputs["input_ids"], [[5, 6, 1], [2, 3, 4]])
    np.testing.assert_array_equal(found.inputs["attention_mask"], [[1, 1, 0], [1, 1, 1]])
    np.testing.assert_array_equal(found.targets_NL, [[1, 0], [1, np.nan]])  # type: ignore[arg-type]
    (tmp_path / "pictures").mkdir()
    for at in range(3):
        Image.new("RGB", (5, 4), (at, 10, 20)).save(tmp_path / f"pictures/{at}.png")
    spec = InputSpec(pictures=PictureSpec(size=2))
    found = read_labelled_rows(tmp_path / "pictures", PICTURES, LABELS, spec=spec)
    assert found.inputs["image"].shape == (3, 3, 2, 2)
    assert found.inputs["image"][:, 0, 0, 0].tolist() == [0, 1, 2]
    assert found.targets_NL is None


def test_arrays_fill_inputs_whose_sizes_are_free(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (4, 3, 5, 6), dtype=np.uint8)
    np.savez_compressed(tmp_path / "rows.npz", **{"input/image": pictures, "logits": np.zeros(7)})
    found = read_labelled_rows(tmp_path / "rows.npz", PICTURES, LABELS)
    np.testing.assert_array_equal(found.inputs["image"], pictures)


def test_files_with_other_delimiters_and_encodings_are_read_as_they_are_said_to_be(
    tmp_path: Path,
) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes("wind;cloud;fog;né\n1;2;3;é\n4;5;;\n".encode("latin-1"))
    said = CsvOptions(delimiter=";", encoding="latin-1")
    rows = read_labelled_rows(path, FEATURES, LABELS, spec=SPEC, csv=said)
    np.testing.assert_array_equal(rows.inputs["features"], [[1, 2, 3], [4, 5, 7]])
    with pytest.raises(DataError, match="latin-1"):
        read_labelled_rows(path, FEATURES, LABELS, spec=SPEC, csv=CsvOptions(delimiter=";"))
