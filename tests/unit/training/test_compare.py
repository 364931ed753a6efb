"""Comparing losses: what a word means, who wins, what is written."""

import csv
import math

import pytest

from thresher.errors import ConfigError
from thresher_training import LossConfig
from thresher_training.comparison import ComparedLoss, Comparison
from thresher_training.comparison_report import cell, shown_choice, write_comparison
from thresher_training.loss_choice import parse_loss

BASE = LossConfig(name="focal", options={"gamma": 1.0}, pos_weight="neg_over_pos", pos_weight_cap=7)


@pytest.mark.parametrize(
    ("text", "name", "pos_weight", "weight"),
    [
        ("bce", "bce", "none", "none"),
        ("bce+pos_weight", "bce", "neg_over_pos", "none"),
        ("bce+pos_weight=max_over_count", "bce", "max_over_count", "none"),
        ("focal+weight", "focal", "none", "effective_number"),
        ("a:b+weight=inverse_frequency+pos_weight", "a:b", "neg_over_pos", "inverse_frequency"),
    ],
)
def test_a_word_names_loss_and_weights(text, name, pos_weight, weight):
    found = parse_loss(text, BASE)
    assert (found.name, found.pos_weight, found.weight) == (name, pos_weight, weight)
    assert found.pos_weight_cap == 7
    assert found.options == ({"gamma": 1.0} if name == "focal" else {})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "names no loss"),
        ("+weight", "names no loss"),
        ("bce+pos_wieght", 'did you mean "pos_weight"'),
        ("bce+weight=inverse_freq", 'did you mean "inverse_frequency"'),
        ("bce+weight+weight", "twice"),
        ("bce+weight=given", "given"),
    ],
)
def test_another_form_is_refused(text, told):
    with pytest.raises(ConfigError, match=told):
        parse_loss(text, LossConfig())


def row(loss, *values, failures=None):
    names = ("validation/tuned/macro_f1", "test/tuned/macro_f1", "test/mean_average_precision")
    return ComparedLoss(
        loss=loss,
        seeds=tuple(range(len(values))),
        figures=dict.fromkeys(names, values) if values else {},
        failures=failures or {},
    )


def test_files_tell_mean_spread_winner_and_failures(tmp_path):
    found = Comparison(
        name="yeast",
        run_id="r",
        losses=(row("focal", 0.5, 0.7), row("bce", 0.4), row("own", failures={0: "no memory"})),
        chosen_by="validation/tuned/macro_f1",
    )
    assert found.winner is found.losses[0]
    assert found.failures == ("own, seed 0: no memory",)
    assert cell(found.losses[0], found.chosen_by) == "0.6000 ± 0.1414"
    assert cell(found.losses[1], found.chosen_by) == "0.4000"
    assert cell(found.losses[2], found.chosen_by) == ""
    assert shown_choice(found) == "validation macro-F1, tuned thresholds"
    text = write_comparison(found, tmp_path)
    assert "Best on validation: **focal**" in text
    assert "- own, seed 0: no memory" in text
    assert (tmp_path / "comparison.png").stat().st_size > 5000
    with (tmp_path / "comparison.csv").open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["mean"]]
    wanted = [
        r for r in rows if (r["loss"], r["split"], r["metric"]) == ("focal", "test", "macro_f1")
    ]
    assert [(r["thresholds"], r["seeds"], r["spread"]) for r in wanted] == [
        ("tuned", "2", "0.141421")
    ]
    assert math.isclose(float(wanted[0]["mean"]), 0.6)


def test_where_all_failed_nobody_wins(tmp_path):
    found = Comparison(
        name="yeast",
        run_id="r",
        losses=(row("bce", failures={0: "x"}),),
        chosen_by="validation/tuned/macro_f1",
    )
    assert found.winner is None
    assert "No training came to its end" in write_comparison(found, tmp_path)
    assert not (tmp_path / "comparison.png").exists()
