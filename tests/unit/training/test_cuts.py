"""Cuts: exact against brute force, counted as float32 compares, in the widest gap."""

import doctest

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_curve

from thresher.decision import sigmoid
from thresher.errors import DataError, DecisionError
from thresher_training.decisions import best_cuts, parse_objective
from thresher_training.decisions import cuts as cuts_module
from thresher_training.decisions import objectives as objectives_module
from thresher_training.decisions.cuts import between

f32 = np.float32
ANY_SCORE = st.floats(0, 1, width=32, allow_nan=False)
FEW_SCORES = st.sampled_from([f32(x) for x in (0, -0.0, 1e-45, 0.25, 0.5, 1 - 2**-24, 1)])
ROWS = st.lists(st.tuples(ANY_SCORE | FEW_SCORES, st.sampled_from([0, 1, np.nan])), max_size=30)
OBJECTIVES = [
    *("f1", "f2", "f0.5", "precision@recall>=0.7", "recall@precision>=0.6", "balanced_accuracy"),
    *("youden", "mcc", "cost(fp=1,fn=5)", "cost(fp=3,fn=1)", "prevalence"),
]
F1 = parse_objective("f1")


def counts_at(scores, targets, threshold):
    yes = scores >= f32(threshold)
    positive, negative = targets == 1, targets == 0
    return [
        int(x.sum()) for x in (yes & positive, yes & negative, ~yes & positive, ~yes & negative)
    ]


def one_label(rows):
    scores = np.array([score for score, _ in rows], dtype=f32)
    return scores, np.array([target for _, target in rows], dtype=f32)


def cut_of(scores, targets, text="f1"):
    objective = parse_objective(text)
    return best_cuts(np.c_[f32(scores)], np.c_[targets], objective, num_threads=1).at(0)


@pytest.mark.parametrize("text", OBJECTIVES)
@settings(max_examples=120, deadline=None)
@given(rows=ROWS)
def test_no_cut_is_better_and_no_equal_cut_has_a_wider_gap(text, rows):
    scores, targets = one_label(rows)
    objective = parse_objective(text)
    cut = cut_of(scores, targets, text)
    counts = counts_at(scores, targets, cut["thresholds"])
    assert [cut["tp"], cut["fp"], cut["fn"], cut["tn"]] == counts
    assert objective.value(*counts) == cut["value"]
    assert bool(objective.is_met(*counts)) == cut["feasible"]
    known = scores[~np.isnan(targets)]
    if not len(known):
        assert (cut["thresholds"], cut["gap"]) == (0.5, 0)
        return
    highs = np.unique(np.abs(known))
    lows = np.append(f32(0), highs[:-1])
    if highs[-1] < 1:
        highs, lows = np.append(highs, f32(1)), np.append(lows, highs[-1])
    around = [(float(low), float(high)) for low, high in zip(lows, highs, strict=True)]
    each = [counts_at(scores, targets, between(*ends)) for ends in around]
    values = [float(objective.value(*c)) for c in each]
    assert cut["value"] == max(values)
    if not (targets == 1).any() and len(set(values)) == 1:
        return
    ties = [float(objective.tie_value(*c)) for c in each]
    ranks = list(zip(values, ties, strict=True))
    gaps = [high - low for low, high in around]
    if text != "mcc":  # which is the one whose equal values need not be equal floats
        assert cut["gap"] == max(
            gap for gap, rank in zip(gaps, ranks, strict=True) if rank == max(ranks)
        )
    yes, no = known[known >= f32(cut["thresholds"])], known[known < f32(cut["thresholds"])]
    gap = (yes.min() if yes.size else 1.0) - float(no.max() if no.size else 0.0)
    assert gap == cut["gap"]


@settings(max_examples=60, deadline=None)
@given(rows=ROWS, threshold=ANY_SCORE | FEW_SCORES)
def test_a_fixed_threshold_is_kept_and_counted(rows, threshold):
    scores, targets = one_label(rows)
    threshold = float(str(abs(threshold)))
    cut = cut_of(scores, targets, f"fixed={threshold!r}")
    assert cut["feasible"]
    assert f32(cut["thresholds"]) == f32(threshold)
    counts = counts_at(scores, targets, threshold)
    assert [cut["tp"], cut["fp"], cut["fn"], cut["tn"]] == counts


@pytest.mark.parametrize("dtype", [np.uint8, np.bool_, np.int64, np.float32, np.float64])
def test_it_reaches_the_best_f1_of_scikit_learns_curve(dtype):
    rng = np.random.default_rng(0)
    targets = rng.random((5000, 7)) < 0.2
    scores = sigmoid((rng.normal(size=targets.shape) + 2 * targets).astype(f32))
    cuts = best_cuts(scores, targets.astype(dtype), F1, block_bytes=1, num_threads=2)
    for at in range(7):
        precision, recall, _ = precision_recall_curve(targets[:, at], scores[:, at])
        best = np.max(2 * precision * recall / np.maximum(precision + recall, 1e-12))
        assert cuts.value_L[at] == pytest.approx(best, abs=1e-12)


