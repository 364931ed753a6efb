"""The head on anybody's ONNX model, run by ONNX Runtime, against the decision in NumPy."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from thresher import Decision
from thresher.errors import ConversionError
from thresher_export import (
    append_decision_head,
    build_config,
    read_decision,
    remove_decision_head,
    replace_decision_head,
)

LABELS = ("sun", "rain", "fog")
IDENTITY = Decision(labels=LABELS, thresholds=[0.5, 0.3, 0.7])
CALIBRATED = Decision(
    labels=LABELS, thresholds=[0.5, 0.3, 0.7], scale=[2, 1, 0.5], bias=[0, 0.25, -1]
)


def body(
    dtype: int = TensorProto.FLOAT, *, op: str = "Identity", output: str = "y", width: int = 3
) -> onnx.ModelProto:
    """A model whose output is its input, in any precision, as others' tools write it."""
    graph = helper.make_graph(
        [helper.make_node(op, ["x"], [output], name="last")],
        "body",
        [helper.make_tensor_value_info("x", dtype, ["n", width])],
        [helper.make_tensor_value_info(output, dtype, ["n", width])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(model: onnx.ModelProto, x: np.ndarray) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"x": x}), strict=True))


@pytest.mark.parametrize("decision", [IDENTITY, CALIBRATED])
@given(data=st.lists(st.floats(width=32), min_size=3, max_size=3))
@settings(max_examples=50, deadline=None)
def test_head_is_the_decision_in_numpy(decision: Decision, data: list[float]) -> None:
    x = np.float32([data])
    got = run(append_decision_head(body(), decision), x)
    expected_p, _ = decision.apply(x)
    np.testing.assert_allclose(got["probabilities"], expected_p, atol=2e-7)
    np.testing.assert_array_equal(got["labels"], decision.decide(got["probabilities"]))
    np.testing.assert_array_equal(got["logits"], x)


def test_probability_exactly_on_its_threshold_is_a_yes() -> None:
    x = np.float32([[0.3, -1.2, 2.5]])
    at = run(append_decision_head(body(), IDENTITY), x)["probabilities"][0]
    above = np.nextafter(at, np.float32(1))
    for thresholds, expected in ((at, True), (above, False)):
        decision = Decision(labels=LABELS, thresholds=thresholds)
        got = run(append_decision_head(body(), decision), x)
        assert (got["probabilities"][0] == at).all()
        assert got["labels"].tolist() == [[expected] * 3]


def test_nan_is_a_no() -> None:
    got = run(append_decision_head(body(), CALIBRATED), np.full((2, 3), np.nan, np.float32))
    assert np.isnan(got["probabilities"]).all()
    assert not got["labels"].any()


def test_identity_calibration_leaves_no_nodes() -> None:
    nodes = [node.op_type for node in append_decision_head(body(), IDENTITY).graph.node]
    assert nodes == ["Identity", "Sigmoid", "GreaterOrEqual"]
    nodes = [node.op_type for node in append_decision_head(body(), CALIBRATED).graph.node]
    assert nodes == ["Identity", "Mul", "Add", "Sigmoid", "GreaterOrEqual"]


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_head_is_fp32_whatever_the_body(dtype: int) -> None:
    model = append_decision_head(body(dtype), CALIBRATED)
    onnx.checker.check_model(model, full_check=True)
    x = np.array([[7.9, -3, 0.1]], dtype=helper.tensor_dtype_to_np_dtype(dtype))
    got = run(model, x)
    assert got["probabilities"].dtype == got["logits"].dtype == np.float32
    assert got["probabilities"][0, 0] < 1  # FP16's sigmoid would have saturated
    np.testing.assert_allclose(
        got["probabilities"], CALIBRATED.probabilities(x.astype(np.float32)), atol=2e-7
    )


