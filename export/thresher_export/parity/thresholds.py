"""The decision head at its thresholds: exactly on them, and one float32 step to either side.

Three proofs, each sharper than any rows can be:

- **Around.** The head cut out of the model and fed logits around each threshold.
- **Comparison.** Only what follows ``probabilities``, fed each threshold itself and its float32
  neighbours: a threshold that is another float32, or kept in float64, shows at once.
- **Landing.** The whole model with its thresholds moved to probabilities that it gives for real
  rows, and one step below and above them: each label then meets its threshold exactly.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx.utils
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from thresher.agreement import Outputs
from thresher.decision import Decision, FloatArray
from thresher.errors import ConversionError
from thresher_export.engines import CPU, Inputs, OnnxRuntimeEngine, Provider, session
from thresher_export.head import replace_decision_head
from thresher_export.onnx_file import data_files, load_model
from thresher_export.parity.rows import real_rows, take

__all__ = [
    "MAX_RELOADED_BYTES",
    "Landing",
    "comparison",
    "head_around_thresholds",
    "head_by_definition",
    "head_faults",
    "landings",
    "logits_around_thresholds",
    "num_bytes",
]

_HEAD_OPERATORS = ("Mul", "Add", "Sigmoid", "GreaterOrEqual", "TopK")

MAX_RELOADED_BYTES = 256 * 2**20
"""A larger model is not loaded again: not with moved thresholds, not for a plot of its nodes."""


def logits_around_thresholds(decision: Decision) -> FloatArray:
    """Return float32 [K, L] logits whose probabilities lie on and around each label's threshold.

    From one float32 step to a tenth away on both sides, and the ends: zero, tiny, huge, infinite
    and not a number.
    """
    thresholds_L = decision.thresholds.astype(np.float64)
    step_L = np.spacing(decision.thresholds).astype(np.float64)
    offsets_KL = np.concatenate(
        [
            np.arange(-8, 9)[:, None] * step_L,
            np.repeat(
                [[s * d] for d in (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1) for s in (-1, 1)],
                decision.num_labels,
                axis=1,
            ),
        ]
    )
    p_KL = np.clip(thresholds_L + offsets_KL, 1e-37, 1 - 1e-9)
    logits_KL = (np.log(p_KL) - np.log1p(-p_KL) - decision.bias) / decision.scale
    ends = np.array([0, 1e-40, 1, -1, 16.7, -16.7, 200, -200, np.inf, -np.inf, np.nan])
    return np.concatenate(
        [logits_KL, np.repeat(ends[:, None], decision.num_labels, axis=1)]
    ).astype(np.float32)


def head_around_thresholds(
    model: onnx.ModelProto, decision: Decision, provider: Provider = CPU
) -> tuple[Outputs, Outputs]:
    """Return what NumPy and the model's own head give for logits around each threshold.

    The reference's labels are NumPy's comparison of the head's own probabilities, so that a last
    bit of the sigmoid flips nothing and a threshold that is off by one bit flips something.

    Raises:
        ConversionError: If the model's head does not run from logits to labels.
    """
    logits_KL = logits_around_thresholds(decision)
    head = _part(model, ["logits"], ["probabilities", "labels"])
    engine = OnnxRuntimeEngine(head.SerializeToString(), provider)
    got = engine.run({"logits": logits_KL}, batch_size=len(logits_KL))
    reference = Outputs(
        probabilities_NL=decision.probabilities(logits_KL),
        labels_NL=decision.decide(got.probabilities_NL),
    )
    return reference, got


def head_by_definition(model: onnx.ModelProto, decision: Decision) -> tuple[Outputs, Outputs]:
    """Return the same as `head_around_thresholds`, by the ONNX project's own evaluator.

    ONNX Runtime drops casts that cancel out on a CPU, and so hides a head in FP16 that a GPU
    would show; the evaluator computes what the file says.

    Raises:
        ConversionError: If the head cannot be cut out or evaluated.
    """
    logits_KL = logits_around_thresholds(decision)
    head = _part(model, ["logits"], ["probabilities", "labels"])
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            answers = ReferenceEvaluator(head).run(None, {"logits": logits_KL})
    except Exception as error:  # noqa: BLE001 -- whatever NumPy meets in a strange head
        raise ConversionError(f"the decision head cannot be evaluated: {error}") from None
    probabilities_KL, labels_KL = (np.asarray(answer) for answer in answers)
    got = Outputs(probabilities_NL=probabilities_KL, labels_NL=labels_KL)
    reference = Outputs(
        probabilities_NL=decision.probabilities(logits_KL),
        labels_NL=decision.decide(probabilities_KL),
    )
    return reference, got


def head_faults(model: onnx.ModelProto) -> list[str]:
    """Return what stands between logits and labels and does not belong there, a sentence each."""
    head = _part(model, ["logits"], ["probabilities", "labels"])
    found = []
    for node in head.graph.node:
        if node.op_type in _HEAD_OPERATORS:
            continue
        kind = next((a.i for a in node.attribute if a.name == "to"), None)
        to = f" to {onnx.TensorProto.DataType.Name(kind)}" if kind is not None else ""
        found.append(
            f'the head holds {node.op_type}{to} ("{node.output[0]}"); expected '
            f"{', '.join(_HEAD_OPERATORS)}, all in FP32"
        )
    return found


def comparison(
    model: onnx.ModelProto, decision: Decision, provider: Provider = CPU
) -> tuple[Outputs, Outputs]:
    """Return what NumPy and the model decide for probabilities at each threshold's very bits.

    Raises:
        ConversionError: If labels do not follow from probabilities alone.
    """
    thresholds_L = decision.thresholds
    up, down = np.float32(np.inf), np.float32(-np.inf)
    ends = np.repeat([[0.0], [1.0], [np.nan]], decision.num_labels, axis=1)
    near = [thresholds_L, np.nextafter(thresholds_L, down), np.nextafter(thresholds_L, up)]
    p_KL = np.concatenate([np.stack(near), ends]).astype(np.float32)
    part = _part(model, ["probabilities"], ["labels"])
    started = session(part.SerializeToString(), provider)
    try:
        labels_KL: npt.NDArray[np.bool_] = started.run(["labels"], {"probabilities": p_KL})[0]
    except Exception as error:  # noqa: BLE001 -- ONNX Runtime's exceptions share no public base
        raise ConversionError(
            f"labels do not follow from float32 probabilities alone: {error}"
        ) from None
    return (
        Outputs(probabilities_NL=p_KL, labels_NL=decision.decide(p_KL)),
        Outputs(probabilities_NL=p_KL, labels_NL=labels_KL),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Landing:
    """One run of the model with moved thresholds."""

    decision: Decision
    reference: Outputs
    got: Outputs
    num_on: int
    """Labels for which some row's probability is the threshold's very bits."""
    num_below: int
    """Labels for which some row's probability lies one float32 step below the threshold."""
    num_above: int


