from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from thresher.decision import sigmoid
from thresher.errors import DataError, NotFoundError
from thresher_training.scores_file import read_scores

LOGITS = np.float32([[-1.5, 2], [0.5, 17], [3, -40]])
TARGETS = np.float32([[0, 1], [1, np.nan], [1, 0]])


def test_npz_and_parquet_give_the_same(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", logits=LOGITS, targets=TARGETS)
    table = pa.table({"logits": LOGITS.tolist(), "targets": TARGETS.tolist(), "id": [1, 2, 3]})
    pq.write_table(table, tmp_path / "a.parquet")
    for path in (tmp_path / "a.npz", tmp_path / "a.parquet"):
        logits, targets = read_scores(path, num_labels=2)
        np.testing.assert_array_equal(logits, LOGITS)
        np.testing.assert_array_equal(targets, TARGETS)


def test_probabilities_become_the_logits_that_give_them(tmp_path: Path) -> None:
    p = np.float32([[0.0, 1.0], [0.25, 0.5], [1e-6, 0.999]])
    np.savez(tmp_path / "a.npz", probabilities=p, targets=np.zeros((3, 2)))
    logits, _ = read_scores(tmp_path / "a.npz", num_labels=2)
    assert np.isfinite(logits).all()
    np.testing.assert_allclose(sigmoid(logits), p, atol=1e-7)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"logits": [[0.1, 0.9]], "targets": [[0, 1]]}, r"all logits lie in \[0, 1\]"),
        ({"probabilities": [[-1, 2]], "targets": [[0, 1]]}, "name the array logits"),
        ({"probabilities": [[np.nan, 0.2]], "targets": [[0, 1]]}, "1 probabilities lie outside"),
        ({"logits": [[1.0, -2]]}, "expected targets"),
        ({"targets": [[0, 1]]}, "expected targets"),
        ({"logits": [[1.0, -2, 3]], "targets": [[0, 1]]}, r"expected numbers of shape \[N, 2\]"),
        ({"logits": [[1.0, -2]], "targets": [[0, 1], [1, 1]]}, "1 rows of logits, 2 of targets"),
        ({"logits": [["a", "b"]], "targets": [[0, 1]]}, "expected numbers"),
    ],
)
def test_wrong_file_says_what_is_wrong(
    tmp_path: Path, arrays: dict[str, list[object]], words: str
) -> None:
    np.savez(tmp_path / "a.npz", **{name: np.array(rows) for name, rows in arrays.items()})
    with pytest.raises(DataError, match=words) as error:
        read_scores(tmp_path / "a.npz", num_labels=2)
    assert "a.npz" in str(error.value)


def test_missing_broken_or_ragged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no\.npz"):
        read_scores(tmp_path / "no.npz", num_labels=2)
    for name in ("text.npz", "text.parquet", "array.csv"):
        (tmp_path / name).write_text("hello")
        with pytest.raises(DataError, match=name):
            read_scores(tmp_path / name, num_labels=2)
    np.save(tmp_path / "array.npy", LOGITS)
    with pytest.raises(DataError, match="neither NPZ nor Parquet"):
        read_scores(tmp_path / "array.npy", num_labels=2)
    table = pa.table({"logits": [[1.0], [1.0, 2.0]], "targets": [[0], [1]]})
    pq.write_table(table, tmp_path / "ragged.parquet")
    with pytest.raises(DataError, match="one length for all"):
        read_scores(tmp_path / "ragged.parquet", num_labels=1)
