"""Cross-validation, intervals, optimism and shrinkage of thresholds, against plain loops."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from thresher.decision import sigmoid
from thresher.errors import DataError
from thresher_training import DecisionConfig
from thresher_training.decisions import tune_decision
from thresher_training.decisions.cuts import best_cuts
from thresher_training.decisions.intervals import threshold_intervals, value_intervals
from thresher_training.decisions.objectives import parse_objective
from thresher_training.decisions.robust import (
    SHRINKAGES,
    choose_shrinkage,
    cut_folds,
    held_out_counts,
    robustness,
    shrink,
)

f32 = np.float32
F1 = parse_objective("f1")
P = st.floats(0, 1, width=32)


def drawn(rates, num_rows, seed=0):
    """Scores and targets of labels that are equally well told apart, and as rare as asked."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((num_rows, len(rates))) < rates).astype(f32)
    return sigmoid((1.5 * targets - 2 + rng.normal(size=targets.shape)).astype(f32)), targets


def folds_of(scores, targets, objectives=None, num_folds=5, seed=0, joint=None):
    return cut_folds(
        scores,
        targets,
        objectives or [F1] * scores.shape[1],
        shared_objective=F1,
        num_folds=num_folds,
        seed=seed,
        joint=joint,
    )


def test_every_fold_has_its_share_of_a_labels_positives():
    scores, targets = drawn([0.3, 0.02], 503)
    targets[::7, 0] = np.nan
    folds = folds_of(scores, targets)
    for at in range(2):
        for value in (0, 1):
            counts = np.bincount(folds.fold_NL[targets[:, at] == value, at], minlength=5)
            assert counts.max() - counts.min() <= 1
    assert (folds.positives_KL.sum(axis=0) == 4 * (targets == 1).sum(axis=0)).all()
    again, other = folds_of(scores, targets), folds_of(scores, targets, seed=1)
    assert (again.fold_NL == folds.fold_NL).all()
    assert (other.fold_NL != folds.fold_NL).any()


def test_thresholds_of_folds_and_held_out_counts_are_those_of_a_loop():
    scores, targets = drawn([0.3, 0.1], 200)
    targets[::9] = np.nan
    folds = folds_of(scores, targets)
    counts = held_out_counts(scores, targets, folds, folds.own_KL)
    for at in range(2):
        expected = np.zeros(4, int)
        for fold in range(5):
            out = folds.fold_NL[:, at] == fold
            cut = best_cuts(scores[~out][:, [at]], targets[~out][:, [at]], F1)
            assert folds.own_KL[fold, at] == cut.thresholds_L[0]
            yes, y = scores[out, at] >= cut.thresholds_L[0], targets[out, at]
            expected += [
                (yes & (y == 1)).sum(),
                (yes & (y == 0)).sum(),
                (~yes & (y == 1)).sum(),
                (~yes & (y == 0)).sum(),
            ]
        assert counts[at].tolist() == expected.tolist()


def test_joint_tuning_is_held_out_by_rows():
    scores, targets = drawn([0.3, 0.1], 50)
    seen = []

    def joint(scores_NL, targets_NL):
        seen.append(np.isnan(targets_NL))
        return f32([0.25, 0.75])

    folds = folds_of(scores, targets, joint=joint)
    assert (folds.fold_NL[:, 0] == folds.fold_NL[:, 1]).all()
    assert all((hidden[:, 0] == hidden[:, 1]).all() and hidden.sum() == 20 for hidden in seen)
    assert (folds.own_KL == f32([0.25, 0.75])).all()


def test_too_few_rows_are_refused():
    with pytest.raises(DataError, match="4 rows cannot be cut into 5 folds"):
        folds_of(*drawn([0.5], 4))


@given(P, P, st.integers(0, 1000), st.sampled_from(SHRINKAGES))
def test_a_shrunk_threshold_lies_between_the_two(own, shared, positives, strength):
    (threshold,), (weight,) = shrink([own], shared, [positives], strength)
    low, high = sorted((own, shared))
    assert f32(low) - 1e-6 <= threshold <= f32(high) + 1e-6
    assert threshold.dtype == f32
    if strength == 0 and positives:
        assert (threshold, weight) == (f32(own), 1)
    if strength == math.inf or not positives:
        assert (threshold, weight) == (f32(shared), 0)