def landings(
    engine: OnnxRuntimeEngine,
    path: Path,
    decision: Decision,
    inputs: Inputs,
    *,
    batch_size: int,
    provider: Provider = CPU,
) -> Iterator[Landing]:
    """Yield runs of the model with each label's threshold moved to a real row's probability.

    Three runs, so that each label is once on, once one step below and once one step above. A model
    of more than `MAX_RELOADED_BYTES` is not loaded again: its new head runs on the logits that it
    gave.

    Args:
        engine: The model, loaded.
        path: Its file.
        decision: What it decides.
        inputs: Real rows.
        batch_size: As many rows are used.
        provider: Where it computes.

    Raises:
        ConversionError: If the head cannot be replaced.
    """
    rows = take(inputs, list(real_rows(inputs, batch_size))[:batch_size])
    outputs = engine.run(rows, batch_size=batch_size)
    before = outputs.probabilities_NL
    num_rows, num_labels = before.shape
    is_large = num_bytes(path) > MAX_RELOADED_BYTES
    inside_NL = (before > 0) & (before < 1)  # NaN is not
    # each label its own row, the next one that has a probability which can be met
    order_NL = (np.arange(num_rows)[:, None] - np.arange(num_labels)) % num_rows
    row_L = np.argmin(np.where(inside_NL, order_NL, num_rows), axis=0)
    met_L = before[row_L, np.arange(num_labels)]
    met_L = np.where(inside_NL.any(axis=0), met_L, np.float32(0.5))
    for turn in range(3):
        kind_L = (np.arange(num_labels) + turn) % 3
        up, down = np.float32(np.inf), np.float32(-np.inf)
        thresholds_L = np.select(
            [kind_L == 0, kind_L == 1],
            [met_L, np.nextafter(met_L, up)],
            np.nextafter(met_L, down),
        ).astype(np.float32)
        moved = Decision(
            labels=decision.labels,
            thresholds=np.clip(thresholds_L, 0, 1),
            scale=decision.scale,
            bias=decision.bias,
        )
        try:
            proto = ir.to_proto(replace_decision_head(load_model(path), moved))
        except ValueError as error:
            raise ConversionError(f"the decision head cannot be replaced: {error}") from None
        if is_large and outputs.logits_NL is not None:
            head = _part(proto, ["logits"], ["probabilities", "labels"])
            moved_engine = OnnxRuntimeEngine(head.SerializeToString(), provider)
            got = moved_engine.run({"logits": outputs.logits_NL}, batch_size=batch_size)
        else:
            moved_engine = OnnxRuntimeEngine(
                proto.SerializeToString(), provider, weights_folder=path.parent.absolute()
            )
            got = moved_engine.run(rows, batch_size=batch_size)
        p_L = got.probabilities_NL[row_L, np.arange(num_labels)]
        yield Landing(
            decision=moved,
            reference=Outputs(
                probabilities_NL=before, labels_NL=moved.decide(got.probabilities_NL)
            ),
            got=got,
            num_on=int((p_L == moved.thresholds).sum()),
            num_below=int((np.nextafter(p_L, up) == moved.thresholds).sum()),
            num_above=int((np.nextafter(p_L, down) == moved.thresholds).sum()),
        )


def num_bytes(path: Path) -> int:
    """Return the size of a model with its weights."""
    return sum(file.stat().st_size for file in (path, *data_files(load_model(path))))


def _part(model: onnx.ModelProto, inputs: list[str], outputs: list[str]) -> onnx.ModelProto:
    """Return what lies between some values of a model as a model of its own."""
    try:
        return onnx.utils.Extractor(model).extract_model(inputs, outputs)
    except (KeyError, ValueError, onnx.checker.ValidationError) as error:
        raise ConversionError(f"the model's decision head cannot be cut out: {error}") from None
