"""Metrics: scikit-learn's where all is known, and right by hand where it is not."""

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, hamming_loss

from thresher import Decision
from thresher_training.metrics import label_table, mean_average_precision, metrics

NAN = np.nan


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    targets = (rng.random((50, 4)) < 0.4).astype(np.float32)
    return targets, rng.random((50, 4)).astype(np.float32)


def test_known_targets_give_scikit_learns_figures(rows):
    targets, scores = rows
    predicted = scores >= 0.5
    got = metrics(targets, predicted)
    assert got.micro_f1 == f1_score(targets, predicted, average="micro")
    assert got.macro_f1 == f1_score(targets, predicted, average="macro")
    assert got.hamming_loss == hamming_loss(targets, predicted)
    assert got.subset_accuracy == (targets == predicted).all(axis=1).mean()
    assert mean_average_precision(targets, scores) == average_precision_score(targets, scores)


def test_unknown_targets_are_left_out_everywhere():
    targets = np.float32([[1, NAN], [0, 1], [1, 0]])
    predicted = np.array([[True, True], [False, True], [False, False]])
    got = metrics(targets, predicted)
    assert got.micro_f1 == pytest.approx(2 * 2 / (2 + 3))
    assert got.macro_f1 == pytest.approx((2 / 3 + 1) / 2)
    assert got.hamming_loss == pytest.approx(1 / 5)
    assert got.subset_accuracy == pytest.approx(2 / 3)


def test_a_label_without_positives_has_no_average_precision_and_spoils_no_mean():
    targets, scores = np.float32([[0, 1], [0, 0]]), np.float32([[0.2, 0.9], [0.1, 0.3]])
    assert mean_average_precision(targets, scores) == 1
    assert math.isnan(mean_average_precision(targets[:, :1], scores[:, :1]))
    assert metrics(targets, scores >= 0.5).macro_f1 == 0.5


def test_one_label_is_one_label():
    got = metrics(np.float32([[1], [0], [0]]), np.array([[True], [True], [False]]))
    assert got.micro_f1 == got.macro_f1 == pytest.approx(2 / 3)


def test_nothing_known_gives_no_hamming_loss():
    assert math.isnan(metrics(np.float32([[NAN]]), np.array([[True]])).hamming_loss)


def test_the_table_has_each_label_at_its_own_threshold(rows):
    targets, scores = rows
    targets[:5, 2] = NAN
    decision = Decision(labels="abcd", thresholds=[0.1, 0.5, 0.7, 0.999])
    table = label_table(targets, scores, decision)
    assert [row.label for row in table] == list("abcd")
    assert [row.threshold for row in table] == [0.1, 0.5, 0.7, 0.999]
    known = ~np.isnan(targets[:, 2])
    assert table[2].known == 45
    assert table[2].support == int(targets[known, 2].sum())
    assert table[2].f1 == f1_score(targets[known, 2], scores[known, 2] >= np.float32(0.7))
    assert table[3].recall == 0  # nothing predicted: 0, not a warning
