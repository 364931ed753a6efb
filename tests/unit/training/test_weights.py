"""Weightings against their formulas on counts done by hand, with caps and one-sided labels."""

import csv

import numpy as np
import pytest

from thresher.errors import ConfigError
from thresher_training import LossConfig
from thresher_training.weights import (
    effective_number,
    label_counts,
    label_weights,
    weight_rows,
    write_weight_table,
)

# 100 rows; the last two labels have no positives and no negatives
COUNTS = np.array([10, 20, 50, 0, 100])
LABELS = ("a", "b", "c", "never", "always")
TARGETS = np.float32(np.arange(100)[:, None] < COUNTS)


def rows(targets=TARGETS, labels=LABELS, **config):
    return {row.label: row for row in weight_rows(LossConfig(**config), targets, labels)}


def column(found, name):
    return [getattr(row, name) for row in found.values()]


def effective(n):
    return (1 - 0.999**n) / (1 - 0.999)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("none", [1, 1, 1]),
        ("neg_over_pos", [9, 4, 1]),
        ("max_over_count", [5, 2.5, 1]),
        ("inverse_frequency", [10, 5, 2]),
        ("effective_number", [effective(100 - n) / effective(n) for n in (10, 20, 50)]),
    ],
)
def test_pos_weights_are_what_their_names_say(name, expected):
    found = column(rows(pos_weight=name, pos_weight_cap=100.0), "pos_weight")
    assert found == pytest.approx([*expected, 1, 1])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("none", [1, 1, 1]),
        ("neg_over_pos", [9, 4, 1]),
        ("max_over_count", [5, 2.5, 1]),
        ("inverse_frequency", [10, 5, 2]),
        ("effective_number", [1 / effective(n) for n in (10, 20, 50)]),
    ],
)
def test_label_weights_have_a_mean_of_1_over_the_labels_that_can_be_balanced(name, expected):
    found = column(rows(weight=name, weight_cap=100.0), "weight")
    assert found == pytest.approx([*(np.array(expected) / np.mean(expected)), 1, 1])
    assert np.mean(found) == pytest.approx(1)


def test_caps_hold():
    assert column(rows(pos_weight="neg_over_pos", pos_weight_cap=5.0), "pos_weight") == [
        5, 4, 1, 1, 1,
    ]  # fmt: skip
    found = column(rows(weight="neg_over_pos", weight_cap=3.0), "weight")[:3]
    assert found == pytest.approx([3 * 3 / 7, 3 * 3 / 7, 3 / 7])
    assert max(found) / min(found) == pytest.approx(3)


def test_soft_targets_count_by_their_value_and_unknown_ones_not_at_all():
    positives, negatives = label_counts(np.float32([[0.25, np.nan], [0.5, 1], [1, np.nan]]))
    assert positives.tolist() == [1.75, 1]
    assert negatives.tolist() == [1.25, 0]


def test_a_next_to_empty_soft_label_is_capped_and_not_infinite():
    targets = np.float32([[1e-30, 1], [0, 0]])
    found = rows(targets, ("faint", "b"), pos_weight="neg_over_pos", weight="inverse_frequency")
    assert column(found, "pos_weight") == [20, 1]
    assert np.isfinite(column(found, "weight")).all()


def test_given_weights_are_taken_as_they_are_and_labels_left_out_weigh_1():
    found = rows(pos_weight="given", given={"b": 3, "never": 2})
    assert column(found, "pos_weight") == [1, 3, 1, 2, 1]
    found = rows(weight="given", given={"b": 6.0})
    assert column(found, "weight") == pytest.approx([0.5, 3, 0.5, 0.5, 0.5])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"pos_weight": "given", "given": {"d": 2.0}}, 'unknown label "d"'),
        ({"pos_weight": "given", "given": {"a": 50}}, '"a" weighs 50, above pos_weight_cap of 20'),
        ({"weight": "given", "given": {"a": 50}}, '"a" weighs 50 times the lightest label, above'),
        (
            {"weight": "given", "given": {"a": 0.01}},
            "100 times the lightest label, above weight_cap of 20; lower the weight or raise",
        ),
    ],
)
def test_given_weights_that_do_not_fit_are_refused(config, message):
    with pytest.raises(ConfigError, match=message):
        rows(**config)


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9, 0.999, 0.999999])
def test_the_effective_number_is_the_sum_of_its_series(beta):
    """(1 - b^n) / (1 - b) = 1 + b + ... + b^(n - 1)."""
    counts = np.array([0.0, 1, 2, 7, 5000])
    expected = [np.sum(beta ** np.arange(n)) for n in counts.astype(int)]
    assert effective_number(counts, beta=beta) == pytest.approx(expected, rel=1e-9)


def test_every_label_one_sided_leaves_all_weights_at_1():
    targets = np.zeros((4, 2), dtype=np.float32)
    found = rows(targets, ("a", "b"), weight="effective_number", pos_weight="max_over_count")
    assert column(found, "weight") == column(found, "pos_weight") == [1, 1]


def test_no_weighting_gives_no_tensors():
    assert label_weights(LossConfig(), TARGETS, LABELS) == (None, None)
    weight, pos_weight = label_weights(LossConfig(weight="neg_over_pos"), TARGETS, LABELS)
    assert weight.shape == (5,)
    assert pos_weight is None


def test_the_table_is_a_row_per_label(tmp_path):
    path = tmp_path / "weights.csv"
    config = LossConfig(pos_weight="neg_over_pos")
    write_weight_table(weight_rows(config, TARGETS, LABELS), path)
    with path.open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["label"] for row in table] == list(LABELS)
    assert table[0] == {
        "label": "a", "positives": "10", "negatives": "90", "pos_weight": "9", "weight": "1",
    }  # fmt: skip
