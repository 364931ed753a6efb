"""Numbers, categories and what is missing: learnt on train, alike from every format."""

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from thresher.artifacts.input_spec import InputSpec
from thresher.errors import ConfigError, DataError
from thresher_training.sources import delimited, images, ngrams, table


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(frame, name):
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pandas(frame), name)
    elif name.endswith(".feather"):
        pa.feather.write_feather(pa.Table.from_pandas(frame), name)
    elif name.endswith(".arff"):
        lines = ["@relation a"]
        for column in frame:
            is_number = pd.api.types.is_numeric_dtype(frame[column])
            values = () if is_number else sorted(set(frame[column].dropna()))
            lines.append(
                f"@attribute {column} {'{' + ','.join(values) + '}' if values else 'real'}"
            )
        body = frame.to_csv(index=False, header=False, na_rep="?")
        Path(name).write_text("\n".join([*lines, "@data", body]))
    else:
        content = frame.to_csv(index=False, sep="\t" if ".tsv" in name else ",").encode()
        with (gzip.open if name.endswith(".gz") else open)(name, "wb") as file:
            file.write(content)


def frame(num_rows=40):
    rng = np.random.default_rng(0)
    found = pd.DataFrame(
        {
            "x": rng.normal(size=num_rows) * 1e3,
            "age": rng.integers(0, 90, num_rows).astype(float),
            "colour": rng.choice(["red", "green", "blue"], num_rows),
            "y": np.arange(num_rows) % 2,
        }
    )
    found.loc[[3, 7, 21], "age"] = np.nan
    found.loc[[5], "colour"] = None
    return found


FORMATS = ["t.parquet", "t.feather", "t.csv", "t.tsv", "t.csv.gz", "t.arff"]


def test_the_same_rows_give_the_same_arrays_from_every_format():
    seen = {}
    for name in FORMATS:
        write(frame(), name)
        data = table(
            name,
            categories=["colour"],
            fill_missing={"age": "median"},
            flag_missing=True,
            label_columns=["y"],
        )
        assert data.input_spec.categories == {"categories": {"colour": ("blue", "green", "red")}}
        seen[name] = {split: data.splits[split].digest for split in data.splits}
    assert len({str(digests) for digests in seen.values()}) == 1, seen


@pytest.mark.parametrize("name", ["t.parquet", "t.feather", "t.csv", "t.csv.gz"])
@pytest.mark.parametrize(
    ("ids", "dtype"),
    [
        ([2**60 + 3 * i + 1 for i in range(40)], np.int64),
        ([2**63 + 3 * i + 1 for i in range(40)], np.uint64),
        ([-i for i in range(40)], np.int64),
    ],
)
def test_whole_numbers_of_an_input_of_their_own_keep_their_last_digit(name, ids, dtype):
    write(pd.DataFrame({"id": np.array(ids, dtype), "x": 0.5, "y": [0, 1] * 20}), name)
    data = table(name, inputs={"id": "id"}, label_columns=["y"])
    found = np.concatenate([split.inputs["id"] for split in data.splits.values()])
    assert found.dtype == dtype
    assert sorted(found.tolist()) == sorted(ids)
    if abs(ids[0]) > 2**24:
        with pytest.raises(DataError, match=r"rounding; ignore = .*inputs = \{ \"id\" = \"id\" \}"):
            table(name, label_columns=["y"])


@pytest.mark.parametrize("way", ["mean", "median"])
def test_missing_numbers_take_what_pandas_says_of_the_train_rows(way):
    rows = frame(400)
    rows["row"] = np.arange(400.0)
    write(rows, "t.csv")
    data = table(
        "t.csv", features=["age", "row"], fill_missing=way, flag_missing=True, label_columns=["y"]
    )
    train = rows.iloc[data.splits["train"].inputs["features"][:, 1].astype(int)]
    fill = getattr(train["age"], way)()
    assert data.input_spec.fills["age"] == pytest.approx(fill, rel=1e-12)
    for split in data.splits.values():
        age, row, flag = split.inputs["features"].T
        held = rows["age"].to_numpy()[row.astype(int)]
        np.testing.assert_array_equal(flag, np.isnan(held))
        np.testing.assert_array_equal(age, np.where(np.isnan(held), fill, held).astype(np.float32))