def test_file_explains_itself_and_passes_the_checker() -> None:
    decision = Decision(labels=['"quoted"', "two\nlines", "\\ 🌦"], thresholds=[0.5, 0.3, 0.7])
    model = onnx.ModelProto.FromString(append_decision_head(body(), decision).SerializeToString())
    onnx.checker.check_model(model, full_check=True)
    assert read_decision(model) == decision
    assert read_decision(body()) is None
    shapes = {
        o.name: [d.dim_param or d.dim_value for d in o.type.tensor_type.shape.dim]
        for o in model.graph.output
    }
    assert shapes == {name: ["n", 3] for name in ("probabilities", "labels", "logits")}


@pytest.mark.parametrize("name", ["probabilities", "labels", "logits"])
def test_names_that_the_body_uses_do_not_clash(name: str) -> None:
    model = append_decision_head(body(output=name), IDENTITY)
    assert {o.name for o in model.graph.output} == {"probabilities", "labels", "logits"}
    run(model, np.zeros((1, 3), np.float32))


def test_original_is_left_alone() -> None:
    model = body()
    before = model.SerializeToString()
    append_decision_head(model, IDENTITY)
    assert model.SerializeToString() == before


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (append_decision_head(body(), IDENTITY), "has a decision head already"),
        (body(op="Sigmoid"), "ends in Sigmoid"),
        (body(width=4), r"expected \[batch, 3\]"),
        (body(TensorProto.INT64), "expected float logits"),
    ],
)
def test_model_that_the_head_does_not_fit_is_refused(model: onnx.ModelProto, words: str) -> None:
    with pytest.raises(ConversionError, match=words):
        append_decision_head(model, IDENTITY)


def test_two_outputs_are_refused() -> None:
    model = body()
    model.graph.node.append(helper.make_node("Neg", ["x"], ["z"]))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 3]))
    with pytest.raises(ConversionError, match=r"2 outputs \(y, z\)"):
        append_decision_head(model, IDENTITY)


def test_configuration_names_types_dims_and_decision() -> None:
    model = append_decision_head(body(), CALIBRATED)
    config = build_config(model, CALIBRATED, name="weather", version=3)
    assert [(o.name, o.data_type, list(o.dims)) for o in config.output] == [
        ("probabilities", 11, [3]),  # TYPE_FP32
        ("labels", 1, [3]),  # TYPE_BOOL
        ("logits", 11, [3]),
    ]
    assert list(config.version_policy.specific.versions) == [3]
    assert config.HasField("dynamic_batching")
    parameter = config.parameters["thresher.decision/3"].string_value
    assert Decision.from_json(parameter) == CALIBRATED


def body_bytes(model: onnx.ModelProto) -> list[bytes]:
    """The body's nodes and weights as they lie in the file."""
    mine = [*model.graph.node, *model.graph.initializer]
    return [part.SerializeToString() for part in mine if not part.name.startswith("thresher.")]


