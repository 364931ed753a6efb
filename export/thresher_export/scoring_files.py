"""What a table's rows are scored with, beside the published model: no MLflow is needed there."""

from __future__ import annotations

import shutil
from pathlib import Path

from thresher.decision import Decision
from thresher.errors import NotFoundError
from thresher.evaluation import EvaluationSplit
from thresher.observations import BASELINE_FILE, Observations
from thresher.registry import ModelVersion
from thresher.row_inputs import ROW_INPUTS_FILE, RowInputs, TextRows

__all__ = ["write_scoring_files"]

_ASSETS = "assets"


def write_scoring_files(
    version: ModelVersion, split: EvaluationSplit, decision: Decision, folder: Path
) -> list[Path]:
    """Write how rows become inputs, and what was observed in validation; return the files.

    Args:
        version: The version.
        split: Its validation rows.
        decision: What it decides.
        folder: Where its model lies.
    """
    files = []
    how = _row_inputs(version, split)
    if how is not None:
        files.append(folder / ROW_INPUTS_FILE)
        files[-1].write_text(how.to_json(), encoding="utf-8")
        if how.text is not None:
            files.append(folder / how.text.tokenizer)
            shutil.copy(version.training_artifact(f"{_ASSETS}/{how.text.tokenizer}"), files[-1])
    if len(split):
        seen = Observations.of_validation(split, decision, how.columns if how else None)
        files.append(folder / BASELINE_FILE)
        files[-1].write_bytes(seen.to_bytes())
    return files


def _row_inputs(version: ModelVersion, split: EvaluationSplit) -> RowInputs | None:
    """Return what training wrote down; of texts also what the tokenizer and the rows tell."""
    try:
        return RowInputs.load(version.training_artifact(f"{_ASSETS}/{ROW_INPUTS_FILE}").parent)
    except NotFoundError:
        pass  # a source that does not know, or a run before there was such a file
    ids = split.inputs.get("input_ids")
    if ids is None or ids.ndim != 2:
        return None
    text = TextRows(max_length=ids.shape[1])
    try:
        version.training_artifact(f"{_ASSETS}/{text.tokenizer}")
    except NotFoundError:
        return None
    return RowInputs(text=text)
