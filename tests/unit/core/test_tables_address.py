"""Paths with variables, inside packages, folders and globs; what is missing is named."""

import pytest

from thresher.errors import DataError, NotFoundError
from thresher.tables.address import address_of, expanded
from thresher.tables.parts import find_parts


def test_variables_home_and_defaults_are_filled_in(monkeypatch, tmp_path):
    monkeypatch.setenv("PLACE", "/data")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("ABSENT", raising=False)
    assert expanded("$PLACE/a") == "/data/a"
    assert expanded("${PLACE}/a") == "/data/a"
    assert expanded("${ABSENT:-../shared}/a") == "../shared/a"
    assert expanded("~/a") == str(tmp_path / "a")
    monkeypatch.setenv("ABSENT", "")  # as in a shell
    assert expanded("${ABSENT:-x}") == "x"


def test_an_unset_variable_is_named():
    with pytest.raises(DataError, match=r"variable NOT_SET_ANYWHERE is not set; set it, or write"):
        expanded("$NOT_SET_ANYWHERE/a")


def test_a_path_may_be_in_an_installed_package():
    assert not address_of("python:thresher/errors.py").is_many
    with pytest.raises(DataError, match='no package "nothing_of_that_name" is installed'):
        expanded("python:nothing_of_that_name/a")


def test_folders_and_globs_give_sorted_files(tmp_path):
    for name in ("b.csv", "a.csv", "c.txt", "deep/d.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x\n1\n")

    def names(path):
        return [part.path.rpartition("/")[2] for part in find_parts(address_of(path))]

    assert names(tmp_path) == ["a.csv", "b.csv", "d.csv"]  # a .txt file is read by its name
    assert names(tmp_path / "*.txt") == ["c.txt"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("trian.csv", r'trian\.csv: .*unknown file "trian.csv"; did you mean "train.csv"'),
        ("nowhere/train.csv", r"no such file or folder: .* holds no nowhere"),
        ("*.parquet", r"no file to read; expected"),
        ("empty", r"empty: no file to read; expected"),
    ],
)
def test_a_missing_file_is_named_with_what_is_there(tmp_path, path, message):
    (tmp_path / "train.csv").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFoundError, match=message):
        find_parts(address_of(tmp_path / path))
