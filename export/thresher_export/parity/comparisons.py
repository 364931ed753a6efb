"""Comparisons as they are made: the engines, the tolerances, and what each one found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx

from thresher.agreement import Agreement, Outputs, Tolerances, compare, tolerances_for
from thresher.decision import Decision, FloatArray
from thresher.tolerances import widest
from thresher_export.engines import Inputs, OnnxRuntimeEngine, Provider, TorchEngine
from thresher_export.parity.departure import left_in_training
from thresher_export.parity.report import Check, WorstRows
from thresher_export.parity.rounding import Rounding
from thresher_export.parity.rows import MadeUpRows, take
from thresher_export.parity.thresholds import head_faults

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram

__all__ = ["Comparisons"]

_NUM_WORST_ROWS = 16


class Comparisons:
    """What is compared, by which tolerances, and the outcome so far.

    Args:
        program: The reference, None where torch is not at hand.
        model: The ONNX model with its head.
        decision: What it decides.
        max_batch_size: The largest batch.
        tolerances: Of the body.
        precision: Of the body.
        providers: Where ONNX Runtime computes.
        progress: Called with each comparison's name.
    """

    def __init__(
        self,
        program: ExportedProgram | torch.nn.Module | None,
        model: Path,
        decision: Decision,
        *,
        max_batch_size: int,
        tolerances: Tolerances,
        precision: str,
        providers: tuple[Provider, ...],
        progress: Callable[[str], None],
    ) -> None:
        self.torch = None if program is None else TorchEngine(program)
        self.rounding = None if self.torch is None else Rounding(self.torch)
        self.model = model
        self.proto = onnx.load(model, load_external_data=False)
        self.decision = decision
        self.max_batch_size = max_batch_size
        self.tolerances = tolerances
        self.precision = precision
        self.engines = {p: OnnxRuntimeEngine(model, p) for p in providers}
        self.progress = progress
        self.checks: list[Check] = []
        self.notes: list[str] = []
        self.flipped: dict[str, npt.NDArray[np.bool_]] = {}
        self.faults = [*_dropout_faults(self.proto), *head_faults(self.proto)]
        self.torch_tolerances = tolerances
        self.worst: WorstRows | None = None
        self.has_departed = bool(self.faults)
        """Whether the model, and not only torch today, is another than the reference."""
        if self.torch is not None and self.torch.program is not None:
            from thresher_export.convert import reference_precision

            self.faults += [
                f'the logged network is in training mode: node "{name}". Log it after eval()'
                for name in left_in_training(self.torch.program)
            ]
            if reference_precision(self.torch.program) == "fp32":
                self.torch_tolerances = tolerances_for("fp32")

    @property
    def failed(self) -> bool:
        """Whether anything is wrong so far."""
        return bool(self.faults) or any(not check.agreement.ok for check in self.checks)

    def add(
        self,
        name: str,
        run: Callable[[], tuple[Outputs, Outputs]],
        *,
        inputs: Inputs | None = None,
        rows: str = "split",
        decision: Decision | None = None,
        provider: Provider | None = None,
        is_torch: bool = False,
        made_up: MadeUpRows | None = None,
        advice: str = "",
        targets_NL: FloatArray | None = None,
    ) -> None:
        """Make one comparison; the first that fails gives the worst rows.

        Args:
            name: Of the comparison.
            run: Gives reference and what is judged.
            inputs: The rows.
            rows: Their kind, as in `Check`.
            decision: Where it is another one than the model's.
            provider: Where ONNX Runtime computed.
            is_torch: Both sides are torch: its own precision's tolerances apply.
            made_up: The rows, where they are made up.
            advice: What to do where it fails.
            targets_NL: Targets, for F1.
        """
        self.progress(name)
        reference, got = run()
        tolerances = self.torch_tolerances if is_torch else self.tolerances
        if provider is not None and provider.precision is not None:
            tolerances = widest(tolerances, tolerances_for(provider.precision))

        def compared(rounding_NL: npt.NDArray[np.float64] | None) -> Agreement:
            return compare(
                reference,
                got,
                decision or self.decision,
                tolerances=tolerances,
                targets_NL=targets_NL,
                rounding_NL=rounding_NL,
            )

        agreement = compared(None)
        if self.rounding and inputs is not None and not (agreement.ok or self.failed):
            agreement = compared(
                self.rounding.of_rows(
                    reference, got, inputs, tolerances, is_made_up=made_up is not None
                )
            )
        if made_up is not None and not self.is_judged(made_up):
            self.notes.append(
                f"{name}, not judged: an {self.precision} body saturates beyond what it was "
                f"calibrated on. Logits differ by {agreement.max_abs('logits') or 0:.2g} at most, "
                f"{agreement.num_flips} of {agreement.num_rows * agreement.num_labels} decisions"
            )
            return
        names = () if made_up is None else made_up.names
        self.checks.append(
            Check(name=name, agreement=agreement, rows=rows, row_names=names, advice=advice)
        )
        self.has_departed |= not agreement.ok and not is_torch
        if self.worst is None and not agreement.ok:
            self.worst = _worst_rows(name, reference, got, inputs or {})

    def note_flips(
        self, split: str, validated_NL: npt.NDArray[np.bool_], got: Outputs, rows: Any
    ) -> None:
        """Take down which decisions on some rows of a split differ from the validated ones."""
        flipped_NL = self.flipped.setdefault(split, np.zeros(validated_NL.shape, np.bool_))
        flipped_NL[rows] |= got.labels_NL != validated_NL[rows]

    def is_judged(self, made_up: MadeUpRows) -> bool:
        """Whether rows of a kind count: an integer body is right only where it was calibrated."""
        return self.precision != "int8" or not made_up.is_unlike


def _dropout_faults(model: onnx.ModelProto) -> list[str]:
    """Return a sentence for each Dropout that is on."""
    off = {
        tensor.name
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.BOOL
        and not onnx.numpy_helper.to_array(tensor).any()
    }
    return [
        f'node "{node.name}": Dropout in training mode, its answers are random'
        for node in model.graph.node
        if node.op_type == "Dropout" and {"", *off}.isdisjoint(node.input[2:3]) and node.input[2:3]
    ]


def _worst_rows(name: str, reference: Outputs, got: Outputs, inputs: Inputs) -> WorstRows:
    """Return the rows that flip, then those that differ most."""
    with np.errstate(invalid="ignore"):
        score_N = np.nan_to_num(
            np.abs(got.probabilities_NL - reference.probabilities_NL), nan=1.0
        ).max(axis=1, initial=0.0)
        if reference.logits_NL is not None and got.logits_NL is not None:
            error_NL = np.abs(got.logits_NL - reference.logits_NL)
            score_N = score_N + np.nan_to_num(error_NL, nan=1e9, posinf=1e9).max(axis=1, initial=0)
    score_N = score_N + 1e12 * (reference.labels_NL != got.labels_NL).any(axis=1)
    rows = np.argsort(-score_N, kind="stable")[:_NUM_WORST_ROWS]
    arrays: dict[str, Any] = {"rows": rows}
    for side, outputs in (("reference", reference), ("got", got)):
        arrays[f"{side}_probabilities"] = outputs.probabilities_NL[rows]
        arrays[f"{side}_labels"] = outputs.labels_NL[rows]
        if outputs.logits_NL is not None:
            arrays[f"{side}_logits"] = outputs.logits_NL[rows]
    return WorstRows(check=name, inputs=take(inputs, rows), arrays=arrays)
