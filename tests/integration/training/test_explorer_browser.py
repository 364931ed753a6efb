"""The explorer in a real browser: what it shows is what NumPy counts on the full data."""

import re
import shlex
import time

import numpy as np
import pytest

from support.browser import MISSING, browser
from support.tuned import tuned_case
from thresher import Decision
from thresher_training.explorer import write_explorer

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING or "Chromium is here")

LABELS = [
    *("cat", "dog 10", "dog 9", "it's", 'a "quoted" name', "line\nbreak", "émoji 🦊"),
    *("</script><script>document.title='broken'</script>", "<b>bold</b>", "x" * 200, "a=b"),
]
ARROW_RIGHT, HOME = "\ue014", "\ue011"


@pytest.fixture(scope="module")
def window(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("browser")) as opened:
        opened.resize(1280, 800)
        yield opened


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    probabilities, targets, tuned = tuned_case(LABELS, 2000)
    path = tmp_path_factory.mktemp("explorer") / "explorer.html"
    write_explorer(
        path,
        title="scenes <i>v7</i>",
        probabilities_NL=probabilities,
        targets_NL=targets,
        tuned=tuned,
    )
    return path, probabilities, targets, tuned


@pytest.fixture
def page(window, case):
    """The page, freshly opened, with one label chosen."""
    window.open(case[0])
    window.console()
    pick(window, "cat")
    return window


def pick(page, label):
    page.run(
        """for (const button of document.querySelectorAll('.pick'))
             if (button.title === arguments[0]) button.click();""",
        label,
    )


def listed(page):
    return page.run("return [...document.querySelectorAll('tbody .pick')].map((b) => b.title)")


def shown(page):
    """The counts and ratios on the page, and the threshold they are said to be for."""
    found = {
        name: page.text(f"#{name}").replace(",", "")
        for name in ("tp", "fp", "fn", "tn", "precision", "recall", "f1")
    }
    found["threshold"] = page.run("return document.getElementById('threshold').value")
    return found


def counted(case, label, threshold):
    """The same, counted by NumPy on the rows themselves."""
    _, probabilities, targets, tuned = case
    at = tuned.decision.index(label)
    yes = probabilities[:, at] >= np.float32(threshold)
    true, false = targets[:, at] == 1, targets[:, at] == 0
    tp, fp = (yes & true).sum(), (yes & false).sum()
    fn, tn = (~yes & true).sum(), (~yes & false).sum()
    return {
        "tp": str(tp),
        "fp": str(fp),
        "fn": str(fn),
        "tn": str(tn),
        "precision": f"{tp / (tp + fp):.3f}" if tp + fp else "–",
        "recall": f"{tp / (tp + fn):.3f}" if tp + fn else "–",
        "f1": f"{2 * tp / (2 * tp + fp + fn):.3f}" if tp + fp + fn else "0.000",
        "threshold": threshold,
    }


def test_the_page_opens_without_errors_and_asks_for_nothing(window, case):
    window.requests()
    window.open(case[0])
    pick(window, "cat")
    window.type("#slider", ARROW_RIGHT)
    assert window.console() == []
    requests = window.requests()  # "chrome:" is the browser's own first tab
    assert case[0].as_uri() in requests
    assert [r for r in requests if not r.startswith(("file:", "chrome:", "chrome-"))] == []
    assert window.text("#title") == "scenes <i>v7</i>"
    assert window.run("return document.title") == "scenes <i>v7</i>"


@pytest.mark.parametrize("label", LABELS)
def test_a_label_opens_at_its_validated_threshold(page, case, label):
    pick(page, label)
    now = shown(page)
    tuned = case[3]
    assert np.float32(now["threshold"]) == tuned.decision.thresholds[tuned.decision.index(label)]
    assert now == counted(case, label, now["threshold"])
    assert page.text("#name") == label.replace("\n", "\u21b5")


def test_every_step_of_the_slider_shows_what_numpy_counts(page, case):
    page.type("#slider", HOME)
    seen = []
    for _ in range(400):
        now = shown(page)
        assert now == counted(case, "cat", now["threshold"])
        seen.append(float(now["threshold"]))
        page.type("#slider", ARROW_RIGHT * 3)
        if seen[-1] == 1:
            break
    assert seen[0] == 0
    assert seen[-1] == 1
    assert len(seen) > 30
    assert seen == sorted(set(seen))


def test_a_dragged_slider_snaps_to_an_exact_threshold(page, case):
    for value in (0.123456, 0.7777, 1):
        page.run(
            """const slider = document.getElementById('slider');
               slider.value = arguments[0];
               slider.dispatchEvent(new Event('input'));""",
            value,
        )
        now = shown(page)
        assert float(now["threshold"]) == pytest.approx(value, abs=0.02)
        assert now == counted(case, "cat", now["threshold"])


def test_a_typed_threshold_snaps_and_says_so(page, case):
    page.run("document.getElementById('threshold').value = ''")
    page.type("#threshold", "0.512345\n")
    now = shown(page)
    assert float(now["threshold"]) == pytest.approx(0.512345, abs=0.02)
    assert now == counted(case, "cat", now["threshold"])
    assert "0.512345 → " in page.text("#snapped")
    page.type("#threshold", "nonsense\n")
    assert page.text("#snapped") == "Expected a number from 0 to 1."
    assert shown(page) == now


def test_presets_go_to_shared_half_and_back(page, case):
    tuned = case[3]
    validated = str(tuned.decision.thresholds[tuned.decision.index("cat")])
    for button, threshold in (("#to-shared", "0.37"), ("#to-half", "0.5"), ("#reset", validated)):
        page.click(button)
        assert shown(page) == counted(case, "cat", threshold)
    assert page.text("#num-changed") == "Nothing changed"


