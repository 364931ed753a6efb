"""Publishes versions that differ in weights, thresholds or labels, with golden rows.

The network adds a version's own number to its input, so every answer tells which version gave it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from thresher import Decision
from thresher.certificate import CERTIFICATE_FILE, Certificate, file_digest
from thresher.evaluation import EvaluationSplit
from thresher.golden import GOLDEN_FILE
from thresher.repository import MODEL_FILE, ModelRepository
from thresher.served_state import ServedState

LABELS = ("rain", "fog", "snow")

ROWS = np.float32([[-2, -1, 0], [1, 0.5, -0.5], [-1.5, -3, 2], [0.1, 0.2, 0.3]])


def offset(version: int) -> np.float32:
    """Return what a version's network adds to its input, exactly representable."""
    return np.float32((version % 64) / 32)


def publish_version(
    root: Path,
    name: str,
    version: int,
    *,
    thresholds: float | Sequence[float] = 0.5,
    weights_of: int | None = None,
    labels: Sequence[str] = LABELS,
    golden: str = "right",
    certificate: bool = True,
    model: bytes | None = None,
    slow_load: int = 0,
    copies: int = 1,
    serve: bool = False,
    since: ServedState | None = None,
) -> Decision:
    """Publish a version beside what serves; return what it decides.

    Args:
        root: The model repository.
        name: The model.
        version: The version.
        thresholds: One for each label, or one for all.
        weights_of: The version whose weights it has; its own where left out.
        labels: Names of the labels.
        golden: "right", "wrong" or "none".
        certificate: Whether it has one.
        model: The file's bytes instead of a network that works.
        slow_load: How many rows Triton runs before it calls the version ready.
        copies: In how many processes it is served; each takes its time to start.
        serve: Whether it takes the place of what serves on the disk.
        since: What served when the version was chosen.
    """
    from thresher_export.head import append_decision_head
    from thresher_export.triton_config import build_config
    from thresher_export.triton_options import TritonOptions

    added = offset(version if weights_of is None else weights_of)
    decision = Decision(labels=labels, thresholds=np.broadcast_to(thresholds, len(labels)))
    shape = ["batch", len(labels)]
    graph = helper.make_graph(
        [helper.make_node("Add", ["features", "number"], ["logits"])],
        "logits",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(added, "number")],
    )
    body = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    network: onnx.ModelProto = ir.to_proto(append_decision_head(ir.from_proto(body), decision))
    repository = ModelRepository(root)
    options = TritonOptions(instance_count=copies)
    config = build_config(network, decision, name=name, version=version, options=options)
    if slow_load:
        sample = config.model_warmup.add(name="slow", batch_size=1, count=slow_load)
        sample.inputs["features"].data_type = config.input[0].data_type
        sample.inputs["features"].dims.append(len(labels))
        sample.inputs["features"].zero_data = True
    with repository.staging(name) as staged:
        (staged / MODEL_FILE).write_bytes(model or network.SerializeToString(deterministic=True))
        if golden != "none":
            rows = np.resize(ROWS, (len(ROWS), len(labels)))
            wrong = np.float32(3 if golden == "wrong" else 0)
            EvaluationSplit(
                inputs={"features": rows},
                targets_NL=np.zeros_like(rows),
                logits_NL=rows + added + wrong,
            ).save(staged / GOLDEN_FILE)
        if certificate:
            write_certificate(staged, name, version, decision)
        repository.publish(name, version, staged, config, decision, serve=serve, since=since)
    return decision


def write_certificate(folder: Path, name: str, version: int, decision: Decision) -> None:
    """Write a certificate of all files in a folder."""
    facts: dict[str, Any] = {
        "model": name,
        "version": version,
        "source": "test",
        "precision": "fp32",
        "files": {path.name: file_digest(path) for path in folder.iterdir()},
        "decision_sha256": decision.digest,
        "weights_sha256": "",
        "data_sha256": {},
        "engines": (),
        "tools": {},
        "num_rows": 0,
        "num_decisions": 0,
        "num_flips": 0,
        "band_half_width": 0.0,
        "created": "2026-01-01T00:00:00+00:00",
    }
    (folder / CERTIFICATE_FILE).write_text(Certificate(**facts).to_json())
