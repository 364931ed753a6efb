"""Files with label names; what is kept between runs."""

import numpy as np
import pytest

from thresher.errors import DataError
from thresher_training.sources.cache import cached
from thresher_training.sources.tables import read_names


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
