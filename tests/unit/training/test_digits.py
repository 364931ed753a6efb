"""The digits task: deterministic, imbalanced, and no scan in two splits."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from thresher.errors import DataError
from thresher_training.digits import IMAGE_SHAPE, digit_strips, split_scans


@pytest.fixture(scope="module")
def full():
    return digit_strips()


def test_pictures_and_targets_have_the_documented_form(full):
    assert full.labels == tuple("0123456789")
    for name, size in (("train", 8000), ("validation", 3000), ("test", 3000)):
        split = full.splits[name]
        assert split.inputs["image"].shape == (size, *IMAGE_SHAPE)
        assert split.inputs["image"].dtype == np.uint8
        assert split.targets_NL.shape == (size, 10)
        assert split.targets_NL.dtype == np.float32


def test_the_rarest_label_is_at_least_twenty_times_rarer_and_still_measurable(full):
    train = full.splits["train"].targets_NL.sum(axis=0)
    assert train.max() / train.min() >= 20
    assert full.splits["validation"].targets_NL.sum(axis=0).min() >= 20
    assert full.splits["test"].targets_NL.sum(axis=0).min() >= 20


def test_pictures_show_none_to_five_labels(full):
    assert set(full.splits["test"].targets_NL.sum(axis=1)) == {0, 1, 2, 3, 4, 5}


def test_the_same_seed_gives_the_same_bits_and_another_seed_others():
    sizes = {"num_train": 40, "num_validation": 20, "num_test": 20}
    digests = [
        [split.digest for split in digit_strips(seed=seed, **sizes).splits.values()]
        for seed in (5, 5, 6)
    ]
    assert digests[0] == digests[1]
    assert not set(digests[0]) & set(digests[2])


def test_the_scans_behind_the_splits_are_disjoint_and_complete():
    digits = load_digits().target
    parts = split_scans(digits, seed=0)
    together = np.concatenate(list(parts.values()))
    assert sorted(together) == list(range(len(digits)))
    for part in parts.values():
        assert set(digits[part]) == set(range(10))


def test_a_picture_without_digits_is_noise_alone():
    split = digit_strips(num_train=60, num_validation=1, num_test=1, noise=0.0).splits["train"]
    empty = split.targets_NL.sum(axis=1) == 0
    assert not split.inputs["image"][empty].any()
    assert split.inputs["image"][~empty].reshape(int((~empty).sum()), -1).any(axis=1).all()


def test_an_impossible_size_is_refused():
    with pytest.raises(DataError, match="'test': 0"):
        digit_strips(num_test=0)
