"""Writes drift down: JSON in full, a page, pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from thresher.errors import PublishError
from thresher_serving.monitoring.drift import Drift
from thresher_serving.monitoring.page import drift_page

__all__ = ["PAGE_FILE", "RECORD_FILE", "drifts_to_dict", "write_record"]

RECORD_FILE = "drift.json"
PAGE_FILE = "drift.html"


def drifts_to_dict(drifts: Sequence[Drift]) -> dict[str, Any]:
    """Return some windows of a version for JSON."""
    first = drifts[0].window
    return {
        "model": first.model,
        "version": first.version,
        "drift": any(drift.moved for drift in drifts),
        "windows": [drift.to_dict() for drift in drifts],
    }


def write_record(drifts: Sequence[Drift], folder: Path) -> tuple[Path, ...]:
    """Write ``drift.json``, ``drift.html`` and, window by window, pictures; return their paths.

    Args:
        drifts: At least one, all of one version.
        folder: Made if it does not exist; files of these names are replaced.

    Raises:
        PublishError: If it cannot be written.
    """
    from thresher_serving.monitoring.plots import drift_plots  # loads matplotlib

    plots = [drift_plots(drift) for drift in drifts]
    files: dict[str, bytes] = {
        RECORD_FILE: json.dumps(drifts_to_dict(drifts), indent=1, ensure_ascii=False).encode(),
        PAGE_FILE: drift_page(drifts, plots).encode(),
    }
    for number, pictures in enumerate(plots, start=1):
        suffix = f"-{number}" if len(plots) > 1 else ""
        files |= {f"{name}{suffix}.png": png for name, png in pictures.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
    except OSError as error:
        raise PublishError(f"{error.filename or folder}: {error.strerror}") from None
    return tuple(folder / name for name in files)
