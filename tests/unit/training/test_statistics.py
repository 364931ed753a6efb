"""Statistics of labels, against counts by hand and scikit-learn's."""

import csv
import json
import math

import numpy as np
import pytest
from PIL import Image

from thresher_training.data import DataSet, Split
from thresher_training.statistics import describe, write_statistics

LABELS = ("rain", "fog", "hail", "snow")
TARGETS = np.array(
    [
        [1, 1, 0, 0],
        [1, 1, 0, 0],
        [1, 0, 1, 0],
        [1, 0, np.nan, 0],
        [0, 0, 0, 0],
        [0, np.nan, 0, 0],
    ],
    dtype=np.float32,
)


def data_set(train, labels=LABELS):
    def split(targets_NL):
        return Split(inputs={"x": np.zeros((len(targets_NL), 1))}, targets_NL=targets_NL)

    rest = np.nan_to_num(train)
    rest = (rest > 0.5).astype(np.float32)
    splits = {"train": split(train), "validation": split(rest), "test": split(rest[:3])}
    return DataSet(labels=labels, splits=splits, source="by hand")


def test_the_figures_are_those_counted_by_hand():
    train = describe(data_set(TARGETS)).splits["train"]
    assert train.num_rows == 6
    assert train.positives_L.tolist() == [4, 2, 1, 0]
    assert train.known_L.tolist() == [6, 5, 5, 6]
    assert train.cardinality == pytest.approx(7 / 6)
    assert train.density == pytest.approx(7 / 22)
    assert train.missing_share == pytest.approx(2 / 24)
    assert (train.max_labels, train.num_without_labels, train.num_label_sets) == (2, 2, 4)
    assert train.num_without_positives == 1
    # imbalance ratios 4/4, 4/2, 4/1
    assert train.mean_imbalance == pytest.approx(7 / 3)
    assert train.max_imbalance == 4
    assert train.imbalance_variation == pytest.approx(np.std([1, 2, 4], ddof=1) / (7 / 3))


def test_pairs_have_their_lift():
    found = describe(data_set(TARGETS))
    np.testing.assert_array_equal(
        found.together_LL, [[4, 2, 1, 0], [2, 2, 0, 0], [1, 0, 1, 0], [0] * 4]
    )
    first = found.frequent_pairs[0]
    assert (first.first, first.second, first.count) == ("rain", "fog", 2)
    assert first.lift == pytest.approx((2 / 6) / ((4 / 6) * (2 / 6)))
    assert found.strong_pairs == ()  # fewer than ten rows
    often = describe(data_set(np.tile(TARGETS, (10, 1))))
    assert [(p.first, p.second, p.count) for p in often.strong_pairs] == [
        ("rain", "fog", 20),
        ("rain", "hail", 10),
    ]


def test_many_rows_are_read_in_blocks_to_the_same_figures():
    targets = (np.random.default_rng(0).random((40_000, 9)) < 0.2).astype(np.float32)
    labels = tuple("abcdefghi")
    found = describe(data_set(targets, labels))
    np.testing.assert_array_equal(found.together_LL, (targets.T @ targets).astype(int))
    assert found.splits["train"].num_label_sets == len(np.unique(targets, axis=0))


def test_soft_targets_count_as_far_as_they_go():
    found = describe(data_set(np.array([[0.25, 1], [0.75, 0], [0, 1]]), ("a", "b")))
    assert found.splits["train"].positives_L.tolist() == [1, 2]
    assert found.splits["train"].cardinality == 1


def test_files_hold_the_same_and_no_nan(tmp_path):
    found = describe(data_set(TARGETS))
    files = write_statistics(found, tmp_path / "statistics")
    assert sorted(f.name for f in files) == sorted(
        f.name for f in (tmp_path / "statistics").iterdir()
    )
    by_name = {f.name: f for f in files}
    told = json.loads(by_name["statistics.json"].read_text(), parse_constant=pytest.fail)
    assert told["splits"]["train"]["positives"] == [4, 2, 1, 0]
    with by_name["labels.csv"].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == list(LABELS)
    assert rows[3]["train_imbalance"] == ""
    assert rows[1]["train_share"] == "0.4"
    summary = by_name["summary.md"].read_text()
    assert "| labels a row (cardinality) | 1.167 | 1.167 | 2.000 |" in summary
    assert "| rain + fog | 2 | 1.50 |" in summary


@pytest.mark.parametrize("num_labels", [1, 6, 28, 983])
def test_the_picture_is_drawn_for_any_number_of_labels(tmp_path, num_labels):
    rng = np.random.default_rng(0)
    targets = (rng.random((300, num_labels)) < 0.5 / np.arange(1, num_labels + 1)).astype(float)
    labels = tuple(f"label {at}" for at in range(num_labels))
    files = write_statistics(describe(data_set(targets, labels)), tmp_path)
    with Image.open(files[-1]) as picture:
        assert picture.width > picture.height > 400
        assert len(np.unique(np.asarray(picture))) > 50


def test_no_positives_at_all_are_no_error(tmp_path):
    found = describe(data_set(np.zeros((4, 2)), ("a", "b")))
    assert math.isnan(found.splits["train"].mean_imbalance)
    write_statistics(found, tmp_path)
