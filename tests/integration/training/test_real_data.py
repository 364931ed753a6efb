"""Tuned thresholds on real data, yeast: what they win on the test split, and that it is honest.

Needs the data folder; see `THRESHER_DATA` in docs/results.md.
"""

from pathlib import Path

import numpy as np
import pytest

from thresher.decision import Decision
from thresher_training import DecisionConfig
from thresher_training.decisions import tune_decision
from thresher_training.decisions.calibration import calibration_error
from thresher_training.metrics import metrics

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture(scope="module")
def yeast(tmp_path_factory):
    pytest.importorskip("arff", reason='needs liac-arff: pip install -e ".[dev]"')
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        import real_data

        if not (real_data.data_folder() / "mulan" / "yeast").is_dir():
            pytest.skip(
                f"no yeast in the data folder; set {real_data.DATA} to the folder that holds "
                "mulan/yeast/yeast-train.arff"
            )
        return real_data.scored("yeast", num_jobs=1, keep=tmp_path_factory.mktemp("kept"))


def tuned(data, **config):
    config = DecisionConfig(min_positives=1, **config)
    return tune_decision(data.labels, data.tune_logits_NL, data.tune_targets_NL, config)


def on_test(data, decision):
    return metrics(data.test_targets_NL, decision.apply(data.test_logits_NL)[1])


def at_half(data):
    return Decision(labels=data.labels, thresholds=np.full(len(data.labels), 0.5))


def test_the_data_is_what_its_authors_published(yeast):
    assert yeast.tune_logits_NL.shape == (1500, 14)
    assert yeast.test_targets_NL.shape == (917, 14)
    assert yeast.labels[:2] == ("Class1", "Class2")
    cardinality = np.concatenate([yeast.tune_targets_NL, yeast.test_targets_NL]).sum(axis=1).mean()
    assert cardinality == pytest.approx(4.24, abs=0.005)


def test_the_models_are_as_good_as_plain_logistic_regression_is(yeast):
    half, shared = on_test(yeast, at_half(yeast)), on_test(yeast, tuned(yeast).shared)
    assert (half.micro_f1, half.macro_f1) == pytest.approx((0.629, 0.381), abs=0.01)
    assert (shared.micro_f1, shared.macro_f1) == pytest.approx((0.650, 0.435), abs=0.02)


def test_a_threshold_per_label_wins_macro_f1_on_test(yeast):
    found = tuned(yeast)
    own, shared = on_test(yeast, found.decision), on_test(yeast, found.shared)
    assert own.macro_f1 > shared.macro_f1 + 0.02 > on_test(yeast, at_half(yeast)).macro_f1 + 0.05
    assert own.micro_f1 < shared.micro_f1  # what chasing each label's F1 costs here


def test_joint_thresholds_win_micro_f1_on_test(yeast):
    found = tuned(yeast, objective="micro_f1")
    joint, shared = on_test(yeast, found.decision), on_test(yeast, found.shared)
    assert joint.micro_f1 > on_test(yeast, at_half(yeast)).micro_f1 + 0.02
    assert joint.micro_f1 > shared.micro_f1


def test_what_cross_validation_foretells_holds_on_test(yeast):
    found = tuned(yeast, intervals=True)
    on_tuned = np.mean([row.value for row in found.report])
    held_out = on_tuned - np.mean([row.optimism for row in found.report])
    assert on_tuned > held_out
    assert on_test(yeast, found.decision).macro_f1 == pytest.approx(held_out, abs=0.02)
    for row in found.report:
        low, high = row.threshold_interval
        assert low <= row.threshold + 0.02
        assert row.threshold - 0.02 <= high
    assert any("tuned rows flatter it by" in note for note in found.notes)


def test_shrunk_thresholds_say_so_and_lie_in_between(yeast):
    own, found = tuned(yeast), tuned(yeast, shrinkage=True, intervals=True)
    shared = float(found.shared.thresholds[0])
    shrunk = [at for at, row in enumerate(found.report) if row.origin == "shrunk"]
    assert shrunk
    for at in shrunk:
        row, threshold = found.report[at], own.report[at].threshold
        low, high = sorted((threshold, shared))
        assert low - 1e-3 <= row.threshold <= high + 1e-3
        assert row.reason.startswith("shrunk: ")
        yes = found.decision.probabilities(yeast.tune_logits_NL)[:, at] >= np.float32(row.threshold)
        assert int(yes.sum()) == row.tp + row.fp
    macro = [on_test(yeast, each.decision).macro_f1 for each in (own, found)]
    assert macro[1] > macro[0] - 0.01
    assert any(note.startswith("shrinkage: strength") for note in found.notes)


def test_platt_makes_test_probabilities_more_honest(yeast):
    errors = [
        calibration_error(
            tuned(yeast, calibration=method).decision.probabilities(yeast.test_logits_NL),
            yeast.test_targets_NL,
        )
        for method in ("none", "platt")
    ]
    assert errors[1].ece < errors[0].ece
    assert errors[1].brier < errors[0].brier
