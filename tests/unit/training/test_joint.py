"""Thresholds for all labels together: against brute force over all products of cuts."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, fbeta_score

from thresher.decision import sigmoid
from thresher_training.decisions import best_cuts, parse_objective
from thresher_training.decisions.joint import (
    best_example_cuts,
    best_micro_cuts,
    cuts_at,
    example_value,
    shared_cut,
)
from thresher_training.decisions.pooled import best_pooled_cut

f32 = np.float32
F1 = parse_objective("f1")


def every_choice(scores):
    """All products of cuts, one a label, as thresholds; nothing positive among them."""
    each = [[*np.unique(column), f32(1)] for column in scores.T]
    return itertools.product(*each)


def make_rows(seed, num_rows, num_labels, known=1.0):
    rng = np.random.default_rng(seed)
    targets = (rng.random((num_rows, num_labels)) < rng.uniform(0.1, 0.6, num_labels)).astype(f32)
    scores = sigmoid((rng.normal(size=targets.shape) + targets).astype(f32)).round(1) * f32(0.9)
    targets[rng.random(targets.shape) > known] = np.nan
    return scores.astype(f32), targets


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.5, 1.0, 2.0]), st.booleans())
def test_no_choice_of_cuts_has_a_better_micro_f(seed, beta, from_f1):
    scores, targets = make_rows(seed, 6, 3, known=0.9)
    objective = parse_objective(f"micro_f{beta}")
    start = best_cuts(scores, targets, F1)
    if not from_f1:
        start = cuts_at(scores, targets, f32([1, 1, 1]), [F1] * 3)
    cuts, value = best_micro_cuts(scores, targets, objective, start)

    def micro(thresholds):
        yes, known = scores >= f32(thresholds), ~np.isnan(targets)
        return fbeta_score(targets[known], yes[known], beta=beta, zero_division=0)

    assert value == pytest.approx(max(map(micro, every_choice(scores))), abs=1e-12)
    assert micro(cuts.thresholds_L) == pytest.approx(value, abs=1e-12)


def test_labels_that_are_held_keep_their_cut_and_still_count():
    scores, targets = make_rows(3, 8, 3)
    start = cuts_at(scores, targets, f32([0.2, 0.5, 0.8]), [F1] * 3)
    free = np.array([True, False, True])
    cuts, value = best_micro_cuts(scores, targets, parse_objective("micro_f1"), start, free)
    assert cuts.thresholds_L[1] == f32(0.5)
    best = max(
        f1_score(targets, scores >= f32(choice), average="micro", zero_division=0)
        for choice in every_choice(scores)
        if (np.equal(scores[:, 1] >= choice[1], scores[:, 1] >= f32(0.5))).all()
    )
    assert value == pytest.approx(best)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_the_shared_cut_has_the_best_micro_f1_of_one_threshold(seed):
    scores, targets = make_rows(seed, 8, 3)
    cut = shared_cut(scores, targets, F1)
    each = [
        f1_score(targets, scores >= t, average="micro", zero_division=0) for t in np.unique(scores)
    ]
    assert cut.value_L[0] == pytest.approx(max([0, *each]))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["f1", "f2"]), st.booleans(), st.integers(1, 300))
def test_pooling_without_sorting_all_gives_the_same_cut(seed, text, few_scores, num_rows):
    scores, targets = make_rows(seed, num_rows, 4, known=0.8)
    if not few_scores:
        scores *= np.random.default_rng(seed).random(scores.shape, dtype=f32)
    objective = parse_objective(text)
    sorted_all = shared_cut(scores, targets, objective)
    found = best_pooled_cut(scores, targets, objective)
    if found is None:
        assert not (targets == 1).any()
    else:
        assert found.at(0) == sorted_all.at(0)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_no_single_threshold_betters_the_example_based_f(seed):
    scores, targets = make_rows(seed, 8, 3)
    objective = parse_objective("example_f1")
    starts = [best_cuts(scores, targets, F1).thresholds_L, np.full(3, 0.5, f32)]
    thresholds, value = best_example_cuts(scores, targets, objective, starts)
    assert value == pytest.approx(
        f1_score(targets, scores >= thresholds, average="samples", zero_division=0)
    )
    for at, column in enumerate(scores.T):
        for other in [*np.unique(column), f32(1)]:
            changed = thresholds.copy()
            changed[at] = other
            assert example_value(scores, targets, changed, objective) <= value + 1e-9


def test_example_based_f_leaves_unknown_targets_out():
    scores, targets = f32([[0.9, 0.9], [0.1, 0.9]]), f32([[1, np.nan], [0, 1]])
    assert example_value(scores, targets, f32([0.5, 0.5]), parse_objective("example_f1")) == 1


def test_cuts_at_given_thresholds_count_as_float32_compares():
    scores, targets = make_rows(5, 50, 2)
    cuts = cuts_at(scores, targets, f32([0.36, 0.5]), [F1, parse_objective("mcc")])
    yes = scores >= f32([0.36, 0.5])
    np.testing.assert_array_equal(cuts.tp_L, (yes & (targets == 1)).sum(axis=0))
    np.testing.assert_array_equal(cuts.fp_L, (yes & (targets == 0)).sum(axis=0))
    assert cuts.value_L[0] == pytest.approx(f1_score(targets[:, 0], yes[:, 0]))
