"""Score histograms: merged in any order, and as good as their bound says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thresher.decision import sigmoid
from thresher.errors import DataError, DecisionError
from thresher.scores import NEGATIVE, POSITIVE, UNKNOWN, ScoreHistograms, bin_edges
from thresher_training.decisions import best_cuts, parse_objective
from thresher_training.decisions.streamed import best_cuts_of_histograms

f32 = np.float32
OBJECTIVES = [
    *("f1", "f2", "f0.5", "precision@recall>=0.7", "recall@precision>=0.6", "balanced_accuracy"),
    *("youden", "mcc", "cost(fp=1,fn=5)", "prevalence"),
]


def make_rows(seed, num_rows, num_labels=3):
    rng = np.random.default_rng(seed)
    targets = rng.choice(f32([0, 0, 1, np.nan]), size=(num_rows, num_labels))
    logits = (rng.normal(size=targets.shape) * 2 + np.nan_to_num(targets)).astype(f32)
    return logits, targets


def counted(logits, targets, num_bins=256):
    histograms = ScoreHistograms.empty(logits.shape[1], num_bins=num_bins)
    histograms.update(logits, targets)
    return histograms


def equal(first, second):
    return np.array_equal(first.counts_LKB, second.counts_LKB)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 300), st.integers(0, 300))
def test_merging_is_associative_and_the_same_as_one_pass(seed, first, second):
    logits, targets = make_rows(seed, 300)
    first, second = sorted((first, second))
    parts = [slice(0, first), slice(first, second), slice(second, None)]
    a, b, c = (counted(logits[part], targets[part]) for part in parts)
    whole = counted(logits, targets)
    assert equal((a + b) + c, whole)
    assert equal(a + (b + c), whole)
    assert equal(c + b + a, whole)
    assert equal(a + b, b + a)
    assert whole.num_rows == 300


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(OBJECTIVES), st.sampled_from([4, 32, 4096]))
def test_the_exact_optimum_lies_between_the_value_and_its_bound(seed, text, num_bins):
    logits, targets = make_rows(seed, 200)
    logits = logits.round(3)
    objective = parse_objective(text)
    streamed = best_cuts_of_histograms(counted(logits, targets, num_bins), objective)
    exact = best_cuts(sigmoid(logits), targets, objective)
    assert (streamed.cuts.value_L <= exact.value_L + 1e-12).all()
    assert (exact.value_L <= streamed.upper_L + 1e-12).all()


def test_the_threshold_gives_the_counts_on_the_rows_themselves():
    logits, targets = make_rows(0, 5000)
    streamed = best_cuts_of_histograms(counted(logits, targets, 4096), parse_objective("f1"))
    yes = sigmoid(logits) >= streamed.cuts.thresholds_L
    assert (np.abs(streamed.cuts.tp_L - (yes & (targets == 1)).sum(axis=0)) <= 1).all()
    assert (np.abs(streamed.cuts.fp_L - (yes & (targets == 0)).sum(axis=0)) <= 1).all()


def test_with_many_bins_the_metric_is_within_a_thousandth():
    rng = np.random.default_rng(2)
    targets = rng.random((50_000, 4)) < 0.1
    logits = (rng.normal(size=targets.shape) * 1.5 + 2 * targets - 2).astype(f32)
    streamed = best_cuts_of_histograms(counted(logits, targets, 4096), parse_objective("f1"))
    exact = best_cuts(sigmoid(logits), targets, parse_objective("f1"))
    assert (exact.value_L - streamed.cuts.value_L).max() < 0.001


def test_thresholds_are_for_the_calibrated_probabilities():
    logits, targets = make_rows(4, 2000, 1)
    histograms = counted(logits, targets, 4096)
    plain = best_cuts_of_histograms(histograms, parse_objective("f1"))
    scaled = best_cuts_of_histograms(histograms, parse_objective("f1"), scale_L=[2], bias_L=[1])
    assert scaled.cuts.tp_L == plain.cuts.tp_L
    yes = sigmoid(logits * f32(2) + f32(1)) >= scaled.cuts.thresholds_L
    assert abs(int((yes & (targets == 1)).sum()) - int(scaled.cuts.tp_L[0])) <= 1


def test_the_threshold_lies_in_the_middle_of_a_wide_gap():
    histograms = counted(f32([[-3], [3]]), f32([[0], [1]]), 4096)
    streamed = best_cuts_of_histograms(histograms, parse_objective("f1"))
    assert streamed.cuts.thresholds_L[0] == pytest.approx(0.5, abs=1e-3)
    assert streamed.cuts.gap_L[0] == pytest.approx(sigmoid(f32(3)) - sigmoid(f32(-3)), abs=1e-3)
    assert streamed.upper_L[0] == streamed.cuts.value_L[0] == 1


@pytest.mark.parametrize("num_bins", [2, 4, 256, 4096, 2**14])
def test_bins_keep_the_order_of_logits_and_edges_begin_them(num_bins):
    edges = bin_edges(num_bins)
    assert (np.diff(edges) > 0).all()
    histograms = ScoreHistograms.empty(1, num_bins=num_bins)
    histograms.update(edges[:, None])
    assert (histograms.counts_LKB[0, UNKNOWN] == 1).all()
    histograms.update(np.nextafter(edges[1:], f32(-np.inf))[:, None])
    assert histograms.counts_LKB[0, UNKNOWN].tolist() == [2] * (num_bins - 1) + [1]


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int64, np.float32, np.float64])
def test_targets_may_be_of_any_numeric_type(dtype):
    histograms = counted(f32([[1], [1], [-1]]), np.array([[1], [0], [1]]).astype(dtype))
    assert histograms.counts_LKB[0, [NEGATIVE, POSITIVE, UNKNOWN]].sum(axis=1).tolist() == [1, 2, 0]


def test_unknown_targets_are_counted_apart():
    histograms = counted(f32([[1], [1]]), f32([[np.nan], [1]]))
    histograms.update(f32([[5]]))
    assert histograms.counts_LKB[0].sum(axis=1).tolist() == [0, 1, 2]
    assert histograms.num_rows == 3


def test_bytes_read_back():
    whole = counted(*make_rows(0, 50))
    assert equal(ScoreHistograms.from_bytes(whole.to_bytes()), whole)
    with pytest.raises(DataError, match=r"day\.npz: not score histograms"):
        ScoreHistograms.from_bytes(b"no", where="day.npz")


@pytest.mark.parametrize(
    ("logits", "targets", "said"),
    [
        ([[0, 1], [np.nan, np.inf]], None, "2 logits are NaN or infinite: 1 rows, the first 1"),
        ([[0, 1]], [[0, 2]], "1 targets are not 0, 1 or NaN: 1 rows, the first 0"),
        ([[0, 1]], [[0, np.inf]], "1 targets are not 0, 1 or NaN"),
        ([[0, 1]], [[0]], r"targets are \[1, 1\]"),
        ([[0]], None, r"expected \[N, 2\]"),
    ],
)
def test_rows_that_cannot_be_counted_are_refused_and_leave_nothing(logits, targets, said):
    histograms = ScoreHistograms.empty(2)
    with pytest.raises(DataError, match=said):
        histograms.update(f32(logits), None if targets is None else f32(targets))
    assert not histograms.counts_LKB.any()


def test_what_does_not_fit_is_refused():
    with pytest.raises(DataError, match="cannot be merged"):
        ScoreHistograms.empty(2) + ScoreHistograms.empty(3)
    with pytest.raises(DataError, match="even number"):
        ScoreHistograms.empty(2, num_bins=3)
    with pytest.raises(DataError, match="expected uint32"):
        ScoreHistograms(counts_LKB=np.zeros((1, 3, 4)))
    with pytest.raises(DecisionError, match="micro_f1"):
        best_cuts_of_histograms(ScoreHistograms.empty(1), parse_objective("micro_f1"))


def test_nothing_known_gives_one_half():
    streamed = best_cuts_of_histograms(ScoreHistograms.empty(1), parse_objective("f1"))
    assert streamed.cuts.thresholds_L.tolist() == [0.5]
