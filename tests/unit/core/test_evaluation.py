from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from thresher.errors import DataError, NotFoundError
from thresher.evaluation import EvaluationSplit

ROWS = EvaluationSplit(
    inputs={"image": np.arange(12, dtype=np.uint8).reshape(3, 4), "mask": np.ones((3, 1), bool)},
    targets_NL=np.float32([[0, 1], [1, np.nan], [0, 0]]),
    logits_NL=np.float32([[-1, 2], [3, 0], [0, 1]]),
)


def test_file_brings_back_every_array(tmp_path: Path) -> None:
    ROWS.save(tmp_path / "test.npz")
    again = EvaluationSplit.load(tmp_path / "test.npz")
    assert set(again.inputs) == {"image", "mask"}
    for name, array in ROWS.inputs.items():
        np.testing.assert_array_equal(again.inputs[name], array, strict=True)
    np.testing.assert_array_equal(again.targets_NL, ROWS.targets_NL, strict=True)
    np.testing.assert_array_equal(again.logits_NL, ROWS.logits_NL, strict=True)


def test_some_rows_of_every_input() -> None:
    assert ROWS.rows([2, 0])["image"].tolist() == [[8, 9, 10, 11], [0, 1, 2, 3]]


def test_parts_of_different_length_are_refused() -> None:
    with pytest.raises(DataError, match='input "image" has 2 rows, targets have 3'):
        EvaluationSplit(
            inputs={"image": np.zeros((2, 4))},
            targets_NL=ROWS.targets_NL,
            logits_NL=ROWS.logits_NL,
        )


def test_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"test\.npz"):
        EvaluationSplit.load(tmp_path / "test.npz")
    (tmp_path / "test.npz").write_bytes(b"no archive")
    with pytest.raises(DataError, match="not an evaluation split"):
        EvaluationSplit.load(tmp_path / "test.npz")
    np.savez(tmp_path / "other.npz", targets=np.zeros(1))
    with pytest.raises(DataError, match="no logits"):
        EvaluationSplit.load(tmp_path / "other.npz")


def test_logits_of_held_out_rows_are_what_thresholds_may_be_chosen_by(tmp_path: Path) -> None:
    assert ROWS.unseen_logits_NL is ROWS.logits_NL
    held_out = replace(ROWS, held_out_logits_NL=ROWS.logits_NL / 2)
    assert held_out.digest != ROWS.digest
    held_out.save(tmp_path / "validation.npz")
    again = EvaluationSplit.load(tmp_path / "validation.npz")
    assert again.digest == held_out.digest
    np.testing.assert_array_equal(again.unseen_logits_NL, ROWS.logits_NL / 2)
    with pytest.raises(DataError, match="must all be"):
        replace(ROWS, held_out_logits_NL=ROWS.logits_NL[:2])
