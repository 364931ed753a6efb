"""The embedded onnxruntime backend on an NVIDIA GPU."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from support.gpu import why_no_gpu
from thresher_serving import (
    AsyncClient,
    Client,
    Prediction,
    RunningServer,
    find_runtime,
    start_server,
)

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(why_no_gpu()), reason=why_no_gpu())]

CONFIG = """
backend: "onnxruntime"
max_batch_size: 64
input { name: "x" data_type: TYPE_FP32 dims: 128 }
output { name: "probabilities" data_type: TYPE_FP32 dims: 20 }
output { name: "labels" data_type: TYPE_BOOL dims: 20 }
instance_group { count: 1 kind: KIND_GPU gpus: 0 }
optimization { execution_accelerators {
  gpu_execution_accelerator { name: "cuda" parameters { key: "use_tf32" value: "0" } } } }
parameters { key: "cudnn_conv_algo_search" value { string_value: "1" } }
dynamic_batching { max_queue_delay_microseconds: 50000 }
"""
ON_THE_DEVICE = """
parameters { key: "FORCE_CPU_ONLY_INPUT_TENSORS" value { string_value: "no" } }
"""
CONFIGS = {"through_the_host": CONFIG, "on_the_device": CONFIG + ON_THE_DEVICE}
"""By the model's name."""


ROWS = np.random.default_rng(1).normal(size=(200, 128)).astype(np.float32)


@pytest.fixture(scope="module")
def network() -> bytes:
    weights = np.random.default_rng(0).normal(0, 0.2, (128, 20)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "weights"], ["logits"]),
            helper.make_node("Sigmoid", ["logits"], ["probabilities"]),
            helper.make_node("GreaterOrEqual", ["probabilities", "thresholds"], ["labels"]),
        ],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 128])],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 20]),
            helper.make_tensor_value_info("labels", TensorProto.BOOL, ["batch", 20]),
        ],
        [
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(np.full(20, 0.4, np.float32), "thresholds"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


@pytest.fixture(scope="module")
def server(network: bytes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("models")
    for name, config in CONFIGS.items():
        (root / name / "1").mkdir(parents=True)
        (root / name / "1/model.onnx").write_bytes(network)
        (root / name / "config.pbtxt").write_text(config)
    running = start_server(
        root,
        runtime=find_runtime(),
        grpc_port=0,
        http_port=0,
        metrics_port=0,
        state_dir=tmp_path_factory.mktemp("state"),
        timeout_s=240,
    )
    yield running
    running.stop(timeout_s=5)


@pytest.fixture(scope="module")
def expected(network: bytes) -> np.ndarray:
    session = onnxruntime.InferenceSession(network, providers=["CPUExecutionProvider"])
    probabilities: np.ndarray = session.run(["probabilities"], {"x": ROWS})[0]
    return probabilities


def check(got: Prediction, expected: np.ndarray) -> None:
    np.testing.assert_allclose(got.probabilities, expected, atol=1e-5)
    np.testing.assert_array_equal(got.labels, got.probabilities >= np.float32(0.4))


@pytest.mark.parametrize("model", CONFIGS)
def test_a_gpu_instance_answers_as_the_cpu_does(
    server: RunningServer, expected: np.ndarray, model: str
) -> None:
    with Client(server.grpc_url) as client:
        check(client.predict(model, ROWS), expected)


@pytest.mark.parametrize("model", CONFIGS)
def test_requests_that_triton_joins_are_each_answered_right(
    server: RunningServer, expected: np.ndarray, model: str
) -> None:
    async def side_by_side() -> list[Prediction]:
        async with AsyncClient(server.grpc_url) as client:
            return await asyncio.gather(
                *(client.predict(model, ROWS[n : n + 1]) for n in range(64))
            )

    for n, answer in enumerate(asyncio.run(side_by_side())):
        check(answer, expected[n : n + 1])


def test_the_gpu_is_used_and_each_key_honoured(server: RunningServer) -> None:
    assert "not honoured" not in Path(server.log_file).read_text(errors="replace")
