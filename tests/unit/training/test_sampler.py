"""The label-aware sampler against LVIS' formula, and on draws."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thresher_training.sampler import label_aware_weights

TARGETS = np.float32(np.arange(1000)[:, None] < np.array([10, 100, 400]))


def test_rows_are_drawn_by_the_repeat_factor_of_their_rarest_label():
    """Gupta et al., CVPR 2019: r = max over the row's labels of max(1, sqrt(t / f))."""
    frequency = TARGETS.mean(axis=0)
    expected = np.array(
        [
            max(1.0, *(np.sqrt(0.25 / frequency[row == 1])), 0.0) if row.any() else 1.0
            for row in TARGETS
        ]
    )
    found = label_aware_weights(TARGETS, frequency=0.25)
    assert found == pytest.approx(expected / expected.sum())
    assert found.dtype == np.float64


def test_the_median_label_and_commoner_ones_are_left_as_they_are():
    found = label_aware_weights(TARGETS)
    assert found[0] / found[999] == pytest.approx(np.sqrt(10))
    assert found[50] == found[999]
    assert found[300] == found[999]


def test_no_row_is_drawn_more_than_cap_times_as_often_as_another():
    found = label_aware_weights(TARGETS, frequency=1.0, cap=3.0)
    assert found.max() / found.min() == pytest.approx(3.0)


def test_the_rare_label_comes_up_more_often():
    drawn = np.random.default_rng(0).choice(1000, size=20_000, p=label_aware_weights(TARGETS))
    assert TARGETS[drawn, 0].mean() == pytest.approx(0.01 * np.sqrt(10), rel=0.1)


def test_unknown_targets_ask_for_nothing_and_soft_ones_for_their_share():
    targets = np.full((101, 2), 0.0, dtype=np.float32)
    targets[:60, 1] = 1
    targets[0, 0], targets[1, 0], targets[2, 0] = 1, 0.5, np.nan
    found = label_aware_weights(targets, frequency=0.5)
    more = np.sqrt(0.5 / (1.5 / 100)) - 1
    assert found[:3] / found[3] == pytest.approx([1 + more, 1 + more / 2, 1.0])


@pytest.mark.parametrize("targets", [np.zeros((4, 2)), np.full((4, 2), np.nan), np.ones((4, 2))])
def test_nothing_to_balance_draws_every_row_alike(targets):
    assert label_aware_weights(targets.astype(np.float32)).tolist() == [0.25] * 4


@given(
    st.lists(st.lists(st.sampled_from([0.0, 1.0, 0.3, np.nan]), min_size=3, max_size=3), min_size=1)
)
def test_shares_are_positive_add_up_to_1_and_stay_within_the_cap(rows):
    found = label_aware_weights(np.float32(rows))
    assert found.sum() == pytest.approx(1)
    assert found.min() > 0
    assert found.max() / found.min() <= 10 + 1e-6
