"""Parquet, Arrow and CSV files: label columns in every form, splits, broken cells, large files."""

import json
import subprocess
import sys
import textwrap

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

import thresher_training.sources
from thresher.errors import ConfigError, DataError
from thresher_training.sources import delimited, parquet


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def table(num_rows=40, seed=0):
    rng = np.random.default_rng(seed)
    rain = rng.integers(0, 2, num_rows)
    fog = rng.integers(0, 2, num_rows)
    names = [
        [n for n, has in (("rain", r), ("fog", f)) if has] for r, f in zip(rain, fog, strict=True)
    ]
    return pa.table(
        {
            "a": rng.normal(size=num_rows),
            "b": np.arange(num_rows),
            "rain": rain,
            "fog": fog,
            "tags": pa.array(names, type=pa.list_(pa.string())),
            "text_tags": [";".join(n) for n in names],
            "station": [f"s{i % 7}" for i in range(num_rows)],
        }
    )


def write(rows, path):
    if path.endswith(".parquet"):
        pq.write_table(rows, path, row_group_size=11)
    elif path.endswith((".arrow", ".feather")):
        pa.feather.write_feather(rows, path, chunksize=11)
    else:
        rows = rows.drop_columns([c for c in ("tags",) if c in rows.column_names])
        rows.to_pandas().to_csv(path, index=False, sep="\t" if path.endswith(".tsv") else ",")


def rows_of(data):
    """Every row of every split as (b, targets), in the order of b."""
    found = []
    for split in data.splits.values():
        columns = zip(
            split.inputs["features"][:, -1].tolist(), split.targets_NL.tolist(), strict=True
        )
        found += [(b, tuple(t)) for b, t in columns]
    return sorted(found)


FORMS = [
    {"label_columns": ["rain", "fog"]},
    {"label_column": "text_tags", "label_delimiter": ";"},
    {"label_column": "tags"},  # lists, which a CSV cell cannot hold
]


@pytest.mark.parametrize(
    ("name", "labels"),
    [(name, form) for name in ("t.parquet", "t.arrow", "t.feather") for form in FORMS]
    + [(name, form) for name in ("t.csv", "t.tsv") for form in FORMS[:2]],
)
def test_each_kind_of_file_and_of_labels_gives_the_same_rows(name, labels):
    rows = table()
    write(rows, name)
    source = delimited if name.endswith("v") else parquet
    data = source(name, features=["a", "b"], **labels)
    order = [data.labels.index(n) for n in ("rain", "fog")]
    got = [(b, (t[order[0]], t[order[1]])) for b, t in rows_of(data)]
    expected = enumerate(zip(rows["rain"].to_pylist(), rows["fog"].to_pylist(), strict=True))
    assert got == [(b, t) for b, t in expected]
    features = data.splits["train"].inputs["features"]
    assert features.dtype == np.float32
    assert isinstance(features, np.memmap)
    at = features[:, 1].astype(int)
    np.testing.assert_allclose(features[:, 0], rows["a"].to_numpy()[at], rtol=1e-6)


def test_features_are_all_other_columns_unless_said(tmp_path):
    write(table().drop_columns(["tags", "text_tags"]), "t.parquet")
    data = parquet("t.parquet", label_columns=["rain", "fog"], ignore=["sta*"])
    assert data.splits["train"].inputs["features"].shape[1] == 2
    with pytest.raises(
        DataError, match=r'row 0: column "station": "s0" is no number; is it a category'
    ):
        parquet("t.parquet", label_columns=["rain", "fog"])


def test_splits_come_from_files_folders_and_globs():
    rows = table(60)
    write(rows.slice(0, 20), "part-1.parquet")
    write(rows.slice(20, 20), "part-2.parquet")
    write(rows.slice(40, 10), "validation.parquet")
    write(rows.slice(50, 10), "test.parquet")
    data = parquet(
        ".",
        train="part-*.parquet",
        validation="validation.parquet",
        test="test.parquet",
        features=["b"],
        label_columns=["rain", "fog"],
    )
    inputs = [data.splits[s].inputs["features"][:, 0].tolist() for s in data.splits]
    assert inputs == [list(range(40)), list(range(40, 50)), list(range(50, 60))]


def test_a_split_without_a_file_is_taken_from_train_alike_in_labels():
    write(table(400), "train.parquet")
    write(table(30, seed=1), "test.parquet")
    data = parquet(
        ".",
        train="train.parquet",
        test="test.parquet",
        features=["b"],
        label_columns=["rain", "fog"],
        validation_fraction=0.25,
    )
    assert len(data.splits["test"]) == 30
    train, validation = data.splits["train"].targets_NL, data.splits["validation"].targets_NL
    assert len(train) + len(validation) == 400
    np.testing.assert_allclose(train.sum(axis=0) / 3, validation.sum(axis=0), atol=1)


