"""Every figure against scikit-learn where all is known, and against it row by row where not."""

import time
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    coverage_error,
    hamming_loss,
    label_ranking_average_precision_score,
    label_ranking_loss,
    precision_recall_fscore_support,
)

from thresher.decision import sigmoid
from thresher_training.metrics import epoch_figures, metrics
from thresher_training.ranking import average_precisions, micro_average_precision, ranking

NAN = np.nan


def case(num_rows, num_labels, *, unknown=0.0, ties=False, seed=0):
    rng = np.random.default_rng(seed)
    targets = (rng.random((num_rows, num_labels)) < 0.3).astype(np.float32)
    logits = rng.normal(size=targets.shape).astype(np.float32) + targets - 0.5
    if ties:
        logits = logits.round()
    targets[rng.random(targets.shape) < unknown] = NAN
    return targets, logits


@pytest.mark.parametrize(("num_labels", "ties"), [(7, False), (7, True), (40, True), (2, False)])
def test_known_targets_give_scikit_learns_figures(num_labels, ties):
    targets, logits = case(80, num_labels, ties=ties)
    targets[0], targets[1] = 0, 1  # rows without a yes and without a no
    targets[:, 1] = 0  # a label without a yes
    got = epoch_figures(targets, logits)
    predicted = sigmoid(logits) >= 0.5
    for prefix, average in (
        *(("micro", "micro"), ("macro", "macro")),
        *(("weighted", "weighted"), ("example", "samples")),
    ):
        expected = precision_recall_fscore_support(
            targets, predicted, average=average, zero_division=0
        )
        found = [got[f"{prefix}_{name}"] for name in ("precision", "recall", "f1")]
        assert found == pytest.approx(expected[:3])
    assert got["hamming_loss"] == pytest.approx(hamming_loss(targets, predicted))
    assert got["subset_accuracy"] == pytest.approx(accuracy_score(targets, predicted))
    assert got["ranking_loss"] == pytest.approx(label_ranking_loss(targets, logits))
    assert got["coverage"] == pytest.approx(coverage_error(targets, logits))
    assert got["label_ranking_average_precision"] == pytest.approx(
        label_ranking_average_precision_score(targets, logits)
    )
    assert got["micro_average_precision"] == pytest.approx(
        average_precision_score(targets, logits, average="micro")
    )
    with_yes = [at for at in range(num_labels) if targets[:, at].any()]
    each = [average_precision_score(targets[:, at], logits[:, at]) for at in with_yes]
    assert got["mean_average_precision"] == pytest.approx(np.mean(each))
    assert average_precisions(targets, logits)[with_yes] == pytest.approx(each)


def test_unknown_targets_are_left_out_row_by_row_and_label_by_label():
    targets, logits = case(60, 9, unknown=0.4, ties=True)
    targets[3] = NAN
    targets[4, :2], targets[4, 2:] = (0, 1), NAN
    known = ~np.isnan(targets)
    got = ranking(targets, logits)
    by_row = {"loss": [], "coverage": [], "precision": []}
    for k, t, z in zip(known, targets, logits, strict=True):
        if k.any():
            yes, scores = t[k][None], z[k][None]
            if k.sum() == 1:  # too few for scikit-learn: nothing can be in the wrong order
                values = (0.0, float(yes.sum()), 1.0)
            else:
                values = (
                    label_ranking_loss(yes, scores),
                    coverage_error(yes, scores),
                    label_ranking_average_precision_score(yes, scores),
                )
            for name, value in zip(by_row, values, strict=True):
                by_row[name].append(value)
    assert got.ranking_loss == pytest.approx(np.mean(by_row["loss"]))
    assert got.coverage == pytest.approx(np.mean(by_row["coverage"]))
    assert got.label_ranking_average_precision == pytest.approx(np.mean(by_row["precision"]))
    for at, value in enumerate(average_precisions(targets, logits)):
        k = known[:, at]
        assert value == pytest.approx(average_precision_score(targets[k, at], logits[k, at]))
    assert micro_average_precision(targets, logits) == pytest.approx(
        average_precision_score(targets[known], logits[known])
    )
    found = metrics(targets, logits >= 0)
    precision, recall, f1, _ = precision_recall_fscore_support(
        targets[known], (logits >= 0)[known], average="binary", zero_division=0
    )
    assert (found.micro_precision, found.micro_recall, found.micro_f1) == pytest.approx(
        (precision, recall, f1)
    )
    rows = [
        precision_recall_fscore_support(t[k], (z >= 0)[k], average="binary", zero_division=0)[:3]
        for k, t, z in zip(known, targets, logits, strict=True)
        if k.any()
    ]
    assert (found.example_precision, found.example_recall, found.example_f1) == pytest.approx(
        tuple(np.mean(rows, axis=0))
    )
    rows = zip(known, targets, logits, strict=True)
    right = [bool(((z >= 0) == t)[k].all()) for k, t, z in rows if k.any()]
    assert found.subset_accuracy == pytest.approx(np.mean(right))


def test_a_label_of_which_nothing_is_known_is_left_out_of_the_macro_mean():
    targets, logits = case(30, 3)
    more = np.concatenate([targets, np.full((30, 1), NAN, np.float32)], axis=1)
    wide = np.concatenate([logits, np.ones((30, 1), np.float32)], axis=1)
    assert epoch_figures(more, wide) == pytest.approx(epoch_figures(targets, logits))


@settings(max_examples=60, deadline=None)
@given(
    targets=hnp.arrays(
        np.float32,
        st.tuples(st.integers(0, 6), st.integers(1, 5)),
        elements=st.sampled_from([0, 1, NAN]),
    ),
    seed=st.integers(0, 99),
)
def test_figures_are_in_their_ranges_or_undefined_and_warn_of_nothing(targets, seed):
    logits = np.random.default_rng(seed).normal(size=targets.shape).round(1).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = epoch_figures(targets, logits)
    assert len(got) == 19
    for name, value in got.items():
        high = targets.shape[1] if name == "coverage" else 1
        assert np.isnan(value) or 0 <= value <= high
    nothing = np.isnan(targets).all()
    assert np.isnan(got["hamming_loss"]) == nothing == np.isnan(got["coverage"])


@pytest.mark.parametrize("shape", [(0, 3), (1, 1)])
def test_no_rows_and_one_row_of_one_label_have_figures(shape):
    got = epoch_figures(np.ones(shape, np.float32), np.ones(shape, np.float32))
    if shape[0]:
        assert got["macro_f1"] == got["mean_average_precision"] == got["coverage"] == 1
    else:
        assert np.isnan(got["mean_average_precision"])


def test_a_thousand_labels_cost_little():
    targets, logits = case(1000, 983, unknown=0.05)
    started = time.process_time()
    epoch_figures(targets, logits)
    assert time.process_time() - started < 3  # a third of a second, on a machine that does no more
