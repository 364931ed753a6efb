import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from thresher import Decision
from thresher.agreement import Outputs, Tolerances, compare, tolerances_for
from thresher.deviation import ulp_distance
from thresher.errors import ConfigError, DataError

DECISION = Decision(labels=["sun", "rain", "fog"], thresholds=[0.5, 0.3, 0.7])
LOGITS = np.random.default_rng(0).normal(scale=3, size=(50, 3)).astype(np.float32)
REFERENCE = Outputs.of_logits(LOGITS, DECISION)


def changed(field: str, row: int, label: int, value: object) -> Outputs:
    array = getattr(REFERENCE, field).copy()
    array[row, label] = value
    return dataclasses.replace(REFERENCE, **{field: array})


def test_same_outputs_agree() -> None:
    agreement = compare(REFERENCE, REFERENCE, DECISION)
    assert agreement.ok
    assert (agreement.num_rows, agreement.num_flips, agreement.max_abs("logits")) == (50, 0, 0.0)


def test_rounding_is_tolerated() -> None:
    got = Outputs.of_logits(LOGITS * np.float32(1 + 1e-6), DECISION)
    assert compare(REFERENCE, got, DECISION).ok


def test_wrong_logit_is_located() -> None:
    got = changed("logits_NL", 7, 1, LOGITS[7, 1] + 0.01)
    (problem,) = compare(REFERENCE, got, DECISION, row_offset=100).problems()
    assert 'logits differ beyond tolerance in 1 values; worst: row 107, label "rain"' in problem


def test_flip_outside_the_band_is_a_problem() -> None:
    flipped = not REFERENCE.labels_NL[3, 2]
    agreement = compare(REFERENCE, changed("labels_NL", 3, 2, flipped), DECISION)
    assert agreement.num_flips == agreement.num_flips_outside_band == 1
    assert agreement.num_inconsistent == 1
    assert 'row 3, label "fog"' in " ".join(agreement.problems())


def test_flip_inside_the_band_is_counted_and_listed_only() -> None:
    below = np.nextafter(np.float32(0.3), np.float32(0))
    p = np.float32([[0.9, 0.3, 0.1]])
    q = np.array([[0.9, below, 0.1]], dtype=np.float32)
    a = Outputs(probabilities_NL=p, labels_NL=DECISION.decide(p))
    b = Outputs(probabilities_NL=q, labels_NL=DECISION.decide(q))
    agreement = compare(a, b, DECISION)
    assert agreement.ok
    assert agreement.num_flips == 1
    assert agreement.flips[0].label == "rain"
    assert agreement.flips[0].in_band


def test_answer_that_contradicts_its_own_probability_is_a_problem() -> None:
    p = np.float32([[0.9, 0.3, 0.1]])
    wrong = Outputs(probabilities_NL=p, labels_NL=np.array([[True, False, False]]))
    agreement = compare(wrong, wrong, DECISION)
    assert agreement.num_flips == 0
    assert agreement.num_inconsistent == 1
    assert "threshold 0.3" in agreement.problems()[0]


@pytest.mark.parametrize(
    ("a", "b", "ok"),
    [
        (np.nan, np.nan, True),
        (np.inf, np.inf, True),
        (np.inf, -np.inf, False),
        (np.nan, 0.0, False),
        (0.0, np.inf, False),
    ],
)
def test_nan_and_infinity_count_as_such(a: float, b: float, ok: bool) -> None:
    p = np.float32([[0.9, 0.3, 0.1]])
    y = DECISION.decide(p)
    x = Outputs(probabilities_NL=p, labels_NL=y, logits_NL=np.float32([[a, 0, 0]]))
    z = Outputs(probabilities_NL=p, labels_NL=y, logits_NL=np.float32([[b, 0, 0]]))
    assert compare(x, z, DECISION).ok is ok


def test_no_rows_agree() -> None:
    nothing = Outputs.of_logits(np.zeros((0, 3), np.float32), DECISION)
    assert compare(nothing, nothing, DECISION).ok


def test_other_shapes_are_refused() -> None:
    with pytest.raises(DataError, match="cannot be compared"):
        compare(REFERENCE, Outputs.of_logits(LOGITS[:3], DECISION), DECISION)


def test_outcome_can_be_written_as_json() -> None:
    agreement = compare(REFERENCE, changed("labels_NL", 3, 2, True), DECISION)
    assert json.loads(json.dumps(agreement.to_dict()))["num_rows"] == 50


@given(
    st.floats(1e-4, 1 - 1e-4),
    st.floats(0.05, 20),
    st.floats(-5, 5),
    st.floats(1e-7, 3),
    st.integers(0, 2**32 - 1),
)
def test_flips_that_an_error_of_the_logits_explains_lie_inside_the_band(
    threshold: float, scale: float, bias: float, error: float, seed: int
) -> None:
    """A right head on wrong logits: the band is what the logits' error can do, so it holds all."""
    decision = Decision(labels=["a"], thresholds=[threshold], scale=[scale], bias=[bias])
    noise = np.random.default_rng(seed)
    at = (np.log(threshold) - np.log1p(-threshold) - bias) / scale
    logits = (at + noise.normal(scale=2 * error, size=(200, 1))).astype(np.float32)
    got = (logits + noise.uniform(-error, error, logits.shape)).astype(np.float32)
    wide = Tolerances(logits_atol=10, probabilities_atol=1, f1_change=1)
    agreement = compare(
        Outputs.of_logits(logits, decision),
        Outputs.of_logits(got, decision),
        decision,
        tolerances=wide,
    )
    assert agreement.num_flips_outside_band == 0


