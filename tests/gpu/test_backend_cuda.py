"""The Python-based onnxruntime backend on an NVIDIA GPU."""

from __future__ import annotations

import ctypes
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from thresher_serving import Client, RunningServer, find_runtime, start_server


def why_no_gpu() -> str:
    """Return why this machine cannot run these tests; empty if it can."""
    if shutil.which("nvidia-smi") is None:
        return "no nvidia-smi"
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no libcuda.so.1"
    version = ctypes.c_int(0)
    if driver.cuDriverGetVersion(ctypes.byref(version)) or version.value < 13000:
        return f"ONNX Runtime's CUDA provider needs a CUDA 13 driver, got {version.value}"
    return ""


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
"""


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
    (root / "dense/1").mkdir(parents=True)
    (root / "dense/1/model.onnx").write_bytes(network)
    (root / "dense/config.pbtxt").write_text(CONFIG)
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


def test_a_gpu_instance_answers_as_the_cpu_does(server: RunningServer, network: bytes) -> None:
    x = np.random.default_rng(1).normal(size=(200, 128)).astype(np.float32)
    session = onnxruntime.InferenceSession(network, providers=["CPUExecutionProvider"])
    (expected,) = session.run(["probabilities"], {"x": x})
    with Client(server.grpc_url) as client:
        got = client.predict("dense", x)
    np.testing.assert_allclose(got.probabilities, expected, atol=1e-5)
    np.testing.assert_array_equal(got.labels, got.probabilities >= np.float32(0.4))


def test_the_gpu_is_used_and_each_key_honoured(server: RunningServer) -> None:
    assert "not honoured" not in Path(server.log_file).read_text(errors="replace")
