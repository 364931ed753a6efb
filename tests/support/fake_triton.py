"""A gRPC server of Triton's protocol whose one model can be exchanged between two requests.

It stands for what a real one cannot be made to do at a chosen moment: to answer with another model
of the same version over the same connection, and to send a checksum or not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

from thresher import Decision

NAME = "weather"


def fnv_1a(data: bytes) -> str:
    """Return 64 bits of FNV-1a, as in the draft: written here a second time."""
    value = 14695981039346656037
    for byte in data:
        value = ((value ^ byte) * 1099511628211) % 2**64
    return format(value, "016x")


@dataclass
class FakeTriton:
    """What it serves, and what it was asked."""

    decision: Decision
    sends_checksum: bool = True
    calls: Counter[str] = field(default_factory=Counter)
    next_decision: Decision | None = None
    """Takes the place of `decision` after the next inference."""
    alternates: bool = False
    """Whether a reversed decision and this one take turns, one inference each."""
    url: str = ""

    @property
    def parameter(self) -> str:
        return self.decision.to_json()


class _Service(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    def __init__(self, state: FakeTriton) -> None:
        self._state = state

    def ModelMetadata(self, request: Any, context: Any) -> Any:
        self._state.calls["metadata"] += 1
        tensor = service_pb2.ModelMetadataResponse.TensorMetadata
        return service_pb2.ModelMetadataResponse(
            name=NAME,
            versions=["1"],
            inputs=[tensor(name="x", datatype="FP32", shape=[-1, 3])],
            outputs=[
                tensor(name="probabilities", datatype="FP32", shape=[-1, 3]),
                tensor(name="labels", datatype="BOOL", shape=[-1, 3]),
            ],
        )

    def ModelConfig(self, request: Any, context: Any) -> Any:
        self._state.calls["config"] += 1
        response = service_pb2.ModelConfigResponse()
        response.config.name, response.config.max_batch_size = NAME, 4
        parameters = response.config.parameters
        parameters["thresher.decision/1"].string_value = self._state.parameter
        return response

    def ModelInfer(self, request: Any, context: Any) -> Any:
        state = self._state
        state.calls["infer"] += 1
        logits = np.frombuffer(request.raw_input_contents[0], np.float32).reshape(-1, 3)
        probabilities = (1 / (1 + np.exp(-logits))).astype(np.float32)
        response = service_pb2.ModelInferResponse(model_name=NAME, model_version="1")
        for name, datatype, array in (
            ("probabilities", "FP32", probabilities),
            ("labels", "BOOL", probabilities >= state.decision.thresholds),
        ):
            response.outputs.add(name=name, datatype=datatype, shape=array.shape)
            response.raw_output_contents.append(array.tobytes())
        if state.sends_checksum:
            checksum = fnv_1a(state.parameter.encode())
            response.parameters["thresher.decision"].string_param = checksum
        if state.next_decision is not None:
            state.decision, state.next_decision = state.next_decision, None
        if state.alternates:
            now = state.decision
            state.decision = Decision(labels=now.labels[::-1], thresholds=now.thresholds.tolist())
        return response


@contextmanager
def fake_triton(decision: Decision, *, sends_checksum: bool) -> Iterator[FakeTriton]:
    """Run a server until the block ends."""
    state = FakeTriton(decision, sends_checksum)
    server = grpc.server(ThreadPoolExecutor(1))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(_Service(state), server)
    state.url = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield state
    finally:
        server.stop(0).wait()
