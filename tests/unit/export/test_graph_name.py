"""TensorRT's engines are kept apart by the graph's name, since their key leaves weights out."""

import hashlib
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from thresher import Decision
from thresher.cli import main
from thresher_export import onnx_file
from thresher_export.graph_name import name_by_content
from thresher_export.head import append_decision_head, replace_decision_head
from thresher_export.onnx_file import load_model, save_model

WEIGHTS = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
LABELS = tuple(f"l{n}" for n in range(64))


def decision(threshold: float) -> Decision:
    return Decision(labels=LABELS, thresholds=np.full(64, threshold, np.float32))


def body(weights: np.ndarray) -> ir.Model:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "main_graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 64])],
        [numpy_helper.from_array(weights, "w")],
    )
    opset = [helper.make_opsetid("", 20)]
    return ir.from_proto(helper.make_model(graph, opset_imports=opset, ir_version=10))


def branching(weights: np.ndarray) -> ir.Model:
    def branch(name: str) -> onnx.GraphProto:
        output = helper.make_tensor_value_info("z", TensorProto.FLOAT, ["batch", 64])
        node = helper.make_node("MatMul", ["x", f"w_{name}"], ["z"])
        held = [numpy_helper.from_array(weights, f"w_{name}")]
        return helper.make_graph([node], name, [], [output], held)

    nodes = [
        helper.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
        helper.make_node("Greater", ["largest", "zero"], ["is_large"]),
        helper.make_node(
            "If", ["is_large"], ["y"], then_branch=branch("a"), else_branch=branch("b")
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "main_graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 64])],
        [numpy_helper.from_array(np.float32(0), "zero")],
    )
    opset = [helper.make_opsetid("", 20)]
    return ir.from_proto(helper.make_model(graph, opset_imports=opset, ir_version=10))


def published(model: ir.Model, folder: Path, threshold: float = 0.5) -> Path:
    """Write a model as an export does."""
    folder.mkdir()
    made = append_decision_head(model, decision(threshold))
    name_by_content(made)
    return save_model(made, folder / "model.onnx")[0]


def engine_key(path: Path) -> tuple[str, str]:
    """Return the two parts of an engine's file name that a model decides.

    ``TensorrtExecutionProvider_TRTKernel_graph_NAME_HASH_...``: the graph's name, and the hash of
    the model's file name, its inputs' names and its nodes' outputs in order. Here the hash is
    another one than MurmurHash3, of the same strings.
    """
    graph = onnx.load(path, load_external_data=False).graph
    strings = [path.name, *(i.name for i in graph.input), *(w.name for w in graph.initializer)]
    strings += [output for node in graph.node for output in node.output]
    return graph.name, hashlib.sha256("\0".join(strings).encode()).hexdigest()


def test_a_retrained_version_and_other_thresholds_have_engines_of_their_own(tmp_path: Path) -> None:
    first = engine_key(published(body(WEIGHTS), tmp_path / "1"))
    retrained = engine_key(published(body(WEIGHTS * 2), tmp_path / "2"))
    tuned = engine_key(published(body(WEIGHTS), tmp_path / "3", threshold=0.4))
    assert first[1] == retrained[1] == tuned[1], "all that ONNX Runtime hashes is the same"
    assert len({first[0], retrained[0], tuned[0]}) == 3


def test_one_last_bit_of_one_weight_is_another_model(tmp_path: Path) -> None:
    other = WEIGHTS.copy()
    other[-1, -1] = np.nextafter(other[-1, -1], np.float32(9))
    one, two = published(body(WEIGHTS), tmp_path / "1"), published(body(other), tmp_path / "2")
    assert engine_key(one)[0] != engine_key(two)[0]


def test_the_same_model_keeps_its_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However its weights are kept, and where its body was taken over from another version."""
    whole = published(body(WEIGHTS), tmp_path / "1")
    monkeypatch.setattr(onnx_file, "EMBEDDED_BYTES", 0)
    outside = published(body(WEIGHTS), tmp_path / "2")
    assert (tmp_path / "2/model.onnx.data").is_file()
    assert engine_key(whole)[0] == engine_key(outside)[0]
    taken_over = replace_decision_head(load_model(outside), decision(0.4))
    name_by_content(taken_over)
    assert taken_over.graph.name != engine_key(whole)[0]
    back = replace_decision_head(taken_over, decision(0.5))
    name_by_content(back)
    assert back.graph.name == engine_key(whole)[0]


def test_branches_are_named_too_and_the_model_still_runs(tmp_path: Path) -> None:
    names = []
    for number, weights in enumerate((WEIGHTS, WEIGHTS * 2)):
        path = published(branching(weights), tmp_path / str(number))
        model = onnx.load(path)
        graphs = [a.g for node in model.graph.node for a in node.attribute if a.HasField("g")]
        names += [model.graph.name, *(graph.name for graph in graphs)]
        session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        x = np.ones((2, 64), np.float32)
        (logits,) = session.run(["logits"], {"x": x})
        np.testing.assert_allclose(logits, x @ weights, atol=1e-4)
    assert len(names) == len(set(names)) == 6
    assert all(name.startswith("thresher_") for name in names)


def test_the_command_that_appends_a_head_names_its_graph_too(tmp_path: Path) -> None:
    names = set()
    for number, weights in enumerate((WEIGHTS, WEIGHTS * 2)):
        ir.save(body(weights), tmp_path / f"{number}.onnx")
        (tmp_path / "decision.json").write_text(decision(0.5).to_json())
        made = tmp_path / f"{number}.served.onnx"
        call = ["head", f"{tmp_path}/{number}.onnx", f"{tmp_path}/decision.json", "-o", str(made)]
        done = CliRunner().invoke(main, call)
        assert done.exit_code == 0, done.output
        names.add(onnx.load(made).graph.name)
    assert len(names) == 2
