"""Bodies in FP16 and INT8: near torch, smaller, and FP32 where it matters."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from thresher import Decision
from thresher.errors import ConfigError, ConversionError
from thresher.evaluation import EvaluationSplit
from thresher.tolerances import tolerances_for
from thresher_export import onnx_file
from thresher_export.head import append_decision_head
from thresher_export.precision import (
    check_precision,
    lower_precision,
    note_precision,
    tolerances_of,
)

NUM_LABELS = 3
DECISION = Decision(labels=["a", "b", "c"], thresholds=[0.5, 0.4, 0.6])


def model_of(
    nodes: list[tuple[str, list[str], list[str], dict[str, object]]],
    constants: dict[str, np.ndarray],
    row: tuple[int | str, ...],
) -> ir.Model:
    """Return a checked ONNX model from ``x`` [batch, ...] to ``logits``, its types inferred."""
    graph = helper.make_graph(
        [helper.make_node(op, i, o, name=f"{op}_{o[0]}", **kw) for op, i, o, kw in nodes],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *row])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", NUM_LABELS])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(proto, full_check=True)
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


RNG = np.random.default_rng(0)


def weights(*shape: int, scale: float = 0.3) -> np.ndarray:
    return (scale * RNG.standard_normal(shape)).astype(np.float32)


def attention(largest: float = 1.0) -> ir.Model:
    """Return a network with a residual, softmax, layer norm and two products."""
    return model_of(
        [
            ("MatMul", ["x", "w1"], ["h"], {}),
            ("Add", ["h", "b1"], ["hb"], {}),
            ("Gelu", ["hb"], ["g"], {}),
            ("Softmax", ["g"], ["s"], {"axis": -1}),
            ("Mul", ["s", "hb"], ["m"], {}),
            ("MatMul", ["m", "w2"], ["p"], {}),
            ("LayerNormalization", ["p", "gain", "shift"], ["n"], {}),
            ("Add", ["n", "x"], ["r"], {}),
            ("Gemm", ["r", "w3", "b3"], ["logits"], {}),
        ],
        {
            "w1": weights(8, 64) * np.float32(largest),
            "b1": weights(64),
            "w2": weights(64, 8),
            "gain": np.ones(8, np.float32),
            "shift": np.zeros(8, np.float32),
            "w3": weights(8, NUM_LABELS),
            "b3": weights(NUM_LABELS),
        },
        (8,),
    )


def pictures() -> ir.Model:
    return model_of(
        [
            ("Conv", ["x", "k1"], ["c"], {"pads": [1, 1, 1, 1]}),
            ("Relu", ["c"], ["a"], {}),
            ("Conv", ["a", "k2"], ["d"], {}),
            ("ReduceMean", ["d", "axes"], ["pooled"], {"keepdims": 0}),
            ("Gemm", ["pooled", "w", "b"], ["logits"], {}),
        ],
        {
            "k1": weights(16, 2, 3, 3),
            "k2": weights(16, 16, 3, 3),
            "axes": np.array([2, 3]),
            "w": weights(16, NUM_LABELS),
            "b": weights(NUM_LABELS),
        },
        (2, 8, 8),
    )


def logits_of(model: ir.Model, x: np.ndarray) -> np.ndarray:
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["logits"], {"x": x})[0])


def size(model: ir.Model) -> int:
    return len(ir.to_proto(model).SerializeToString())


def rows_of(x: np.ndarray) -> EvaluationSplit:
    zeros = np.zeros((len(x), NUM_LABELS), np.float32)
    return EvaluationSplit(inputs={"x": x}, targets_NL=zeros, logits_NL=zeros)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize(("make", "row"), [(attention, (8,)), (pictures, (2, 8, 8))])
def test_a_lower_precision_is_near_and_keeps_head_and_logits_layer_in_fp32(
    precision: str, make: Callable[[], ir.Model], row: tuple[int, ...]
) -> None:
    model = make()
    x = np.random.default_rng(1).standard_normal((40, *row), dtype=np.float32)
    wanted, before = logits_of(model, x), size(model)
    lowered = lower_precision(model, check_precision(precision), rows_of(x))
    assert size(lowered) < before
    assert (lowered.graph.inputs[0].dtype, lowered.graph.outputs[0].dtype) == (
        ir.DataType.FLOAT,
        ir.DataType.FLOAT,
    )
    got = logits_of(append_decision_head(lowered, DECISION), x)
    assert got.dtype == np.float32
    tolerances = tolerances_for(precision)
    np.testing.assert_allclose(
        got, wanted, atol=tolerances.logits_atol, rtol=tolerances.logits_rtol
    )
    assert not np.array_equal(got, wanted)
    ops = {node.op_type: node for node in lowered.graph}
    last = ops.get("Gemm") or ops["MatMul"]
    assert {v.dtype for v in last.inputs if v is not None} == {ir.DataType.FLOAT}
    heads = [n for n in lowered.graph if (n.name or "").startswith("thresher.")]
    assert {v.dtype for n in heads for v in n.inputs if v is not None} == {ir.DataType.FLOAT}


def test_fp16_leaves_softmax_and_normalisation_in_fp32_and_stores_weights_so() -> None:
    model = lower_precision(attention(), "fp16")
    types = {n.op_type: n.outputs[0].dtype for n in model.graph if n.op_type != "Cast"}
    assert types["Softmax"] == types["LayerNormalization"] == types["Gemm"] == ir.DataType.FLOAT
    assert types["MatMul"] == types["Gelu"] == ir.DataType.FLOAT16
    stored = {name: value.dtype for name, value in model.graph.initializers.items()}
    assert stored["w1.fp16"] == stored["w2.fp16"] == ir.DataType.FLOAT16
    assert not {"w1", "w2"} & set(stored)
    assert stored["w3"] == ir.DataType.FLOAT


def test_weights_that_fp16_cannot_hold_stay_fp32() -> None:
    model = attention(largest=1e6)
    x = np.random.default_rng(1).standard_normal((4, 8), dtype=np.float32) * np.float32(1e-6)
    wanted = logits_of(model, x)
    lowered = lower_precision(model, "fp16")
    assert "w1" in lowered.graph.initializers
    assert "w2.fp16" in lowered.graph.initializers
    np.testing.assert_allclose(logits_of(lowered, x), wanted, atol=2e-2)


def test_fp16_reaches_inside_no_branch_and_serves_it_fp32() -> None:
    branch = [
        helper.make_graph(
            [helper.make_node(op, ["h"], [f"{op}_h"])],
            op,
            [],
            [helper.make_tensor_value_info(f"{op}_h", TensorProto.FLOAT, None)],
        )
        for op in ("Relu", "Neg")
    ]
    model = model_of(
        [
            ("MatMul", ["x", "w1"], ["h"], {}),
            ("ReduceSum", ["x"], ["sum"], {"keepdims": 0}),
            ("Greater", ["sum", "zero"], ["is_positive"], {}),
            ("If", ["is_positive"], ["y"], {"then_branch": branch[0], "else_branch": branch[1]}),
            ("MatMul", ["y", "w2"], ["logits"], {}),
        ],
        {"w1": weights(6, 16), "w2": weights(16, NUM_LABELS), "zero": np.array(0, np.float32)},
        (6,),
    )
    rows = [np.full((2, 6), sign, np.float32) for sign in (1, -1)]
    wanted = [logits_of(model, x) for x in rows]
    lowered = lower_precision(model, "fp16")
    for x, logits in zip(rows, wanted, strict=True):
        np.testing.assert_allclose(logits_of(lowered, x), logits, atol=1e-2)


def test_int8_calibrates_convolutions_on_validation_rows_and_nothing_else() -> None:
    x = np.random.default_rng(1).standard_normal((40, 2, 8, 8), dtype=np.float32)
    static = lower_precision(pictures(), "int8", rows_of(x))
    assert {"QuantizeLinear", "DequantizeLinear"} <= {n.op_type for n in static.graph}
    dynamic = lower_precision(attention(), "int8")
    assert "DynamicQuantizeLinear" in {n.op_type for n in dynamic.graph}
    with pytest.raises(ConversionError, match="measured on validation rows, and there are none"):
        lower_precision(pictures(), "int8")


def test_ranges_come_from_the_rows_that_are_given() -> None:
    x = np.random.default_rng(1).standard_normal((40, 2, 8, 8), dtype=np.float32)
    scales = []
    for factor in (1, 10):
        model = lower_precision(pictures(), "int8", rows_of(x * np.float32(factor)))
        (scale,) = (v for k, v in model.graph.initializers.items() if k == "x_scale")
        assert scale.const_value is not None
        scales.append(float(scale.const_value.numpy()))
    assert scales[1] == pytest.approx(10 * scales[0], rel=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize(("make", "row"), [(attention, (8,)), (pictures, (2, 8, 8))])
def test_weights_outside_the_file_go_with_it_in_every_precision(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    make: Callable[[], ir.Model],
    row: tuple[int, ...],
) -> None:
    monkeypatch.setattr(onnx_file, "EMBEDDED_BYTES", 1000)  # as if the weights were large
    monkeypatch.setattr(onnx_file, "_SMALL_TENSOR_BYTES", 100)
    model = make()
    x = np.random.default_rng(1).standard_normal((40, *row), dtype=np.float32)
    wanted = logits_of(model, x)
    lowered = lower_precision(model, check_precision(precision), rows_of(x))
    lowered.graph.outputs[0].name = "logits"
    files = onnx_file.save_model(lowered, tmp_path / "model.onnx")
    assert [file.name for file in files] == ["model.onnx", "model.onnx.data"]
    assert {file.name for file in tmp_path.iterdir()} == {file.name for file in files}
    session = ort.InferenceSession(files[0], providers=["CPUExecutionProvider"])
    tolerances = tolerances_for(precision)
    np.testing.assert_allclose(
        session.run(None, {"x": x})[0],
        wanted,
        atol=tolerances.logits_atol,
        rtol=tolerances.logits_rtol,
    )


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_network_of_one_layer_has_nothing_to_lower(precision: str) -> None:
    model = model_of([("Gemm", ["x", "w"], ["logits"], {})], {"w": weights(8, NUM_LABELS)}, (8,))
    with pytest.raises(ConversionError, match="--precision fp32"):
        lower_precision(model, check_precision(precision))


def test_an_unknown_precision_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="unknown precision .fp61.; did you mean .fp16."):
        check_precision("fp61")


def test_tolerances_follow_the_coarser_of_body_and_reference() -> None:
    model = attention()
    assert tolerances_of(model) == tolerances_for("fp32")
    note_precision(model, "fp16", trained_in="fp32")
    assert tolerances_of(model) == tolerances_for("fp16")
    note_precision(model, "fp32", trained_in="fp16")
    assert tolerances_of(model) == tolerances_for("fp16")
    note_precision(model, "fp16", trained_in="bf16")
    assert tolerances_of(model).logits_atol > tolerances_for("fp16").logits_atol
    buffer = io.BytesIO(ir.to_proto(model).SerializeToString())
    assert tolerances_of(ir.from_proto(onnx.load(buffer))) == tolerances_of(model)
