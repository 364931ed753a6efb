"""Wrong models, each planted on purpose, and the comparison that is meant to catch it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import helper, numpy_helper

from thresher import Decision
from thresher.errors import ConversionError, ParityError
from thresher.evaluation import EvaluationSplit
from thresher_export import append_decision_head
from thresher_export.convert import convert
from thresher_export.parity import ParityReport, prove_parity

DECISION = Decision(
    labels=["sun", "rain", "fog", "wind"],
    thresholds=[0.5, 0.3, 0.7, 0.42],
    scale=[1.25, 1.0, 0.8, 1.0],
    bias=[0.0, -0.25, 0.0, 0.5],
)
NUM_FEATURES = 6


class Sky(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = torch.nn.Linear(NUM_FEATURES, 32)
        self.norm = torch.nn.LayerNorm(32)
        self.dropout = torch.nn.Dropout(0.5)
        self.last = torch.nn.Linear(32, 4)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        hidden = self.dropout(torch.relu(self.norm(self.first(features))))
        logits: torch.Tensor = self.last(hidden) * 3
        return logits


def program_of(network: torch.nn.Module) -> torch.export.ExportedProgram:
    example = torch.zeros(3, NUM_FEATURES)
    axes = {"features": {0: torch.export.Dim("batch")}}
    return torch.export.export(network, (example,), dynamic_shapes=axes)


@dataclass(frozen=True)
class Sound:
    program: torch.export.ExportedProgram
    model: onnx.ModelProto
    splits: dict[str, EvaluationSplit]

    def prove(
        self, model: onnx.ModelProto, folder: Path, *, program: object = None
    ) -> ParityReport:
        path = folder / "model.onnx"
        onnx.save(model, path)
        return prove_parity(
            program or self.program,  # type: ignore[arg-type]
            path,
            DECISION,
            self.splits,
            max_batch_size=16,
            evidence=folder / "evidence",
        )


@pytest.fixture(scope="module")
def sound() -> Sound:
    network = Sky().eval()
    program = program_of(network)
    features = np.random.default_rng(0).normal(size=(90, NUM_FEATURES)).astype(np.float32)
    with torch.no_grad():
        logits = network(torch.from_numpy(features)).numpy()
    split = EvaluationSplit(
        inputs={"features": features},
        targets_NL=(logits > 0).astype(np.float32),
        logits_NL=logits,
    )
    model = ir.to_proto(append_decision_head(convert(program), DECISION))
    return Sound(program, model, {"test": split})


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    other = onnx.ModelProto()
    other.CopyFrom(model)
    return other


def node(model: onnx.ModelProto, op_type: str) -> onnx.NodeProto:
    (found,) = [n for n in model.graph.node if n.op_type == op_type]
    return found


def set_weights(
    model: onnx.ModelProto, name: str, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    (tensor,) = [t for t in model.graph.initializer if t.name == name]
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor).copy()), name))


def insert_before(model: onnx.ModelProto, at: onnx.NodeProto, *nodes: onnx.NodeProto) -> None:
    place = list(model.graph.node).index(at)
    for new in reversed(nodes):
        model.graph.node.insert(place, new)


def swap_labels(model: onnx.ModelProto) -> None:
    for name in ("last.weight", "last.bias"):
        set_weights(model, name, lambda values: values[[1, 0, 2, 3]])


def sigmoid_twice(model: onnx.ModelProto) -> None:
    sigmoid = node(model, "Sigmoid")
    once = helper.make_node("Sigmoid", [sigmoid.input[0]], ["once"])
    sigmoid.input[0] = "once"
    insert_before(model, sigmoid, once)


def threshold_off(model: onnx.ModelProto) -> None:
    def off(values: np.ndarray) -> np.ndarray:
        values[2] += np.float32(1e-3)
        return values

    set_weights(model, "thresher.thresholds", off)


def threshold_in_float64(model: onnx.ModelProto) -> None:
    """0.7 as float64 lies above 0.7 as float32: a probability equal to it is a no."""
    compare = node(model, "GreaterOrEqual")
    wide = helper.make_node("Cast", [compare.input[0]], ["wide"], to=onnx.TensorProto.DOUBLE)
    insert_before(model, compare, wide)
    values = np.array([0.5, 0.3, 0.7, 0.42], dtype=np.float64)
    model.graph.initializer.append(numpy_helper.from_array(values, "wide.thresholds"))
    compare.input[:] = ["wide", "wide.thresholds"]


def head_in_fp16(model: onnx.ModelProto) -> None:
    sigmoid = node(model, "Sigmoid")
    half = helper.make_node("Cast", [sigmoid.input[0]], ["half"], to=onnx.TensorProto.FLOAT16)
    inner = helper.make_node("Sigmoid", ["half"], ["half.probabilities"])
    insert_before(model, sigmoid, half, inner)
    sigmoid.op_type = "Cast"
    sigmoid.input[0] = "half.probabilities"
    sigmoid.attribute.append(helper.make_attribute("to", onnx.TensorProto.FLOAT))


def other_epsilon(model: onnx.ModelProto) -> None:
    (epsilon,) = [a for a in node(model, "LayerNormalization").attribute if a.name == "epsilon"]
    epsilon.f = 1e-3


def dropout_on(model: onnx.ModelProto) -> None:
    relu = node(model, "Relu")
    result = relu.output[0]
    relu.output[0] = "before.dropout"
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.5), "ratio"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "training"))
    dropped = helper.make_node(
        "Dropout", ["before.dropout", "ratio", "training"], [result], name="forgotten"
    )
    model.graph.node.insert(list(model.graph.node).index(relu) + 1, dropped)


def weight_off(model: onnx.ModelProto) -> None:
    def off(values: np.ndarray) -> np.ndarray:
        values.reshape(-1)[5] += np.float32(0.01)
        return values

    set_weights(model, "first.weight", off)


def test_sound_model_passes(sound: Sound, tmp_path: Path) -> None:
    report = sound.prove(sound.model, tmp_path)
    report.raise_if_failed("sky")
    assert report.num_flips == 0
    assert report.band_half_width < 1e-5
    assert not (tmp_path / "evidence").exists()


@pytest.mark.parametrize(
    ("spoil", "gate", "words"),
    [
        (swap_labels, "test: torch = ONNX Runtime, batch 1", ['label "sun"', 'Gemm "linear_1"']),
        (sigmoid_twice, "around thresholds: NumPy = head", ["probabilities differ", "label"]),
        (threshold_off, "at thresholds: NumPy = head", ['label "fog"', "threshold 0.69999"]),
        (threshold_in_float64, "at thresholds: NumPy = head", ['label "fog"', "Cast to DOUBLE"]),
        (
            head_in_fp16,
            "NumPy = head by ONNX's definition",
            ["probabilities differ", 'the head holds Cast to FLOAT16 ("half")'],
        ),
        (other_epsilon, "test: torch = ONNX Runtime", ['LayerNormalization "layer_norm"']),
        (weight_off, "test: torch = ONNX Runtime", ['Gemm "linear"']),
    ],
)
def test_wrong_model_is_caught_by_the_comparison_meant_for_it(
    sound: Sound,
    tmp_path: Path,
    spoil: Callable[[onnx.ModelProto], None],
    gate: str,
    words: list[str],
) -> None:
    model = copied(sound.model)
    spoil(model)
    onnx.checker.check_model(model)  # wrong, not broken
    report = sound.prove(model, tmp_path)
    assert any(gate in check.name and not check.agreement.ok for check in report.checks)
    with pytest.raises(ParityError) as error:
        report.raise_if_failed("sky")
    for word in words:
        assert word in str(error.value)
    assert str(tmp_path / "evidence") in str(error.value)


def test_worst_rows_reproduce_the_failure(sound: Sound, tmp_path: Path) -> None:
    model = copied(sound.model)
    swap_labels(model)
    report = sound.prove(model, tmp_path)
    with np.load(tmp_path / "evidence" / "parity-worst-rows.npz", allow_pickle=False) as file:
        rows = {name: file[name] for name in file.files}
    assert str(rows["comparison"]) == next(c.name for c in report.checks if not c.agreement.ok)
    session = onnx.reference.ReferenceEvaluator(model)
    logits, labels = session.run(["logits", "labels"], {"features": rows["input/features"]})
    np.testing.assert_allclose(logits, rows["got_logits"], atol=1e-5)
    np.testing.assert_array_equal(labels, rows["got_labels"])
    assert (labels != rows["reference_labels"]).any(axis=1).all()


def test_threshold_off_is_caught_though_no_row_lies_near_it(sound: Sound, tmp_path: Path) -> None:
    model = copied(sound.model)
    threshold_off(model)
    failed = [c for c in sound.prove(model, tmp_path).checks if not c.agreement.ok]
    assert {check.rows for check in failed} == {"head"}


def test_dropout_left_on_is_caught_though_onnx_runtime_may_drop_it(
    sound: Sound, tmp_path: Path
) -> None:
    model = copied(sound.model)
    dropout_on(model)
    with pytest.raises(ParityError) as error:
        sound.prove(model, tmp_path).raise_if_failed("sky")
    assert 'node "forgotten": Dropout in training mode' in str(error.value)
    assert "The first node that departs from torch: Dropout" in str(error.value)


def test_network_logged_in_training_mode_is_caught(sound: Sound, tmp_path: Path) -> None:
    network = Sky()
    network.train()
    report = sound.prove(sound.model, tmp_path, program=program_of(network))
    with pytest.raises(ParityError, match='in training mode: node "dropout"'):
        report.raise_if_failed("sky")
    assert not next(c for c in report.checks if c.name == "test: training = torch").agreement.ok


def test_frozen_batch_is_refused_at_conversion() -> None:
    frozen = torch.export.export(Sky().eval(), (torch.zeros(3, NUM_FEATURES),))
    with pytest.raises(ConversionError, match="batch axis is frozen"):
        convert(frozen)


def test_batch_that_is_frozen_inside_the_graph_is_caught(sound: Sound, tmp_path: Path) -> None:
    model = copied(sound.model)
    norm = node(model, "LayerNormalization")
    shape = numpy_helper.from_array(np.array([16, 32]), "frozen")
    model.graph.initializer.append(shape)
    insert_before(model, norm, helper.make_node("Reshape", [norm.input[0], "frozen"], ["stuck"]))
    norm.input[0] = "stuck"
    with pytest.raises(ConversionError, match="fails on a batch of 1 rows"):
        sound.prove(model, tmp_path)