def test_the_seed_decides_the_split():
    write(table(200), "t.parquet")

    def validation(seed):
        data = parquet("t.parquet", features=["b"], label_columns=["rain", "fog"], seed=seed)
        return data.splits["validation"].inputs["features"][:, 0].tolist()

    assert validation(1) == validation(1) != validation(2)


def test_groups_stay_together():
    write(table(200), "t.parquet")
    data = parquet(
        *["t.parquet"],
        features=["b"],
        label_columns=["rain", "fog"],
        group_column="station",
    )
    groups = [set(s.inputs["features"][:, 0].astype(int) % 7) for s in data.splits.values()]
    assert sum(map(len, groups)) == 7


def test_a_group_in_the_files_of_two_splits_is_an_error():
    write(table(20), "train.csv")
    write(table(20), "test.csv")
    with pytest.raises(
        DataError, match=r'test\.csv, line 2: .*the group "s0" is in the train files'
    ):
        delimited(
            ".",
            train="train.csv",
            test="test.csv",
            features=["b"],
            label_columns=["rain", "fog"],
            group_column="station",
        )


def test_lists_of_numbers_become_inputs_and_keep_whole_numbers():
    rows = pa.table(
        {
            "embedding": pa.array(np.arange(60.0).reshape(20, 3).tolist()),
            "ids": pa.array(np.arange(40).reshape(20, 2).tolist(), type=pa.list_(pa.int64(), 2)),
            "x": [0, 1] * 10,
        }
    )
    pq.write_table(rows, "t.parquet")
    data = parquet("t.parquet", inputs={"e": "embedding", "i": "ids"}, label_columns=["x"])
    train = data.splits["train"].inputs
    assert {k: (str(v.dtype), v.shape[1:]) for k, v in train.items()} == {
        "e": ("float32", (3,)),
        "i": ("int64", (2,)),
    }
    np.testing.assert_array_equal(train["e"][:, 0], train["i"][:, 0] * 1.5)


def test_unknown_labels_are_nan_and_empty_lists_are_no_labels():
    targets = [1, 0, None, 1, 0, 1] * 5
    pq.write_table(pa.table({"x": range(30), "rain": targets, "fog": [0, 1] * 15}), "t.parquet")
    data = parquet("t.parquet", features=["x"], label_columns=["rain", "fog"])
    found = np.concatenate([s.targets_NL for s in data.splits.values()])
    assert np.isnan(found).sum(axis=0).tolist() == [5, 0]

    lists = pa.array([["rain"], [], None] * 10, type=pa.list_(pa.string()))
    pq.write_table(pa.table({"x": range(30), "tags": lists}), "l.parquet")
    with pytest.raises(DataError, match=r'l\.parquet, row 2: column "tags": empty, expected'):
        parquet("l.parquet", label_column="tags")
    data = parquet("l.parquet", label_column="tags", missing_labels="unknown")
    for split in data.splits.values():
        third = split.inputs["features"][:, 0] % 3
        np.testing.assert_array_equal(
            split.targets_NL[:, 0], np.select([third == 0, third == 1], [1.0, 0.0], np.nan)
        )


def test_numbers_in_a_label_column_are_positions_in_the_names(tmp_path):
    (tmp_path / "names.txt").write_text("rain\nfog\nhail\n")
    lines = ["2,rain", "0", "", "1"] * 8
    text = "x\ttags\n" + "".join(f"{i}\t{line}\n" for i, line in enumerate(lines))
    (tmp_path / "t.tsv").write_text(text)
    data = delimited("t.tsv", label_column="tags", label_names="names.txt")
    assert data.labels == ("rain", "fog", "hail")
    expected = {0: [1, 0, 1], 1: [1, 0, 0], 2: [0, 0, 0], 3: [0, 1, 0]}
    for split in data.splits.values():
        for x, row in zip(split.inputs["features"][:, 0], split.targets_NL, strict=True):
            assert row.tolist() == expected[int(x) % 4]


def test_soft_targets_and_pandas_flags_are_read(tmp_path):
    (tmp_path / "train.csv").write_text("x,rain,fog\n" + "1,0.25,True\n2,1,False\n3,0,\n" * 4)
    (tmp_path / "test.csv").write_text("x,rain,fog\n" + "1,1,False\n2,0,True\n" * 4)
    data = delimited(
        ".",
        train="train.csv",
        validation="test.csv",
        test="test.csv",
        label_columns=["rain", "fog"],
    )
    np.testing.assert_array_equal(
        data.splits["train"].targets_NL[:3], [[0.25, 1], [1, 0], [0, np.nan]]
    )


