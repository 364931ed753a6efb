"""Label columns as people write them: each form is read as what it is, or refused."""

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from thresher.errors import ConfigError, DataError
from thresher_training.sources import table


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def read(cells, kind=None, **options):
    """The labels, and the distinct rows of targets in the order of ``cells``."""
    rows = cells * 8
    if kind == "csv":
        with Path("t.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["x", "tags"])
            writer.writerows(enumerate(rows))
    else:
        columns = {"x": [float(i) for i in range(len(rows))], "tags": pa.array(rows, kind)}
        pq.write_table(pa.table(columns), "t.parquet")
    path = "t.csv" if kind == "csv" else "t.parquet"
    data = table(path, label_column="tags", **options)
    found = {}
    for split in data.splits.values():
        for x, targets in zip(split.inputs["features"][:, 0], split.targets_NL, strict=True):
            found[int(x)] = targets.tolist()
    assert len(found) == len(rows)
    for at, targets in found.items():
        np.testing.assert_array_equal(targets, found[at % len(cells)])
    return data.labels, [found[at] for at in range(len(cells))]


NAN = float("nan")
HOT = [[1, 0, 1], [0, 1, 0], [1, 1, 0]]
INTS, FLOATS, NAMES = pa.list_(pa.int64()), pa.list_(pa.float64()), pa.list_(pa.string())


@pytest.mark.parametrize("names", [None, ["a", "b", "c"]])
@pytest.mark.parametrize("kind", [pa.int64(), pa.int8(), pa.uint8(), pa.float32(), pa.bool_()])
def test_lists_of_an_entry_for_each_label_are_multi_hot(kind, names):
    cells = [[bool(x) for x in row] for row in HOT] if kind == pa.bool_() else HOT
    labels, targets = read(cells, pa.list_(kind), label_names=names)
    assert labels == tuple(names or "012")
    assert targets == HOT


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (HOT, pa.list_(pa.int8(), 3)),
        ([["true", "false", "true"], ["no", "yes", "no"], ["1", "1", "0"]], NAMES),
        (["[1, 0, 1]", "[0, 1, 0]", "[1, 1, 0]"], "csv"),
        (["[1 0 1]", "[0 1 0]", "[1 1 0]"], "csv"),
        (["[1. 0. 1.]", "[0. 1. 0.]", "[1. 1. 0.]"], "csv"),
        (["[True, False, True]", "[False, True, False]", "[True, True, False]"], "csv"),
        (["1,0,1", "0,1,0", "1,1,0"], "csv"),
    ],
)
def test_multi_hot_lists_are_known_in_every_way_of_writing(cells, kind):
    assert read(cells, kind) == (("0", "1", "2"), HOT)


def test_a_number_between_0_and_1_is_a_soft_target_and_none_is_unknown():
    cells = [[0.25, None, 1.0], [0.0, 1.0, NAN]]
    kept = {"label_names": ["a", "b", "c"]}
    rows = [c for c in cells for _ in range(1)]
    pq.write_table(pa.table({"x": [0.0, 1.0] * 4, "tags": pa.array(rows * 4, FLOATS)}), "a.parquet")
    whole = pa.array([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]] * 2, FLOATS)
    pq.write_table(pa.table({"x": [0.0, 1.0] * 2, "tags": whole}), "b.parquet")
    files = {"train": "a.parquet", "validation": "b.parquet", "test": "b.parquet"}
    data = table(".", **files, label_column="tags", **kept)
    np.testing.assert_array_equal(
        data.splits["train"].targets_NL[:2], [[0.25, NAN, 1], [0, 1, NAN]]
    )
    assert read([[1, None, 0], [0, 1, 1]], INTS, label_form="multi_hot")[0] == ("0", "1", "2")


