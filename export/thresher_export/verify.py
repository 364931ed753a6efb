"""A published version against the one that was validated, engine by engine.

The rows are those of a whole split, as training kept it, or a user's own file.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from thresher.agreement import Agreement, Outputs, compare
from thresher.artifacts.input_spec import InputSpec
from thresher.decision import FloatArray
from thresher.errors import NotFoundError, ParityError, counted
from thresher.evaluation import EvaluationSplit
from thresher.registry import ModelVersion, resolve
from thresher.repository import ModelRepository
from thresher.tables.csv_files import CsvOptions
from thresher_export.engines import Inputs, OnnxRuntimeEngine, TorchEngine, providers_at_hand
from thresher_export.head import read_decision
from thresher_export.onnx_file import load_model
from thresher_export.precision import tolerances_of
from thresher_export.rows_file import LabelledRows, read_labelled_rows

__all__ = ["Engine", "Verification", "verify_version"]

Engine = Callable[[Inputs], Outputs]
"""Rows by input name to what the engine gives for them."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Verification:
    """What each engine gave, and how far each pair of them agrees."""

    version: ModelVersion
    split_name: str
    """``"test"``, ``"validation"``, or the file that was given."""
    split: EvaluationSplit
    """Its rows; targets are NaN where a file has none."""
    outputs: Mapping[str, Outputs]
    """By engine: "torch", "ONNX Runtime" and what else was asked."""
    agreements: Mapping[tuple[str, str], Agreement]
    """By pair of engines."""

    @property
    def num_flips(self) -> int:
        """Decisions that differ, summed over the pairs."""
        return sum(agreement.num_flips for agreement in self.agreements.values())

    def problems(self) -> list[str]:
        """Return what is wrong, a sentence each."""
        return [
            f"{a} = {b}: {text}"
            for (a, b), agreement in self.agreements.items()
            for text in agreement.problems()
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return the outcome as plain values for JSON."""
        return {
            "model": self.version.name,
            "version": self.version.version,
            "split": self.split_name,
            "num_rows": len(self.split),
            "num_labels": self.split.targets_NL.shape[1],
            "decisions": self.split.targets_NL.size,
            "decision_flips": self.num_flips,
            "band_half_width": max(
                (a.band_half_width for a in self.agreements.values()), default=0.0
            ),
            "ok": not self.problems(),
            "problems": self.problems(),
            "pairs": [
                {"engines": list(pair), **agreement.to_dict()}
                for pair, agreement in self.agreements.items()
            ],
        }


def verify_version(
    name: str,
    version: int,
    repository: ModelRepository,
    *,
    split_name: str = "test",
    data: str | Path | None = None,
    csv: CsvOptions | None = None,
    engines: Mapping[str, Engine] | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Verification:
    """Return how torch, ONNX Runtime and further engines agree on every row of a split.

    Args:
        name: The model.
        version: Its number, in MLflow and in the repository.
        repository: Where it is published.
        split_name: ``"test"`` or ``"validation"``.
        data: Files of rows instead of a split: Parquet, Arrow, CSV, ARFF, NPZ or pictures, whose
            columns become inputs as in training.
        csv: How CSV files of ``data`` are written.
        engines: Further engines by name, such as a running server.
        progress: Called with a line for each engine before it runs.

    Raises:
        NotFoundError: If the version is not registered or not published; says what is.
        ParityError: If what is published is not what was proven, or decides otherwise than the
            registered version; before any row is run.
        DataError: If the file's rows do not fit the model.
    """
    published = repository.decision(name, version)
    repository.check_proven(name, version)
    registered = resolve(f"models:/{name}/{version}")
    decision = registered.decision()
    path = repository.model_file(name, version)
    if not path.is_file():
        raise NotFoundError(f"{path}: no such file, though config.pbtxt names the version")
    model = onnx.load(path, load_external_data=False)
    in_file = read_decision(model)
    for where, other in (("config.pbtxt", published), ("model.onnx", in_file)):
        if other != decision:
            raise ParityError(
                f"{name}/{version}: the decision in {where} is not the one that is registered "
                f"(run {registered.run_id}). Export the version again under a new number"
            )
    given = None
    if data is not None:
        spec = InputSpec.load(path.parent)
        given = read_labelled_rows(
            data, model, decision.labels, spec=spec, folder=path.parent, csv=csv
        )
    split = None if given else registered.evaluation(split_name)
    inputs = given.inputs if given else split.inputs if split else {}
    num_rows = len(next(iter(inputs.values())))
    batch_size = max(1, repository.read_config(name).max_batch_size)
    progress(f"torch: {counted(num_rows, 'row')}")
    from thresher_export.convert import load_program

    program = load_program(registered.program_file())
    logits_NL = TorchEngine(program).logits(inputs, batch_size=batch_size)
    outputs = {"torch": Outputs.of_logits(logits_NL, decision)}
    for provider in providers_at_hand():
        progress(f"{provider.name}: {counted(num_rows, 'row')}")
        onnx_runtime = OnnxRuntimeEngine(path, provider)
        outputs[provider.name] = onnx_runtime.run(inputs, batch_size=batch_size)
    for engine_name, engine in (engines or {}).items():
        progress(f"{engine_name}: {counted(num_rows, 'row')}")
        outputs[engine_name] = engine(inputs)
    if split is None:
        split = EvaluationSplit(
            inputs=inputs, targets_NL=_targets(given, logits_NL), logits_NL=logits_NL
        )
    tolerances = tolerances_of(load_model(path))
    return Verification(
        version=registered,
        split_name=split_name if data is None else Path(data).name,
        split=split,
        outputs=outputs,
        agreements={
            (a, b): compare(
                outputs[a],
                outputs[b],
                decision,
                tolerances=tolerances,
                targets_NL=split.targets_NL,
            )
            for a, b in itertools.combinations(outputs, 2)
        },
    )


def _targets(given: LabelledRows | None, logits_NL: FloatArray) -> FloatArray:
    """Return the file's targets, or NaN, which is unknown, for each."""
    if given is not None and given.targets_NL is not None:
        return given.targets_NL
    return np.full_like(logits_NL, np.nan)