def test_a_fill_is_named_by_column_before_pattern():
    rows = pd.DataFrame({"a1": [1.0, None] * 20, "a2": [1.0, None] * 20, "y": [0, 1] * 20})
    write(rows, "t.csv")
    data = table("t.csv", fill_missing={"a1": 7, "a*": -1}, label_columns=["y"])
    assert data.input_spec.fills == {"a1": 7, "a2": -1}
    assert data.splits["train"].inputs["features"].min(axis=0).tolist() == [1, -1]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"fill_missing": "meen"}, ConfigError, 'unknown way "meen"; did you mean "mean"'),
        ({"fill_missing": {"agge": 0}}, DataError, 'unknown column "agge"; did you mean "age"'),
        ({"fill_missing": {"age": [0]}}, ConfigError, r'\[0\], expected a number, "mean" or'),
        ({"fill_missing": {"age": True}}, ConfigError, 'True, expected a number, "mean" or'),
        ({"fill_missing": {"y": 0}}, ConfigError, '"y" names no column of single numbers'),
        ({"fill_missing": [0]}, ConfigError, r'\[0\], expected a number, "mean" or "median"'),
        ({"flag_missing": True}, ConfigError, "flag_missing says where .* fill_missing"),
        ({}, DataError, r't\.csv, line 5: column "age": missing, expected a number; or set fill'),
        ({"categories": ["x"], "features": ["x"]}, ConfigError, "is a category and holds numbers"),
        ({"categories": ["clour"]}, DataError, 'unknown column "clour"; did you mean "colour"'),
    ],
)
def test_options_for_missing_numbers_and_categories_that_are_wrong(options, error, message):
    write(frame(), "t.csv")
    with pytest.raises(error, match=message):
        table("t.csv", label_columns=["y"], **{"ignore": ["colour"], **options})


def test_lists_are_filled_by_a_number_and_have_no_mean():
    cells = pa.array([[1.0, None], [3.0, 4.0]] * 20)
    pq.write_table(pa.table({"e": cells, "x": [None, 2.0] * 20, "y": [0, 1] * 20}), "t.parquet")
    data = table("t.parquet", fill_missing={"e": -1, "x": "mean"}, label_columns=["y"])
    assert data.input_spec.widths == {"e": 2}
    rows = {tuple(row) for row in data.splits["train"].inputs["features"].tolist()}
    assert rows == {(1, -1, 2), (3, 4, 2)}
    with pytest.raises(ConfigError, match='"e" names no column of single numbers'):
        table("t.parquet", fill_missing={"e": "mean"}, label_columns=["y"])


def test_flags_go_with_floats_and_whole_inputs_keep_their_kind():
    rows = pa.table({"i": pa.array([None, 5] * 20), "x": [None, 2.0] * 20, "y": [0, 1] * 20})
    pq.write_table(rows, "t.parquet")
    data = table(
        "t.parquet",
        inputs={"i": "i"},
        fill_missing=7,
        flag_missing=True,
        label_columns=["y"],
    )
    assert data.input_spec.flagged == {"features": ("x",)}
    assert set(data.splits["train"].inputs["i"].tolist()) == {5, 7}


def test_lists_of_lists_that_differ_are_refused_with_their_row():
    pq.write_table(pa.table({"t": [[[1], [1, 2]]] * 9, "y": [0] * 9}), "t.parquet")
    with pytest.raises(DataError, match=r"row 0: .*axis 1 of a list has 2 entries, expected 1"):
        table("t.parquet", inputs={"t": "t"}, label_columns=["y"])


def test_a_column_without_a_number_in_train_has_no_mean():
    write(pd.DataFrame({"a": [None] * 40, "x": 1.0, "y": [0, 1] * 20}), "t.csv")
    with pytest.raises(DataError, match=r'"a" holds no number in the train rows.*ignore = \["a"\]'):
        table("t.csv", fill_missing="mean", label_columns=["y"])


def test_values_that_train_did_not_hold_are_unknown_and_missing_ones_missing():
    write(pd.DataFrame({"c": ["b", "a"] * 20, "x": [1.0, 3.0] * 20, "y": [0, 1] * 20}), "a.csv")
    write(pd.DataFrame({"c": ["z", None], "x": [None, 100.0], "y": [0, 1]}), "b.csv")
    data = table(
        ".",
        train="a.csv",
        validation="b.csv",
        test="b.csv",
        categories=["c"],
        fill_missing="mean",
        label_columns=["y"],
    )
    assert data.splits["train"].inputs["categories"][:2].tolist() == [[3], [2]]
    assert data.splits["test"].inputs["categories"].tolist() == [[0], [1]]
    assert data.splits["test"].inputs["features"].tolist() == [[2], [100]]
    assert data.input_spec == InputSpec(
        columns={"features": ("x",)},
        fills={"x": 2.0},
        categories={"categories": {"c": ("a", "b")}},
    )
    assert data.input_spec.category_sizes == (4,)


def test_words_that_are_neither_numbers_nor_categories_are_refused_with_both_options():
    write(frame(), "t.csv")
    message = r'line 2: column "colour": .* no number; .* categories = \["colour"\] or ignore = \["'
    with pytest.raises(DataError, match=message):
        table("t.csv", fill_missing=0, label_columns=["y"])


def test_arrays_in_a_column_keep_the_order_of_their_axes():
    kind = pa.fixed_shape_tensor(pa.float32(), [3, 2], permutation=[1, 0])
    stored = np.arange(240, dtype=np.float32)
    cells = pa.ExtensionArray.from_storage(kind, pa.FixedSizeListArray.from_arrays(stored, 6))
    pq.write_table(pa.table({"t": cells, "y": [0, 1] * 20}), "t.parquet")
    data = table("t.parquet", inputs={"t": "t"}, label_columns=["y"])
    expected = cells.to_numpy_ndarray()
    assert expected.shape == (40, 2, 3)
    found = np.concatenate([split.inputs["t"] for split in data.splits.values()])
    np.testing.assert_array_equal(found[np.argsort(found[:, 0, 0])], expected)
    with pytest.raises(DataError, match=r'holds arrays \[2, 3\], and the input "features" is flat'):
        table("t.parquet", label_columns=["y"])


