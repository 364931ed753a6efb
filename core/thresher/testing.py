"""Checks for your own tests: does a model decide as its reference does?

The gate that every export passes, as functions that raise AssertionError, with any torch network,
any ONNX model and any rows. `assert_decides_alike` needs NumPy alone; `assert_parity` needs the
extra ``export``. They are part of no stage: the stage is imported when a check runs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from thresher.agreement import Agreement, Outputs, Tolerances, compare, tolerances_for
from thresher.decision import Decision, FloatArray

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram

    from thresher_export.parity import ParityReport

__all__ = ["assert_decides_alike", "assert_parity"]


def assert_decides_alike(
    reference: Outputs | FloatArray,
    other: Outputs | FloatArray,
    decision: Decision,
    *,
    precision: str = "fp32",
    tolerances: Tolerances | None = None,
    targets_NL: FloatArray | None = None,
) -> Agreement:
    """Return how far two engines agree on the same rows; fail where they decide differently.

    Args:
        reference: What is taken as right: outputs, or logits, float32 [N, L].
        other: What is judged: outputs, or logits.
        decision: Labels, calibration and thresholds.
        precision: Whose tolerances apply: fp32, tf32, fp16 or int8.
        tolerances: Your own instead.
        targets_NL: float32 [N, L] of 0, 1 and NaN: the change of each label's F1 is bounded too.

    Raises:
        AssertionError: If values lie too far apart, a decision flips outside the band around its
            threshold, or a label does not follow from its own probability.
        DataError: If the two do not have the same shape.

    Example:
        >>> decision = Decision(labels=["cat", "dog"], thresholds=[0.5, 0.25])
        >>> logits = np.float32([[0.3, -2.0], [-1.0, 4.0]])
        >>> assert_decides_alike(logits, logits + np.float32(1e-7), decision).num_flips
        0
    """
    agreement = compare(
        _outputs(reference, decision),
        _outputs(other, decision),
        decision,
        tolerances=tolerances or tolerances_for(precision),
        targets_NL=targets_NL,
    )
    problems = agreement.problems()
    if problems:
        raise AssertionError("\n  ".join(["the two do not decide alike:", *problems]))
    return agreement


def assert_parity(
    network: torch.nn.Module | ExportedProgram,
    model: Path | str,
    decision: Decision,
    inputs: Mapping[str, npt.NDArray[Any]],
    *,
    targets_NL: FloatArray | None = None,
    max_batch_size: int = 64,
    precision: str = "fp32",
    tolerances: Tolerances | None = None,
    evidence: Path | None = None,
) -> ParityReport:
    """Return the report of every comparison that an export makes; fail where one fails.

    Args:
        network: The reference: a module (put in evaluation mode by you) whose ``forward`` takes
            the inputs by name and gives logits [N, L], or a `torch.export.ExportedProgram`, with
            which a failure also names the first node that departs.
        model: An ONNX file, with its decision head or without: it is appended then.
        decision: Labels, calibration and thresholds.
        inputs: Rows by input name, each [N, ...].
        targets_NL: float32 [N, L] of 0, 1 and NaN: the change of each label's F1 is bounded too.
        max_batch_size: The largest batch that is tried.
        precision: Of the model's body: fp32, fp16 or int8.
        tolerances: Your own instead of those of the precision.
        evidence: A folder for the report and the worst rows, made only on a failure.

    Raises:
        AssertionError: If any comparison fails; the message says which, where and by how much.
        ThresherError: If the rows or the model cannot be run at all.
    """
    from thresher.evaluation import EvaluationSplit
    from thresher_export.engines import TorchEngine
    from thresher_export.parity import prove_parity

    logits_NL = TorchEngine(network).logits(inputs, batch_size=max_batch_size)
    unknown_NL = np.full_like(logits_NL, np.nan)
    split = EvaluationSplit(
        inputs=inputs,
        targets_NL=unknown_NL if targets_NL is None else targets_NL,
        logits_NL=logits_NL,
    )
    with tempfile.TemporaryDirectory() as folder:
        report = prove_parity(
            network,
            _with_head(Path(model), decision, Path(folder)),
            decision,
            {"rows": split},
            max_batch_size=max_batch_size,
            tolerances=tolerances,
            precision=precision,
            evidence=evidence,
        )
    lines = report.summary()
    if lines:
        raise AssertionError("\n  ".join([f"{model} does not decide as the network:", *lines]))
    return report


def _outputs(given: Outputs | FloatArray, decision: Decision) -> Outputs:
    """Return outputs as they are, and what NumPy decides for logits."""
    return given if isinstance(given, Outputs) else Outputs.of_logits(given, decision)


def _with_head(path: Path, decision: Decision, folder: Path) -> Path:
    """Return a model that has a head: the file itself, or a copy to which it was appended."""
    import onnx

    from thresher_export.head import append_decision_head, read_decision
    from thresher_export.onnx_file import load_model, save_model

    model = load_model(path)
    if read_decision(onnx.load(path, load_external_data=False)) is not None:
        return path
    return save_model(append_decision_head(model, decision), folder / "model.onnx")[0]