def test_band_is_no_wider_than_twice_what_the_logits_error_can_do() -> None:
    decision = Decision(labels=["a"], thresholds=[0.5], scale=[4.0])
    logits = np.linspace(-3, 3, 101, dtype=np.float32)[:, None]
    agreement = compare(
        Outputs.of_logits(logits, decision),
        Outputs.of_logits(logits + np.float32(1e-6), decision),
        decision,
    )
    steepest = 2 * 0.25 * 4 * 1e-6
    assert steepest < agreement.band_half_width < 1.2 * steepest + 1e-6


def test_band_of_a_wrong_head_stays_narrow_so_its_flips_lie_outside() -> None:
    """The logits are right: nothing explains what the threshold does."""
    off = Decision(labels=DECISION.labels, thresholds=[0.5, 0.3, 0.7001])
    logits = np.full((1, 3), np.log(0.70005 / 0.29995), np.float32)
    agreement = compare(
        Outputs.of_logits(logits, DECISION), Outputs.of_logits(logits, off), DECISION
    )
    assert agreement.num_flips_outside_band == 1
    assert agreement.band_half_width < 1e-6


def test_band_is_never_wider_than_the_tolerance() -> None:
    got = Outputs.of_logits(LOGITS + np.float32(0.5), DECISION)
    assert compare(REFERENCE, got, DECISION).band_half_width == Tolerances().probabilities_atol


def test_f1_is_that_of_scikit_learn_and_its_change_is_bounded() -> None:
    noise = np.random.default_rng(1)
    logits = noise.normal(size=(4000, 3)).astype(np.float32)
    targets = (logits + noise.normal(size=logits.shape) > 0.5).astype(np.float32)
    targets[::7, 0] = np.nan
    reference = Outputs.of_logits(logits, DECISION)
    got = Outputs.of_logits(logits + np.float32(0.2), DECISION)
    agreement = compare(reference, got, DECISION, targets_NL=targets)
    assert [change.label for change in agreement.f1_changes] == list(DECISION.labels)
    for k, change in enumerate(agreement.f1_changes):
        known = ~np.isnan(targets[:, k])
        for value, outputs in ((change.reference, reference), (change.got, got)):
            expected = f1_score(targets[known, k], outputs.labels_NL[known, k])
            assert value == pytest.approx(expected)
        assert change.is_beyond
    (text,) = [text for text in agreement.problems() if "F1" in text]
    assert "moves from" in text
    assert "and of 2 more" in text
    assert all(f'"{label}"' in text for label in DECISION.labels)


def test_one_row_may_move_the_f1_of_a_rare_label() -> None:
    targets = np.zeros((50, 3), np.float32)
    targets[3, 2] = 1
    got = changed("labels_NL", 3, 2, not REFERENCE.labels_NL[3, 2])
    (change,) = compare(REFERENCE, got, DECISION, targets_NL=targets).f1_changes
    assert change.limit > Tolerances().f1_change
    assert not change.is_beyond


def test_ulp_distance_counts_float32_values() -> None:
    x = np.float32([1, -1, 0, 1e-45, -1e-45, 3e38])
    y = x.copy()
    for _ in range(5):
        y = np.nextafter(y, np.float32(np.inf))
    assert ulp_distance(x, y).tolist() == [5] * 6
    assert ulp_distance(y, x).tolist() == [5] * 6


def test_ulp_statistics_are_of_finite_values() -> None:
    logits = LOGITS.copy()
    logits[0, 0] = np.nan
    moved = np.nextafter(logits, np.float32(np.inf))
    deviation = compare(
        Outputs.of_logits(logits, DECISION), Outputs.of_logits(moved, DECISION), DECISION
    ).deviations[0]
    assert (deviation.max_ulp, deviation.median_ulp) == (1, 1.0)


def test_a_logit_may_differ_by_what_rounding_costs_it_and_by_no_more() -> None:
    got = Outputs.of_logits(LOGITS + np.float32(0.01), DECISION)
    assert compare(REFERENCE, got, DECISION, rounding_NL=np.full(LOGITS.shape, 0.011)).ok
    few = np.full(LOGITS.shape, 0.011)
    few[0] = 0
    (problem, *_) = compare(REFERENCE, got, DECISION, rounding_NL=few).problems()
    assert "worst: row 0" in problem


def test_precisions_are_ordered_and_an_unknown_one_is_named() -> None:
    limits = [tolerances_for(p).probabilities_atol for p in ("fp32", "tf32", "fp16", "int8")]
    assert limits == sorted(limits)
    with pytest.raises(ConfigError, match='unknown precision "fp8"'):
        tolerances_for("fp8")
