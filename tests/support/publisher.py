"""A publisher in a process of its own, which a fault point can kill."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import onnx_ir as ir
from google.protobuf import text_format
from onnx import TensorProto, helper
from tritonclient.grpc import model_config_pb2

from thresher import Decision
from thresher.certificate import CERTIFICATE_FILE, Certificate, file_digest
from thresher.durable import FAULT_POINT
from thresher.repository import MODEL_FILE, ModelRepository

__all__ = ["Publication", "publication", "start_publisher"]


@dataclass(frozen=True)
class Publication:
    """A version that can be published: a model that gives its inputs as logits."""

    name: str
    version: int
    model: bytes
    config: str
    decision: str


def publication(name: str, version: int, labels: Sequence[str]) -> Publication:
    """Return a version whose thresholds are its number's own."""
    from thresher_export.head import append_decision_head
    from thresher_export.triton_config import build_config
    from thresher_export.triton_options import TritonOptions

    shape = ["batch", len(labels)]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["features"], ["logits"])],
        "logits",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
    )
    body = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    decision = Decision(labels=labels, thresholds=[version / 10] * len(labels))
    model = ir.to_proto(append_decision_head(ir.from_proto(body), decision))
    options = TritonOptions(instance_count=1)
    config = build_config(model, decision, name=name, version=version, options=options)
    return Publication(
        name=name,
        version=version,
        model=model.SerializeToString(deterministic=True),
        config=text_format.MessageToString(config),
        decision=decision.to_json(),
    )


def publish(root: Path, what: Publication) -> bool:
    """Publish as export does: files and certificate made in staging."""
    repository = ModelRepository(root)
    decision = Decision.from_json(what.decision, where="test")
    with repository.staging(what.name) as staged:
        (staged / MODEL_FILE).write_bytes(what.model)
        certificate = Certificate(
            model=what.name,
            version=what.version,
            source="test",
            precision="fp32",
            files={MODEL_FILE: file_digest(staged / MODEL_FILE)},
            decision_sha256=decision.digest,
            weights_sha256="",
            data_sha256={},
            engines=(),
            tools={},
            num_rows=0,
            num_decisions=0,
            num_flips=0,
            band_half_width=0.0,
            created="2026-01-01T00:00:00+00:00",
        )
        (staged / CERTIFICATE_FILE).write_text(certificate.to_json())
        config = text_format.Parse(what.config, model_config_pb2.ModelConfig())
        return repository.publish(what.name, what.version, staged, config, decision)


def _run(root: str, what: Publication, fault: str | None, answer: Any, go: Any) -> None:
    if fault is not None:
        os.environ[FAULT_POINT] = fault
    if go is not None:
        go.wait()
    is_new = publish(Path(root), what)
    if answer is not None:
        answer.put(is_new)


def start_publisher(
    root: Path, what: Publication, *, fault: str | None = None, answer: Any = None, go: Any = None
) -> BaseProcess:
    """Start a publisher; its exit code is -9 where it came to the fault point.

    Args:
        root: The repository.
        what: What it publishes.
        fault: The fault point at which it dies.
        answer: A queue for what `ModelRepository.publish` returned.
        go: A barrier to begin at.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=_run, args=(str(root), what, fault, answer, go))
    process.start()
    return process
