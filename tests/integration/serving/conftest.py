"""A model repository of small ONNX models, and one real Triton that serves it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto

from support.backend import SANITIZERS, sanitized, with_compiled_backend
from support.served_models import BOOL, FLOAT, INT64, PAIR, config, identity, network
from thresher import Decision
from thresher_serving import Client, RunningServer, Runtime, find_runtime, start_server

LABELS = ("rain", "fog", "snow")


def head(thresholds: np.ndarray) -> bytes:
    """Return a network that gives its input as logits, and the decision on them."""
    shape = ("batch", 3)
    return network(
        [
            ("Identity", ["x"], ["logits"], {}),
            ("Sigmoid", ["x"], ["probabilities"], {}),
            ("GreaterOrEqual", ["probabilities", "thresholds"], ["labels"], {}),
        ],
        {"x": (FLOAT, shape)},
        {
            "logits": (FLOAT, shape),
            "probabilities": (FLOAT, shape),
            "labels": (BOOL, shape),
        },
        {"thresholds": thresholds},
    )


HEAD_IO = """
input { name: "x" data_type: TYPE_FP32 dims: 3 }
output { name: "logits" data_type: TYPE_FP32 dims: 3 }
output { name: "probabilities" data_type: TYPE_FP32 dims: 3 label_filename: "labels.txt" }
output { name: "labels" data_type: TYPE_BOOL dims: 3 }
"""


def decision_parameter(version: int, decision: Decision) -> str:
    """Return the parameter that tells a version's decision."""
    text = json.dumps(decision.to_json())
    return f'parameters {{ key: "thresher.decision/{version}" value {{ string_value: {text} }} }}\n'


Publish = Callable[..., Path]


@pytest.fixture(scope="session")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    installed = find_runtime()
    if "THRESHER_TEST_SANITIZERS" in os.environ:  # set by test_backend_sanitizers.py
        folder = tmp_path_factory.mktemp("backends")
        return sanitized(with_compiled_backend(installed, folder, *SANITIZERS))
    return installed


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("model_repository")


@pytest.fixture(scope="session")
def publish(repository: Path) -> Publish:
    """Write a model's version, and its config.pbtxt if there is one to write."""

    def write(
        name: str,
        model: bytes,
        text: str | None = None,
        *,
        version: int = 1,
        file: str = "model.onnx",
        root: Path = repository,
    ) -> Path:
        folder = root / name
        (folder / str(version)).mkdir(parents=True, exist_ok=True)
        (folder / str(version) / file).write_bytes(model)
        if text is not None:
            (folder / "config.pbtxt").write_text(text)
        return folder

    return write


@pytest.fixture(scope="session")
def decisions() -> dict[int, Decision]:
    """Two versions' decisions; each threshold is exactly the probability of some logit."""
    logits = np.float32([[0.3, -1.7, 2.1], [-0.2, 0.9, -3.3]])
    model = head(np.zeros(3, np.float32))
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    exact = session.run(["probabilities"], {"x": logits})[0]
    return {1: Decision(labels=LABELS, thresholds=exact[0]),
            2: Decision(labels=LABELS, thresholds=exact[1])}  # fmt: skip


