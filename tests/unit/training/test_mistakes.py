"""The surest mistakes: the right rows in the right order, as table, pictures and page."""

import csv

import numpy as np
import pytest
from PIL import Image

from thresher import Decision
from thresher_training.mistakes import (
    confident_mistakes,
    write_mistake_pictures,
    write_mistake_table,
    write_mistake_texts,
)

DECISION = Decision(labels=["rain", "fog"], thresholds=[0.5, 0.25])
LOGITS = np.float32([[3, -3], [2, -2], [-4, 1], [-1, 0], [1, 4]])
TARGETS = np.float32([[0, 0], [0, 1], [1, np.nan], [1, 0], [1, 1]])


def test_each_labels_surest_mistakes_come_first_and_unknown_ones_are_none():
    found = confident_mistakes(TARGETS, LOGITS, DECISION)
    assert [(m.label, m.kind, m.row) for m in found] == [
        ("rain", "false positive", 0),
        ("rain", "false positive", 1),
        ("rain", "false negative", 2),
        ("rain", "false negative", 3),
        ("fog", "false positive", 3),
        ("fog", "false negative", 1),
    ]
    assert found[0].probability == pytest.approx(1 / (1 + np.exp(-3)))
    assert found[4].threshold == 0.25
    few = confident_mistakes(TARGETS, LOGITS, DECISION, per_label=1)
    assert [m.row for m in few] == [0, 2, 3, 1]
    assert confident_mistakes(TARGETS, 9 * np.nan_to_num(TARGETS) - 5, DECISION) == ()


def test_the_table_has_a_line_for_each(tmp_path):
    found = confident_mistakes(TARGETS, LOGITS, DECISION)
    texts = ["a", "b\nc", "d" * 1000, "e", "f"]
    write_mistake_table(found, [["fog", "x"]] * len(found), tmp_path / "m.csv", texts=texts)
    with (tmp_path / "m.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[1]["text"] == "b c"
    assert rows[1]["true_labels"] == "fog; x"
    assert len(rows[2]["text"]) == 400
    write_mistake_table(found, [[]] * len(found), tmp_path / "m.csv")
    assert "text" not in (tmp_path / "m.csv").read_text().splitlines()[0]


def test_the_page_shows_texts_as_texts_and_loads_nothing(tmp_path):
    found = confident_mistakes(TARGETS, LOGITS, DECISION)
    texts = ["<script>alert(1)</script>", "b", "c", "d", "e"]
    write_mistake_texts(found, [[]] * len(found), texts, tmp_path / "m.html", title="a & b")
    page = (tmp_path / "m.html").read_text()
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    assert "http" not in page
    assert "a &amp; b" in page
    write_mistake_texts([], [], texts, tmp_path / "m.html", title="none")
    assert "None on the test split" in (tmp_path / "m.html").read_text()


@pytest.mark.parametrize("shape", [(1, 8, 30), (3, 20, 20)])
def test_the_sheet_has_a_line_for_each_label(tmp_path, shape):
    found = confident_mistakes(TARGETS, LOGITS, DECISION)
    images = np.zeros((5, *shape), np.uint8)
    assert write_mistake_pictures(found, images, tmp_path / "m.png", title="t") == 2
    with Image.open(tmp_path / "m.png") as sheet:
        assert min(sheet.size) > 200