def test_quotes_hold_delimiters_and_line_ends_or_are_text(tmp_path):
    lines = 'x,"the, name",tags\n1,5,"rain,fog"\n2,6,rain\n3,7,"rain\n,fog"\n'
    (tmp_path / "t.csv").write_text(lines + "4,8,fog\n" * 20)
    data = delimited("t.csv", label_column="tags")
    assert data.labels == ("fog", "rain")
    assert sum(len(s) for s in data.splits.values()) == 23
    (tmp_path / "q.tsv").write_text('x\ttags\n1\t"rain\n' + "2\train\n" * 20)
    assert delimited("q.tsv", label_column="tags", quoting=False).labels == ('"rain', "rain")


MORE = "1,0\n2,1\n" * 10
ERRORS = [
    ("x,rain\n1,0\n2,0,7\n", r"t\.csv, line 3: 3 cells, expected 2; where cells hold lone"),
    (
        "x,rain\n1,0\nabc,1\n" + MORE,
        r't\.csv, line 3: column "x": "abc" is no number; .* or ignore = \["x"\]$',
    ),
    ("x,rain\n1,0\n\n2,maybe\n", r't\.csv, line 4: column "rain": "maybe", expected 0, 1 or'),
    (
        "x,rain\n1,0\n2,3\n",
        r't\.csv, line 3: column "rain": 3, expected 0, 1 or nothing',
    ),
    (
        'x,rain\n"1\n",0\n,1\n' + MORE,
        r't\.csv, line 4: column "x": missing, expected a number; or set',
    ),
    ("x,rian\n1,0\n", r't\.csv: unknown column "rain"; did you mean "rian"'),
    ("x,rain,x\n1,0,2\n", r"t\.csv: column names must differ; repeated: \"x\""),
    ("", r"t\.csv is empty, expected a header line"),
    ("x,rain\n", r"the train split is empty, expected at least one row"),
    ("x,rain\n1,0\n", r"1 rows are too few for shares"),
    (
        b"x,rain\n1,0\n\xff,1\n" + MORE.encode(),
        r"t\.csv, line 3: column \"x\": not UTF-8: .*encoding = \"latin-1\"",
    ),
]


@pytest.mark.parametrize(("content", "message"), ERRORS)
def test_a_broken_file_is_told_with_its_line(tmp_path, content, message):
    file = tmp_path / "t.csv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        delimited("t.csv", label_columns=["rain"])
    assert not list((tmp_path / ".thresher" / "data").glob("*"))


def test_an_unknown_label_in_a_row_is_told_with_its_line(tmp_path):
    (tmp_path / "t.csv").write_text("x,tags\n1,rain\n2,rain|fgo\n")
    with pytest.raises(
        DataError, match=r't\.csv, line 3: .* unknown label "fgo"; did you mean "fog'
    ):
        delimited("t.csv", label_column="tags", label_delimiter="|", label_names=["rain", "fog"])
    with pytest.raises(DataError, match="label names must differ; repeated: rain"):
        delimited("t.csv", label_column="tags", label_names=["rain", "fog", "rain"])


