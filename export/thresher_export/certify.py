"""What an export proved, as a certificate."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

from thresher import __version__
from thresher.certificate import Certificate, file_digest
from thresher.decision import Decision
from thresher.evaluation import EvaluationSplit
from thresher.registry import ModelVersion
from thresher_export.parity import ParityReport

__all__ = ["certify"]

_PACKAGES = ("torch", "onnx", "onnx-ir", "onnxscript", "onnxruntime-gpu", "onnxruntime", "numpy")


def certify(
    version: ModelVersion,
    decision: Decision,
    report: ParityReport,
    splits: Mapping[str, EvaluationSplit],
    *,
    files: Sequence[Path],
    weights_sha256: str,
    like: Mapping[Path, str] | None = None,
    precision: str = "fp32",
) -> Certificate:
    """Return the certificate of a version that passed.

    Args:
        version: The registered version.
        decision: What it decides.
        report: All comparisons; none failed.
        splits: The rows that were compared.
        files: The model, its weights, the parity report.
        weights_sha256: Of the torch program.
        like: Files with known digests; one of ``files`` that is the same file is not read again.
        precision: Of the body.
    """
    return Certificate(
        model=version.name,
        version=version.version,
        source=version.source,
        precision=precision,
        files={path.name: _digest(path, like or {}) for path in files},
        decision_sha256=decision.digest,
        weights_sha256=weights_sha256,
        data_sha256={name: split.digest for name, split in splits.items()},
        engines=report.engines,
        tools=_tools(),
        num_rows=sum(len(split) for split in splits.values()),
        num_decisions=sum(split.targets_NL.size for split in splits.values()),
        num_flips=report.num_flips,
        band_half_width=report.band_half_width,
        providers=report.providers,
        tolerances=dataclasses.asdict(report.tolerances),
        num_comparisons=len(report.checks),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def _digest(path: Path, like: Mapping[Path, str]) -> str:
    for other, digest in like.items():
        if path.samefile(other):
            return digest
    return file_digest(path)


def _tools() -> dict[str, str]:
    found = {"thresher": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
