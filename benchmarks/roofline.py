"""What a graph costs at least, and how fast a card could do that at most.

Counted are the products, 2 operations for each multiply-add, as `torch.utils.flop_counter` counts
them: element-wise operations, softmax and normalisation are left out. Of memory, only what cannot
be avoided: the weights once a batch (not the tables that are looked up in), and the inputs and
outputs. So the roofline is a bound that no program passes, and not what an unfused one could reach.

Source: Williams, Waterman, Patterson, "Roofline: an insightful visual performance model", 2009.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

__all__ = ["CARDS", "Cost", "Peak", "cost_of", "known_peak", "measured_peak"]

Row = Mapping[str, npt.NDArray[Any]]
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """What a device does at most."""

    flops_per_s: Mapping[str, float]
    """By the type of the factors: ``float32`` (without TF32), ``float16``."""
    bytes_per_s: float
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a graph needs."""

    row_flops: Mapping[str, int]
    """Operations a row, by the type of the factors."""
    weight_bytes: int
    """Read once a batch."""
    row_bytes: int
    """Inputs and outputs."""

    def rows_per_s(self, rows: int, peak: Peak) -> float:
        """Return the roofline: how many rows a second a device could compute in batches."""
        compute_s = sum(rows * n / peak.flops_per_s[kind] for kind, n in self.row_flops.items())
        memory_s = (self.weight_bytes + rows * self.row_bytes) / peak.bytes_per_s
        return rows / max(compute_s, memory_s)


CARDS: Mapping[str, tuple[float, float, float]] = {
    "H200": (67, 989, 4800),
    "H100 80GB HBM3": (67, 989, 3350),
    "H100 PCIe": (51, 756, 2000),
    "A100-SXM4-80GB": (19.5, 312, 2039),
    "A100-SXM4-40GB": (19.5, 312, 1555),
    "L40S": (91.6, 362, 864),
    "L4": (30.3, 121, 300),
    "A10": (31.2, 125, 600),
    "T4": (8.1, 65, 320),
}
"""FP32 and dense FP16 tensor TFLOP/s, GB/s, by the end of the name that the driver gives.

Source: NVIDIA's data sheets of each card; half of what they say "with sparsity".
"""


def known_peak(name: str) -> Peak | None:
    """Return what the data sheet says of a card, None for one that is not in the table.

    Example:
        >>> known_peak("NVIDIA H200").bytes_per_s
        4800000000000.0
    """
    for card, (fp32, fp16, bandwidth) in CARDS.items():
        if name.endswith(f" {card}"):
            return Peak(
                flops_per_s={"float32": fp32 * 1e12, "float16": fp16 * 1e12},
                bytes_per_s=bandwidth * 1e9,
                source=f"NVIDIA's data sheet of the {card}",
            )
    return None