def test_the_strength_is_the_best_of_the_grid_on_held_out_rows():
    scores, targets = drawn([0.02] * 40, 300)
    folds = folds_of(scores, targets)
    objectives = [F1] * 40
    strength, values = choose_shrinkage(scores, targets, objectives, folds)
    assert set(values) == set(SHRINKAGES)
    for k in (0.0, 20.0, math.inf):
        thresholds, _ = shrink(folds.own_KL, folds.shared_K[:, None], folds.positives_KL, k)
        yes = scores >= np.take_along_axis(thresholds, folds.fold_NL.astype(int), 0)
        f1 = f1_score(targets, yes, average="macro", zero_division=0)
        assert values[k] == pytest.approx(f1)
    assert values[strength] == max(values.values())
    assert strength > 0  # labels alike but rare: the shared threshold is what they have in common


def test_labels_that_differ_and_have_data_are_left_alone():
    scores, targets = drawn([0.3, 0.3], 4_000)
    scores[:, 1] = scores[:, 1] ** 4
    strength, values = choose_shrinkage(scores, targets, [F1] * 2, folds_of(scores, targets))
    assert strength <= 100
    assert values[0.0] > values[math.inf] + 0.05
    none = np.zeros(2, dtype=bool)
    assert choose_shrinkage(scores, targets, [F1] * 2, folds_of(scores, targets), of_L=none) == (
        0.0,
        {},
    )


def test_optimism_is_what_new_rows_take_away():
    scores, targets = drawn([0.01] * 60, 600)
    objectives = [F1] * 60
    cuts, folds = best_cuts(scores, targets, F1), folds_of(scores, targets)
    found = robustness(scores, targets, objectives, cuts.thresholds_L, folds, folds.own_KL, seed=0)
    np.testing.assert_allclose(found.optimism_L, cuts.value_L - found.metric_L)
    new_scores, new_targets = drawn([0.01] * 60, 20_000, seed=1)
    yes = new_scores >= cuts.thresholds_L
    real = cuts.value_L.mean() - f1_score(new_targets, yes, average="macro")
    assert real > 0.05
    assert found.optimism_L.mean() == pytest.approx(real, rel=0.5)
    inside = (found.metric_interval_L2[:, 0] <= found.metric_L) & (
        found.metric_L <= found.metric_interval_L2[:, 1]
    )
    assert inside.all()


def test_a_cost_that_is_too_good_to_be_true_is_optimism_too():
    scores, targets = drawn([0.1], 200)
    cost = parse_objective("cost(fp=1,fn=5)")
    folds = folds_of(scores, targets, [cost])
    cuts = best_cuts(scores, targets, cost)
    found = robustness(scores, targets, [cost], cuts.thresholds_L, folds, folds.own_KL, seed=0)
    assert found.optimism_L[0] == pytest.approx(found.metric_L[0] + cuts.value_L[0])
    assert found.optimism_L[0] >= 0


def test_the_intervals_of_a_metric_are_those_of_resampled_rows():
    counts = np.array([[30, 20, 10, 140], [0, 0, 0, 0]])
    interval = value_intervals(counts, [F1, F1], seed=0, num_resamples=4_000)
    rng = np.random.default_rng(1)
    rows = np.repeat(np.arange(4), counts[0])
    each = []
    for _ in range(4_000):
        tp, fp, fn, _ = np.bincount(rng.choice(rows, 200), minlength=4)
        each.append(2 * tp / (2 * tp + fp + fn))
    np.testing.assert_allclose(interval[0], np.percentile(each, [2.5, 97.5]), atol=0.015)
    assert np.isnan(interval[1]).all()


@pytest.mark.parametrize("objective", ["f1", "cost(fp=1,fn=5)", "prevalence", "mcc"])
def test_the_intervals_of_a_threshold_are_those_of_resampled_rows(objective):
    objective = parse_objective(objective)
    scores, targets = drawn([0.2], 400)
    interval = threshold_intervals(scores, targets, [objective], seed=0, num_resamples=600)
    rng = np.random.default_rng(1)
    each = []
    for _ in range(600):
        rows = rng.integers(0, 400, 400)
        each.append(best_cuts(scores[rows], targets[rows], objective).thresholds_L[0])
    np.testing.assert_allclose(interval[0], np.percentile(each, [2.5, 97.5]), atol=0.05)


