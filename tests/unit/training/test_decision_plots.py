"""Plots of decisions: PNG files for few and many labels, and for what is missing or odd."""

import numpy as np
import pytest
from PIL import Image

from support.tuned import tuned_case
from thresher_training.decision_plots import f1_chart, reliability_chart, threshold_chart


def assert_picture(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.width >= 700
        assert image.height >= 250
        assert len(image.convert("RGB").getcolors(1 << 24)) > 20


@pytest.mark.parametrize("num_labels", [1, 6, 983])
def test_thresholds_are_drawn_against_support(tmp_path, num_labels):
    _, _, tuned = tuned_case([f"$label_{i}" for i in range(num_labels)])
    threshold_chart(tuned, tmp_path / "thresholds.png")
    assert_picture(tmp_path / "thresholds.png")


@pytest.mark.parametrize("num_labels", [1, 6, 40, 41, 983])
def test_f1_is_drawn_for_few_and_for_many_labels(tmp_path, num_labels):
    random = np.random.default_rng(0)
    f1 = random.random((3, num_labels))
    f1[0, 0] = np.nan
    supports = random.integers(0, 5000, num_labels)
    labels = [f"$label^{i}\nline two" for i in range(num_labels)]
    f1_chart(labels, *f1, supports, tmp_path / "f1.png")
    assert_picture(tmp_path / "f1.png")


def test_f1_that_is_nowhere_known_is_no_trouble(tmp_path):
    nothing = [np.nan] * 2
    f1_chart(["a", "b"], nothing, nothing, nothing, [0, 0], tmp_path / "f1.png")
    assert_picture(tmp_path / "f1.png")


def test_reliability_leaves_empty_bins_out(tmp_path):
    mean = np.array([0.1, np.nan, 0.9])
    rate = np.array([0.2, np.nan, 0.8])
    count = np.array([1000, 0, 3])
    curves = {"before calibration": (mean, rate, count), "after calibration": (rate, rate, count)}
    reliability_chart(curves, tmp_path / "reliability.png", "Costs $ and $")
    assert_picture(tmp_path / "reliability.png")


def test_reliability_of_nothing_is_an_empty_picture(tmp_path):
    empty = np.zeros(3)
    reliability_chart(
        {"before": (empty, empty, empty.astype(int))}, tmp_path / "reliability.png", "t"
    )
    assert_picture(tmp_path / "reliability.png")