def test_a_parquet_file_cut_short_is_told(tmp_path):
    write(table(), "t.parquet")
    content = (tmp_path / "t.parquet").read_bytes()
    (tmp_path / "t.parquet").write_bytes(content[: len(content) // 2])
    with pytest.raises(
        DataError, match=r"t\.parquet cannot be read: it is not a Parquet file, or cut short"
    ):
        parquet("t.parquet", label_columns=["rain"])
    damaged = bytearray(content)
    damaged[10 : len(damaged) // 3] = bytes(len(damaged) // 3 - 10)
    (tmp_path / "t.parquet").write_bytes(damaged)
    with pytest.raises(DataError, match=r"t\.parquet"):
        parquet("t.parquet", features=["a", "b"], label_columns=["rain"])


def test_lists_of_different_lengths_are_told(tmp_path):
    pq.write_table(pa.table({"e": [[1.0, 2.0], [1.0]] * 9, "x": [0, 1] * 9}), "t.parquet")
    with pytest.raises(DataError, match=r'row 1: column "e": a list of 1 numbers, expected 2'):
        parquet("t.parquet", inputs={"e": "e"}, label_columns=["x"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give label_columns .* or label_column"),
        ({"label_columns": ["rain"], "label_column": "tags"}, "one of the two"),
        ({"label_columns": ["rain"], "test": "t.parquet"}, "given without train"),
        ({"label_columns": ["rain"], "validation_fraction": 1.5}, "validation_fraction is 1.5"),
        ({"label_columns": ["rain"], "features": ["rain"]}, "is an input and a label"),
        (
            {"label_column": "tags", "missing_labels": "drop"},
            'missing_labels is "drop", expected "error" or "unknown"',
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message):
    write(table(), "t.parquet")
    with pytest.raises(ConfigError, match=message):
        parquet("t.parquet", **options)


def test_a_file_larger_than_the_memory_in_use_is_read():
    """240 MB of floats in 15 row groups, with less than 80 MB of memory that is not a file's."""
    num_rows, width = 60_000, 1_000
    schema = pa.schema([("e", pa.list_(pa.float32(), width)), ("y", pa.int8()), ("z", pa.int8())])
    block = pa.array(np.zeros(4_000 * width, dtype=np.float32) + 0.5)
    with pq.ParquetWriter("big.parquet", schema, use_dictionary=True) as writer:
        for group in range(num_rows // 4_000):
            y = (np.arange(4_000) % 3 == 0).astype(np.int8)
            columns = [pa.FixedSizeListArray.from_arrays(block, width), y, y[::-1] ^ (group % 2)]
            writer.write_batch(pa.record_batch(columns, schema=schema))
    code = """
        import json, threading, time
        from pathlib import Path

        def anonymous_mb():
            status = Path("/proc/self/status").read_text()
            return int(status.split("RssAnon:")[1].split()[0]) / 1024

        from thresher_training.sources import parquet
        import pyarrow.parquet, iterstrat.ml_stratifiers
        peak, done = [0.0], threading.Event()

        def watch():
            while not done.is_set():
                peak[0] = max(peak[0], anonymous_mb())
                time.sleep(0.002)

        before = anonymous_mb()
        thread = threading.Thread(target=watch)
        thread.start()
        data = parquet("big.parquet", inputs={"e": "e"}, label_columns=["y", "z"])
        done.set()
        thread.join()
        size = sum(s.inputs["e"].nbytes for s in data.splits.values()) / 2**20
        print(json.dumps([before, peak[0], size]))
    """
    out = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], check=True, capture_output=True, text=True
    )
    before, peak, size = json.loads(out.stdout)
    print(f"before {before:.0f} MB, peak {peak:.0f} MB, arrays {size:.0f} MB")
    assert size > 220
    assert peak - before < 80


@pytest.mark.parametrize("name", ["Unnamed: 0", "", "__index_level_0__"])
@pytest.mark.parametrize("path", ["t.csv", "t.parquet"])
def test_row_numbers_without_a_name_are_no_feature(name, path):
    rows = table()
    numbers = pa.array(range(40))
    rows = rows.add_column(0, name, numbers).select([name, "a", "b", "rain", "fog"])
    write(rows, path)
    data = thresher_training.sources.table(path, label_columns=["rain", "fog"])
    assert data.input_spec.columns == {"features": ("a", "b")}
    assert f'row numbers left out: "{name}"' in data.source
    named = thresher_training.sources.table(
        path, features=[*([name] if name else []), "b"], label_columns=["rain", "fog"]
    )
    assert named.input_spec.columns == {"features": (*([name] if name else []), "b")}
    assert "left out" not in named.source


def test_a_train_file_that_is_in_another_split_too_is_refused():
    for name in ("a", "b", "test"):
        write(table(), f"{name}.csv")
    options = {"features": ["a"], "label_columns": ["rain"]}
    with pytest.raises(DataError, match=r"test\.csv is in the train files and in the test files"):
        delimited(".", train="*.csv", test="test.csv", **options)
    assert len(delimited(".", train="[ab].csv", test="test.csv", **options).splits["test"]) == 40


def test_texts_and_bytes_of_arrows_view_types_are_read():
    rows = table()
    names = pa.array(rows["station"].to_pylist(), pa.string_view())
    tags = pa.array(rows["tags"].to_pylist(), pa.list_(pa.string_view()))
    viewed = rows.set_column(6, "station", names).set_column(4, "tags", tags)
    options = {"features": ["a", "b"], "categories": ["station"], "label_column": "tags"}
    write(rows, "plain.parquet")
    write(viewed, "viewed.arrow")
    plain, found = parquet("plain.parquet", **options), parquet("viewed.arrow", **options)
    for split, told in plain.splits.items():
        for name, array in told.inputs.items():
            np.testing.assert_array_equal(found.splits[split].inputs[name], array)
        np.testing.assert_array_equal(found.splits[split].targets_NL, told.targets_NL)


@pytest.mark.parametrize("kind", [pa.timestamp("ms"), pa.time32("s"), pa.list_(pa.string())])
def test_a_column_of_times_or_lists_is_no_category(kind):
    cells = [["a"], ["b"]] if pa.types.is_list(kind) else [1, 2]
    rows = pa.table({"when": pa.array(cells * 20, kind), "x": range(40), "y": [0, 1] * 20})
    write(rows, "t.parquet")
    said = r'column "when" is .*, expected texts, numbers or dates; ignore = \["when"\]'
    with pytest.raises(DataError, match=said):
        parquet("t.parquet", categories=["when"], label_columns=["y"])