@pytest.mark.parametrize(
    ("cells", "kind", "labels", "targets"),
    [
        ([[3, 7], [3], [], [12]], INTS, "3 7 12", [[1, 1, 0], [1, 0, 0], [0, 0, 0], [0, 0, 1]]),
        ([[3, 7, 3], [3], [12]], INTS, "3 7 12", [[1, 1, 0], [1, 0, 0], [0, 0, 1]]),
        ([[0], [0, 1], []], INTS, "0 1", [[1, 0], [1, 1], [0, 0]]),
        ([3, 4, 5], pa.int64(), "3 4 5", [[1, 0, 0], [0, 1, 0], [0, 0, 1]]),
        ([3.0, 5.0], pa.float64(), "3 5", [[1, 0], [0, 1]]),
        ([["b", "a", "b"], ["c"], []], NAMES, "a b c", [[1, 1, 0], [0, 0, 1], [0, 0, 0]]),
        (["b;a", "c", ""], pa.string(), "a b c", [[1, 1, 0], [0, 0, 1], [0, 0, 0]]),
        (["3.0;4", "4.0", ""], "csv", "3 4", [[1, 1], [0, 1], [0, 0]]),
        (["007;8", "007"], "csv", "007 8", [[1, 1], [1, 0]]),
    ],
)
def test_names_and_ids_in_lists_and_texts(cells, kind, labels, targets):
    found = read(cells, kind, label_delimiter=";")
    assert found == (tuple(labels.split()), targets)


@pytest.mark.parametrize(
    ("cells", "labels", "targets"),
    [
        (["['news', 'music']", "[]", "['news']"], "music news", [[1, 1], [0, 0], [0, 1]]),
        (['["news", "music"]', "[]", '["news"]'], "music news", [[1, 1], [0, 0], [0, 1]]),
        (["['news' 'music']", "[]", "['news']"], "music news", [[1, 1], [0, 0], [0, 1]]),
        (["('news', 'music')", "()", "('news',)"], "music news", [[1, 1], [0, 0], [0, 1]]),
        (["{'news', 'music'}", "set()", "{'news'}"], "music news", [[1, 1], [0, 0], [0, 1]]),
        (["['news']", "news,music", ""], "music news", [[0, 1], [1, 1], [0, 0]]),
        (["[3, 7]", "[]", "[7]"], "3 7", [[1, 1], [0, 0], [0, 1]]),
    ],
)
def test_lists_written_as_text_are_the_lists_that_they_are(cells, labels, targets):
    assert read(cells, "csv") == (tuple(labels.split()), targets)


def test_quotes_and_commas_in_the_names_of_a_written_list():
    labels, targets = read(["""['a, b', "it's"]""", """["it's"]""", '["say \\"a\\""]'], "csv")
    assert labels == ("a, b", "it's", 'say "a"')
    assert targets == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize(
    ("cells", "kind", "options", "message"),
    [
        ([[1, 0], [0, 1]], INTS, {}, r'holds 2 of 0, 1 in each row: .*label_form = "multi_hot"'),
        ([[1, 0], [0, 1]], INTS, {"label_names": ["a", "b"]}, r'label_form = "multi_hot"'),
        ([0, 1], pa.int64(), {}, r'label_columns = \["tags"\] for one label'),
        (["yes", "no"], "csv", {}, r'label_columns = \["tags"\] for one label'),
        ([[1, 0, 1], [0, 0]], INTS, {}, r"row 0: .*an entry twice, as in multi-hot lists"),
        (HOT, INTS, {"label_names": ["a", "b"]}, r"row 0: .*a list of 3 entries of 1 and 0, expec"),
        ([[1, None, 1]], INTS, {}, r'row 0: .*holds a null; label_form = "multi_hot" reads it as'),
        ([[3.0, 7.0]], FLOATS, {}, r'row 0: .*3 in a list, expected 0 or 1; label_form = "ids"'),
        (
            [[1.0, 0.0], [1.0]],
            FLOATS,
            {},
            "row 1: .*a list of 1, expected 1 or 0 for each of 2 labels",
        ),
        ([[3, -1], [4, 5]], INTS, {}, 'row 0: .*"-1" is a negative number, no label'),
        ([3.5, 4.0], pa.float64(), {}, "row 0: .*3.5, expected a label's name or number"),
        ([True, False], pa.bool_(), {}, r'label_columns = \["tags"\] reads it as one label'),
        ([{"a": 1}], pa.struct([("a", pa.int64())]), {}, "the column is struct"),
        ([[[1]], [[0]]], pa.list_(INTS), {}, "expected lists of names or whole numbers"),
        ([["b", "None"]], NAMES, {}, '"None" stands for no value; label_names'),
        (["rain,nan", "x"], "csv", {}, 'line 2: .*"nan" stands for no value'),
        (["rain", "nan"], "csv", {}, 'line 3: .*empty, expected the row\'s labels .*"unknown"'),
        (["3.5", "4.0"], "csv", {}, 'line 2: .*"3.5" is a number with a fraction, no label'),
        (["['a' ... 'b']"], "csv", {}, "line 2: .*looks like a list, and is none"),
        (["[rain, fog]"], "csv", {}, 'line 2: .*looks like a list.*label_form = "names"'),
        (["['rain', 'fog'"], "csv", {}, "line 2: .*looks like a list"),
        (["{rain,fog}"], "csv", {}, "line 2: .*looks like a list"),
        (["(rain,fog)"], "csv", {}, "line 2: .*looks like a list"),
        (['c("rain", "fog")'], "csv", {}, "line 2: .*looks like a list"),
        (["array(['rain', 'fog'], dtype=object)"], "csv", {}, "line 2: .*looks like a list"),
        (["['rain', None]"], "csv", {}, "line 2: .*a list with a null"),
        (["['rain', 3]"], "csv", {}, "line 2: .*a list of names and numbers"),
        (["[['a']]"], "csv", {}, "line 2: .*a list with a list in it"),
        (['{"a": 1}'], "csv", {}, "line 2: .*is a table, expected a list"),
        (["rain"], "csv", {"label_form": "ids"}, '"rain" is no id'),
        (["", ""], "csv", {}, "names no label in any row"),
    ],
)
def test_what_may_be_read_in_two_ways_or_in_none_is_refused(cells, kind, options, message):
    with pytest.raises(DataError, match=message):
        read(cells, kind, **options)


