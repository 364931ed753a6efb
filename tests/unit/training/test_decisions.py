"""Thresholds: exact against brute force, in float32, in the widest gap."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, precision_recall_curve

from thresher.decision import sigmoid
from thresher.errors import DataError
from thresher_training import DecisionConfig
from thresher_training.decisions import best_f1_cut, tune_decision

f32 = np.float32
ANY_SCORE = st.floats(0, 1, width=32, allow_nan=False)
FEW_SCORES = st.sampled_from([f32(x) for x in (0, 1e-45, 0.25, 0.5, 1 - 2**-24, 1)])
ROWS = st.lists(st.tuples(ANY_SCORE | FEW_SCORES, st.sampled_from([0, 1, np.nan])), max_size=30)


def f1_at(scores, targets, threshold):
    known = ~np.isnan(targets)
    if not known.any():
        return 0.0
    return f1_score(targets[known] == 1, scores[known] >= f32(threshold), zero_division=0)


@settings(max_examples=150, deadline=None)
@given(ROWS)
def test_no_cut_is_better_and_no_equal_cut_has_a_wider_gap(rows):
    scores = np.array([score for score, _ in rows], dtype=f32)
    targets = np.array([target for _, target in rows], dtype=f32)
    cut = best_f1_cut(scores, targets)
    assert isinstance(cut.threshold, f32)
    assert f1_at(scores, targets, cut.threshold) == pytest.approx(cut.f1, abs=1e-12)
    if not (targets == 1).any():
        assert (cut.threshold, cut.f1) == (f32(0.5), 0)
        return
    highs = np.unique(scores[~np.isnan(targets)])
    lows = np.append(0.0, highs[:-1].astype(float))
    each = [f1_at(scores, targets, high) for high in highs]
    assert cut.f1 == pytest.approx(max(each), abs=1e-12)
    widest = max(
        float(h) - low
        for h, low, f1 in zip(highs, lows, each, strict=True)
        if f1 > max(each) - 1e-12
    )
    assert cut.gap == widest
    # the threshold lies in the gap: above every score that is a no, at most every one that is a yes
    yes = highs[highs >= cut.threshold]
    no = highs[highs < cut.threshold]
    assert float(yes.min()) - (float(no.max()) if no.size else 0.0) == cut.gap


def test_it_reaches_the_best_f1_of_scikit_learns_curve():
    rng = np.random.default_rng(0)
    targets = (rng.random(500) < 0.2).astype(f32)
    scores = sigmoid((rng.normal(size=500) + 2 * targets).astype(f32))
    precision, recall, _ = precision_recall_curve(targets, scores)
    best = np.max(2 * precision * recall / np.maximum(precision + recall, 1e-12))
    assert best_f1_cut(scores, targets).f1 == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("low", [f32(0.5), f32(0.25), f32(1e-45), f32(1 - 2**-23), f32(0)])
def test_scores_one_step_apart_are_still_told_apart(low):
    high = np.nextafter(low, f32(2))
    cut = best_f1_cut(np.array([low, high], f32), f32([0, 1]))
    assert low < cut.threshold <= high
    assert cut.f1 == 1


def test_equal_scores_fall_on_one_side():
    cut = best_f1_cut(f32([0.5, 0.5, 0.5]), f32([0, 1, 1]))
    assert cut.f1 == pytest.approx(0.8)
    assert cut.threshold == f32(0.25)


def test_scores_of_0_and_1_are_cut_in_the_middle():
    assert best_f1_cut(f32([0, 1]), f32([0, 1])).threshold == f32(0.5)
    assert best_f1_cut(f32([0, 0]), f32([1, 1])).threshold == 0
    assert best_f1_cut(f32([1, 1]), f32([1, 1])).threshold == f32(0.5)


def test_the_widest_of_equally_good_gaps_is_taken():
    # keeping the first alone and keeping all three both give F1 = 0.8 - and the gaps differ
    scores, targets = f32([0.9, 0.8, 0.3]), f32([1, 0, 1])
    cut = best_f1_cut(scores, targets)
    assert cut.f1 == pytest.approx(0.8)
    assert cut.threshold == f32(0.15)


@pytest.mark.parametrize("bad", [np.nan, -0.1, 1.1])
def test_scores_that_are_no_probabilities_are_refused(bad):
    with pytest.raises(DataError, match=r"in \[0, 1\]"):
        best_f1_cut(f32([0.5, bad]), f32([0, 1]))


def make_rows(num_rows=400, num_labels=3):
    rng = np.random.default_rng(1)
    targets = (rng.random((num_rows, num_labels)) < 0.3).astype(f32)
    return (rng.normal(size=targets.shape) + 3 * targets - 1).astype(f32), targets


def test_each_label_gets_its_own_best_threshold():
    logits, targets = make_rows()
    tuned = tune_decision("abc", logits, targets, DecisionConfig())
    probabilities, predicted = tuned.decision.apply(logits)
    for at, row in enumerate(tuned.report):
        cut = best_f1_cut(probabilities[:, at], targets[:, at])
        assert tuned.decision.thresholds[at] == cut.threshold == f32(row.threshold)
        assert f1_score(targets[:, at], predicted[:, at]) == pytest.approx(cut.f1)
    assert tuned.fell_back == ()


def test_the_shared_threshold_has_the_best_micro_f1():
    logits, targets = make_rows()
    tuned = tune_decision("abc", logits, targets, DecisionConfig())
    probabilities, predicted = tuned.shared.apply(logits)
    best = max(
        f1_score(targets, probabilities >= t, average="micro")
        for t in np.unique(probabilities)[::7]
    )
    assert f1_score(targets, predicted, average="micro") >= best
    assert len(set(tuned.shared.thresholds)) == 1


def test_labels_with_few_positives_or_no_negatives_take_the_shared_threshold():
    logits, targets = make_rows(num_labels=4)
    targets[:, 1] = 0
    targets[:5, 1] = 1
    targets[:, 2] = 1
    targets[:, 3] = np.nan
    tuned = tune_decision("abcd", logits, targets, DecisionConfig(min_positives=6))
    assert tuned.fell_back == ("b", "c", "d")
    assert [row.positives for row in tuned.report][1:] == [5, 400, 0]
    assert (tuned.decision.thresholds[1:] == tuned.shared.thresholds[1:]).all()
    assert tune_decision("abcd", logits, targets, DecisionConfig(min_positives=5)).fell_back == (
        "c",
        "d",
    )


def test_calibration_is_kept_and_thresholds_fit_the_calibrated_probabilities():
    logits, targets = make_rows()
    plain = tune_decision("abc", logits, targets, DecisionConfig())
    scaled = tune_decision(
        "abc", logits, targets, DecisionConfig(), scale=[2, 2, 2], bias=[1, 0, -1]
    )
    assert scaled.decision.is_calibrated
    assert scaled.shared.is_calibrated
    np.testing.assert_array_equal(
        plain.decision.apply(logits)[1].sum(axis=0), scaled.decision.apply(logits)[1].sum(axis=0)
    )


def test_nothing_known_gives_one_half():
    with warnings.catch_warnings(action="error"):
        tuned = tune_decision("a", f32([[1], [2]]), f32([[np.nan], [np.nan]]), DecisionConfig())
    assert tuned.decision.thresholds.tolist() == [0.5]


def test_logits_that_are_nan_are_refused_by_label():
    with pytest.raises(DataError, match='"b"'):
        tune_decision("ab", f32([[0, np.nan]]), f32([[0, 1]]), DecisionConfig())
