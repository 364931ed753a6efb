"""A published version against the one that was validated, engine by engine, on a whole split."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import onnx

from thresher.agreement import Agreement, Outputs, compare
from thresher.errors import NotFoundError, ParityError
from thresher.evaluation import EvaluationSplit
from thresher.registry import ModelVersion, resolve
from thresher.repository import ModelRepository
from thresher_export.engines import Inputs, OnnxRuntimeEngine, torch_logits
from thresher_export.head import read_decision

__all__ = ["Engine", "Verification", "verify_version"]

Engine = Callable[[Inputs], Outputs]
"""Rows by input name to what the engine gives for them."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Verification:
    """What each engine gave, and how far each pair of them agrees."""

    version: ModelVersion
    split_name: str
    split: EvaluationSplit
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
    engines: Mapping[str, Engine] | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Verification:
    """Return how torch, ONNX Runtime and further engines agree on every row of a split.

    Args:
        name: The model.
        version: Its number, in MLflow and in the repository.
        repository: Where it is published.
        split_name: ``"test"`` or ``"validation"``.
        engines: Further engines by name, such as a running server.
        progress: Called with a line for each engine before it runs.

    Raises:
        NotFoundError: If the version is not registered or not published; says what is.
        ParityError: If the published decision is not the registered one, before any row is run.
    """
    published = repository.decision(name, version)
    registered = resolve(f"models:/{name}/{version}")
    decision = registered.decision()
    path = repository.model_file(name, version)
    if not path.is_file():
        raise NotFoundError(f"{path}: no such file, though config.pbtxt names the version")
    in_file = read_decision(onnx.load(path, load_external_data=False))
    for where, other in (("config.pbtxt", published), ("model.onnx", in_file)):
        if other != decision:
            raise ParityError(
                f"{name}/{version}: the decision in {where} is not the one that is registered "
                f"(run {registered.run_id}). Export the version again under a new number"
            )
    split = registered.evaluation(split_name)
    batch_size = max(1, repository.read_config(name).max_batch_size)
    progress(f"torch: {len(split)} rows")
    from thresher_export.convert import load_program

    program = load_program(registered.model_folder() / "data" / "model.pt2")
    logits_NL = torch_logits(program, split.inputs, batch_size=batch_size)
    outputs = {"torch": Outputs.of_logits(logits_NL, decision)}
    progress(f"ONNX Runtime: {len(split)} rows")
    outputs["ONNX Runtime"] = OnnxRuntimeEngine(path).run(split.inputs, batch_size=batch_size)
    for engine_name, engine in (engines or {}).items():
        progress(f"{engine_name}: {len(split)} rows")
        outputs[engine_name] = engine(split.inputs)
    return Verification(
        version=registered,
        split_name=split_name,
        split=split,
        outputs=outputs,
        agreements={
            (a, b): compare(outputs[a], outputs[b], decision)
            for a, b in itertools.combinations(outputs, 2)
        },
    )
