"""A parity report on disk and in MLflow: JSON in full, a page to look at, the rows that failed."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np

from thresher.registry import ModelVersion, connect
from thresher_export.parity.page import parity_page
from thresher_export.parity.report import ParityReport

__all__ = [
    "PAGE_FILE",
    "PARITY_FILE",
    "WORST_ROWS_FILE",
    "log_parity_report",
    "write_evidence",
    "write_parity_report",
]

PARITY_FILE = "parity.json"
PAGE_FILE = "parity.html"
WORST_ROWS_FILE = "parity-worst-rows.npz"


def write_parity_report(report: ParityReport, folder: Path, *, what: str = "") -> tuple[Path, Path]:
    """Write ``parity.json`` and ``parity.html``; return their paths.

    Args:
        report: What was compared.
        folder: Made if it does not exist.
        what: The page's heading, such as ``models:/digits/3``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content, page = folder / PARITY_FILE, folder / PAGE_FILE
    content.write_text(json.dumps(report.to_dict(), indent=1), encoding="utf-8")
    page.write_text(parity_page(report, what=what), encoding="utf-8")
    return content, page


def write_evidence(report: ParityReport, folder: Path) -> tuple[Path, ...]:
    """Write the report and the worst rows of its first failed comparison; return their paths.

    `WORST_ROWS_FILE` holds ``input/NAME`` for each input, ``rows`` (their numbers in the
    comparison), and ``reference_`` and ``got_`` logits, probabilities and labels.
    """
    paths: tuple[Path, ...] = write_parity_report(report, folder, what=folder.name)
    if report.worst is not None:
        path = folder / WORST_ROWS_FILE
        inputs = {f"input/{name}": array for name, array in report.worst.inputs.items()}
        arrays = {**inputs, **report.worst.arrays, "comparison": np.array(report.worst.check)}
        np.savez_compressed(path, allow_pickle=False, **arrays)
        paths = (*paths, path)
    return paths


def log_parity_report(report: ParityReport, version: ModelVersion) -> None:
    """Log both files to the version's MLflow run, under ``parity/VERSION``."""
    with tempfile.TemporaryDirectory() as folder:
        write_parity_report(report, Path(folder), what=version.uri)
        connect().MlflowClient().log_artifacts(version.run_id, folder, f"parity/{version.version}")
