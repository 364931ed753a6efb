"""The gate before publishing: torch and ONNX Runtime decide alike, row by row, or nothing goes out.

Three kinds of evidence:

- **Rows.** Every row of the validation and test split, as torch (the logged program) and ONNX
  Runtime (the very bytes that will be published) see it, at batch sizes 1, odd and large.
- **Training.** The logits that training logged, on which the thresholds were chosen, against what
  the logged program gives now.
- **Head.** The head cut out of the model and fed logits that lie around each threshold, down to
  neighbouring float32 values, against the decision in NumPy: a threshold that is off shows here,
  even where no row lies near it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx.utils

from thresher.agreement import Agreement, Outputs, Tolerances, compare
from thresher.decision import Decision, FloatArray
from thresher.errors import ConversionError, ParityError
from thresher.evaluation import EvaluationSplit
from thresher_export.engines import OnnxRuntimeEngine, torch_logits

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = ["Check", "ParityReport", "logits_around_thresholds", "prove_parity"]

ODD_BATCH_SIZE = 7
MAX_ROWS_ONE_BY_ONE = 256
"""Rows that are run alone (batch size 1), spread evenly over a split: each costs a whole run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One comparison, named."""

    name: str
    agreement: Agreement


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityReport:
    """All comparisons of one export."""

    checks: tuple[Check, ...]
    engines: tuple[str, ...]
    """What was compared with the reference."""
    band_half_width: float
    """Half the width of the band around each threshold in which rounding may flip a decision."""

    @property
    def num_flips(self) -> int:
        """Decisions that differ, summed over all comparisons."""
        return sum(check.agreement.num_flips for check in self.checks)

    def problems(self) -> list[str]:
        """Return what is wrong, a sentence each, with the comparison's name in front."""
        return [f"{c.name}: {text}" for c in self.checks for text in c.agreement.problems()]

    def raise_if_failed(self, what: str) -> None:
        """Raise ParityError with every problem if any comparison failed."""
        problems = self.problems()
        if problems:
            listing = "\n  ".join(problems)
            raise ParityError(f"{what}: parity failed, nothing was published:\n  {listing}")

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values for JSON."""
        return {
            "ok": not self.problems(),
            "num_flips": self.num_flips,
            "checks": [{"name": c.name, **c.agreement.to_dict()} for c in self.checks],
        }


def prove_parity(
    program: ExportedProgram | None,
    model: Path,
    decision: Decision,
    splits: Mapping[str, EvaluationSplit],
    *,
    max_batch_size: int,
    tolerances: Tolerances | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> ParityReport:
    """Return how far the model with its head agrees with torch; judges nothing.

    Args:
        program: The logged torch program, the reference; None where the body is one that was
            proven already: the logits that training logged are the reference then.
        model: The ONNX model with its head, the very file that will be published.
        decision: Labels, calibration and thresholds as validated.
        splits: Rows by split name.
        max_batch_size: The largest batch that will be served.
        tolerances: How far the engines may lie apart; FP32's where left out.
        progress: Called with the name of each comparison before it runs.

    Raises:
        ConversionError: If the model does not run at one of the batch sizes.
    """
    engine = OnnxRuntimeEngine(model)
    checks = []

    def check(name: str, run: Callable[[], tuple[Outputs, Outputs]]) -> None:
        progress(name)
        reference, got = run()
        checks.append(
            Check(name=name, agreement=compare(reference, got, decision, tolerances=tolerances))
        )

    for split_name, split in splits.items():
        logits_NL, source = split.logits_NL, "training"
        if program is not None:
            logits_NL = torch_logits(program, split.inputs, batch_size=max_batch_size)
            source = "torch"
            logged = Outputs.of_logits(split.logits_NL, decision)
            reference = Outputs.of_logits(logits_NL, decision)
            check(f"{split_name}: training = torch", lambda: (logged, reference))  # noqa: B023 -- called at once
        for batch_size, rows in _batches(len(split), max_batch_size):
            check(
                f"{split_name}: {source} = ONNX Runtime, batch {batch_size}",
                lambda: (  # called at once
                    Outputs.of_logits(logits_NL[rows], decision),  # noqa: B023
                    engine.run(split.rows(rows), batch_size=batch_size),  # noqa: B023
                ),
            )
    check(
        "around thresholds: NumPy = head",
        lambda: _head(onnx.load(model, load_external_data=False), decision),
    )
    return ParityReport(
        checks=tuple(checks),
        engines=("ONNX Runtime, CPU",),
        band_half_width=(tolerances or Tolerances()).probabilities_atol,
    )


def _batches(num_rows: int, max_batch_size: int) -> Iterator[tuple[int, Sequence[int]]]:
    """Yield batch sizes 1, odd and large with the rows to try each on."""
    step = max(1, -(-num_rows // MAX_ROWS_ONE_BY_ONE))
    yield 1, range(0, num_rows, step)
    if max_batch_size > ODD_BATCH_SIZE:
        yield ODD_BATCH_SIZE, range(num_rows)
    if max_batch_size > 1:
        yield max_batch_size, range(num_rows)


def _head(model: onnx.ModelProto, decision: Decision) -> tuple[Outputs, Outputs]:
    """Return what NumPy and the model's own head give for logits around each threshold.

    The reference's labels are NumPy's comparison of the head's own probabilities, so that a last
    bit of the sigmoid flips nothing and a threshold that is off by one bit flips something.
    """
    logits_KL = logits_around_thresholds(decision)
    try:
        head = onnx.utils.Extractor(model).extract_model(["logits"], ["probabilities", "labels"])
    except (KeyError, ValueError, onnx.checker.ValidationError) as error:
        raise ConversionError(f"the model's decision head cannot be cut out: {error}") from None
    engine = OnnxRuntimeEngine(head.SerializeToString())
    got = engine.run({"logits": logits_KL}, batch_size=len(logits_KL))
    reference = Outputs(
        probabilities_NL=decision.probabilities(logits_KL),
        labels_NL=decision.decide(got.probabilities_NL),
    )
    return reference, got


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
