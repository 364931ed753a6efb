"""The explorer's data: exact counts at every threshold it offers, and a file that is safe."""

import dataclasses
import json
import re
from html import unescape

import numpy as np
import pytest

from support.tuned import tuned_case
from thresher import Decision
from thresher.errors import DataError
from thresher_training.explorer import explorer_data, write_explorer

HOSTILE = (
    'a "quoted" name',
    "it's",
    "</script><script>alert(1)</script>",
    "<!-- <b>bold</b> &amp; {{DATA}} \\u003c",
    "line\nbreak\ttab",
    "émoji 🦊 \u2028 sep",
    "long " * 40,
    "--set x=1; $(rm)",
    "__proto__",
)


def data_of(probabilities_NL, targets_NL, tuned):
    return explorer_data(
        title="t", probabilities_NL=probabilities_NL, targets_NL=targets_NL, tuned=tuned
    )


def edges_and_counts(data, at):
    """The label's thresholds, and its positives and negatives at or above each."""
    bins = data["bins"][at]
    edges = sorted({*data["linear"], *data["logit"], *bins["edges"]})
    above = [np.cumsum(bins[key][::-1])[::-1] for key in ("positives", "negatives")]
    return np.array(edges, dtype=np.float32), *above


def embedded(page):
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(found[1])


@pytest.mark.parametrize("num_labels", [1, 5, 1200])
def test_counts_at_every_offered_threshold_are_exact(num_labels):
    probabilities, targets, tuned = tuned_case([f"l{i}" for i in range(num_labels)], 300)
    probabilities[:7, 0] = [0, 1, 0.5, np.nan, np.nan, 1e-30, tuned.decision.thresholds[0]]
    data = data_of(probabilities, targets, tuned)
    for at in range(0, num_labels, 97):
        edges, tp, fp = edges_and_counts(data, at)
        yes = probabilities[:, at, None] >= edges
        np.testing.assert_array_equal(tp, (yes & (targets[:, at, None] == 1)).sum(0))
        np.testing.assert_array_equal(fp, (yes & (targets[:, at, None] == 0)).sum(0))


@pytest.mark.parametrize("num_labels", [3, 1200])
def test_validated_shared_and_half_are_offered_and_bins_are_bounded(num_labels):
    probabilities, targets, tuned = tuned_case([f"l{i}" for i in range(num_labels)], 200)
    data = data_of(probabilities, targets, tuned)
    for at in range(num_labels):
        edges, _, _ = edges_and_counts(data, at)
        wanted = {tuned.decision.thresholds[at], tuned.shared.thresholds[at], np.float32(0.5)}
        assert wanted <= set(edges)
        assert len(edges) == len(set(edges)) == len(data["bins"][at]["positives"])
        assert len(edges) <= 180
        assert edges[0] == 0


def test_counts_agree_with_the_report_and_leave_unknown_targets_out():
    probabilities, targets, tuned = tuned_case(["a", "b", "c"])
    probabilities[0] = np.nan
    targets[0] = [1, 0, np.nan]
    data = data_of(probabilities, targets, tuned)
    for at in range(3):
        known = int((~np.isnan(targets[:, at])).sum())
        bins = data["bins"][at]
        assert sum(bins["positives"] + bins["negatives"] + bins["unscored"]) == known
    assert [bins["unscored"] for bins in data["bins"]] == [[1, 0], [0, 1], [0, 0]]


def test_few_positives_all_have_a_threshold_of_their_own():
    probabilities, targets, tuned = tuned_case(["rare"], 2000)
    targets[:] = 0
    rows = np.arange(40)
    targets[rows] = 1
    probabilities[rows, 0] = np.linspace(0.2002, 0.2041, 40)
    _, tp, _ = edges_and_counts(data_of(probabilities, targets, tuned), 0)
    assert set(tp) >= set(range(41))


@pytest.mark.parametrize("fill", [0.0, 1.0, np.nan])
@pytest.mark.parametrize("target", [0.0, 1.0, np.nan])
def test_constant_scores_and_targets_are_no_trouble(fill, target):
    _, _, tuned = tuned_case(["a", "b"], 10)
    shape = (10, 2)
    data = data_of(np.full(shape, fill, np.float32), np.full(shape, target, np.float32), tuned)
    json.dumps(data, allow_nan=False)


def test_no_rows_are_no_trouble():
    _, _, tuned = tuned_case(["a"], 10)
    data = data_of(np.empty((0, 1), np.float32), np.empty((0, 1), np.float32), tuned)
    assert sum(data["bins"][0]["positives"]) == 0


def test_hostile_names_stay_inside_the_data(tmp_path):
    probabilities, targets, tuned = tuned_case(HOSTILE)
    path = tmp_path / "explorer.html"
    write_explorer(
        path,
        title='</title><script>{{SCRIPT}}"',
        probabilities_NL=probabilities,
        targets_NL=targets,
        tuned=tuned,
    )
    page = path.read_text(encoding="utf-8")
    assert len(re.findall(r"<script", page)) == 2
    assert unescape(re.search(r"<title>(.*?)</title>", page)[1]) == '</title><script>{{SCRIPT}}"'
    data = embedded(page)
    assert tuple(data["decision"]["labels"]) == HOSTILE
    assert Decision.from_json(json.dumps(data["decision"])) == tuned.decision


def test_the_file_names_nothing_outside_itself(tmp_path):
    probabilities, targets, tuned = tuned_case(["a", "b"])
    path = tmp_path / "explorer.html"
    write_explorer(path, title="t", probabilities_NL=probabilities, targets_NL=targets, tuned=tuned)
    page = path.read_text(encoding="utf-8")
    assert "default-src 'none'" in page
    assert not re.search(r"https?://|<link|<img|@import|url\(\s*['\"h/]|fetch\(", page)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, t: (p[:, :1], t), r"probabilities have shape \[600, 1\], expected \[600, 2\]"),
        (lambda p, t: (p, t[:, :1]), r"targets have shape \[600, 1\], expected \[600, 2\]"),
        (lambda p, t: (p * 3 + 1, t), r'probability of row 0, label "a" is .*\[0, 1\]'),
        (lambda p, t: (p, t + 0.5), r'target of row 0, label "a" is .*0, 1 or NaN'),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change, message):
    probabilities, targets, tuned = tuned_case(["a", "b"])
    with pytest.raises(DataError, match=message):
        data_of(*change(probabilities, targets), tuned)


@pytest.mark.parametrize(
    ("objective", "metric"),
    [
        ("micro_f1", "f1"),
        ("example_f0.5", "f0.5"),
        ("shared_f2", "f2"),
        ("fixed=0.7", "f1"),
        ("f2", "f2"),
        ("mcc", "mcc"),
        ("cost(fp=1,fn=5)", "cost(fp=1,fn=5)"),
    ],
)
def test_a_labels_figure_is_called_what_it_is(objective, metric):
    probabilities, targets, tuned = tuned_case(["a", "b"], 50)
    report = tuple(dataclasses.replace(row, objective=objective) for row in tuned.report)
    data = data_of(probabilities, targets, dataclasses.replace(tuned, report=report))
    assert [row["metric"] for row in data["reports"]] == [metric] * 2
