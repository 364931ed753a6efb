import dataclasses
import json

import numpy as np
import pytest

from thresher import Decision
from thresher.agreement import Outputs, compare
from thresher.errors import DataError

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