def layers(dtype: type = np.float32) -> onnx.ModelProto:
    """Two layers with weights, as others' tools write them."""
    rng = np.random.default_rng(0)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], name="first"),
            helper.make_node("Add", ["h", "b"], ["logits"], name="second"),
        ],
        "layers",
        [helper.make_tensor_value_info("x", kind, ["n", 3])],
        [helper.make_tensor_value_info("logits", kind, ["n", 3])],
        [
            onnx.numpy_helper.from_array(rng.normal(size=(3, 3)).astype(dtype), "w"),
            onnx.numpy_helper.from_array(rng.normal(size=3).astype(dtype), "b"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_another_head_keeps_the_body_byte_for_byte(dtype: type) -> None:
    plain = append_decision_head(layers(dtype), IDENTITY)
    replaced = replace_decision_head(plain, CALIBRATED)
    assert body_bytes(replaced) == body_bytes(plain)
    straight = append_decision_head(layers(dtype), CALIBRATED)
    assert replaced.SerializeToString(deterministic=True) == straight.SerializeToString(
        deterministic=True
    )
    back = replace_decision_head(replaced, IDENTITY)
    assert back.SerializeToString(deterministic=True) == plain.SerializeToString(deterministic=True)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_head_can_be_taken_off(dtype: type) -> None:
    original = layers(dtype)
    bare = remove_decision_head(append_decision_head(original, CALIBRATED, top_k=2))
    onnx.checker.check_model(bare, full_check=True)
    assert read_decision(bare) is None
    assert len(bare.graph.output) == 1
    assert [n.op_type for n in bare.graph.node] == ["MatMul", "Add"]
    x = np.ones((2, 3), dtype)
    (output,) = run(bare, x).values()
    np.testing.assert_array_equal(output, next(iter(run(original, x).values())))
    with pytest.raises(ConversionError, match="no decision head"):
        remove_decision_head(bare)


def test_top_labels_are_the_most_probable_in_order() -> None:
    model = append_decision_head(body(), IDENTITY, top_k=2)
    onnx.checker.check_model(model, full_check=True)
    got = run(model, np.float32([[1, 3, 2], [-1, -5, -3]]))
    assert got["top_labels"].tolist() == [[1, 2], [0, 2]]
    np.testing.assert_array_equal(
        got["top_probabilities"],
        np.take_along_axis(got["probabilities"], got["top_labels"], axis=1),
    )
    outputs = build_config(model, IDENTITY, name="m", version=1).output
    assert [o.name for o in outputs][3:] == ["top_probabilities", "top_labels"]
    with pytest.raises(ConversionError, match="top_k is 4, expected 1 to 3"):
        append_decision_head(body(), IDENTITY, top_k=4)


def test_a_sigmoid_is_taken_off_when_asked() -> None:
    x = np.float32([[0.3, -1.2, 2.5]])
    with pytest.raises(ConversionError, match="hands its input through"):
        append_decision_head(body(op="Sigmoid"), IDENTITY, has_sigmoid=True)
    with pytest.raises(ConversionError, match="not in a Sigmoid"):
        append_decision_head(body(), IDENTITY, has_sigmoid=True)
    graph = helper.make_graph(
        [
            helper.make_node("Neg", ["x"], ["h"], name="neg"),
            helper.make_node("Sigmoid", ["h"], ["p"], name="last"),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("p", TensorProto.FLOAT, ["n", 3])],
    )
    net = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    got = run(append_decision_head(net, IDENTITY, has_sigmoid=True), x)
    np.testing.assert_array_equal(got["logits"], -x)
    np.testing.assert_allclose(got["probabilities"], IDENTITY.probabilities(-x), atol=2e-7)


def test_a_sigmoid_before_an_identity_is_taken_off_and_a_softmax_gets_no_such_advice() -> None:
    def net(op: str) -> onnx.ModelProto:
        graph = helper.make_graph(
            [
                helper.make_node("Neg", ["x"], ["h"]),
                helper.make_node(op, ["h"], ["p"]),
                helper.make_node("Identity", ["p"], ["y"]),
            ],
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)

    x = np.float32([[0.3, -1.2, 2.5]])
    model = append_decision_head(net("Sigmoid"), IDENTITY, has_sigmoid=True)
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_array_equal(run(model, x)["logits"], -x)
    with pytest.raises(ConversionError, match="ends in Softmax") as refused:
        append_decision_head(net("Softmax"), IDENTITY)
    assert "--has-sigmoid" not in str(refused.value)


@pytest.mark.parametrize("after", ["Identity", "Cast", "Clip", "Flatten"])
def test_a_sigmoid_behind_a_step_that_changes_nothing_is_found(after: str) -> None:
    attributes = {"to": TensorProto.FLOAT} if after == "Cast" else {}
    graph = helper.make_graph(
        [
            helper.make_node("Sigmoid", ["x"], ["p"], name="last"),
            helper.make_node(after, ["p"], ["y"], **attributes),
        ],
        "body",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    with pytest.raises(ConversionError, match=r"ends in Sigmoid .node .last.*--has-sigmoid"):
        append_decision_head(model, IDENTITY)
