"""Pictures of every depth: scaled where the scale is known, refused by name where not."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from thresher.errors import DataError
from thresher.tables.pictures import decode_picture


def saved(picture: Any, form: str = "PNG", **options: Any) -> bytes:
    content = io.BytesIO()
    picture.save(content, form, **options)
    return content.getvalue()


DEEP = Image.fromarray(np.array([[0, 257, 32768, 65535]], np.uint16))


@pytest.mark.parametrize("picture", [DEEP, saved(DEEP), saved(DEEP, "TIFF")])
def test_sixteen_bits_are_scaled_to_eight(picture: Any) -> None:
    assert decode_picture(picture, shape=(1, 1, 4)).tolist() == [[[0, 1, 128, 255]]]


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_values_of_unknown_scale_are_refused_by_name(kind: Any) -> None:
    picture = Image.fromarray(np.ones((2, 2), kind))
    for form in (picture, saved(picture, "TIFF")):
        with pytest.raises(DataError, match="whose scale is not known"):
            decode_picture(form)


def test_palettes_bits_and_transparency_become_plain_colours() -> None:
    palette = Image.new("P", (1, 1))
    palette.putpalette([1, 2, 3])
    bits = Image.fromarray(np.array([[True]]))
    for picture, colours in (
        (palette, [1, 2, 3]),
        (bits, [255] * 3),
        (Image.new("LA", (1, 1), (7, 0)), [7] * 3),
        (Image.new("RGBA", (1, 1), (1, 2, 3, 0)), [1, 2, 3]),
    ):
        assert decode_picture(saved(picture)).reshape(3).tolist() == colours


@pytest.mark.parametrize("picture", [DEEP, Image.fromarray(np.zeros((1, 4), np.uint8))])
def test_pictures_are_turned_as_their_exif_data_say(picture: Any) -> None:
    exif = Image.Exif()
    exif[0x112] = 6
    assert decode_picture(saved(picture, exif=exif)).shape == (3, 4, 1)


@pytest.mark.parametrize("picture", [None, 5, ["a.png"], b"", b"hello", bytearray(b"x"), 1.5])
def test_what_is_no_picture_is_refused(picture: Any) -> None:
    with pytest.raises(DataError, match="no picture|not a picture|cannot be decoded"):
        decode_picture(picture)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP"])
def test_damaged_pictures_are_decoded_or_refused(form: str) -> None:
    random = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x112] = 6
    options = {} if form == "BMP" else {"exif": exif}
    picture = Image.fromarray(random.integers(0, 255, (12, 9, 3)).astype(np.uint8))
    content = saved(picture, form, **options)
    for _ in range(150):
        damaged = bytearray(content[: random.integers(20, len(content) + 1)])
        for at in random.integers(0, min(len(damaged), 120), 3):
            damaged[at] = random.integers(256)
        try:
            assert decode_picture(bytes(damaged)).dtype == np.uint8
        except DataError as error:
            assert "\n" not in str(error)  # noqa: PT017
