"""All comparisons of one model, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thresher.agreement import Outputs, Tolerances, tolerances_for
from thresher.decision import Decision
from thresher.evaluation import EvaluationSplit
from thresher_export.engines import Inputs, Provider, providers_at_hand
from thresher_export.parity.beyond import compare_beyond_the_splits
from thresher_export.parity.comparisons import Comparisons
from thresher_export.parity.departure import find_departure
from thresher_export.parity.record import write_evidence
from thresher_export.parity.report import ParityReport
from thresher_export.parity.rows import real_rows, take
from thresher_export.parity.thresholds import (
    MAX_RELOADED_BYTES,
    comparison,
    head_around_thresholds,
    head_by_definition,
    landings,
    num_bytes,
)

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram

__all__ = ["prove_parity"]

ODD_BATCH_SIZE = 7
MAX_ROWS_ONE_BY_ONE = 256
"""Rows that are run alone (batch size 1), spread evenly over a split: each costs a whole run."""

MAX_ROWS_IN_SMALL_BATCHES = 1024
"""Rows that are run in batches of 2 and 7, likewise; the largest batch runs them all."""

_NUM_LAYER_ROWS = 4


def prove_parity(
    program: ExportedProgram | torch.nn.Module | None,
    model: Path,
    decision: Decision,
    splits: Mapping[str, EvaluationSplit],
    *,
    max_batch_size: int,
    tolerances: Tolerances | None = None,
    precision: str = "fp32",
    providers: Sequence[Provider] | None = None,
    layers: bool | None = None,
    evidence: Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> ParityReport:
    """Return how far the model with its head agrees with torch; judges nothing.

    Args:
        program: Torch's program (or a module in evaluation mode), the reference; None where the
            body is one that was proven already: the logits that training logged are the reference
            then, each row is run once, and what has no say in a decision is left out.
        model: The ONNX model with its head, the very file that will be published.
        decision: Labels, calibration and thresholds as validated.
        splits: Rows by split name.
        max_batch_size: The largest batch that will be served.
        tolerances: How far the engines may lie apart; those of ``precision`` where left out.
        precision: Of the body: fp32, fp16 or int8.
        providers: Where ONNX Runtime computes; what this machine has where left out.
        layers: Whether every node's result is compared also where nothing failed, for the
            report's plot; where left out, for a model of less than 256 MB.
        evidence: A folder for the worst rows and the report, made only if a comparison fails.
        progress: Called with the name of each comparison before it runs.

    Raises:
        ConversionError: If the model does not run at one of the batch sizes.
    """
    comparisons = Comparisons(
        program,
        model,
        decision,
        max_batch_size=max_batch_size,
        tolerances=tolerances or tolerances_for(precision),
        precision=precision,
        providers=tuple(providers or providers_at_hand()),
        progress=progress,
    )
    for name, split in splits.items():
        _compare_split(comparisons, name, split)
    real = next((split.inputs for split in splits.values() if len(split)), None)
    if real is not None:
        compare_beyond_the_splits(comparisons, real)
    _compare_heads(comparisons, real)
    if layers is None:
        layers = program is not None and num_bytes(model) <= MAX_RELOADED_BYTES
    return _report(comparisons, layers=layers, evidence=evidence, real=real)


def _compare_split(comparisons: Comparisons, name: str, split: EvaluationSplit) -> None:
    """Compare on a split's real rows: training, torch, ONNX Runtime, batch by batch."""
    decision, largest = comparisons.decision, comparisons.max_batch_size
    if not len(split):
        comparisons.notes.append(f"{name}: no rows")
        return
    rows_alone = list(real_rows(split.inputs, MAX_ROWS_ONE_BY_ONE))
    few = list(real_rows(split.inputs, MAX_ROWS_IN_SMALL_BATCHES))
    alone = split.rows(rows_alone)
    targets_NL = split.targets_NL
    reference, source = Outputs.of_logits(split.logits_NL, decision), "training"
    validated_NL = reference.labels_NL
    if comparisons.torch is not None:
        logits_NL = comparisons.torch.logits(split.inputs, batch_size=largest)
        logged, source = reference, "torch"
        reference = Outputs.of_logits(logits_NL, decision)
        comparisons.note_flips(name, validated_NL, reference, slice(None))
        comparisons.add(
            f"{name}: training = torch",
            lambda: (logged, reference),
            inputs=split.inputs,
            is_torch=True,
            targets_NL=targets_NL,
        )
        logits_alone = comparisons.torch.logits(alone, batch_size=1)
        comparisons.add(
            f"{name}: torch, each row alone = in a batch",
            lambda: (_rows(reference, rows_alone), Outputs.of_logits(logits_alone, decision)),
            inputs=alone,
            is_torch=True,
        )
    for provider, engine in comparisons.engines.items():
        got: dict[int, Outputs] = {}
        is_proven = comparisons.torch is None  # in batches of all sizes, with its certificate
        for size in [largest] if is_proven else _batch_sizes(largest):
            rows = rows_alone if size == 1 else few if size < largest else slice(None)
            inputs = split.rows(rows)
            got[size] = engine.run(inputs, batch_size=size)
            if provider.precision is None:
                comparisons.note_flips(name, validated_NL, got[size], rows)
            comparisons.add(
                f"{name}: {source} = {provider.name}, batch {size}",
                lambda: (_rows(reference, rows), got[size]),  # noqa: B023 -- called at once
                inputs=inputs,
                provider=provider,
                targets_NL=targets_NL[rows],
            )
        if largest > 1 and not is_proven:
            comparisons.add(
                f"{name}: {provider.name}, each row alone = in a batch",
                lambda: (_rows(got[largest], rows_alone), got[1]),  # noqa: B023
                inputs=alone,
                provider=provider,
            )


