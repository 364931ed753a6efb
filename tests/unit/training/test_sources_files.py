"""Paths with variables, folders and globs; what is kept between runs."""

import numpy as np
import pytest

from thresher.errors import DataError
from thresher_training.sources.cache import cached
from thresher_training.sources.files import expand, find_files, read_names


def test_variables_home_and_defaults_are_filled_in(monkeypatch, tmp_path):
    monkeypatch.setenv("PLACE", "/data")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("ABSENT", raising=False)
    assert str(expand("$PLACE/a")) == "/data/a"
    assert str(expand("${PLACE}/a")) == "/data/a"
    assert str(expand("${ABSENT:-../shared}/a")) == "../shared/a"
    assert expand("~/a") == tmp_path / "a"
    monkeypatch.setenv("ABSENT", "")  # as in a shell
    assert str(expand("${ABSENT:-x}")) == "x"


def test_an_unset_variable_is_named():
    with pytest.raises(DataError, match=r"variable NOT_SET_ANYWHERE is not set; set it, or write"):
        expand("$NOT_SET_ANYWHERE/a")


def test_a_path_may_lie_in_an_installed_package():
    assert expand("python:thresher_training/data.py").is_file()
    with pytest.raises(DataError, match='no package "nothing_of_that_name" is installed'):
        expand("python:nothing_of_that_name/a")


def test_folders_and_globs_give_sorted_files(tmp_path):
    for name in ("b.csv", "a.csv", "c.txt", "deep/d.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [f.name for f in find_files(tmp_path, suffixes=[".csv"])] == ["a.csv", "b.csv", "d.csv"]
    assert [f.name for f in find_files(tmp_path / "*.txt", suffixes=[".csv"])] == ["c.txt"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("trian.csv", r'no file .*trian\.csv: unknown file "trian.csv"; did you mean "train.csv"'),
        ("nowhere/train.csv", r"no file .*: the folder .* holds no nowhere"),
        ("*.parquet", r"no file fits the pattern"),
        ("empty", r"empty holds no file that ends in \.csv"),
    ],
)
def test_a_missing_file_is_named_with_what_is_there(tmp_path, path, message):
    (tmp_path / "train.csv").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=message):
        find_files(tmp_path / path, suffixes=[".csv"])


def test_names_come_from_a_file_or_as_they_are(tmp_path):
    (tmp_path / "names.txt").write_text("\ufeffrain\n fog \n\nhail\n", encoding="utf-8")
    assert read_names(tmp_path / "names.txt") == ("rain", "fog", "hail")
    assert read_names(["rain", "fog"]) == ("rain", "fog")
    (tmp_path / "empty.txt").touch()
    with pytest.raises(DataError, match="holds no label name"):
        read_names(str(tmp_path / "empty.txt"))


def test_the_same_files_and_options_are_read_once_and_a_change_is_seen(tmp_path):
    source, built = tmp_path / "a.csv", []
    source.write_text("1")

    def build(folder):
        built.append(folder)
        np.save(folder / "x.npy", np.arange(3))

    def get(**options):
        return cached(tmp_path / "kept", files=[source], options=options, build=build)

    first = get(size=1)
    assert get(size=1) == first
    assert len(built) == 1
    assert get(size=2) != first
    source.write_text("22")
    assert get(size=1) != first
    assert len(built) == 3


def test_a_build_that_fails_leaves_nothing(tmp_path):
    def build(folder):
        (folder / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached(tmp_path / "kept", files=[], options={}, build=build)
    assert list((tmp_path / "kept").iterdir()) == []


def test_two_builds_at_once_do_no_harm(tmp_path):
    def slower(folder):
        (folder / "x").write_text("same")
        cached(tmp_path, files=[], options={}, build=lambda f: (f / "x").write_text("same"))

    place = cached(tmp_path, files=[], options={}, build=slower)
    assert (place / "x").read_text() == "same"
    assert [f.name for f in tmp_path.iterdir()] == [place.name]
