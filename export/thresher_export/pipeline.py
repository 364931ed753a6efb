"""A registered version to a published one: convert, append the head, prove, publish."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from thresher.errors import DecisionError, PublishError
from thresher.registry import ModelVersion, resolve
from thresher.repository import MODEL_FILE, ModelRepository
from thresher_export.convert import convert, load_program
from thresher_export.head import append_decision_head
from thresher_export.parity import ParityReport, prove_parity
from thresher_export.triton_config import TritonOptions, build_config

__all__ = ["Exported", "export_version"]

PARITY_FILE = "parity.json"
SPLITS = ("validation", "test")

_MAX_PROTOBUF_BYTES = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What an export did."""

    version: ModelVersion
    model: onnx.ModelProto
    """The ONNX model with its head."""
    report: ParityReport
    folder: Path | None
    """The published version's folder, None where nothing was to be published."""
    is_new: bool
    """False where the very same version was published already."""


def export_version(
    uri: str,
    *,
    repository: ModelRepository | None,
    options: TritonOptions | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Exported:
    """Convert a registered version, prove that it decides as validated, and publish it.

    Args:
        uri: ``models:/NAME/N`` or ``models:/NAME@ALIAS``.
        repository: Where to publish; None proves without publishing.
        options: How Triton is to run the model.
        progress: Called with a line for each step before it runs.

    Raises:
        NotFoundError: If the version does not exist or lacks what training logs.
        ConversionError: If the network cannot be an ONNX model that Triton loads.
        ParityError: If ONNX Runtime does not decide as torch does; nothing is published.
        PublishError: If the repository refuses; what served before is untouched.
    """
    options = options or TritonOptions()
    version = resolve(uri)
    decision = version.decision()
    splits = {name: version.evaluation(name) for name in SPLITS}
    for name, split in splits.items():
        if split.logits_NL.shape[1] != decision.num_labels:
            raise DecisionError(
                f"{version.uri}: decision.json has {decision.num_labels} labels, the {name} split "
                f"has {split.logits_NL.shape[1]}"
            )
    progress(f"Converting {version.uri} to ONNX")
    program = load_program(version.model_folder() / "data" / "model.pt2")
    model = append_decision_head(ir.to_proto(convert(program)), decision)
    if model.ByteSize() > _MAX_PROTOBUF_BYTES:
        raise PublishError(
            f"{version.uri}: the ONNX model is above 2 GB, which one file cannot hold"
        )
    report = prove_parity(
        program,
        model,
        decision,
        splits,
        max_batch_size=options.max_batch_size,
        progress=lambda name: progress(f"Parity: {name}"),
    )
    report.raise_if_failed(version.uri)
    if repository is None:
        return Exported(version=version, model=model, report=report, folder=None, is_new=False)
    config = build_config(
        model, decision, name=version.name, version=version.version, options=options
    )
    files = {
        MODEL_FILE: model.SerializeToString(deterministic=True),
        PARITY_FILE: json.dumps(report.to_dict(), indent=1).encode(),
    }
    is_new = repository.publish(version.name, version.version, files, config, decision)
    folder = repository.model_file(version.name, version.version).parent
    return Exported(version=version, model=model, report=report, folder=folder, is_new=is_new)
