"""Tuning: from logits to a decision, with fallbacks, joint objectives and a report."""

import warnings

import numpy as np
import pytest
from sklearn.metrics import f1_score, matthews_corrcoef, precision_score, recall_score

from thresher.errors import ConfigError, DataError, DecisionError
from thresher_training import DecisionConfig
from thresher_training.decisions import best_cuts, parse_objective, tune_decision

f32 = np.float32


def make_rows(num_rows=400, num_labels=3):
    rng = np.random.default_rng(1)
    targets = (rng.random((num_rows, num_labels)) < 0.3).astype(f32)
    return (rng.normal(size=targets.shape) + 3 * targets - 1).astype(f32), targets


def test_each_label_gets_its_own_best_threshold():
    logits, targets = make_rows()
    tuned = tune_decision("abc", logits, targets, DecisionConfig())
    probabilities, predicted = tuned.decision.apply(logits)
    cuts = best_cuts(probabilities, targets, parse_objective("f1"))
    for at, row in enumerate(tuned.report):
        assert tuned.decision.thresholds[at] == cuts.thresholds_L[at] == f32(row.threshold)
        assert f1_score(targets[:, at], predicted[:, at]) == pytest.approx(row.value)
        assert row.value == pytest.approx(cuts.value_L[at])
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


@pytest.mark.parametrize("calibration", ["platt", "temperature"])
def test_thresholds_fit_the_calibrated_probabilities(calibration):
    logits, targets = make_rows()
    plain = tune_decision("abc", logits, targets, DecisionConfig())
    scaled = tune_decision("abc", logits, targets, DecisionConfig(calibration=calibration))
    assert scaled.decision.is_calibrated
    assert scaled.shared.is_calibrated
    np.testing.assert_array_equal(
        plain.decision.apply(logits)[1].sum(axis=0), scaled.decision.apply(logits)[1].sum(axis=0)
    )


def test_labels_of_one_model_may_have_different_objectives():
    logits, targets = make_rows(num_labels=5)
    wanted = {
        "b": "precision@recall>=0.9",
        "c": "recall@precision>=0.8",
        "d": "fixed=0.7",
        "e": "mcc",
    }
    tuned = tune_decision("abcde", logits, targets, DecisionConfig(objectives=wanted))
    predicted = tuned.decision.apply(logits)[1]
    rows = tuned.report
    assert [row.objective for row in rows] == ["f1", *wanted.values()]
    assert recall_score(targets[:, 1], predicted[:, 1]) >= 0.9
    assert precision_score(targets[:, 1], predicted[:, 1]) == pytest.approx(rows[1].value)
    assert precision_score(targets[:, 2], predicted[:, 2]) >= 0.8
    assert recall_score(targets[:, 2], predicted[:, 2]) == pytest.approx(rows[2].value)
    assert (rows[3].threshold, rows[3].origin) == (0.7, "fixed")
    assert matthews_corrcoef(targets[:, 4], predicted[:, 4]) == pytest.approx(rows[4].value)


def test_a_fixed_threshold_needs_no_positives():
    logits, targets = make_rows()
    targets[:, 0] = 0
    config = DecisionConfig(objectives={"a": "fixed=0.25"})
    tuned = tune_decision("abc", logits, targets, config)
    assert tuned.decision.thresholds[0] == 0.25
    assert tuned.fell_back == ()


def figure(targets, tuned, logits, average):
    predicted = tuned.decision.apply(logits)[1]
    return f1_score(targets, predicted, average=average, zero_division=0)


def test_joint_objectives_are_better_at_what_they_are_for():
    logits, targets = make_rows(num_labels=6)
    targets[:, 0] *= np.random.default_rng(0).random(400) < 0.3
    found = {
        objective: tune_decision("abcdef", logits, targets, DecisionConfig(objective=objective))
        for objective in ("f1", "micro_f1", "example_f1", "shared_f1")
    }
    for objective, average in (("micro_f1", "micro"), ("example_f1", "samples"), ("f1", "macro")):
        figures = {name: figure(targets, tuned, logits, average) for name, tuned in found.items()}
        assert figures[objective] == max(figures.values())
    shared = found["shared_f1"]
    assert shared.decision == shared.shared
    assert {row.origin for row in shared.report} == {"shared"}


def test_labels_that_fell_back_stay_there_under_a_joint_objective():
    logits, targets = make_rows(num_labels=4)
    targets[5:, 2] = 0
    for objective in ("micro_f1", "example_f1"):
        tuned = tune_decision("abcd", logits, targets, DecisionConfig(objective=objective))
        assert tuned.fell_back == ("c",)
        assert tuned.decision.thresholds[2] == tuned.shared.thresholds[2]
        assert tuned.report[0].objective == objective


def test_rows_without_any_label_are_told_and_left_alone():
    logits, targets = make_rows()
    tuned = tune_decision("abc", logits, targets, DecisionConfig())
    none = ~tuned.decision.apply(logits)[1].any(axis=1)
    with_positives = int((none & targets.any(axis=1)).sum())
    rows_said = f"{none.sum()} of 400 rows get no label at all"
    assert f"{rows_said}; {with_positives} of them have known positives" in tuned.notes


def test_a_bound_that_cannot_be_met_names_the_label_and_what_can_be_had():
    logits, targets = make_rows()
    logits[0, 1], targets[0, 1] = 99, 0
    config = DecisionConfig(objectives={"b": "recall@precision>=0.999"})
    with pytest.raises(DecisionError, match=r'"b": recall@precision>=0.999 cannot be met; .*0\.9'):
        tune_decision("abc", logits, targets, config)


def test_an_objective_for_an_unknown_label_is_refused():
    logits, targets = make_rows()
    with pytest.raises(ConfigError, match='unknown label "rian"; did you mean "rain"'):
        tune_decision(
            ["sun", "rain", "fog"], logits, targets, DecisionConfig(objectives={"rian": "f2"})
        )


def test_nothing_known_gives_one_half():
    with warnings.catch_warnings(action="error"):
        tuned = tune_decision("a", f32([[1], [2]]), f32([[np.nan], [np.nan]]), DecisionConfig())
    assert tuned.decision.thresholds.tolist() == [0.5]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_refused_by_label_and_row(bad):
    with pytest.raises(DataError, match=r'1 of them, in 1 rows \(first 1\), labels "b"'):
        tune_decision("ab", f32([[0, 0], [0, bad]]), f32([[0, 1], [0, 1]]), DecisionConfig())


def test_targets_that_are_neither_0_nor_1_are_refused_by_label():
    with pytest.raises(DataError, match='label "b" has 1 other value'):
        tune_decision("ab", f32([[0, 0]]), f32([[0, 2]]), DecisionConfig())
