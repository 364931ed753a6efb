"""Tables that people open in a spreadsheet run nothing there, and keep their numbers."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thresher_training.mistakes import Mistake, write_mistake_table, write_mistake_texts
from thresher_training.spreadsheet import write_csv
from thresher_training.weights import WeightRow, write_weight_table

FORMULAS = [
    *("=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\t=1+1", "\r=1+1", "\n=1+1", " =1+1"),
    *("\ta", "\ra", "\uff1d1+1", "a;=1+1", "a;\t@b", "=1,2", '="a"', "-", "--1", "+a", "-1.5 =x"),
]


def cells(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize("text", FORMULAS)
def test_no_text_is_run_as_a_formula(text: str, tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", ["label", "n"], [[text, 1]])
    (_, (cell, _)) = cells(tmp_path / "t.csv")
    assert re.search(r"(^|[;\t\r\n])[ \t\r\n]*[=+@\uff1d-]", cell) is None
    assert cell[0] not in "=+-@\t\r\n"
    assert cell.replace("'", "") == text.replace("'", "")  # nothing is lost


@pytest.mark.parametrize("text", ["-1.5", "+2", "-1e-05", "-.5", "-inf", "a=b", "x-y", "", "a@b"])
def test_numbers_and_harmless_texts_stay_as_they_are(text: str, tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", ["label", "n"], [[text, -1.5]])
    assert cells(tmp_path / "t.csv")[1] == [text, "-1.5"]


@given(st.lists(st.tuples(st.floats(allow_nan=False), st.integers()), min_size=1))
def test_numbers_are_read_back_as_numbers(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[float, int]]
) -> None:
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    write_csv(path, ["x", "text"], [[x, f"{x:.6g}"] for x, _ in rows])
    found = pandas.read_csv(path)
    np.testing.assert_allclose(found["x"].astype(float), [x for x, _ in rows], rtol=1e-12)
    np.testing.assert_allclose(found["text"].astype(float), [float(f"{x:.6g}") for x, _ in rows])


def test_labels_and_texts_in_a_trainings_tables_are_no_formulas(tmp_path: Path) -> None:
    label = "=HYPERLINK(A1)"
    row = WeightRow(label=label, positives=1.0, negatives=2.0, pos_weight=-2.0, weight=1.0)
    write_weight_table([row], tmp_path / "weights.csv")
    assert cells(tmp_path / "weights.csv")[1] == [f"'{label}", "1", "2", "-2", "1"]
    mistake = Mistake(label=label, kind="false positive", row=0, probability=0.9, threshold=0.5)
    write_mistake_table([mistake], [["+a", "-b"]], tmp_path / "mistakes.csv", texts=["@x"])
    found = cells(tmp_path / "mistakes.csv")[1]
    assert (found[0], found[-2], found[-1]) == (f"'{label}", "'+a; '-b", "'@x")


def test_every_csv_of_a_report_is_written_by_it() -> None:
    """What is read back by `thresher predict` and other tools alone keeps names exactly."""
    root = Path(__file__).parents[3]
    found = {
        path.name
        for stage in ("core", "training", "export", "serving")
        for path in (root / stage).rglob("*.py")
        if re.search(r"csv\.(writer|DictWriter)|\.to_csv\(|write_csv\(table", path.read_text())
    }
    assert found == {"spreadsheet.py", "examples.py"}


def test_a_page_of_texts_escapes_what_others_wrote(tmp_path: Path) -> None:
    hostile = "</script><script>alert(1)</script> \" ' BODY $BODY ${TITLE}"
    mistake = Mistake(label=hostile, kind="false positive", row=0, probability=0.9, threshold=0.5)
    path = tmp_path / "mistakes.html"
    write_mistake_texts([mistake], [[hostile]], [hostile], path, title=hostile)
    page = path.read_text(encoding="utf-8")
    assert "<script" not in page
    assert page.count("alert(1)") == 5  # title, heading, label, text, true labels
    assert page.count("BODY $BODY ${TITLE}") == 5
