"""Plots and example pictures: files of the right kind, and rows that show what they should."""

import csv

import numpy as np
import pytest
from PIL import Image

from thresher.errors import ConfigError, DataError
from thresher_training import picture_sheet
from thresher_training.examples import (
    choose_rows,
    copy_examples,
    picture_input,
    write_examples,
)
from thresher_training.plots import label_chart, training_curves


def image_size(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return image.size


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [1, 5])
def test_a_sheet_is_written_for_grey_and_colour_pictures(tmp_path, channels, count):
    images = np.random.default_rng(0).integers(0, 256, (count, channels, 24, 80), dtype=np.uint8)
    path = tmp_path / "sheet.png"
    picture_sheet(images, [["3", "7"]] * count, [["3", "9"]] * count, path, "pictures")
    width, height = image_size(path)
    assert width >= 300
    assert height >= 150


def test_a_wrong_picture_has_a_red_frame_and_a_right_one_has_not(tmp_path):
    images = np.zeros((1, 1, 24, 24), dtype=np.uint8)

    def num_red(predicted):
        path = tmp_path / "sheet.png"
        picture_sheet(images, [["a"]], [predicted], path, "t")
        with Image.open(path) as image:
            r, g, b = np.asarray(image.convert("RGB"), dtype=int).transpose(2, 0, 1)
        return int(((r > 150) & (g < 60) & (b < 80)).sum())

    assert num_red(["a"]) == 0
    assert num_red(["a", "b"]) > 100


def test_curves_and_label_chart_are_written_at_their_limits(tmp_path):
    curves, chart = tmp_path / "curves.png", tmp_path / "chart.png"
    training_curves(
        [1],
        train_loss=[0.5],
        validation_loss=[0.4],
        validation_scores={"macro-F1": [0.0]},
        best_epoch=1,
        path=curves,
    )
    names = [f"label {at}" for at in range(60)]
    label_chart(
        names, range(60), scores={"0.5": [0.0] * 60, "tuned": [1.0] * 60}, path=chart, title="t"
    )
    assert min(image_size(curves) + image_size(chart)) > 300


def test_chosen_rows_show_many_labels_a_rare_one_and_none():
    targets = np.zeros((30, 3), np.float32)
    targets[10] = [1, 1, 0]
    targets[20] = [0, 0, 1]
    targets[21:25, :2] = np.eye(2)[[0, 1, 0, 1]]
    rows = choose_rows(targets, 4)
    assert rows[:3] == [10, 20, 0]
    assert len(set(choose_rows(targets, 12))) == 12
    assert sorted(choose_rows(targets, 99)) == list(range(30))
    assert len(choose_rows(np.zeros((3, 2), np.float32), 2)) == 2


def test_only_a_single_picture_input_is_a_picture_input():
    picture, table = np.zeros((2, 3, 4, 4), np.uint8), np.zeros((2, 3), np.float32)
    assert picture_input({"image": picture}) == "image"
    assert picture_input({"features": table}) is None
    assert picture_input({"image": picture, "features": table}) is None
    assert picture_input({"image": picture.astype(np.float32)}) is None


@pytest.mark.parametrize("channels", [1, 3])
def test_examples_read_back_bit_for_bit(tmp_path, channels):
    images = np.random.default_rng(0).integers(0, 256, (2, channels, 6, 9), dtype=np.uint8)
    write_examples(images, [["a", "b"], []], tmp_path / "examples")
    with (tmp_path / "examples" / "metadata.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["labels"] for row in rows] == ["a b", ""]
    for row, image in zip(rows, images, strict=True):
        with Image.open(tmp_path / "examples" / row["file_name"]) as file:
            pixels = np.asarray(file)
        expected = image[0] if channels == 1 else image.transpose(1, 2, 0)
        np.testing.assert_array_equal(pixels, expected)


def test_a_label_with_a_space_cannot_be_written(tmp_path):
    with pytest.raises(DataError, match='label "traffic light" has a space'):
        write_examples(np.zeros((1, 1, 2, 2), np.uint8), [["traffic light"]], tmp_path)


def test_copying_replaces_earlier_examples_and_nothing_else(tmp_path):
    write_examples(np.zeros((1, 1, 2, 2), np.uint8), [["a"]], tmp_path / "new")
    old = tmp_path / "old"
    old.mkdir()
    (old / "example-9.png").touch()
    (old / "notes.txt").touch()
    copy_examples(tmp_path / "new", old)
    assert {path.name for path in old.iterdir()} == {"example-1.png", "metadata.csv", "notes.txt"}


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        copy_examples(tmp_path, tmp_path / "file" / "examples")