def measured_peak(device: str, *, size: int = 8192, copied_bytes: int = 2**30) -> Peak | None:
    """Return what a large product and a large copy reach with torch; None without torch there.

    Args:
        device: ``"cuda"`` or ``"cpu"``.
        size: Rows and columns of the factors.
        copied_bytes: How much is copied; it is read and written.
    """
    try:
        import torch
    except ImportError:
        return None
    if device == "cuda" and not torch.cuda.is_available():
        return None
    torch.set_float32_matmul_precision("highest")  # no TF32: exported models do without

    def seconds(run: Callable[[], Any]) -> float:
        took = []
        for _ in range(12):
            start = time.perf_counter()
            run()
            if device == "cuda":
                torch.cuda.synchronize()
            took.append(time.perf_counter() - start)
        return statistics.median(took[2:])

    flops_per_s: dict[str, float] = {}
    for kind in (torch.float32, torch.float16) if device == "cuda" else (torch.float32,):
        a, b = (torch.randn(size, size, dtype=kind, device=device) for _ in range(2))
        out = torch.empty_like(a)
        taken = seconds(lambda a=a, b=b, out=out: torch.mm(a, b, out=out))  # type: ignore[misc]
        flops_per_s[str(kind).removeprefix("torch.")] = 2 * size**3 / taken
    # ONNX Runtime computes FP16 in FP32 on a CPU
    flops_per_s.setdefault("float16", flops_per_s["float32"])
    source = torch.ones(copied_bytes // 4, device=device)
    target = torch.empty_like(source)
    bytes_per_s = 2 * copied_bytes / seconds(lambda: target.copy_(source))
    if device == "cuda":
        del a, b, out, source, target
        torch.cuda.empty_cache()
    return Peak(
        flops_per_s=flops_per_s,
        bytes_per_s=bytes_per_s,
        source=f"measured with torch {torch.__version__}: a product of two {size} x {size} "
        f"matrices, a copy of {copied_bytes / 2**20:.0f} MiB",
    )


def _matmul(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int:
    return 2 * _size(shapes[node.output[0]]) * shapes[node.input[0]][-1]


def _gemm(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int:
    is_transposed = any(a.name == "transA" and a.i for a in node.attribute)
    return 2 * _size(shapes[node.output[0]]) * shapes[node.input[0]][0 if is_transposed else 1]


def _conv(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int:
    return 2 * _size(shapes[node.output[0]]) * _size(shapes[node.input[1]][1:])


def _conv_transpose(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int:
    return 2 * _size(shapes[node.input[0]]) * _size(shapes[node.input[1]][1:])


_COUNTED = {"MatMul": _matmul, "Gemm": _gemm, "Conv": _conv, "ConvTranspose": _conv_transpose}
_UNKNOWN = {"Attention", "ConvInteger", "Einsum", "GRU", "If", "LSTM", "Loop", "MatMulInteger"}
_UNKNOWN |= {"QLinearConv", "QLinearMatMul", "RNN", "Scan"}


def _size(shape: Shape) -> int:
    return int(np.prod(shape, dtype=np.int64))


def cost_of(model: onnx.ModelProto, row: Row, outputs: tuple[str, ...]) -> Cost:
    """Return what a graph needs, found by running it once and looking at every value.

    Args:
        model: With its weights.
        row: One row of inputs, each [1, ...].
        outputs: Which of the graph's outputs are asked for.

    Raises:
        ValueError: If it has an operator whose products are not counted here.
    """
    unknown = sorted({node.op_type for node in model.graph.node} & _UNKNOWN)
    if unknown:
        raise ValueError(f"operators that are not counted: {', '.join(unknown)}")
    found = _values(model, row)
    shapes = {name: value.shape for name, value in found.items()}
    shapes |= {weight.name: tuple(weight.dims) for weight in model.graph.initializer}
    row_flops: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type in _COUNTED:
            kind = str(found[node.output[0]].dtype)
            row_flops[kind] = row_flops.get(kind, 0) + _COUNTED[node.op_type](node, shapes)
    looked_up = {node.input[0] for node in model.graph.node if node.op_type == "Gather"}
    return Cost(
        row_flops=row_flops,
        weight_bytes=sum(
            _size(tuple(weight.dims))
            * onnx.helper.tensor_dtype_to_np_dtype(weight.data_type).itemsize
            for weight in model.graph.initializer
            if weight.name not in looked_up
        ),
        row_bytes=sum(array.nbytes for array in row.values())
        + sum(found[name].nbytes for name in outputs),
    )


def _values(model: onnx.ModelProto, row: Row) -> dict[str, npt.NDArray[Any]]:
    """Return every value that a graph computes for a row."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    known = {value.name for value in shown.graph.output}
    for node in shown.graph.node:
        for name in node.output:
            if name and name not in known:
                shown.graph.output.add(name=name)
                known.add(name)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(
        shown.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in session.get_outputs()]
    values = dict(zip(names, session.run(names, dict(row)), strict=True))
    return {**{name: np.asarray(array) for name, array in row.items()}, **values}
