"""Co-occurrence against counts by loops, on a model that is right, and as a picture."""

import csv

import numpy as np
import pytest
from PIL import Image

from thresher.errors import DataError
from thresher_training.cooccurrence import cooccurrence, pairs, write_cooccurrence_table
from thresher_training.cooccurrence_plot import cooccurrence_chart

LABELS = ("sun", "heat", "snow", "never")


def example(seed=0, num_rows=200):
    rng = np.random.default_rng(seed)
    probabilities = rng.random((num_rows, 4)).astype(np.float32)
    targets = (rng.random((num_rows, 4)) < probabilities).astype(np.float32)
    targets[:, 3] = 0
    targets[rng.random((num_rows, 4)) < 0.2] = np.nan
    return targets, probabilities


def test_counts_are_those_of_rows_where_both_are_known():
    targets, probabilities = example()
    decided = probabilities >= 0.5
    found = cooccurrence(LABELS, targets, probabilities, decided)
    for i in range(4):
        for j in range(4):
            rows = ~np.isnan(targets[:, i]) & ~np.isnan(targets[:, j])
            t, p, d = targets[rows], probabilities[rows].astype(float), decided[rows]
            assert found.known_LL[i, j] == rows.sum()
            assert found.observed_LL[i, j] == ((t[:, i] == 1) & (t[:, j] == 1)).sum()
            assert found.predicted_LL[i, j] == (d[:, i] & d[:, j]).sum()
            assert found.expected_LL[i, j] == pytest.approx((p[:, i] * p[:, j]).sum())
            if t[:, i].any() and t[:, j].any():
                both = ((t[:, i] == 1) & (t[:, j] == 1)).mean()
                lift = both / (t[:, i].mean() * t[:, j].mean())
                assert found.lift_LL[i, j] == pytest.approx(lift, rel=1e-5)
            else:
                assert np.isnan(found.lift_LL[i, j])


def test_surprise_is_a_standard_score_where_labels_are_independent():
    scores = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        probabilities = rng.random((100, 2)).astype(np.float32)
        targets = (rng.random((100, 2)) < probabilities).astype(np.float32)
        found = cooccurrence(["a", "b"], targets, probabilities, probabilities >= 0.5)
        scores.append(found.surprise_LL[0, 1])
    assert abs(np.mean(scores)) < 0.25
    assert np.std(scores) == pytest.approx(1, abs=0.15)


def test_a_tie_that_probabilities_do_not_know_is_the_first_of_the_table(tmp_path):
    rng = np.random.default_rng(0)
    targets = (rng.random((500, 4)) < 0.3).astype(np.float32)
    targets[:, 2] = targets[:, 0]
    found = cooccurrence(LABELS, targets, np.full((500, 4), 0.3, np.float32), targets > 2)
    first = pairs(found)[0]
    assert (first.first, first.second) == ("sun", "snow")
    assert first.surprise > 5
    assert first.predicted == 0
    assert np.isnan(first.predicted_lift)
    path = tmp_path / "pairs.csv"
    write_cooccurrence_table(found, path, at_most=2)
    with path.open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == 2
    assert table[0]["first"] == "sun"
    assert table[0]["observed"] == str(int(targets[:, 0].sum()))
    assert table[0]["predicted_lift"] == ""


def test_one_label_has_no_pairs(tmp_path):
    found = cooccurrence(
        ["a"], np.ones((3, 1), np.float32), np.ones((3, 1), np.float32), np.ones((3, 1), bool)
    )
    assert pairs(found) == ()
    write_cooccurrence_table(found, tmp_path / "pairs.csv")


def test_shapes_that_differ_are_refused():
    targets, probabilities = example()
    with pytest.raises(DataError, match=r"decisions have shape \[3, 4\], expected \[200, 4\]"):
        cooccurrence(LABELS, targets, probabilities, probabilities[:3] >= 0.5)


@pytest.mark.parametrize("num_labels", [1, 6, 159])
def test_the_picture_has_room_for_its_labels(tmp_path, num_labels):
    rng = np.random.default_rng(0)
    probabilities = rng.random((300, num_labels)).astype(np.float32)
    targets = (rng.random((300, num_labels)) < probabilities).astype(np.float32)
    labels = [f"a label with a rather long name {at}" for at in range(num_labels)]
    path = tmp_path / "together.png"
    cooccurrence_chart(cooccurrence(labels, targets, probabilities, probabilities >= 0.5), path)
    with Image.open(path) as picture:
        width, height = picture.size
        assert 1000 < width < 3000
        assert 400 < height < 1500
        assert len(picture.convert("RGB").getcolors(1 << 24)) > (5 if num_labels == 1 else 50)
