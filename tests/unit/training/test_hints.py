"""What stands next to the figures: what rows were chosen for, what would serve better."""

import doctest

import numpy as np
import pytest

from thresher_training import tuning
from thresher_training.decisions import tune_decision
from thresher_training.descriptions import describe_tuning
from thresher_training.hints import chosen_for, hints
from thresher_training.metrics import metrics
from thresher_training.recipe import DecisionConfig

f32 = np.float32
LABELS = ("common", "rare")


def rows(seed=0, num_rows=4000):
    """Return rows of a label that is told well, and of a rare one that is hardly told at all."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((num_rows, 2)) < [0.3, 0.03]).astype(f32)
    logits = rng.normal(size=targets.shape) + targets * [4, 0.5] - [2, 4]
    return logits.astype(f32), targets


def test_one_line_says_which_objective_serves_the_figures_better():
    logits, targets = rows()
    tuned = tune_decision(LABELS, logits, targets, DecisionConfig())
    found = {
        name: metrics(targets, each.apply(logits)[1]).micro_f1
        for name, each in tuned.compared.items()
    }
    better = max(found["at_0.5"], found["shared"])
    assert better > found["tuned"] + 0.02
    (line,) = [line for line in hints(tuned, logits, targets) if "--objective" in line]
    assert "--objective micro_f1" in line
    assert f"{better:.3f} against {found['tuned']:.3f}" in line


def test_nothing_is_said_where_nothing_serves_better():
    logits, targets = rows()
    tuned = tune_decision(LABELS[:1], logits[:, :1], targets[:, :1], DecisionConfig())
    assert hints(tuned, logits[:, :1], targets[:, :1]) == ()


def test_a_label_that_many_rows_get_wrongly_is_warned_of():
    logits, targets = rows()
    tuned = tune_decision(LABELS, logits, targets, DecisionConfig())
    common, rare = tuned.report
    assert rare.f1 < 0.2
    assert rare.share > 0.1
    assert any("given to" in warning for warning in rare.warnings)
    assert not common.warnings
    (line,) = [line for line in hints(tuned, logits, targets) if line.startswith("Warning")]
    assert f'"rare" has F1 {rare.f1:.2f} and is given to {rare.share:.0%} of rows' in line


@pytest.mark.parametrize(
    ("config", "shared", "tuned"),
    [
        (DecisionConfig(), "micro_f1", "f1"),
        (DecisionConfig(objective="f2"), "micro_f2", "f2"),
        (DecisionConfig(objective="micro_f0.5"), "micro_f0.5", "micro_f0.5"),
        (DecisionConfig(objectives={"rare": "fixed=0.4"}), "micro_f1", "f1, fixed=0.4"),
    ],
)
def test_every_row_says_what_it_was_chosen_for(config, shared, tuned):
    logits, targets = rows()
    found = chosen_for(tune_decision(LABELS, logits, targets, config))
    assert found == {"at_0.5": "nothing", "shared": shared, "tuned": tuned}


def test_examples_in_docstrings_are_true():
    assert doctest.testmod(tuning).failed == 0


def test_a_description_holds_hostile_names_as_code():
    config = DecisionConfig(objectives={"a`b\n<b>": "fixed=0.4"})
    changed = tuning.changes(DecisionConfig(), config)
    text = describe_tuning("models:/x/1", config, changed, rows="validation")
    assert "`a'b <b>` fixed=0.4" in text
