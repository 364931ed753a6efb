"""Golden rows: a few real rows of a published version with the logits that were proven for them.

They lie in the version's folder and are named in its certificate. Whoever serves the version can
compare what the server answers, decision by decision, without MLflow, torch or ONNX.
"""

from __future__ import annotations

from pathlib import Path

from thresher.evaluation import EvaluationSplit

__all__ = ["GOLDEN_FILE", "load_golden"]

GOLDEN_FILE = "golden.npz"


def load_golden(folder: Path) -> EvaluationSplit | None:
    """Return the golden rows in a version's folder, None where it has none.

    Their logits are those of ONNX Runtime on the CPU, from the very file that was published.

    Raises:
        DataError: If the file cannot be read.
    """
    path = folder / GOLDEN_FILE
    return EvaluationSplit.load(path) if path.is_file() else None
