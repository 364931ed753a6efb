"""Objectives: their text, and their values against scikit-learn's metrics."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import (
    balanced_accuracy_score,
    fbeta_score,
    matthews_corrcoef,
    precision_score,
    recall_score,
)

from thresher.errors import ConfigError
from thresher_training import DecisionConfig
from thresher_training.decisions import parse_objective

COUNTS = st.tuples(*[st.integers(0, 20)] * 4).filter(lambda counts: sum(counts) > 0)


def rows_of(tp, fp, fn, tn):
    targets = np.repeat([1, 0, 1, 0], [tp, fp, fn, tn])
    predicted = np.repeat([1, 1, 0, 0], [tp, fp, fn, tn])
    return targets, predicted


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("f1", "f1"),
        ("f1.0", "f1"),
        ("F0.5".lower(), "f0.5"),
        (" precision @ recall >= 0.90 ", "precision@recall>=0.9"),
        ("recall@precision>=.95", "recall@precision>=0.95"),
        ("cost(fp = 1, fn = 5.0)", "cost(fp=1,fn=5)"),
        ("fixed=0.70", "fixed=0.7"),
        ("fixed=0", "fixed=0"),
        ("macro_f1", "f1"),
        ("micro_f2", "micro_f2"),
        ("youden", "youden"),
    ],
)
def test_text_has_one_canonical_form(text, canonical):
    objective = parse_objective(text)
    assert objective.text == canonical
    assert parse_objective(objective.text) == objective


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("balanced_acuracy", 'did you mean "balanced_accuracy"'),
        ("precision@recal>=0.9", 'did you mean "precision@recall>=0.9"'),
        ("", "unknown objective"),
        ("f0", "above 0"),
        ("fixed=1.5", r"in \[0, 1\]"),
        ("precision@recall>=0", "above 0"),
        ("recall@precision>=1.01", "at most 1"),
        ("cost(fp=0,fn=1)", "the cost fp"),
        ("cost(fp=1,fn=1e400)", "the cost fn"),
    ],
)
def test_what_is_no_objective_is_refused(text, said):
    with pytest.raises(ConfigError, match=said):
        parse_objective(text)


def test_a_recipe_checks_its_objectives():
    with pytest.raises(ConfigError, match="youden"):
        DecisionConfig(objective="yuoden")
    with pytest.raises(ConfigError, match="all labels together"):
        DecisionConfig(objectives={"rain": "micro_f1"})
    assert DecisionConfig(objectives={"rain": "f2"}).objective == "f1"


@given(COUNTS)
def test_values_are_those_of_scikit_learn(counts):
    rows = rows_of(*counts)
    oracles = {
        "f1": fbeta_score(*rows, beta=1, zero_division=0),
        "f2": fbeta_score(*rows, beta=2, zero_division=0),
        "f0.5": fbeta_score(*rows, beta=0.5, zero_division=0),
        "cost(fp=2,fn=3)": -(2 * counts[1] + 3 * counts[2]) / sum(counts),
        "prevalence": -abs(rows[0].mean() - rows[1].mean()),
    }
    if len(set(rows[0].tolist())) == 2:
        balanced = balanced_accuracy_score(*rows)
        oracles |= {
            "balanced_accuracy": balanced,
            "youden": 2 * balanced - 1,
            "mcc": matthews_corrcoef(*rows),
        }
    for text, expected in oracles.items():
        assert parse_objective(text).value(*counts) == pytest.approx(expected, abs=1e-12)


@given(COUNTS, st.floats(0.05, 1))
def test_a_bound_is_met_or_the_value_falls_below_all_that_meet_it(counts, bound):
    rows = rows_of(*counts)
    precision, recall = (m(*rows, zero_division=0) for m in (precision_score, recall_score))
    for text, wanted, bounded in (
        (f"precision@recall>={bound}", precision, recall),
        (f"recall@precision>={bound}", recall, precision),
    ):
        objective = parse_objective(text)
        met = counts[0] > 0 and bounded >= bound
        assert bool(objective.is_met(*counts)) == met
        assert objective.metric(*counts) == pytest.approx(wanted)
        assert objective.value(*counts) == pytest.approx(wanted if met else bounded - 2)


def test_counts_are_arrays_of_any_shape():
    counts = np.arange(24).reshape(4, 2, 3)
    for text in ("f1", "mcc", "precision@recall>=0.1", "cost(fp=1,fn=2)", "balanced_accuracy"):
        objective = parse_objective(text)
        assert objective.value(*counts).shape == objective.metric(*counts).shape == (2, 3)
