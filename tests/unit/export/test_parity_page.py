"""The report as JSON and as a page."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from thresher import Decision
from thresher.agreement import Outputs, Tolerances, compare
from thresher_export.parity import Check, Departure, Layer, ParityReport, write_parity_report

AWKWARD = ['<b>"sun"</b>', "fog & wind", "雨"]
DECISION = Decision(labels=AWKWARD, thresholds=[0.5, 0.3, 0.7])
LOGITS = np.random.default_rng(0).normal(scale=3, size=(50, 3)).astype(np.float32)


def report(error: float) -> ParityReport:
    reference = Outputs.of_logits(LOGITS, DECISION)
    got = Outputs.of_logits(LOGITS + np.float32(error), DECISION)
    check = Check(name="test: torch = ONNX Runtime", agreement=compare(reference, got, DECISION))
    layers = (
        Layer(value="linear", op_type="Gemm", max_abs=1e-7, scale=2.0, departs=False),
        Layer(value="norm", op_type="LayerNormalization", max_abs=0.1, scale=2.0, departs=True),
    )
    return ParityReport(
        checks=(check,),
        engines=("ONNX Runtime",),
        decision=DECISION,
        precision="fp32",
        tolerances=Tolerances(),
        notes=("something was left out",),
        departure=Departure(reference="torch", layers=layers, num_values=4),
    )


class Shown(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def page(made: ParityReport, folder: Path) -> tuple[str, Shown]:
    text = write_parity_report(made, folder, what="models:/sky/3")[1].read_text(encoding="utf-8")
    shown = Shown()
    shown.feed(text)
    return text, shown


def test_page_shows_verdict_plots_and_tables(tmp_path: Path) -> None:
    _, shown = page(report(1e-7), tmp_path)
    assert shown.tags.count("svg") == 3
    for words in ("Parity of models:/sky/3", "Passes", "Error by node", "something was left out"):
        assert words in shown.text


def test_page_of_a_failure_says_what_is_wrong_and_where_it_begins(tmp_path: Path) -> None:
    text, shown = page(report(0.3), tmp_path)
    assert "Does not pass" in shown.text
    assert 'first node that departs from torch: LayerNormalization "norm"' in shown.text
    assert "outside" in shown.text  # the flips
    assert 'class="mark"' in text


def test_labels_are_escaped(tmp_path: Path) -> None:
    text, shown = page(report(0.3), tmp_path)
    assert '<b>"sun"' not in text
    for label in AWKWARD:
        assert label in shown.text


def test_page_needs_nothing_else(tmp_path: Path) -> None:
    text, shown = page(report(1e-7), tmp_path)
    assert not re.search(r"https?:|url\(|@import|src=|<link", text)
    assert "script" not in shown.tags


def test_report_is_the_same_each_time_and_complete(tmp_path: Path) -> None:
    one, two = (
        write_parity_report(report(0.3), tmp_path / name)[0].read_bytes() for name in ("a", "b")
    )
    assert one == two
    content = json.loads(one)
    assert not content["ok"]
    assert [label["label"] for label in content["labels"]] == AWKWARD
    assert content["layers"]["first"]["value"] == "norm"
    assert content["tolerances"]["probabilities_atol"] == 1e-5
    check = content["checks"][0]
    assert {"max_ulp", "median_ulp"} <= set(check["deviations"][0])
    assert check["flips"][0]["in_band"] is False


def test_many_labels_make_one_page_of_bounded_size(tmp_path: Path) -> None:
    labels = [f"label {k}" for k in range(983)]
    decision = Decision(labels=labels, thresholds=[0.5] * 983)
    logits = np.random.default_rng(0).normal(size=(20, 983)).astype(np.float32)
    outputs = Outputs.of_logits(logits, decision)
    check = Check(name="c", agreement=compare(outputs, outputs, decision))
    made = ParityReport(
        checks=(check,) * 12,
        engines=("ONNX Runtime",),
        decision=decision,
        precision="fp32",
        tolerances=Tolerances(),
    )
    text, shown = page(made, tmp_path)
    assert len(text) < 1_000_000
    assert "983 from left to right" in shown.text
