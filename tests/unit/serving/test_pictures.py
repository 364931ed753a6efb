"""Examples read from files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from thresher.errors import DataError, NotFoundError
from thresher_serving import TensorMetadata, load_example, true_labels

GREY = TensorMetadata(name="image", datatype="UINT8", shape=(1, 4, 6))
COLOUR = TensorMetadata(name="image", datatype="UINT8", shape=(3, 4, 6))
ANY = TensorMetadata(name="image", datatype="UINT8", shape=(3, -1, -1))
VECTOR = TensorMetadata(name="x", datatype="FP32", shape=(3,))


def test_a_grey_picture_has_one_channel(tmp_path: Path) -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(4, 6)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    got = load_example(tmp_path / "a.png", GREY)
    np.testing.assert_array_equal(got, pixels[None])
    assert got.dtype == np.uint8


@pytest.mark.parametrize("taken", [COLOUR, ANY])
def test_a_colour_picture_has_its_channels_first(tmp_path: Path, taken: TensorMetadata) -> None:
    pixels = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    got = load_example(tmp_path / "a.png", taken)
    np.testing.assert_array_equal(got, pixels.transpose(2, 0, 1))
    assert got.flags.c_contiguous


def test_a_jpeg_is_read(tmp_path: Path) -> None:
    Image.new("RGB", (6, 4), (255, 0, 0)).save(tmp_path / "a.JPG", format="JPEG")
    assert load_example(tmp_path / "a.JPG", COLOUR).shape == (3, 4, 6)


def test_a_saved_array_is_taken_as_it_is(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.float32([1, 2, 3]))
    assert load_example(tmp_path / "a.npy", VECTOR).tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("mode", "size", "taken", "message"),
    [
        ("L", (6, 4), COLOUR, r"got uint8 \[1, 4, 6\], expected uint8 \[3, 4, 6\].*axis 0"),
        ("RGB", (6, 5), COLOUR, r"got uint8 \[3, 5, 6\].*axis 1 differs"),
        ("RGBA", (6, 4), COLOUR, r"mode RGBA, expected L \(grey\) or RGB"),
        ("P", (6, 4), COLOUR, "mode P"),
        ("L", (6, 4), VECTOR, r"got uint8 \[1, 4, 6\], expected float32 \[3\].*another type"),
    ],
)
def test_a_picture_that_does_not_fit_is_refused_not_converted(
    tmp_path: Path, mode: str, size: tuple[int, int], taken: TensorMetadata, message: str
) -> None:
    Image.new(mode, size).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=rf"a\.png: .*{message}"):
        load_example(tmp_path / "a.png", taken)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.png", b"not a picture", "not a picture that can be read"),
        ("a.png", b"\x89PNG\r\n\x1a\n", "not a picture that can be read"),
        ("a.npy", b"not an array", "not an array that can be read"),
        ("a.npy", b"", "not an array that can be read"),
        ("a.gif", b"GIF89a", r'got "\.gif", expected \.png'),
    ],
)
def test_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_example(tmp_path / name, COLOUR)


def test_a_missing_file_and_an_archive_are_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such file"):
        load_example(tmp_path / "none.png", COLOUR)
    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    (tmp_path / "a.npz").rename(tmp_path / "b.npy")
    with pytest.raises(DataError, match="an archive of arrays"):
        load_example(tmp_path / "b.npy", VECTOR)


def test_true_labels_are_those_beside_the_picture(tmp_path: Path) -> None:
    assert true_labels(tmp_path / "a.png") is None
    (tmp_path / "metadata.csv").write_text("file_name,labels\na.png,rain fog\nb.png,\n")
    assert true_labels(tmp_path / "a.png") == ["rain", "fog"]
    assert true_labels(tmp_path / "b.png") == []
    assert true_labels(tmp_path / "c.png") is None


def test_a_table_without_its_columns_is_named(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text("file,labels\n")
    with pytest.raises(
        DataError, match=r"metadata\.csv: missing column file_name; got file, labels"
    ):
        true_labels(tmp_path / "a.png")