def test_blocks_threads_and_memory_order_change_nothing():
    rng = np.random.default_rng(1)
    scores = rng.random((9000, 40), dtype=f32)
    targets = rng.choice(f32([0, 1, np.nan]), size=scores.shape)
    objectives = [parse_objective(OBJECTIVES[at % len(OBJECTIVES)]) for at in range(40)]
    seen = []
    plain = best_cuts(scores, targets, objectives, num_threads=1)
    blocks = best_cuts(
        *(np.asfortranarray(scores), np.asfortranarray(targets), objectives),
        num_threads=3,
        block_bytes=200_000,
        progress=lambda done, total: seen.append((done, total)),
    )
    for at in range(40):
        assert plain.at(at) == blocks.at(at)
        alone = best_cuts(scores[:, [at]], targets[:, [at]], objectives[at])
        assert alone.at(0) == plain.at(at)
    assert seen[-1] == (40, 40)
    assert seen == sorted(seen)


@pytest.mark.parametrize("low", [f32(0.5), f32(0.25), f32(1e-45), f32(1 - 2**-23), f32(0)])
def test_scores_one_step_apart_are_still_told_apart(low):
    high = np.nextafter(low, f32(2))
    cut = cut_of([low, high], [0, 1])
    assert low < f32(cut["thresholds"]) <= high
    assert cut["value"] == 1


def test_equal_scores_fall_on_one_side():
    cut = cut_of([0.5, 0.5, 0.5], [0, 1, 1])
    assert cut["value"] == pytest.approx(0.8)
    assert cut["thresholds"] == 0.25


def test_scores_of_0_and_1_are_cut_in_the_middle():
    assert cut_of([0, 1], [0, 1])["thresholds"] == 0.5
    assert cut_of([0, 0], [1, 1])["thresholds"] == 0
    assert cut_of([1, 1], [1, 1])["thresholds"] == 0.5


def test_the_widest_of_equally_good_gaps_is_taken():
    # keeping the first alone and keeping all three both give F1 = 0.8 - and the gaps differ
    cut = cut_of([0.9, 0.8, 0.3], [1, 0, 1])
    assert cut["value"] == pytest.approx(0.8)
    assert f32(cut["thresholds"]) == f32(0.15)


def test_nothing_positive_is_a_cut_unless_a_score_of_1_stands_in_its_way():
    assert cut_of([0.5, 0.25], [0, 0], "cost(fp=1,fn=1)")["thresholds"] == 0.75
    dear = cut_of([0.5, 0.25], [0, 1], "cost(fp=9,fn=1)")
    assert (dear["tp"], dear["fp"]) == (0, 0)
    at_one = cut_of([1.0, 0.5], [0, 0], "cost(fp=1,fn=1)")
    assert (at_one["thresholds"], at_one["fp"]) == (0.75, 1)


@pytest.mark.parametrize("text", ["f1", "precision@recall>=0.99", "mcc"])
def test_a_label_without_positives_gets_one_half(text):
    cut = cut_of([0.2, 0.7], [0, np.nan], text)
    assert (cut["thresholds"], cut["gap"], cut["tp"]) == (0.5, 0, 0)
    assert cut["feasible"] == (text != "precision@recall>=0.99")


def test_a_bound_that_cannot_be_met_gives_the_nearest():
    cut = cut_of([0.9, 0.8, 0.7, 0.1], [0, 1, 1, 0], "recall@precision>=0.9")
    assert not cut["feasible"]
    assert (cut["tp"], cut["fp"]) == (2, 1)


def test_the_empty_and_the_smallest_matrix():
    assert cut_of(np.empty(0), np.empty(0))["thresholds"] == 0.5
    counts = {"tp": 1, "fp": 0, "fn": 0, "tn": 0}
    rest = {"thresholds": 0.25, "value": 1.0, "gap": 0.5, "feasible": True, "loss": 0.0}
    assert cut_of([0.5], [1]) == counts | rest
    assert len(best_cuts(np.empty((3, 0), f32), np.empty((3, 0)), F1)) == 0


@pytest.mark.parametrize("bad", [np.nan, -0.1, 1.1, np.inf, -np.inf])
def test_scores_that_are_no_probabilities_are_refused(bad):
    scores = np.full((9, 2), 0.5, f32)
    scores[[4, 6], 1] = bad
    with pytest.raises(DataError, match=r"in \[0, 1\].*label 1 has 2 other.*row 4 .*, 6 "):
        best_cuts(scores, np.ones((9, 2)), F1)


@pytest.mark.parametrize("targets", [[2.0, 0], [-1.0, 0], [np.inf, np.nan], np.uint8([7, 1])])
def test_targets_that_are_neither_0_nor_1_nor_nan_are_refused(targets):
    with pytest.raises(DataError, match=r'label "fog" has 1 other value: in row 0'):
        best_cuts(f32([[0.5], [0.5]]), np.c_[targets], F1, labels=["fog"])


@pytest.mark.parametrize("module", [cuts_module, objectives_module])
def test_examples_in_docstrings_are_true(module):
    outcome = doctest.testmod(module)
    assert outcome.attempted
    assert not outcome.failed


def test_shapes_and_objectives_must_fit():
    scores = np.zeros((3, 2), f32)
    with pytest.raises(DataError, match=r"\[3, 2\] and \[3, 1\]"):
        best_cuts(scores, np.zeros((3, 1)), F1)
    with pytest.raises(DataError, match="expected numbers"):
        best_cuts(scores, np.full((3, 2), "x"), F1)
    with pytest.raises(DecisionError, match="1 objectives for 2 labels"):
        best_cuts(scores, scores, [F1])
    with pytest.raises(DecisionError, match="micro_f1"):
        best_cuts(scores, scores, parse_objective("micro_f1"))
