"""A weather model whose network gives its input as logits, for servers of tests' own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from thresher import Decision

__all__ = ["LABELS", "THRESHOLDS", "write_weather"]

LABELS = ("rain", "fog", "snow")
THRESHOLDS = (0.5, 0.25, 0.75)


def write_weather(
    root: Path,
    *,
    version: int = 1,
    max_batch_size: int = 4,
    thresholds: Sequence[float] = THRESHOLDS,
) -> Path:
    """Return the folder of the model, which is written into a model repository.

    The configuration keeps the decisions of versions written before.
    """
    folder = root / "weather"
    (folder / str(version)).mkdir(parents=True)
    value = helper.make_tensor_value_info
    shape = ["batch", 3]
    graph = helper.make_graph(
        [
            helper.make_node("Sigmoid", ["x"], ["probabilities"]),
            helper.make_node("GreaterOrEqual", ["probabilities", "thresholds"], ["labels"]),
        ],
        "graph",
        [value("x", TensorProto.FLOAT, shape)],
        [
            value("probabilities", TensorProto.FLOAT, shape),
            value("labels", TensorProto.BOOL, shape),
        ],
        [numpy_helper.from_array(np.float32(thresholds), "thresholds")],
    )
    opset = [helper.make_opsetid("", 20)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10)
    (folder / str(version) / "model.onnx").write_bytes(model.SerializeToString())
    (folder / "labels.txt").write_text("\n".join(LABELS) + "\n")
    decision = json.dumps(Decision(labels=LABELS, thresholds=thresholds).to_json())
    file = folder / "config.pbtxt"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    file.write_text(
        f'backend: "onnxruntime"\nmax_batch_size: {max_batch_size}\n'
        'input { name: "x" data_type: TYPE_FP32 dims: 3 }\n'
        'output { name: "probabilities" data_type: TYPE_FP32 dims: 3 '
        'label_filename: "labels.txt" }\n'
        'output { name: "labels" data_type: TYPE_BOOL dims: 3 }\n'
        "dynamic_batching {}\ninstance_group { count: 1 kind: KIND_CPU }\n"
        f'parameters {{ key: "thresher.decision/{version}" '
        f"value {{ string_value: {decision} }} }}\n"
        + "".join(line for line in lines if "thresher.decision/" in line)
    )
    return folder