@pytest.fixture(scope="session")
def zoo(publish: Publish, decisions: dict[int, Decision]) -> list[str]:
    """Publish the models that the tests share; return their names."""
    both = "".join(decision_parameter(v, d) for v, d in decisions.items())
    for version, decision in decisions.items():
        text = config(HEAD_IO + both + "version_policy { all {} }\ndynamic_batching {}\n")
        folder = publish("weather", head(decision.thresholds), text, version=version)
        (folder / "labels.txt").write_text("\n".join(LABELS) + "\n")
    folder = publish("unnamed", head(decisions[1].thresholds), config(HEAD_IO))
    (folder / "labels.txt").write_text("\n".join(LABELS) + "\n")

    picking = network(
        [("Gather", ["table", "index"], ["value"], {"axis": 0})],
        {"index": (INT64, ("batch", 1))},
        {"value": (FLOAT, ("batch", 1))},
        {"table": np.float32([10, 11, 12, 13])},
    )
    queue = "dynamic_batching { max_queue_delay_microseconds: 300000 preferred_batch_size: 8 }\n"
    picking_io = """
    input { name: "index" data_type: TYPE_INT64 dims: 1 }
    output { name: "value" data_type: TYPE_FP32 dims: 1 }
    """
    publish("picking", picking, config(picking_io + queue, batch=8))
    total = network(
        [("ReduceSum", ["x", "axis"], ["total"], {"keepdims": 1})],
        {"x": (FLOAT, ("batch", "width"))},
        {"total": (FLOAT, ("batch", 1))},
        {"axis": np.int64([1])},
    )
    total_io = """
    input { name: "x" data_type: TYPE_FP32 dims: -1 }
    output { name: "total" data_type: TYPE_FP32 dims: 1 }
    """
    publish("total", total, config(total_io + queue, batch=8))
    both_inputs = network(
        [("Add", ["x", "far"], ["y"], {})],
        {"x": (FLOAT, ("batch", 2)), "far": (FLOAT, ("batch", 1))},
        {"y": (FLOAT, ("batch", 2))},
    )
    publish("two", both_inputs, config(PAIR + 'input { name: "far" data_type: TYPE_FP32 dims: 1 }'))

    keys = """
    parameters { key: "intra_op_thread_count" value { string_value: "1" } }
    parameters { key: "inter_op_thread_count" value { string_value: "2" } }
    parameters { key: "execution_mode" value { string_value: "1" } }
    parameters { key: "enable_mem_arena" value { string_value: "1" } }
    parameters { key: "enable_mem_pattern" value { string_value: "false" } }
    parameters { key: "memory.enable_memory_arena_shrinkage" value { string_value: "cpu:0" } }
    parameters { key: "session.intra_op.allow_spinning" value { string_value: "0" } }
    parameters { key: "somebody.note" value { string_value: "hello" } }
    parameters { key: "intra_op_threads" value { string_value: "1" } }
    parameters { key: "gpu_mem_limit" value { string_value: "1000000" } }
    optimization {
      graph { level: 1 }
      execution_accelerators {
        gpu_execution_accelerator { name: "tensorrt"
          parameters { key: "precision_mode" value: "FP16" } }
        gpu_execution_accelerator { name: "cuda" parameters { key: "use_tf32" value: "0" } }
        cpu_execution_accelerator { name: "openvino" }
      }
    }
    instance_group { count: 2 kind: KIND_CPU }
    default_model_filename: "net.onnx"
    """
    publish("keys", identity(FLOAT), config(PAIR + keys), file="net.onnx")
    warm = """
    model_warmup { name: "zeros" batch_size: 2 count: 3
      inputs { key: "x" value { data_type: TYPE_FP32 dims: 2 zero_data: true } } }
    """
    publish("warm", identity(FLOAT), config(PAIR + warm))
    publish("bare", identity(FLOAT))
    publish("bare_fixed", identity(FLOAT, (3, 2)))
    publish(
        "bare_rows", identity(FLOAT, ("batch",)), 'backend: "onnxruntime"\nmax_batch_size: 16\n'
    )
    publish("halves", identity(FLOAT), config('input { name: "x" data_type: TYPE_FP32 dims: 2 }'))
    publish("folder", identity(FLOAT, ("batch", 2)), config(PAIR), file="unused")
    inner = publish("folder", b"") / "1" / "model.onnx"
    inner.unlink()
    inner.mkdir()
    (inner / "model.onnx").write_bytes(identity(FLOAT))
    for name, kind in {
        "fp16": TensorProto.FLOAT16,
        "int8": TensorProto.INT8,
        "bool": TensorProto.BOOL,
        "fp64": TensorProto.DOUBLE,
        "string": TensorProto.STRING,
    }.items():
        typed = PAIR.replace("FP32", name.upper())
        publish(f"type_{name}", identity(kind), config(typed))
    mean = network(
        [("ReduceMean", ["x"], ["y"], {"keepdims": 0})],
        {"x": (FLOAT, (2, "any"))},
        {"y": (FLOAT, ())},
    )
    unbatched = """
    input { name: "x" data_type: TYPE_FP32 dims: [2, -1] }
    output { name: "y" data_type: TYPE_FP32 dims: 1 }
    """
    publish("unbatched", mean, config(unbatched, batch=0))
    names = ["weather", "unnamed", "picking", "total", "two", "keys", "warm", "folder"]
    names += ["bare", "bare_fixed", "bare_rows", "halves", "unbatched"]
    return names + [f"type_{kind}" for kind in ("fp16", "int8", "bool", "fp64", "string")]


@pytest.fixture(scope="session")
def broken(publish: Publish) -> dict[str, str]:
    """Publish models that cannot be loaded; return what each one's reason must say."""
    pair = identity(FLOAT)
    cases = {
        "dtype": (PAIR.replace("FP32", "FP64", 1), "configuration expects datatype TYPE_FP64"),
        "input_name": (PAIR.replace('"x"', '"z"'), "input ['x'] is not in the configuration"),
        "output_name": (PAIR.replace('"y"', '"z"'), "'z' is not in the model, which has ['y']"),
        "dims": (PAIR.replace("dims: 2", "dims: 5", 1), "shape [-1, 2], the configuration [-1, 5]"),
        "ragged": (
            PAIR.replace("dims: 2", "dims: 2 allow_ragged_batch: true", 1),
            "needs NVIDIA's C++ onnxruntime backend",
        ),
        "mode": (
            PAIR + 'parameters { key: "execution_mode" value { string_value: "2" } }',
            'execution_mode is "2", expected "0" or "1"',
        ),
        "accelerator": (
            PAIR + "optimization { execution_accelerators { "
            'gpu_execution_accelerator { name: "rocket" } } }',
            "unknown Execution Accelerator 'rocket'",
        ),
    }
    expected = {}
    for name, (text, reason) in cases.items():
        publish(f"bad_{name}", pair, config(text))
        expected[f"bad_{name}"] = reason
    publish("bad_axis", identity(FLOAT, (1, 2)), config(PAIR))
    expected["bad_axis"] = "max_batch_size > 0 needs a first axis of -1"
    publish("bad_bytes", b"not an ONNX model", config(PAIR))
    expected["bad_bytes"] = "Protobuf parsing failed"
    publish("bad_file", pair, config(PAIR), file="other.onnx")
    expected["bad_file"] = "unable to find"
    return expected


@pytest.fixture(scope="session")
def server(
    repository: Path,
    runtime: Runtime,
    zoo: list[str],
    broken: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[RunningServer]:
    running = start_server(
        repository,
        runtime=runtime,
        grpc_port=0,
        http_port=0,
        metrics_port=0,
        models=[*zoo, *broken],
        state_dir=tmp_path_factory.mktemp("state"),
    )
    yield running
    running.stop(timeout_s=0.1)


@pytest.fixture(scope="session")
def client(server: RunningServer) -> Iterator[Client]:
    with Client(server.grpc_url) as shared:
        yield shared
