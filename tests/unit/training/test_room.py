"""Thresholds with room: no cut in a gap that rounding can cross, and what that costs."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thresher.decision import sigmoid
from thresher.scores import ScoreHistograms
from thresher.tolerances import tolerances_for
from thresher_training.decisions import best_cuts, parse_objective, tune_decision
from thresher_training.decisions.joint import best_example_cuts, best_micro_cuts, example_value
from thresher_training.decisions.room import FP32_BAND, clear_of_scores, least_value
from thresher_training.decisions.streamed import best_cuts_of_histograms
from thresher_training.recipe import DecisionConfig

f32 = np.float32
F1 = parse_objective("f1")
BAND = 1e-5
OBJECTIVES = ("f1", "f2", "balanced_accuracy", "mcc", "cost(fp=1,fn=5)", "prevalence")
BOUNDED = ("precision@recall>=0.7", "recall@precision>=0.6")
# a few places, and scores from a last bit to some bands away from them
PLACES = st.sampled_from([0.0, 1e-6, 1e-3, 0.25, 0.5, 0.9, 0.999995])
OFFSETS = st.sampled_from([0, 3e-8, 1e-7, 4e-6, 9.9e-6, 1.01e-5, 3e-5, 1e-3])
SCORES = st.builds(lambda place, offset: f32(min(place + offset, 1)), PLACES, OFFSETS)
ROWS = st.lists(st.tuples(SCORES, st.sampled_from([0, 1])), min_size=2, max_size=25)


def counts_at(scores, targets, threshold):
    yes = scores >= f32(threshold)
    both = ((yes, targets == 1), (yes, targets == 0), (~yes, targets == 1), (~yes, targets == 0))
    return [int((a & b).sum()) for a, b in both]


def all_cuts(scores, targets, objective):
    """Return value, tie and gap of each cut between distinct scores, by counting."""
    edges = np.unique(np.concatenate([scores, f32([0, 1])])).astype(np.float64)
    found = []
    for low, high in itertools.pairwise(edges):
        counts = counts_at(scores, targets, f32(high))
        if high == 1 and not (scores == 1).any():
            counts = counts_at(scores, targets, np.nextafter(f32(1), f32(2)))
        inner = (scores <= low).any() and (scores >= high).any()
        value, tie = objective.value(*counts), objective.tie_value(*counts)
        found.append((float(value), float(tie), high - low, bool(inner)))
    return found


@pytest.mark.parametrize("text", [*OBJECTIVES, *BOUNDED])
@settings(max_examples=150, deadline=None)
@given(rows=ROWS)
def test_the_cut_is_the_best_of_those_with_room(text, rows):
    scores, targets = (np.array(column, dtype=f32) for column in zip(*rows, strict=True))
    objective = parse_objective(text)
    cut = best_cuts(scores[:, None], targets[:, None], objective, band=BAND).at(0)
    counts = counts_at(scores, targets, cut["thresholds"])
    assert counts == [cut[name] for name in ("tp", "fp", "fn", "tn")]
    assert cut["value"] == objective.value(*counts)
    free = best_cuts(scores[:, None], targets[:, None], objective).at(0)
    assert cut["loss"] == pytest.approx(free["value"] - cut["value"])
    if not targets.any():
        return
    if free["gap"] >= BAND:
        assert cut == free
        return
    cuts = all_cuts(scores, targets, objective)
    limits = [
        least_value(objective, free["value"], int(targets.sum()), len(rows), near=near)
        for near in (False, True)
    ]
    wide = [each for each in cuts if each[2] >= BAND and each[0] >= limits[0]]
    if any(each[3] for each in wide):
        best = max(each[0] for each in wide)
        assert cut["value"] == pytest.approx(best, abs=1e-12)
        assert cut["gap"] >= BAND
    else:
        near = [each[2] for each in cuts if each[0] >= limits[1]]
        assert cut["gap"] == max([*near, free["gap"]])
    assert cut["feasible"] or not free["feasible"]


def test_the_threshold_stands_in_the_middle_of_its_gap():
    scores = f32([0.2, 0.3, 0.5, 0.5 + 6e-8, 0.9])
    cut = best_cuts(scores[:, None], np.c_[[0, 0, 0, 1, 1]], F1, band=BAND).at(0)
    assert cut["thresholds"] == pytest.approx(0.4)  # one false positive, and room
    assert (cut["value"], cut["loss"]) == (pytest.approx(0.8), pytest.approx(0.2))


def test_the_gap_that_counts_is_the_band_of_fp32():
    assert tolerances_for("fp32").probabilities_atol == FP32_BAND == DecisionConfig().band


def dense_rows(num_rows=3000, num_labels=6, seed=0, spread=1e-4):
    """Return logits whose probabilities crowd around 0.5 for the first half of the labels."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((num_rows, num_labels)) < 0.3).astype(f32)
    logits = rng.normal(size=targets.shape) + 1.5 * targets - 1
    logits[:, : num_labels // 2] *= spread
    return logits.astype(f32), targets


CONFIGS = [
    DecisionConfig(),
    DecisionConfig(objective="mcc"),
    DecisionConfig(objective="micro_f1"),
    DecisionConfig(objective="example_f1"),
    DecisionConfig(calibration="platt"),
    DecisionConfig(calibration="temperature", objective="cost(fp=1,fn=5)"),
    DecisionConfig(shrinkage=True),
    DecisionConfig(min_positives=900),
]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_no_tuned_row_lies_nearer_than_half_the_band_where_there_is_room(config):
    logits, targets = dense_rows(num_labels=4, spread=0.02)
    labels = tuple("abcd")
    tuned = tune_decision(labels, logits, targets, config)
    margin = np.abs(tuned.decision.probabilities(logits) - tuned.decision.thresholds).min(axis=0)
    assert (margin >= 0.49 * config.band).all()
    assert not any("apart" in warning for row in tuned.report for warning in row.warnings)
    for row, counts in zip(tuned.report, counts_of(tuned, logits, targets), strict=True):
        assert [row.tp, row.fp, row.fn, row.tn] == counts


def counts_of(tuned, logits, targets):
    yes = tuned.decision.apply(logits)[1]
    return [
        [int((a & b).sum()) for a, b in ((y, t), (y, ~t), (~y, t), (~y, ~t))]
        for y, t in zip(yes.T, (targets == 1).T, strict=True)
    ]


def test_a_label_without_a_wide_gap_is_named_and_keeps_its_value():
    logits, targets = dense_rows()
    tuned = tune_decision(tuple("abcdef"), logits, targets, DecisionConfig())
    free = tune_decision(tuple("abcdef"), logits, targets, DecisionConfig(band=0))
    assert free.decision != tuned.decision
    for row, other in zip(tuned.report, free.report, strict=True):
        is_narrow = row.gap < BAND
        assert is_narrow == any("apart" in warning for warning in row.warnings)
        assert other.value - row.value == pytest.approx(row.loss)
        assert row.loss <= (0.001 if is_narrow else 0.01)
        assert row.gap >= other.gap
    narrow = [row.label for row in tuned.report if row.gap < BAND]
    assert narrow
    (note,) = [note for note in tuned.notes if note.startswith("no room for rounding")]
    assert all(f'"{label}"' in note for label in narrow)
    assert any(note.startswith("room for rounding") and "costs" in note for note in tuned.notes)


def test_a_fixed_threshold_never_moves():
    logits, targets = dense_rows()
    at = f32(tune_decision(tuple("abcdef"), logits, targets, DecisionConfig()).report[0].threshold)
    p = sigmoid(logits)
    on_a_score = float(p[np.abs(p[:, 0] - at).argmin(), 0])
    config = DecisionConfig(objectives={"a": f"fixed={on_a_score!r}"})
    tuned = tune_decision(tuple("abcdef"), logits, targets, config)
    assert tuned.decision.thresholds[0] == f32(on_a_score)
    assert tuned.report[0].warnings == ()
    assert tuned.report[0].loss == 0


def test_a_wider_band_gives_wider_gaps():
    logits, targets = dense_rows(spread=0.02)
    for band in (1e-6, 3e-6, 1e-5):
        tuned = tune_decision(tuple("abcdef"), logits, targets, DecisionConfig(band=band))
        assert min(row.gap for row in tuned.report) >= band


def test_one_threshold_for_all_stays_one():
    logits, targets = dense_rows(spread=0.02)
    tuned = tune_decision(tuple("abcdef"), logits, targets, DecisionConfig(objective="shared_f1"))
    assert len(set(tuned.decision.thresholds.tolist())) == 1


def test_rows_without_a_gap_keep_the_value_though_an_outlier_has_room():
    # 300,000 scores within 0.1, and one far off: its gap is wide, its cut is worthless
    rng = np.random.default_rng(0)
    targets = rng.random(300_000) < 0.3
    scores = (0.4 + 0.05 * rng.random(targets.shape) + 0.03 * targets).astype(f32)
    scores[0], targets[0] = 0.9, True
    cut = best_cuts(scores[:, None], targets[:, None], F1, band=1e-4).at(0)
    assert 0 < cut["loss"] <= 0.001
    assert cut["gap"] < 1e-4


@pytest.mark.parametrize("seed", range(4))
def test_micro_f1_with_room_is_what_it_says_it_costs(seed):
    logits, targets = dense_rows(seed=seed, spread=0.02)
    scores, objective = sigmoid(logits), parse_objective("micro_f1")
    free, best = best_micro_cuts(scores, targets, objective, best_cuts(scores, targets, F1))
    start = best_cuts(scores, targets, F1, band=BAND)
    cuts, value = best_micro_cuts(scores, targets, objective, start, band=BAND)
    assert (cuts.gap_L >= BAND).all()
    assert not free.loss_L.any()
    assert best - value == pytest.approx(cuts.loss_L.sum(), rel=0.05)


def test_example_based_f1_keeps_to_cuts_with_room():
    logits, targets = dense_rows(spread=0.02)
    scores, objective = sigmoid(logits), parse_objective("example_f1")
    starts = [best_cuts(scores, targets, F1, band=BAND).thresholds_L]
    thresholds, value = best_example_cuts(scores, targets, objective, starts, band=BAND)
    assert value == example_value(scores, targets, thresholds, objective)
    assert np.abs(scores - thresholds).min() >= 0.49 * BAND


@pytest.mark.parametrize("scale", [1, 3])
def test_streamed_cuts_have_room_too(scale):
    rng = np.random.default_rng(0)
    targets = rng.random((400, 8)) < 0.3
    logits = (rng.normal(size=targets.shape) * 1e-3 + 2e-3 * targets).astype(f32)
    histograms = ScoreHistograms.empty(8, num_bins=16_384)
    histograms.update(logits, targets)
    calibration = {"scale_L": np.full(8, scale), "bias_L": np.zeros(8)}
    found = best_cuts_of_histograms(histograms, F1, **calibration)
    free = best_cuts_of_histograms(histograms, F1, **calibration, band=0)
    wide = found.cuts.gap_L >= BAND
    np.testing.assert_allclose(found.cuts.loss_L, free.cuts.value_L - found.cuts.value_L)
    assert (found.cuts.loss_L[~wide] <= 0.001).all()
    assert (found.cuts.gap_L >= free.cuts.gap_L).all()
    assert (found.upper_L == free.upper_L).all()


def test_a_threshold_that_is_not_tuned_moves_no_further_than_it_must():
    scores = f32([0.1, 0.5 - 2e-6, 0.5, 0.5 + 2e-6, 0.9])[:, None]
    targets = f32([0, 0, 1, 1, 1])[:, None]
    (moved,) = clear_of_scores(scores, targets, [0.5], band=BAND, margin=BAND / 2)
    assert moved == pytest.approx(0.5 - 7e-6, abs=1e-7) or moved == pytest.approx(
        0.5 + 7e-6, abs=1e-7
    )
    (kept,) = clear_of_scores(scores, targets, [0.3], band=BAND, margin=BAND / 2)
    assert kept == f32(0.3)


@pytest.mark.parametrize("config", CONFIGS[:4], ids=str)
def test_thresholds_of_cross_fitted_networks_keep_clear_of_the_served_models_scores(config):
    logits, targets = dense_rows(num_labels=4, spread=0.3)
    rng = np.random.default_rng(1)
    served = (logits + rng.normal(size=logits.shape) * 0.01).astype(f32)
    plain = tune_decision(tuple("abcd"), logits, targets, config)
    tuned = tune_decision(tuple("abcd"), logits, targets, config, served_logits_NL=served)
    decisions = [each.decision.apply(logits)[1] for each in (plain, tuned)]
    np.testing.assert_array_equal(*decisions)
    margins = [
        np.abs(each.decision.probabilities(served) - each.decision.thresholds).min(axis=0)
        for each in (plain, tuned)
    ]
    assert (margins[1] >= np.minimum(margins[0], 1e-6)).all()
    assert (margins[1] > 1e-6).all()
    same = tune_decision(tuple("abcd"), logits, targets, config, served_logits_NL=logits)
    assert same.decision == plain.decision


@pytest.mark.parametrize("objective", ["f1", "micro_f1", "mcc"])
def test_no_cut_falls_into_a_place_of_a_coarse_grid(objective):
    # a network in bf16 gives logits with few significant bits; sums behind them differ in their
    # last bits from batch to batch, and rows of one place of the grid must stay on one side
    rng = np.random.default_rng(0)
    targets = (rng.random((6000, 3)) < 0.3).astype(f32)
    coarse = (rng.normal(size=targets.shape) + 1.5 * targets - 1).round(2).astype(f32)
    logits = (coarse + rng.integers(-1, 2, size=coarse.shape) * 5e-7).astype(f32)
    tuned = tune_decision(tuple("abc"), logits, targets, DecisionConfig(objective=objective))
    yes = tuned.decision.apply(logits)[1]
    np.testing.assert_array_equal(yes, tuned.decision.apply(coarse)[1])
    assert np.abs(tuned.decision.probabilities(coarse) - tuned.decision.thresholds).min() > 1e-5
    free = DecisionConfig(objective=objective, band=0)
    torn = tune_decision(tuple("abc"), logits, targets, free).decision
    assert (torn.apply(logits)[1] != torn.apply(coarse)[1]).any()


@pytest.mark.parametrize("half", ["bf16", "fp16"])
@pytest.mark.parametrize("calibration", ["none", "platt"])
def test_no_threshold_lies_on_a_logit_that_half_precision_can_give(half, calibration):
    every = np.arange(1 << 16, dtype=np.uint32)
    grid = (every << 16).view(f32) if half == "bf16" else every.astype(np.uint16).view(np.float16)
    with np.errstate(invalid="ignore"):
        grid = np.unique(grid[np.abs(grid) < 8].astype(f32))
    rng = np.random.default_rng(0)
    targets = (rng.random((300, 40)) < 0.3).astype(f32)
    fine = rng.normal(size=targets.shape) + 2 * targets - 1
    logits = grid[np.searchsorted(grid, fine)]
    labels = tuple(f"l{at}" for at in range(40))
    tuned = tune_decision(labels, logits, targets, DecisionConfig(calibration=calibration))
    decision = tuned.decision
    for at, threshold in enumerate(decision.thresholds):
        all_scores = sigmoid(grid * decision.scale[at] + decision.bias[at])
        above = all_scores[all_scores >= threshold].min().astype(float)
        below = all_scores[all_scores < threshold].max().astype(float)
        assert min(above - threshold, threshold - below) > 0.15 * (above - below)
    assert [[row.tp, row.fp, row.fn, row.tn] for row in tuned.report] == counts_of(
        tuned, logits, targets
    )
