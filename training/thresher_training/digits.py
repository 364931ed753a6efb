"""The digits task: which handwritten digits appear in this picture?

Strips of 0 to 5 digits made from scikit-learn's 1,797 scans of real handwriting, with jitter,
overlap and noise. Digits grow rarer from "0" to "9", and no scan serves two splits.

Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine
Learning Repository, 1998, as shipped by `sklearn.datasets.load_digits`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits

from thresher.errors import DataError
from thresher_training.data import DataSet, Split, SplitName

__all__ = ["IMAGE_SHAPE", "digit_strips", "split_scans"]

IMAGE_SHAPE = (1, 24, 80)
"""Channels, height and width of a picture, in pixels."""

_LABELS = tuple("0123456789")
_MAX_DIGITS = 5
_SIZES = (14, 16, 18, 20)  # pixels that an upscaled scan measures
_SCAN_SHARES: dict[SplitName, float] = {"train": 0.6, "validation": 0.2, "test": 0.2}

Images = npt.NDArray[np.uint8]


def digit_strips(
    *,
    num_train: int = 8_000,
    num_validation: int = 3_000,
    num_test: int = 3_000,
    tail: float = 60.0,
    noise: float = 52.0,
    seed: int = 0,
) -> DataSet:
    """Return strips of handwritten digits, input ``"image"``, labels "0" to "9".

    Args:
        num_train: Pictures in the train split.
        num_validation: Pictures in the validation split.
        num_test: Pictures in the test split.
        tail: How many times more often "0" is drawn than "9"; 1 draws all alike.
        noise: Standard deviation of the background noise, in grey levels of 255.
        seed: The same seed gives the same arrays, bit for bit.

    Raises:
        DataError: If a number of pictures is below 1, ``tail`` below 1 or ``noise`` below 0.
    """
    sizes: dict[SplitName, int] = {
        "train": num_train,
        "validation": num_validation,
        "test": num_test,
    }
    if min(sizes.values()) < 1 or tail < 1 or noise < 0:
        raise DataError(
            f"digit_strips: got sizes {sizes}, tail {tail}, noise {noise}; "
            "expected sizes and tail of at least 1 and noise of at least 0"
        )
    scans = load_digits()
    shares = split_scans(scans.target, seed=seed)
    glyphs = _upscale(scans.images)
    draw_L = tail ** -(np.arange(len(_LABELS)) / (len(_LABELS) - 1))
    splits: dict[SplitName, Split] = {}
    for stream, (name, size) in enumerate(sizes.items()):
        rng = np.random.default_rng([seed, stream])
        digits = _draw_digits(rng, size, draw_L / draw_L.sum())
        images = _compose(rng, digits, shares[name], scans.target, glyphs, noise)
        targets_NL = (digits[:, :, None] == np.arange(len(_LABELS))).any(axis=1)
        splits[name] = Split(inputs={"image": images}, targets_NL=targets_NL.astype(np.float32))
    return DataSet(
        labels=_LABELS,
        splits=splits,
        source=f"scikit-learn load_digits, strips of 0 to {_MAX_DIGITS} scans, seed {seed}",
    )


def split_scans(
    digits: npt.NDArray[np.int64], *, seed: int
) -> dict[SplitName, npt.NDArray[np.intp]]:
    """Return the positions of the scans behind each split: disjoint, alike in every digit.

    Args:
        digits: The digit that each scan shows, [1797].
        seed: Seed of the shuffling.
    """
    rng = np.random.default_rng(seed)
    parts: dict[SplitName, list[npt.NDArray[np.intp]]] = {name: [] for name in _SCAN_SHARES}
    for digit in range(len(_LABELS)):
        positions = rng.permutation(np.flatnonzero(digits == digit))
        ends = np.round(np.cumsum(list(_SCAN_SHARES.values())) * len(positions)).astype(int)
        for name, part in zip(_SCAN_SHARES, np.split(positions, ends[:-1]), strict=True):
            parts[name].append(part)
    return {name: np.concatenate(part) for name, part in parts.items()}


def _draw_digits(
    rng: np.random.Generator, size: int, draw_L: npt.NDArray[np.float64]
) -> npt.NDArray[np.int64]:
    """Return the digits of each picture, [N, 5], -1 where a place stays empty."""
    digits = rng.choice(len(_LABELS), size=(size, _MAX_DIGITS), p=draw_L)
    counts = rng.integers(0, _MAX_DIGITS, size=size, endpoint=True)
    return np.where(np.arange(_MAX_DIGITS) < counts[:, None], digits, -1)


def _upscale(scans: npt.NDArray[np.float64]) -> Images:
    """Return every scan at every size, [sizes, scans, 20, 20], bilinear, centred, 0 to 255."""
    largest = max(_SIZES)
    out = np.zeros((len(_SIZES), len(scans), largest, largest), dtype=np.uint8)
    for at, size in enumerate(_SIZES):
        # pixel centres of the large grid in the 8-pixel grid: weights of the two neighbours
        centres = np.clip((np.arange(size) + 0.5) * 8 / size - 0.5, 0, 7)
        weights = np.maximum(0, 1 - np.abs(centres[:, None] - np.arange(8)))
        grey = weights @ scans @ weights.T * (255 / 16)
        margin = (largest - size) // 2
        out[at, :, margin : margin + size, margin : margin + size] = np.round(grey)
    return out


def _compose(
    rng: np.random.Generator,
    digits: npt.NDArray[np.int64],
    share: npt.NDArray[np.intp],
    scan_digits: npt.NDArray[np.int64],
    glyphs: Images,
    noise: float,
) -> Images:
    """Return uint8 [N, 1, H, W]: the digits of each row, spread over a noisy strip."""
    _, height, width = IMAGE_SHAPE
    size, tile = len(digits), glyphs.shape[-1]
    scans = np.zeros_like(digits)
    for digit in range(len(_LABELS)):
        at = digits == digit
        scans[at] = rng.choice(share[scan_digits[share] == digit], size=int(at.sum()))
    # five places 15 px apart hold glyphs of 14 to 20 px, moved by up to 5 px: some overlap
    places = np.linspace(0, width - tile, _MAX_DIGITS).astype(int)
    order = rng.permuted(np.tile(np.arange(_MAX_DIGITS), (size, 1)), axis=1)
    left = np.clip(places[order] + rng.integers(-5, 6, size=order.shape), 0, width - tile)
    top = rng.integers(0, height - tile + 1, size=order.shape)
    scale = rng.integers(0, len(glyphs), size=order.shape)
    ink = rng.integers(110, 256, size=order.shape).astype(np.uint16)
    canvas = np.zeros((size, height, width), dtype=np.uint8)
    steps = np.arange(tile)
    for place in range(_MAX_DIGITS):
        rows = np.flatnonzero(digits[:, place] >= 0)
        glyph = glyphs[scale[rows, place], scans[rows, place]]
        inked = (glyph * ink[rows, place, None, None] // 255).astype(np.uint8)
        window = (
            rows[:, None, None],
            top[rows, place, None, None] + steps[:, None],
            left[rows, place, None, None] + steps,
        )
        canvas[window] = np.maximum(canvas[window], inked)
    grain = rng.standard_normal(canvas.shape, dtype=np.float32) * np.float32(noise)
    images: Images = np.clip(canvas + np.abs(grain), 0, 255).astype(np.uint8)[:, None]
    return images
