"""A published version whose answers NumPy can tell, and tables to score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from support.versions import LABELS, offset, publish_version
from thresher import Decision
from thresher.published_models import PublishedModels
from thresher_serving.scoring import (
    HereWorkers,
    OnnxRuntimeEngine,
    OutputForm,
    ScoredVersion,
    ScoringOptions,
    ScoringReport,
    score_files,
)

COLUMNS = ("wind", "sun", "cloud")
OPTIONS = ScoringOptions(features=COLUMNS, form=OutputForm(columns=("id",)))


def weather_version(root: Path, version: int = 1, *, thresholds: float = 0.4) -> ScoredVersion:
    """Publish and return a version of "weather", which adds its number's share to three columns."""
    publish_version(root, "weather", version, thresholds=thresholds, serve=True)
    return ScoredVersion.published(PublishedModels(root), "weather", version)


def engine_of(version: ScoredVersion, **options: Any) -> OnnxRuntimeEngine:
    """Return ONNX Runtime on the CPU, in batches that do not divide the rows."""
    return OnnxRuntimeEngine(version, **{"threads": 2, "batch_rows": 16, "device": "cpu"} | options)


def table(num_rows: int, *, seed: int = 0, first_id: int = 0) -> pa.Table:
    """Return rows with an id, three columns of numbers and one of text."""
    values = np.random.default_rng(seed).normal(size=(num_rows, 3)).astype(np.float32)
    ids = [f"row {first_id + at}" for at in range(num_rows)]
    columns = {name: values[:, at] for at, name in enumerate(COLUMNS)}
    return pa.table({"id": ids, "comment": ["..."] * num_rows, **columns})


def expected(
    version: ScoredVersion, rows: pa.Table
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Return the probabilities and labels of a table's rows, by NumPy alone."""
    values = np.stack([rows[name].to_numpy().astype(np.float32) for name in COLUMNS], axis=1)
    decision: Decision = version.decision
    probabilities = decision.probabilities(values + offset(version.model.version))
    return probabilities, decision.decide(probabilities)


def names_of(labels: npt.NDArray[np.bool_]) -> list[list[str]]:
    """Return the names of each row's labels."""
    return [[LABELS[at] for at in np.flatnonzero(row)] for row in labels]


def write_parts(folder: Path, num_parts: int, num_rows: int) -> pa.Table:
    """Write tables as Parquet files, a few row groups each; return all rows in order."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for at in range(num_parts):
        part = table(num_rows, seed=at, first_id=at * num_rows)
        pq.write_table(part, folder / f"part-{at:03d}.parquet", row_group_size=37)
        parts.append(part)
    return pa.concat_tables(parts)


def score_into(
    version: ScoredVersion,
    given: Path | str,
    output: Path | str,
    options: ScoringOptions = OPTIONS,
    **engine: Any,
) -> ScoringReport:
    """Score files in this process."""
    return score_files(
        version,
        given=given,
        output=output,
        workers=HereWorkers(engine_of(version, **engine)),
        options=options,
    )


def read_parts(folder: Path) -> pa.Table:
    """Return the scored rows of a folder, in the order of its files."""
    files = [f for f in sorted(folder.rglob("*.parquet")) if not _is_hidden(f, folder)]
    return pa.concat_tables([pq.read_table(file) for file in files])


def read_rejects(folder: Path) -> list[dict[str, Any]]:
    """Return the rejected rows of a folder."""
    files = sorted((folder / "_rejects").rglob("*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def _is_hidden(file: Path, folder: Path) -> bool:
    return any(part.startswith("_") for part in file.relative_to(folder).parts)
