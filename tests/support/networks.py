"""Small networks with a decision head, published as export does it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from support.versions import write_certificate
from thresher import Decision
from thresher.artifacts.input_spec import InputSpec
from thresher.certificate import CERTIFICATE_FILE, file_digest
from thresher.published_models import PublishedModels
from thresher.repository import MODEL_FILE, ModelRepository
from thresher_export.head import append_decision_head
from thresher_export.triton_config import build_config
from thresher_serving.scoring import ScoredVersion

__all__ = ["publish_network"]

Node = tuple[str, Sequence[str], Sequence[str]]


def publish_network(
    root: Path,
    nodes: Sequence[tuple[Any, ...]],
    inputs: Mapping[str, tuple[int, Sequence[int | str]]],
    *,
    constants: Mapping[str, Any] | None = None,
    labels: Sequence[str] = ("a", "b"),
    spec: InputSpec | None = None,
    files: Mapping[str, bytes] | None = None,
    name: str = "net",
) -> ScoredVersion:
    """Publish a network that ends in ``logits`` [batch, labels]; return it for scoring.

    Args:
        root: The model repository.
        nodes: Operator, inputs, outputs, and optionally attributes, of each node.
        inputs: ONNX type and shape of each input, without the rows.
        constants: Arrays by name.
        labels: Names of the labels; each has the threshold 0.5.
        spec: How columns become inputs.
        files: What else is published with it.
        name: The model's name.
    """
    graph = helper.make_graph(
        [helper.make_node(op, i, o, **dict(*more)) for op, i, o, *more in nodes],
        "graph",
        [
            helper.make_tensor_value_info(n, k, ["batch", *shape])
            for n, (k, shape) in inputs.items()
        ],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(labels)])],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in (constants or {}).items()],
    )
    body = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    decision = Decision(labels=labels, thresholds=[0.5] * len(labels))
    model = ir.to_proto(append_decision_head(ir.from_proto(body), decision))
    repository = ModelRepository(root)
    with repository.staging(name) as staged:
        (staged / MODEL_FILE).write_bytes(model.SerializeToString(deterministic=True))
        if spec is not None:
            (staged / "inputs.json").write_text(spec.to_json())
        for file, content in (files or {}).items():
            (staged / file).write_bytes(content)
        write_certificate(staged, name, 1, decision)
        facts = {"certificate_sha256": file_digest(staged / CERTIFICATE_FILE)}
        if spec is not None:
            facts["inputs"] = spec.for_configuration().to_json()
        config = build_config(model, decision, name=name, version=1, facts=facts)
        repository.publish(name, 1, staged, config, decision, serve=True)
    return ScoredVersion.published(PublishedModels(root), name, 1)
