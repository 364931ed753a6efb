"""Splits alike in every label, groups kept whole."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thresher.errors import DataError
from thresher_training.stratify import stratify

SHARES = (0.7, 0.15, 0.15)


def long_tail(num_rows, num_labels, seed=0):
    rng = np.random.default_rng(seed)
    frequency_L = 0.4 / np.arange(1, num_labels + 1) ** 0.8
    return (rng.random((num_rows, num_labels)) < frequency_L).astype(np.float32)


def label_errors(targets_NL, parts):
    """Positives that each part has too many or too few of each label, [parts, L]."""
    return np.stack(
        [
            (targets_NL[parts == at] > 0.5).sum(axis=0) - share * (targets_NL > 0.5).sum(axis=0)
            for at, share in enumerate(SHARES)
        ]
    )


def test_each_label_is_shared_out_as_asked():
    targets_NL = long_tail(3000, 30)
    parts = stratify(targets_NL, SHARES)
    errors = np.abs(label_errors(targets_NL, parts))
    at_random = np.random.default_rng(0).choice(3, size=3000, p=SHARES)
    assert errors.max() <= 6
    assert errors.mean() < 0.25 * np.abs(label_errors(targets_NL, at_random)).mean()
    np.testing.assert_allclose(np.bincount(parts) / 3000, SHARES, atol=0.01)


def test_rows_without_labels_are_shared_out_too():
    targets_NL = np.zeros((100, 2), dtype=np.float32)
    targets_NL[:40, 0] = 1
    parts = stratify(targets_NL, [0.75, 0.25])
    assert np.bincount(parts[:40]).tolist() == [30, 10]
    assert np.bincount(parts[40:]).tolist() == [45, 15]


def test_the_seed_decides_and_unknown_targets_are_no_positives():
    targets_NL = long_tail(300, 5)
    assert np.array_equal(
        stratify(targets_NL, SHARES, seed=1), stratify(targets_NL, SHARES, seed=1)
    )
    assert not np.array_equal(
        stratify(targets_NL, SHARES, seed=1), stratify(targets_NL, SHARES, seed=2)
    )
    unknown_NL = np.where(targets_NL == 0, np.nan, targets_NL)
    np.testing.assert_array_equal(
        stratify(unknown_NL, SHARES, seed=1), stratify(targets_NL, SHARES, seed=1)
    )


def test_groups_of_one_row_are_shared_out_as_rows_are():
    targets_NL = long_tail(2000, 20)
    parts = stratify(targets_NL, SHARES, groups_N=np.arange(2000))
    assert np.abs(label_errors(targets_NL, parts)).max() <= 8
    np.testing.assert_allclose(np.bincount(parts) / 2000, SHARES, atol=0.02)


def test_labels_of_groups_are_shared_out_better_than_by_chance():
    rng = np.random.default_rng(5)
    targets_NL = long_tail(4000, 20)
    groups_N = rng.choice(300, size=4000, p=rng.dirichlet(np.ones(300)))
    parts = stratify(targets_NL, SHARES, groups_N=groups_N)
    assert all(len(np.unique(parts[groups_N == g])) <= 1 for g in range(300))
    by_chance = rng.choice(3, size=300, p=SHARES)[groups_N]
    ours, chance = (np.abs(label_errors(targets_NL, p)).mean() for p in (parts, by_chance))
    assert ours < 0.5 * chance


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(6, 60), st.booleans())
def test_every_row_has_one_part_and_no_group_has_two(seed, num_labels, num_groups, in_groups):
    rng = np.random.default_rng(seed)
    targets_NL = (rng.random((120, num_labels)) < 0.3).astype(np.float32)
    groups_N = np.concatenate([np.arange(num_groups), rng.integers(0, num_groups, 120)])[:120]
    kept = groups_N if in_groups else None
    parts = stratify(targets_NL, SHARES, groups_N=kept, seed=seed)
    assert set(parts.tolist()) == {0, 1, 2}
    if in_groups:
        assert all(len(set(parts[groups_N == g].tolist())) == 1 for g in range(num_groups))


@pytest.mark.parametrize("shares", [(0.5, 0.6), (1.0, 0.0), (0.5, 0.25)])
def test_shares_that_are_none_are_refused(shares):
    with pytest.raises(DataError, match="expected each between 0 and 1 and all together 1"):
        stratify(np.eye(4), shares)


def test_too_few_rows_or_groups_are_told():
    with pytest.raises(DataError, match="2 rows are too few"):
        stratify(np.eye(2), SHARES)
    with pytest.raises(DataError, match="9 rows in 1 groups are too few"):
        stratify(np.ones((9, 2)), SHARES, groups_N=np.zeros(9))