@pytest.mark.parametrize("name", ["t.parquet", "t.feather"])
def test_a_column_that_is_there_twice_is_refused(name):
    rows = pa.Table.from_arrays([pa.array([1.0, 2.0])] * 3, names=["x", "x", "y"])
    pq.write_table(rows, name) if name == "t.parquet" else pa.feather.write_feather(rows, name)
    with pytest.raises(DataError, match=r'column names must differ; repeated: "x"'):
        table(name, label_columns=["y"])


def test_a_quote_that_would_swallow_rows_is_refused_with_its_line():
    notes = ['"5 inch' if at == 100 else "ok" for at in range(200)]
    rows = [f"{at},{note},{at % 2}" for at, note in enumerate(notes)]
    Path("t.csv").write_text("\n".join(["x,note,y", *rows]))
    with pytest.raises(DataError, match=r"line 102: .*never closed.*quoting = false"):
        table("t.csv", ignore=["note"], label_columns=["y"])
    data = table("t.csv", ignore=["note"], label_columns=["y"], quoting=False)
    assert sum(len(split) for split in data.splits.values()) == 200


@pytest.mark.parametrize(
    ("separator", "option"), [(";", 'delimiter = ";"'), ("\t", r'delimiter = "\\t"'), ("|", "|")]
)
def test_a_file_with_another_delimiter_is_known_by_its_header(separator, option):
    Path("t.csv").write_text("a;b;tags\n1;2;x\n".replace(";", separator))
    with pytest.raises(DataError, match=f"has one column, .*{option}"):
        delimited("t.csv", label_column="tags")


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ("latin-1", r'line 1 is not utf-8 text.*encoding = "latin-1"'),
        ("utf-16", 'encoding = "utf-16"'),
    ],
)
def test_another_encoding_is_said_and_read(encoding, message):
    Path("t.csv").write_bytes(("naïve,y\n" + "1,0\n2,1\n" * 20).encode(encoding))
    with pytest.raises(DataError, match=message):
        table("t.csv", label_columns=["y"])
    data = table("t.csv", label_columns=["y"], encoding=encoding)
    assert data.input_spec.columns == {"features": ("naïve",)}


def test_the_values_in_folder_names_are_columns_where_they_are_named(tmp_path):
    for site, start in (("a%2Fb", 0), ("__HIVE_DEFAULT_PARTITION__", 20)):
        (tmp_path / "t" / f"site={site}").mkdir(parents=True)
        rows = pa.table({"x": np.arange(start, start + 20.0), "y": [0, 1] * 10})
        pq.write_table(rows, f"t/site={site}/p.parquet")
    assert table("t", label_columns=["y"]).input_spec.columns == {"features": ("x",)}
    data = table("t", label_columns=["y"], categories=["site"])
    assert data.input_spec.categories == {"categories": {"site": ("a/b",)}}
    train = data.splits["train"].inputs
    np.testing.assert_array_equal(
        train["categories"][:, 0], np.where(train["features"][:, 0] < 20, 2, 1)
    )


def test_an_empty_text_is_a_text_and_a_missing_one_is_an_error_or_filled():
    Path("t.csv").write_text("text,y\n" + 'sun,1\n"",0\nNA,1\n' * 10)
    data = ngrams("t.csv", label_columns=["y"])
    assert set(data.splits["train"].texts) == {"sun", "", "NA"}
    Path("t.csv").write_text("text,y\n" + "sun,1\n,0\n" * 20)
    with pytest.raises(DataError, match=r'line 3: column "text": missing, .*missing_text = ""'):
        ngrams("t.csv", label_columns=["y"])
    data = ngrams("t.csv", label_columns=["y"], missing_text="")
    assert data.input_spec.ngrams.missing == ""


def test_pictures_in_a_column_are_read_and_deep_ones_keep_their_scale():
    import io

    from PIL import Image

    def png(pixels):
        content = io.BytesIO()
        Image.fromarray(pixels).save(content, "PNG")
        return content.getvalue()

    deep = np.array([[0, 40 * 257], [150 * 257, 65535]], dtype=np.uint16)
    cells = [{"bytes": png(deep), "path": "a.png"}] * 40
    y = [0, 1] * 20
    pq.write_table(pa.table({"image": pa.array(cells), "y": y}), "a.parquet")
    pq.write_table(pa.table({"file": pa.array([png(deep)] * 40), "y": y}), "b.parquet")
    for data in (
        images("a.parquet", file_column="image", size=2, label_columns=["y"]),
        images("b.parquet", size=2),
    ):
        pixels = data.splits["train"].inputs["image"]
        assert pixels[0, 0].tolist() == [[0, 40], [150, 255]]
