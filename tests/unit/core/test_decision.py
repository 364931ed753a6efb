import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

from thresher import Decision
from thresher.decision import sigmoid
from thresher.errors import DecisionError, NotFoundError

unit = st.floats(0, 1, width=32)
names = st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=6, unique=True)


@st.composite
def decisions(draw: st.DrawFn) -> Decision:
    labels = draw(names)
    n = len(labels)
    finite = st.floats(-50, 50, width=32)
    return Decision(
        labels=labels,
        thresholds=draw(st.lists(unit, min_size=n, max_size=n)),
        scale=draw(st.lists(st.floats(2**-10, 50, width=32), min_size=n, max_size=n)),
        bias=draw(st.lists(finite, min_size=n, max_size=n)),
    )


@given(decisions())
def test_json_brings_back_every_bit(decision: Decision) -> None:
    again = Decision.from_json(decision.to_json())
    assert again == decision
    assert again.digest == decision.digest
    for field in ("thresholds", "scale", "bias"):
        np.testing.assert_array_equal(
            getattr(again, field).view(np.uint32), getattr(decision, field).view(np.uint32)
        )


def test_saved_file_is_short_and_readable(tmp_path: Path) -> None:
    decision = Decision(labels=['a "quoted"', "new\nline", "emoji 🌦"], thresholds=[0.1, 0.7, 1])
    decision.save(tmp_path / "decision.json")
    text = (tmp_path / "decision.json").read_text()
    assert '"thresholds": [0.1, 0.7, 1.0]' in text
    assert Decision.load(tmp_path / "decision.json") == decision


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1))
def test_sigmoid_is_scipys_within_float32(values: list[float]) -> None:
    x = np.float32(values)
    np.testing.assert_allclose(sigmoid(x), expit(x.astype(np.float64)), rtol=4e-7, atol=1e-37)


def test_probability_equal_to_its_threshold_is_a_yes() -> None:
    decision = Decision(labels=["a"], thresholds=[0.7])
    at = np.float32(0.7)
    below, above = np.nextafter(at, np.float32([0, 1]))
    answers = decision.decide(np.array([[below], [at], [above]], dtype=np.float32))
    assert answers.ravel().tolist() == [False, True, True]


def test_nan_logit_gives_nan_probability_and_no() -> None:
    probabilities, labels = Decision(labels=["a"], thresholds=[0.0]).apply(np.float32([[np.nan]]))
    assert np.isnan(probabilities).all()
    assert not labels.any()


def test_infinite_logits_are_certain() -> None:
    decision = Decision(labels=["a"], thresholds=[1.0], scale=[2.0], bias=[1.0])
    probabilities, labels = decision.apply(np.float32([[np.inf], [-np.inf]]))
    assert probabilities.ravel().tolist() == [1.0, 0.0]
    assert labels.ravel().tolist() == [True, False]


def test_no_rows_give_no_answers() -> None:
    probabilities, labels = Decision(labels=["a", "b"], thresholds=[0.5, 0.5]).apply(
        np.zeros((0, 2), dtype=np.float32)
    )
    assert probabilities.shape == labels.shape == (0, 2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"labels": [], "thresholds": []}, "at least one label"),
        ({"labels": ["a", "a"], "thresholds": [0.5, 0.5]}, "repeated: a"),
        ({"labels": ["a", ""], "thresholds": [0.5, 0.5]}, "non-empty"),
        ({"labels": ["a", "rain"], "thresholds": [0.5]}, 'missing "rain"'),
        ({"labels": ["a"], "thresholds": [[0.5]]}, r"shape \[1, 1\]"),
        ({"labels": ["a"], "thresholds": ["x"]}, "list of numbers"),
        ({"labels": ["a"], "thresholds": [1.5]}, r"in \[0, 1\]"),
        ({"labels": ["a"], "thresholds": [float("nan")]}, "expected a number"),
        ({"labels": ["a"], "thresholds": [0.5], "scale": [0.0]}, "above 0"),
        ({"labels": ["a"], "thresholds": [0.5], "bias": [float("inf")]}, "expected a number"),
    ],
)
def test_parts_that_do_not_fit_are_refused(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(DecisionError, match=words):
        Decision(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("[]", "format is 'list'"),
        ('{"format": "x"}', "format is 'x'"),
        (json.dumps({"format": "thresher-decision/1", "labels": ["a"]}), "missing keys"),
        (
            '{"format": "thresher-decision/1", "labels": ["a"], "thresholds": [0.5], "scale": [1]}',
            "missing keys",
        ),
    ],
)
def test_text_that_is_no_decision_is_refused(text: str, words: str) -> None:
    with pytest.raises(DecisionError, match=words):
        Decision.from_json(text)


@pytest.mark.parametrize("bad", [np.zeros(3, np.float32), np.zeros((2, 3), np.float32)])
def test_logits_of_another_shape_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(DecisionError, match=r"expected \[N, 2\]"):
        Decision(labels=["a", "b"], thresholds=[0.5, 0.5]).apply(bad)


def test_float64_logits_are_refused() -> None:
    with pytest.raises(DecisionError, match="float64"):
        Decision(labels=["a"], thresholds=[0.5]).apply(np.zeros((1, 1)))  # type: ignore[arg-type]


def test_unknown_label_names_the_nearest() -> None:
    with pytest.raises(NotFoundError, match='did you mean "rain"'):
        Decision(labels=["rain", "fog"], thresholds=[0.5, 0.5]).index("ran")


def test_decision_cannot_be_changed() -> None:
    decision = Decision(labels=["a"], thresholds=[0.5])
    with pytest.raises(ValueError, match="read-only"):
        decision.thresholds[0] = 0.1


def test_a_decision_written_by_hand_needs_labels_and_thresholds_alone() -> None:
    text = '{"format": "thresher-decision/1", "labels": ["a", "b"], "thresholds": [0.5, 0.25]}'
    assert Decision.from_json(text) == Decision(labels=["a", "b"], thresholds=[0.5, 0.25])