@pytest.mark.parametrize(
    ("cells", "kind", "options", "labels"),
    [
        ([[1, 0], [0, 1]], INTS, {"label_form": "ids"}, ("0", "1")),
        ([[3.0, 7.0], [3.0]], FLOATS, {"label_form": "ids"}, ("3", "7")),
        (["[red]", "[/blue],[red]"], "csv", {"label_form": "names"}, ("[/blue]", "[red]")),
        (["[red]", "[/blue],[red]"], "csv", {"label_names": ["[red]", "[/blue]"]}, None),
        (["3.5", "4.0"], "csv", {"label_form": "names"}, ("3.5", "4.0")),
        (["(a),(b)", "(b)", "f(x)"], "csv", {}, ("(a)", "(b)", "f(x)")),
        (["rain", "nan"], "csv", {"label_names": ["rain", "nan"]}, ("rain", "nan")),
        (["3.0", "4.0"], "csv", {"label_names": ["3.0", "4.0"]}, ("3.0", "4.0")),
    ],
)
def test_an_option_settles_how_labels_are_read(cells, kind, options, labels):
    assert read(cells, kind, **options)[0] == (labels or tuple(options["label_names"]))


@pytest.mark.parametrize("kind", [INTS, FLOATS])
def test_a_missing_list_among_multi_hot_ones_is_unknown_where_asked(kind):
    _, targets = read([None, [1, 0, 1], [0, 1, 1]], kind, missing_labels="unknown")
    np.testing.assert_array_equal(targets, [[NAN] * 3, [1, 0, 1], [0, 1, 1]])


def test_splits_whose_lists_are_of_two_kinds_are_refused():
    for name, kind in (("a", FLOATS), ("b", INTS)):
        rows = pa.table({"x": [1.0] * 9, "tags": pa.array([[1, 0, 1]] * 9, kind)})
        pq.write_table(rows, f"{name}.parquet")
    files = {"train": "a.parquet", "validation": "b.parquet", "test": "b.parquet"}
    with pytest.raises(DataError, match=r'splits differ .* label_form = "multi_hot" reads whole'):
        table(".", **files, label_column="tags")
    data = table(".", **files, label_column="tags", label_form="multi_hot")
    assert data.splits["test"].targets_NL.tolist() == [[1, 0, 1]] * 9


