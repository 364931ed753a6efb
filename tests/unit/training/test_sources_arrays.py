"""NPZ files and folders of NPY files."""

import numpy as np
import pytest

from thresher.errors import ConfigError, DataError, NotFoundError
from thresher_training.sources import arrays, table


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def rows(num_rows, start=0):
    at = np.arange(start, start + num_rows)
    return {
        "image": (at[:, None, None] % 251 * np.ones((1, 4, 4))).astype(np.uint8),
        "targets": np.stack([at % 2, at % 3 == 0], axis=1).astype(np.float32),
    }


def write_folder(name, content):
    from pathlib import Path

    Path(name).mkdir()
    for key, array in content.items():
        np.save(Path(name) / f"{key}.npy", array)


def test_an_npz_file_is_split_and_its_own_label_names_are_taken():
    np.savez("all.npz", labels=np.array(["odd", "third"]), **rows(120))
    data = arrays("all.npz")
    assert data.labels == ("odd", "third")
    assert {name: len(split) for name, split in data.splits.items()} == pytest.approx(
        {"train": 84, "validation": 18, "test": 18}, abs=2
    )
    for split in data.splits.values():
        at = split.inputs["image"][:, 0, 0]
        np.testing.assert_array_equal(split.targets_NL[:, 0], at % 2)


def test_folders_of_npy_files_are_mapped_where_they_lie(tmp_path):
    for at, name in enumerate(("train", "validation", "test")):
        write_folder(name, rows(10, start=10 * at))
    data = arrays(
        *["."], train="train", validation="validation", test="test", label_names=["odd", "third"]
    )
    images = data.splits["test"].inputs["image"]
    assert isinstance(images, np.memmap)
    assert images[:, 0, 0].tolist() == list(range(20, 30))
    assert not (tmp_path / ".thresher").exists()
    images[0] = 9  # a copy of its own: the file stays as it is
    assert np.load("test/image.npy")[0, 0, 0] == 20


def test_inputs_can_be_renamed_and_groups_stay_together():
    content = rows(90)
    np.savez("all.npz", station=np.arange(90) // 3, **content)
    data = arrays(
        "all.npz",
        inputs={"pixels": "image"},
        groups="station",
        label_names=["odd", "third"],
    )
    stations = [set(s.inputs["pixels"][:, 0, 0] // 3) for s in data.splits.values()]
    assert sum(map(len, stations)) == 30


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ({"targts": [[0]]}, {}, r'unknown array "targets"; did you mean "targts"'),
        ({"targets": np.zeros((8, 1))}, {}, r"shape \[8, 1\], expected \[N, 2\] for 2 labels"),
        ({"targets": np.zeros((9, 2))}, {}, r'differ in .*: "targets" \[9, 2\], "x" \[8, 3\]'),
        ({}, {"label_names": None}, r'holds no array "labels" with the label names'),
    ],
)
def test_arrays_that_do_not_fit_are_told(content, options, message):
    np.savez("a.npz", **{"x": np.zeros((8, 3)), "targets": np.zeros((8, 2)), **content})
    if "targts" in content:
        np.savez("a.npz", x=np.zeros((8, 3)), **content)
    with pytest.raises(DataError, match=message):
        arrays("a.npz", **{"label_names": ["odd", "third"], **options})


def test_files_that_are_no_arrays_are_told(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 nothing more")
    with pytest.raises(DataError, match=r"a\.npz is no NumPy file, or it is cut short"):
        arrays("a.npz", label_names=["a"])
    np.save("pickled.npy", np.array([{"a": 1}], dtype=object))
    (tmp_path / "f").mkdir()
    (tmp_path / "pickled.npy").rename(tmp_path / "f" / "targets.npy")
    with pytest.raises(DataError, match=r"targets\.npy is no NumPy file"):
        arrays("f", label_names=["a"])
    with pytest.raises(NotFoundError, match=r'unknown file "missing\.npz"'):
        arrays("missing.npz", label_names=["a"])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ignore", {"ignore": ["image"]}),
        ("group_column", {"group_column": "image"}),
        ("label_columns", {"label_columns": ["odd"]}),
        ("categories, fill_missing", {"categories": ["image"], "fill_missing": 0}),
        ("label_form", {"label_form": "multi_hot"}),
    ],
)
def test_options_that_numpy_files_have_no_use_for_are_refused(name, options):
    np.savez("all.npz", labels=np.array(["odd", "third"]), **rows(120))
    with pytest.raises(ConfigError, match=f"^{name}: not for NumPy files"):
        table("all.npz", **options)
    assert len(table("all.npz").labels) == 2


@pytest.mark.parametrize("kind", ["M8[D]", np.clongdouble, np.longdouble, "U3"])
def test_an_array_that_no_network_takes_is_named(kind):
    more = {"extra": np.arange(120).astype(kind)}
    np.savez("all.npz", labels=np.array(["odd", "third"]), **rows(120), **more)
    with pytest.raises(DataError, match=r'all\.npz: the array "extra" is .*, expected numbers of'):
        arrays("all.npz")
    assert set(arrays("all.npz", inputs={"image": "image"}).splits["test"].inputs) == {"image"}


def test_a_row_without_a_group_is_refused():
    groups = np.arange(120) // 3.0
    groups[7] = np.nan
    np.savez("all.npz", labels=np.array(["odd", "third"]), patient=groups, **rows(120))
    with pytest.raises(DataError, match=r'row 7: the array "patient" holds NaN'):
        arrays("all.npz", groups="patient")


def test_a_train_file_that_is_in_another_split_too_is_refused():
    np.savez("all.npz", labels=np.array(["odd", "third"]), **rows(120))
    with pytest.raises(DataError, match="is in the train files and in the test files"):
        arrays(".", train="all.npz", test="all.npz")