def test_expected_predictions_follow_traffic_and_threshold(page, case):
    page.click("#to-half")
    now = {key: int(shown(page)[key]) for key in ("tp", "fp", "fn", "tn")}
    rate = (now["tp"] + now["fp"]) / sum(now.values())
    for rows in (10_000, 2_000_000):
        page.run("document.getElementById('rows-per-day').value = ''")
        page.type("#rows-per-day", str(rows))
        expected = rate * rows
        assert float(page.text("#per-day").replace(",", "")) == pytest.approx(
            expected, abs=0.51 if expected >= 10 else 0.051
        )


def test_search_and_filter_narrow_the_list(page, case):
    page.type("#search", "DOG")
    assert listed(page) == ["dog 9", "dog 10"]
    page.type("#search", " zzz")
    assert listed(page) == []
    page.run(
        """document.getElementById('search').value = '';
           document.getElementById('filter').value = 'warned';
           document.getElementById('filter').dispatchEvent(new Event('change'));"""
    )
    assert set(listed(page)) == {row.label for row in case[3].report if row.warnings}


@pytest.mark.parametrize(
    ("column", "is_down", "key"),
    [
        ("support", True, lambda row: row.positives),
        ("metric", False, lambda row: round(row.value, 5)),
        ("threshold", False, lambda row: row.threshold),
        ("warnings", True, lambda row: len(row.warnings)),
    ],
)
def test_columns_sort_both_ways(page, case, column, is_down, key):
    rows = {row.label: row for row in case[3].report}
    for reverse in (is_down, not is_down):
        page.click(f"[data-sort={column}]")
        keys = [key(rows[label]) for label in listed(page)]
        assert keys == sorted(keys, reverse=reverse)


def test_what_was_chosen_is_a_decision_and_a_command_line(page, case):
    tuned = case[3]
    for label in LABELS:
        pick(page, label)
        page.click("#to-half")
    page.click("#show")
    text = page.run("return document.getElementById('json-text').value")
    chosen = Decision.from_json(text)
    assert chosen == Decision(
        labels=LABELS,
        thresholds=[0.5] * len(LABELS),
        scale=tuned.decision.scale,
        bias=tuned.decision.bias,
    )
    line = page.run("return document.getElementById('set-text').value")
    words = shlex.split(line)
    assert words[::2] == ["--set"] * len(LABELS)
    assert [word.rsplit("=", 1) for word in words[1::2]] == [[name, "0.5"] for name in LABELS]
    assert page.run("return document.querySelectorAll('tr.changed').length") == len(LABELS)
    page.click("#reset-all")
    text = page.run("return document.getElementById('json-text').value")
    assert Decision.from_json(text) == tuned.decision


@pytest.mark.parametrize("has_clipboard", [True, False])
def test_copying_works_with_and_without_the_clipboard_interface(page, has_clipboard):
    page.click("#to-half")
    if not has_clipboard:
        page.run(
            """Object.defineProperty(navigator, 'clipboard', {value: undefined});
               document.addEventListener('copy', () => {
                 const from = document.activeElement;
                 window.copied = from.value.slice(from.selectionStart, from.selectionEnd);
               });"""
        )
    page.click("#copy-line")
    deadline = time.monotonic() + 10
    while not page.text("#copied") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert page.text("#copied") == "Copied the --set line"
    if not has_clipboard:
        assert page.run("return window.copied") == "--set cat=0.5"


def test_it_works_in_the_sandboxed_frame_that_mlflow_shows_it_in(window, case, tmp_path):
    source = case[0].read_text(encoding="utf-8").replace("&", "&amp;").replace('"', "&quot;")
    outer = tmp_path / "outer.html"
    outer.write_text(
        f'<!DOCTYPE html><iframe sandbox="allow-scripts" srcdoc="{source}" '
        'style="width:1200px;height:700px"></iframe>',
        encoding="utf-8",
    )
    window.open(outer)
    window.enter_frame("iframe")
    try:
        pick(window, "cat")
        window.click("#to-half")
        assert shown(window) == counted(case, "cat", "0.5")
        window.click("#copy-json")
        deadline = time.monotonic() + 10
        while not window.text("#copied") and time.monotonic() < deadline:
            time.sleep(0.05)
        assert re.match("Copied|Selected", window.text("#copied"))
    finally:
        window.leave_frame()


def test_a_thousand_labels_stay_small_and_quick(window, tmp_path):
    labels = [f"label {at}" for at in range(1000)]
    case = (tmp_path / "many.html", *tuned_case(labels, 5000))
    path, probabilities, targets, tuned = case
    write_explorer(
        path, title="many", probabilities_NL=probabilities, targets_NL=targets, tuned=tuned
    )
    assert path.stat().st_size < 4_000_000
    window.console()
    started = time.monotonic()
    window.open(path)
    assert window.run("return document.documentElement.dataset.ready") == "true"
    assert time.monotonic() - started < 10  # half a second where nothing else runs
    assert len(listed(window)) == 1000
    pick(window, "label 321")
    window.type("#slider", ARROW_RIGHT * 5)
    now = shown(window)
    assert now == counted(case, "label 321", now["threshold"])
    assert window.console() == []


@pytest.mark.parametrize("is_dark", [False, True])
@pytest.mark.parametrize("width", [590, 900, 1280])
def test_nothing_is_cut_off_at_the_sides(page, width, is_dark):
    page.resize(width, 800, dark=is_dark)
    assert page.run(
        """const over = (box) => box.scrollWidth - box.clientWidth;
           return [document.documentElement, document.getElementById('detail'),
                   document.querySelector('.scroll')].map(over)"""
    ) == [0, 0, 0]
    page.resize(1280, 800)