def test_multi_hot_columns_take_every_word_for_yes_and_no():
    lines = ["x,a,b,c", "0,yes,TRUE,1", "1,no,false,0.0", "2,,NA,1.0"]
    (rows := lines[1:]).extend(rows * 9)
    Path("t.csv").write_text("\n".join([lines[0], *rows]))
    data = table("t.csv", label_columns=["a", "b", "c"])
    expected = [[1, 1, 1], [0, 0, 0], [NAN, NAN, 1]]
    for split in data.splits.values():
        for x, targets in zip(split.inputs["features"][:, 0], split.targets_NL, strict=True):
            np.testing.assert_array_equal(targets, expected[int(x)])


def test_label_columns_of_lists_are_pointed_to_the_other_option():
    pq.write_table(pa.table({"x": [1.0] * 9, "tags": [[1, 0]] * 9}), "t.parquet")
    with pytest.raises(DataError, match=r'expected 0, 1 or nothing; label_column = "tags"'):
        table("t.parquet", label_columns=["tags"])
    with pytest.raises(ConfigError, match="label_names and label_form go with label_column"):
        table("t.parquet", label_columns=["tags"], label_form="multi_hot")


def test_what_was_understood_is_said_in_one_line():
    rows = [["b", "a"], ["a"], []] * 20
    pq.write_table(pa.table({"x": [1.0] * 60, "tags": pa.array(rows, NAMES)}), "t.parquet")
    assert table("t.parquet", label_column="tags").source == (
        "table: train from t.parquet; 2 labels from list column `tags`; 20 rows without labels; "
        "split: validation 15 % and test 15 % of train, seed 0 (42/9/9 rows)"
    )


@pytest.mark.parametrize("names", [["0", "1", "2"], ["1", "2", "3"], ["1", "0", "2"]])
@pytest.mark.parametrize("kind", [INTS, pa.list_(pa.string()), pa.string()])
def test_multi_hot_lists_are_so_too_where_label_names_are_numbers(kind, names):
    cells = HOT
    if kind != INTS:
        cells = [[str(x) for x in row] for row in HOT]
    if kind == pa.string():
        cells = [",".join(row) for row in cells]
    labels, targets = read(cells, kind, label_names=names)
    assert labels == tuple(names)
    assert targets == HOT


def test_multi_hot_lists_of_words_are_so_whatever_labels_are_called():
    cells = [["yes", "no"], ["no", "no"], ["yes", "yes"]]
    for names in (["yes", "no"], ["no", "yes"], ["p", "q"]):
        assert read(cells, NAMES, label_names=names)[1] == [[1, 0], [0, 0], [1, 1]]


def test_a_number_is_no_position_where_label_names_are_numbers():
    for cells, kind in (([0, 1, 2], pa.int64()), ([[0, 2], [1]], INTS)):
        with pytest.raises(DataError, match=r'unknown label "0".*numbers, each number is a name'):
            read(cells, kind, label_names=["1", "2", "3"])
    assert read([[2, 3], [1]], INTS, label_names=["1", "2", "3"])[1] == [[0, 1, 1], [1, 0, 0]]
    assert read([[0, 2], [1]], INTS, label_names=["a", "b", "c"])[1] == [[1, 0, 1], [0, 1, 0]]


@pytest.mark.parametrize("kind", ["csv", pa.string()])
@pytest.mark.parametrize("mark", [";", "|", "/"])
def test_another_delimiter_between_labels_is_named(kind, mark):
    cells = [f"rain{mark}fog", "rain", f"snow {mark} fog"]
    with pytest.raises(DataError, match=rf'holds "rain\{mark}fog".*label_delimiter = "\{mark}"'):
        read(cells, kind)
    assert read(cells, kind, label_delimiter=mark)[0] == ("fog", "rain", "snow")
    assert len(read(cells, kind, label_form="names")[0]) == 3
    assert len(read([*cells, "rain,snow"], kind)[0]) == 4
    assert len(read([[cell] for cell in cells], NAMES)[0]) == 3
