"""How many rows got each label, as metrics of Triton."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from support.triton import triton
from thresher import Decision
from thresher_serving import Client, RunningServer, Runtime

LABELS = ("rain", "fog", "snow")
IO = """
backend: "onnxruntime"
max_batch_size: 4
input { name: "x" data_type: TYPE_FP32 dims: 3 }
output { name: "logits" data_type: TYPE_FP32 dims: 3 }
output { name: "probabilities" data_type: TYPE_FP32 dims: 3 }
output { name: "labels" data_type: TYPE_BOOL dims: 3 }
instance_group { count: 2 kind: KIND_CPU }
dynamic_batching {}
model_warmup { name: "zeros" batch_size: 3 count: 2
  inputs { key: "x" value { data_type: TYPE_FP32 dims: 3 random_data: true } } }
"""
Publish = Callable[..., Path]


@pytest.fixture(scope="module")
def network() -> bytes:
    """Return a network that gives its input as logits, decided at 0.5."""
    shape = ["batch", 3]
    nodes = [
        helper.make_node("Identity", ["x"], ["logits"]),
        helper.make_node("Sigmoid", ["x"], ["probabilities"]),
        helper.make_node("GreaterOrEqual", ["probabilities", "thresholds"], ["labels"]),
    ]
    kinds = {"logits": TensorProto.FLOAT, "probabilities": TensorProto.FLOAT}
    outputs = [
        helper.make_tensor_value_info(name, kinds.get(name, TensorProto.BOOL), shape)
        for name in ("logits", "probabilities", "labels")
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    thresholds = numpy_helper.from_array(np.full(3, 0.5, np.float32), "thresholds")
    graph = helper.make_graph(nodes, "graph", [x], outputs, [thresholds])
    opset = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()


def config(most: str | None) -> str:
    """Return a configuration that asks for the counts of so many labels; None says nothing."""
    decision = Decision(labels=LABELS, thresholds=np.full(3, 0.5, np.float32))
    parameters = {"thresher.decision/1": json.dumps(decision.to_json())}
    if most is not None:
        parameters["label_metrics"] = json.dumps(most)
    return IO + "".join(
        f'parameters {{ key: "{key}" value {{ string_value: {value} }} }}\n'
        for key, value in parameters.items()
    )


def counts(server: RunningServer, model: str) -> dict[str, float]:
    """Return what is counted of a model: rows, and rows with each label; what is 0 is left out."""
    with urllib.request.urlopen(server.metrics_url) as answer:
        text = answer.read().decode()
    found = re.findall(
        rf'^thresher_label_(?:rows|positives)_total\{{(?:label="(\w+)",)?model="{model}",'
        r'version="1"\} (\S+)$',
        text,
        re.MULTILINE,
    )
    assert len({label for label, _ in found}) == len(found)
    return {label or "rows": float(value) for label, value in found if float(value)}


def soon(server: RunningServer, model: str, expected: dict[str, float]) -> None:
    """Wait until the counts are these; they change after the answer is sent."""
    end = time.monotonic() + 15
    while (now := counts(server, model)) != expected and time.monotonic() < end:
        time.sleep(0.1)
    assert now == expected


def test_rows_and_positives_are_counted_and_warmup_is_not(
    server: RunningServer, client: Client, publish: Publish, network: bytes
) -> None:
    publish("counted", network, config("256"))
    server.load_model("counted")
    x = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    answers = [client.predict("counted", {"x": x[at : at + 3]}) for at in range(0, 60, 3)]
    labels_NL = np.concatenate([answer.labels for answer in answers])
    positives = dict(zip(LABELS, labels_NL.sum(axis=0).tolist(), strict=True))
    soon(server, "counted", {"rows": 60, **positives})
    client.predict("counted", {"x": x[:4]}, outputs=("probabilities",))  # labels not asked for
    more = dict(zip(LABELS, labels_NL[:4].sum(axis=0).tolist(), strict=True))
    soon(server, "counted", {"rows": 64, **{k: positives[k] + more[k] for k in LABELS}})
    server.unload_model("counted")
    soon(server, "counted", {})


def test_a_version_that_is_loaded_again_counts_on(
    server: RunningServer, client: Client, publish: Publish, network: bytes
) -> None:
    """Triton 2.51 frees a counter that two owners share when the first of them goes."""
    rows = np.full((4, 3), 5, np.float32)
    asked = 0
    for most in ("100", "101", "102", "103", "104"):
        publish("again", network, config(most))
        server.load_model("again")  # Triton unloads the one before in the background
        for _ in range(50):
            client.predict("again", {"x": rows})
        asked += 200
        soon(server, "again", {"rows": asked, **dict.fromkeys(LABELS, asked)})
    server.unload_model("again")
    soon(server, "again", {})


def test_no_more_labels_are_counted_than_asked_for(
    server: RunningServer, client: Client, publish: Publish, network: bytes
) -> None:
    publish("bounded", network, config("2"))
    server.load_model("bounded")
    client.predict("bounded", {"x": np.full((4, 3), 5, np.float32)})
    soon(server, "bounded", {"rows": 4, "rain": 4, "fog": 4})
    assert "of 3 labels the first 2 are counted" in Path(server.log_file).read_text()
    server.unload_model("bounded")


def test_counts_are_on_unless_switched_off(
    server: RunningServer, client: Client, publish: Publish, network: bytes
) -> None:
    publish("usual", network, config(None))
    publish("uncounted", network, config("0"))
    x = np.full((4, 3), 5, np.float32)
    for name in ("usual", "uncounted"):
        server.load_model(name)
        client.predict(name, {"x": x})
    soon(server, "usual", {"rows": 4, "rain": 4, "fog": 4, "snow": 4})
    assert counts(server, "uncounted") == {}
    assert "'usual': not honoured" not in Path(server.log_file).read_text()
    server.unload_model("usual")
    server.unload_model("uncounted")


def test_a_server_without_metrics_serves_all_the_same(
    runtime: Runtime, network: bytes, publish: Publish, tmp_path: Path
) -> None:
    publish("silent", network, config("256"), root=tmp_path / "models")
    with triton(runtime, tmp_path / "models", ["silent"], log=tmp_path / "log") as quiet:
        with Client(quiet.grpc_url) as client:
            answer = client.predict("silent", {"x": np.full((2, 3), 5, np.float32)})
    assert answer.labels.all()