def _compare_heads(comparisons: Comparisons, real: Inputs | None) -> None:
    """Compare the head with NumPy: around thresholds, on them, and moved onto real rows."""
    for provider in comparisons.engines:
        at = "" if provider.name == "ONNX Runtime" else f" ({provider.name})"
        for name, run in (
            ("around thresholds: NumPy = head", head_around_thresholds),
            ("at thresholds: NumPy = head, bit for bit", comparison),
        ):
            comparisons.add(
                f"{name}{at}",
                lambda: run(comparisons.proto, comparisons.decision, provider),  # noqa: B023
                rows="head",
            )
    comparisons.add(
        "around thresholds: NumPy = head by ONNX's definition",
        lambda: head_by_definition(comparisons.proto, comparisons.decision),
        rows="head",
    )
    if real is None:
        return
    if comparisons.failed:
        comparisons.notes.append("Moved thresholds were left out: comparisons before them failed")
        return
    for provider, engine in comparisons.engines.items():
        counts = np.zeros(3, np.int64)
        for turn, landing in enumerate(
            landings(
                engine,
                comparisons.model,
                comparisons.decision,
                real,
                batch_size=comparisons.max_batch_size,
                provider=provider,
            ),
            start=1,
        ):
            comparisons.add(
                f"thresholds moved onto real rows, {turn}: NumPy = {provider.name}",
                lambda: (landing.reference, landing.got),  # noqa: B023
                rows="head",
                decision=landing.decision,
                provider=provider,
            )
            counts += (landing.num_on, landing.num_below, landing.num_above)
        comparisons.notes.append(
            f"{provider.name}: of {comparisons.decision.num_labels} labels a real row's "
            f"probability lay on the moved threshold for {counts[0]}, one float32 step below it "
            f"for {counts[1]}, one above for {counts[2]}"
        )


def _report(
    comparisons: Comparisons, *, layers: bool, evidence: Path | None, real: Inputs | None
) -> ParityReport:
    """Return everything; where something failed, look for the node and save the rows."""
    failed, worst = comparisons.failed, comparisons.worst
    departure = None
    if real is not None and (comparisons.has_departed if failed else layers):
        comparisons.progress("Comparing node by node")
        at_hand = worst is not None and set(worst.inputs) == set(real)
        departure = find_departure(
            comparisons.model,
            take(worst.inputs if worst and at_hand else real, slice(0, _NUM_LAYER_ROWS)),
            program=None if comparisons.torch is None else comparisons.torch.program,
            tolerances=comparisons.tolerances,
        )
    if comparisons.rounding is not None and comparisons.rounding.note is not None:
        comparisons.notes.append(comparisons.rounding.note)
    report = ParityReport(
        checks=tuple(comparisons.checks),
        engines=tuple(provider.name for provider in comparisons.engines),
        providers=tuple(provider.describe() for provider in comparisons.engines),
        decision=comparisons.decision,
        precision=comparisons.precision,
        tolerances=comparisons.tolerances,
        faults=tuple(comparisons.faults),
        notes=tuple(comparisons.notes),
        departure=departure,
        worst=worst,
        flipped=comparisons.flipped,
        evidence=evidence if failed else None,
    )
    if report.evidence is not None:
        write_evidence(report, report.evidence)
    return report


def _batch_sizes(max_batch_size: int) -> Iterator[int]:
    """Yield batch sizes 1, 2, odd and large."""
    yield from sorted(size for size in {1, 2, ODD_BATCH_SIZE} if size <= max_batch_size)
    if max_batch_size not in {1, 2, ODD_BATCH_SIZE}:
        yield max_batch_size


def _rows(outputs: Outputs, rows: Any) -> Outputs:
    """Return the outputs of some rows."""
    return Outputs(
        probabilities_NL=outputs.probabilities_NL[rows],
        labels_NL=outputs.labels_NL[rows],
        logits_NL=None if outputs.logits_NL is None else outputs.logits_NL[rows],
    )
