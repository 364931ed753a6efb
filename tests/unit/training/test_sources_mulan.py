"""Mulan's ARFF and XML files, dense and sparse."""

import numpy as np
import pytest

from thresher.errors import DataError, NotFoundError
from thresher_training.sources import mulan

DENSE = """% moods
@relation tiny
@attribute tempo numeric
@attribute loud {1,0}
@attribute calm {0,1}
@attribute 'dise\\~no' {0,1}
@data
"""
ROWS = ["1.5,1,0,1", "2.5,0,1,0", "3.5,1,1,0", "4.5,0,0,1"]
SPARSE_ROWS = ["{0 1.5,1 1,3 1}", "{0 2.5,1 0,2 1}", "{0 3.5,1 1,2 1}", "{0 4.5,1 0,3 1}"]
XML = """<?xml version="1.0"?>
<labels xmlns="http://mulan.sourceforge.net/labels">
<label name="dise\\~no"></label><label name="calm"></label>
</labels>
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()

    def write(rows=ROWS * 5, xml=XML, header=DENSE):
        (tmp_path / "tiny" / "tiny.xml").write_text(xml)
        for split in ("train", "test"):
            (tmp_path / "tiny" / f"tiny-{split}.arff").write_text(header + "\n".join(rows) + "\n")

    return write


@pytest.mark.parametrize("rows", [ROWS, SPARSE_ROWS])
def test_dense_and_sparse_files_give_the_same(write, rows):
    write(rows * 5)
    data = mulan("tiny", validation_fraction=0.25)
    assert data.labels == ("dise~no", "calm")  # as the XML orders them, unescaped
    test = data.splits["test"]
    np.testing.assert_array_equal(
        test.inputs["features"][:4], np.float32([[1.5, 1], [2.5, 0], [3.5, 1], [4.5, 0]])
    )
    np.testing.assert_array_equal(test.targets_NL[:4], [[1, 0], [0, 1], [0, 1], [1, 0]])
    assert (len(data.splits["train"]), len(data.splits["validation"])) == (15, 5)


def test_a_single_file_is_split_in_three(write, tmp_path):
    write()
    (tmp_path / "tiny" / "tiny-train.arff").rename(tmp_path / "tiny" / "tiny.arff")
    data = mulan("tiny")
    assert sum(len(split) for split in data.splits.values()) == 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": [*ROWS, "1.5,1,0"]}, r"tiny-train\.arff, line 12: Bad @DATA instance format"),
        (
            {"rows": [*ROWS, "loud,1,0,1"]},
            r'tiny-train\.arff, row 4: column "tempo": "loud" is no number',
        ),
        ({"rows": [*ROWS, "1,7,0,1"]}, r"tiny-train\.arff, line 12: .*7.* not found in nominal"),
        ({"rows": [*SPARSE_ROWS, "{9 1}"]}, r"tiny-train\.arff, line 12"),
        ({"rows": []}, r"the train split is empty"),
        ({"xml": XML.replace('"calm"', '"clam"')}, r'tiny\.xml: .*"clam"; did you mean "calm"'),
        ({"xml": XML.replace("</labels>", "")}, r"tiny\.xml is not XML: .*line 5"),
        ({"xml": "<labels/>"}, r"tiny\.xml names no label"),
        (
            {"header": DENSE.replace("numeric", "string"), "rows": ["fast,1,0,1"] * 20},
            r'tiny-train\.arff, row 0: column "tempo": "fast" is no number; is it a category',
        ),
        ({"header": DENSE.replace("{1,0}", "{yes,no}")}, r"tiny-train\.arff"),
    ],
)
def test_a_broken_file_is_told_with_its_line(write, change, message):
    write(**change)
    with pytest.raises(DataError, match=message):
        mulan("tiny")


@pytest.mark.parametrize(
    "rows",
    [
        ["1.5,yes,0,1", "2.5,no,1,0", "3.5,?,0,1"],
        ["{0 1.5,3 1}", "{0 2.5,1 no,2 1}", "{0 3.5,1 ?,3 1}"],
    ],
)
def test_nominal_attributes_whose_values_are_no_numbers_are_categories(write, rows):
    write(rows * 10, header=DENSE.replace("{1,0}", "{yes,no,maybe}"))
    data = mulan("tiny")
    assert data.input_spec.categories == {"categories": {"loud": ("no", "yes")}}
    test = data.splits["test"]
    assert test.inputs["categories"][:3].tolist() == [[3], [2], [1]]
    assert test.inputs["features"][:3].tolist() == [[1.5], [2.5], [3.5]]


def test_the_published_split_is_kept_where_all_rows_are_there_too(write, tmp_path):
    write()
    rows = DENSE + "\n".join(ROWS * 10)
    (tmp_path / "tiny" / "tiny.arff").write_text(rows)
    data = mulan("tiny")
    sizes = {name: len(split) for name, split in data.splits.items()}
    assert sizes == {"train": 16, "validation": 4, "test": 20}
    assert "official train and test files, validation 20 % of train" in data.source


def test_a_missing_file_is_named(write, tmp_path):
    write()
    (tmp_path / "tiny" / "tiny-test.arff").unlink()
    with pytest.raises(NotFoundError, match=r"tiny/tiny-test\.arff: .*unknown file"):
        mulan("tiny")
    with pytest.raises(NotFoundError, match=r"teeny\.xml: no such file or folder"):
        mulan("teeny")
