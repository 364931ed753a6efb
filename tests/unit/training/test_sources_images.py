"""Pictures in a folder: decoded to one size, told apart when broken, altered by the seed alone."""

import numpy as np
import pytest
import torch
from PIL import Image

from thresher.artifacts.input_spec import InputSpec, PictureSpec
from thresher.errors import ConfigError, DataError
from thresher_training.sources import Augmentation, images


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Thirty pictures, left half dark and right half of a colour that their number gives."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    lines = ["file,red,blue"]
    for at in range(30):
        pixels = np.zeros((20, 40, 3), dtype=np.uint8)
        pixels[:, 20:] = (250, 0, 0) if at % 2 else (0, 0, 250)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{at}.png")
        lines.append(f"{at}.png,{at % 2},{1 - at % 2}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_pictures_are_decoded_to_one_size_with_their_labels():
    data = images("labels.csv", folder="pictures", size=10, resize="squeeze")
    assert data.input_spec == InputSpec(
        pictures=PictureSpec(column="file", size=10, resize="squeeze")
    )
    assert data.labels == ("red", "blue")
    assert data.augment is None
    for split in data.splits.values():
        pixels = split.inputs["image"]
        assert pixels.dtype == np.uint8
        assert pixels.shape[1:] == (3, 10, 10)
        np.testing.assert_array_equal(pixels[:, 0, 5, 9] > 200, split.targets_NL[:, 0] == 1)
        np.testing.assert_array_equal(pixels[:, 2, 5, 9] > 200, split.targets_NL[:, 1] == 1)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("resize", "corners"),
    [("crop", [0, 250]), ("squeeze", [0, 250]), ("pad", [0, 0])],
)
def test_the_ways_of_making_a_square(resize, corners):
    train = images("labels.csv", folder="pictures", size=20, resize=resize).splits["train"]
    red = train.inputs["image"][train.targets_NL[:, 0] == 1]
    assert red[0, 0, 0, [0, -1]].tolist() == corners


def test_a_missing_and_a_broken_picture_are_named(folder):
    (folder / "pictures" / "7.png").write_bytes(b"\x89PNG nothing")
    with pytest.raises(DataError, match=r"line 9: .*7\.png: the picture cannot be decoded"):
        images("labels.csv", folder="pictures", size=10)
    (folder / "pictures" / "7.png").unlink()
    with pytest.raises(DataError, match=r'labels\.csv, line 9: .* names the picture "7\.png"'):
        images("labels.csv", folder="pictures", size=10)


def test_a_changed_picture_is_decoded_again(folder):
    first = images("labels.csv", folder="pictures", size=10).splits["train"].digest
    white = np.full((20, 41, 3), 255, dtype=np.uint8)
    for at in range(30):
        Image.fromarray(white).save(folder / "pictures" / f"{at}.png")
    assert images("labels.csv", folder="pictures", size=10).splits["train"].digest != first


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resize": "corp"}, 'resize is "corp", expected "crop"'),
        ({"size": 0}, "size is 0"),
        ({"shift": 2.0}, "shift is 2.0, expected a number from 0 to 0.5"),
        ({"erase": float("nan")}, "erase is nan"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        images("labels.csv", folder="pictures", **options)


def batch(num=64, side=16):
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 256, (num, 3, side, side), generator=generator)
    return {"image": pixels.to(torch.uint8)}


def altered(seed=0, **options):
    return Augmentation(**options)(batch(), torch.Generator().manual_seed(seed))["image"]


def test_what_is_altered_depends_on_the_generator_alone():
    options = {"flip": True, "shift": 0.2, "zoom": 0.2, "color_jitter": 0.4, "erase": 0.5}
    state = torch.random.get_rng_state()
    first = altered(seed=1, **options)
    assert first.dtype == torch.uint8
    assert first.shape == (64, 3, 16, 16)
    assert torch.equal(first, altered(seed=1, **options))
    assert not torch.equal(first, altered(seed=2, **options))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_half_of_the_pictures_are_mirrored_and_the_rest_stays():
    before, after = batch()["image"], altered(flip=True)
    same = (before == after).flatten(1).all(dim=1)
    mirrored = (before.flip(-1) == after).flatten(1).all(dim=1)
    assert (same | mirrored).all()
    assert 16 <= int(same.sum()) <= 48


def test_a_rectangle_is_grey_in_the_asked_share():
    before, after = batch()["image"], altered(erase=0.5)
    changed = (before != after).any(dim=1)
    share = changed.flatten(1).any(dim=1).float().mean()
    assert 0.3 <= share <= 0.7
    assert (after[changed.unsqueeze(1).expand_as(after)] == 128).all()


def test_nothing_asked_alters_nothing():
    assert not Augmentation().is_active
    assert torch.equal(altered(), batch()["image"])