def test_more_rows_give_narrower_intervals_and_many_positives_are_no_burden():
    few, many = drawn([0.2], 200), drawn([0.2], 50_000)
    width = [np.diff(threshold_intervals(*rows, [F1], seed=0))[0, 0] for rows in (few, many)]
    assert width[1] < width[0] / 2


def test_intervals_are_nan_where_there_is_nothing_to_choose():
    scores, targets = drawn([0.2, 0.2, 0.2], 60)
    targets[:, 0] = 0
    objectives = [F1, parse_objective("micro_f1"), parse_objective("fixed=0.5")]
    interval = threshold_intervals(scores, targets, objectives, seed=0)
    assert np.isnan(interval[:2]).all()
    assert interval[2].tolist() == [0.5, 0.5]


def tuned(rates, num_rows=400, hole=False, **config):
    scores, targets = drawn(rates, num_rows)
    if hole:
        targets[::5, 0] = np.nan
    logits = np.log(scores) - np.log1p(-scores)
    labels = [f"label{at}" for at in range(len(rates))]
    config = DecisionConfig(min_positives=8, **config)
    return tune_decision(labels, logits.astype(f32), targets, config), targets


@pytest.mark.parametrize("objective", ["f1", "micro_f1", "example_f1", "shared_f1", "mcc"])
def test_every_row_of_the_report_gets_its_intervals(objective):
    rates = [0.3, 0.1, 0.05, 0.002]
    plain, _ = tuned(rates, objective=objective)
    found, _ = tuned(rates, objective=objective, intervals=True)
    assert found.decision == plain.decision  # looking changes nothing
    for row in found.report:
        low, high = row.value_interval
        assert (-1 if objective == "mcc" else 0) <= low <= high <= 1
        assert row.optimism is not None
    assert found.report[3].origin == "shared"
    low, high = found.report[3].threshold_interval  # that of the shared threshold
    assert low <= found.report[3].threshold <= high
    assert plain.report[0].value_interval is None


def test_shrinkage_draws_rare_labels_further_and_leaves_those_that_fell_back():
    rates = [0.3, 0.3, *[0.04] * 12, 0.002]
    plain, _ = tuned(rates, hole=True)
    found, targets = tuned(rates, hole=True, shrinkage=True, intervals=True)
    shared = found.shared.thresholds[0]
    assert found.shared == plain.shared
    origins = [row.origin for row in found.report]
    assert origins[-1] == "shared"
    assert "shrunk" in origins[2:-1]
    for row, before in zip(found.report, plain.report, strict=True):
        low, high = sorted((before.threshold, float(shared)))
        assert low - 1e-3 <= row.threshold <= high + 1e-3
    assert found.report[0].positives + found.report[0].negatives == 320  # the unknown left out
    assert found.report[0].positives == (targets[:, 0] == 1).sum()


@pytest.mark.parametrize("objective", ["recall@precision>=0.3", "example_f1", "fixed=0.4"])
def test_what_is_promised_or_chosen_by_row_is_not_shrunk(objective):
    plain, _ = tuned([0.3, 0.1], objective=objective)
    found, _ = tuned([0.3, 0.1], objective=objective, shrinkage=True)
    assert found.decision == plain.decision
    assert any("nothing to draw" in note for note in found.notes)


def test_micro_f1_is_shrunk_by_the_pooled_value_on_held_out_rows():
    scores, targets = drawn([0.3, *[0.06] * 9], 150)
    micro = [parse_objective("micro_f1")] * 10
    labels = [str(at) for at in range(10)]
    config = DecisionConfig(objective="micro_f1", min_positives=1)

    def joint(scores_NL, targets_NL):
        logits_NL = np.log(scores_NL / (1 - scores_NL)).astype(f32)
        return tune_decision(labels, logits_NL, targets_NL, config).decision.thresholds

    folds = folds_of(scores, targets, micro, joint=joint)
    strength, values = choose_shrinkage(scores, targets, micro, folds)
    for k in (0.0, 10.0, math.inf):
        thresholds, _ = shrink(folds.own_KL, folds.shared_K[:, None], folds.positives_KL, k)
        yes = np.zeros(targets.shape, bool)
        for row, column in np.ndindex(*targets.shape):
            yes[row, column] = scores[row, column] >= thresholds[folds.fold_NL[row, column], column]
        expected = f1_score(targets.ravel(), yes.ravel())
        assert values[k] == pytest.approx(expected)
    assert values[strength] == max(values.values())
    assert strength > 0  # ten thresholds of rare labels are more than these rows can tell
