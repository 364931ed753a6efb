"""What a table's rows are scored with, beside the published model: no MLflow is needed there."""

from __future__ import annotations

import shutil
from pathlib import Path

from thresher.artifacts.input_spec import INPUT_SPEC_FILE, InputSpec, TextSpec
from thresher.decision import Decision
from thresher.errors import NotFoundError
from thresher.evaluation import EvaluationSplit
from thresher.observations import BASELINE_FILE, Observations
from thresher.registry import ModelVersion

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
    how = _input_spec(version, split)
    if how is not None:
        files.append(folder / INPUT_SPEC_FILE)
        files[-1].write_text(how.to_json(), encoding="utf-8")
        if how.text is not None:
            files.append(folder / how.text.tokenizer)
            shutil.copy(version.training_artifact(f"{_ASSETS}/{how.text.tokenizer}"), files[-1])
    if len(split):
        seen = Observations.of_validation(split, decision, how.columns if how else None)
        files.append(folder / BASELINE_FILE)
        files[-1].write_bytes(seen.to_bytes())
    return files


def _input_spec(version: ModelVersion, split: EvaluationSplit) -> InputSpec | None:
    """Return what training wrote down; of texts also what the tokenizer and the rows tell."""
    try:
        return InputSpec.load(version.training_artifact(f"{_ASSETS}/{INPUT_SPEC_FILE}").parent)
    except NotFoundError:
        pass  # a source that does not know, or a run before there was such a file
    ids = split.inputs.get("input_ids")
    if ids is None or ids.ndim != 2:
        return None
    text = TextSpec(max_length=ids.shape[1])
    try:
        version.training_artifact(f"{_ASSETS}/{text.tokenizer}")
    except NotFoundError:
        return None
    return InputSpec(text=text)
