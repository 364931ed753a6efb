"""Models in files: weights inside or beside, linked where only the head changes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from thresher import Decision
from thresher.errors import ConversionError, NotFoundError
from thresher_export import onnx_file
from thresher_export.head import append_decision_head, replace_decision_head
from thresher_export.onnx_file import data_files, load_model, save_model, write_model
from thresher_export.parity.thresholds import head_around_thresholds

DECISION = Decision(labels=("sun", "rain", "fog"), thresholds=[0.5, 0.3, 0.7])
OTHER = Decision(labels=("sun", "rain", "fog"), thresholds=[0.5, 0.3, 0.9], bias=[0, 1, 0])


def network(width: int = 400, num_labels: int = 3) -> ir.Model:
    """Two layers; about 640 kB of weights at the default width."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.normal(size=(width, width)).astype(np.float32) / width,
        "v": rng.normal(size=(width, num_labels)).astype(np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], name="first"),
            helper.make_node("MatMul", ["h", "v"], ["y"], name="second"),
        ],
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", num_labels])],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opset = [helper.make_opsetid("", 20)]
    return ir.from_proto(helper.make_model(graph, opset_imports=opset, ir_version=10))


def logits(path: Path, width: int = 400) -> np.ndarray:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).normal(size=(5, width)).astype(np.float32)
    return session.run(["logits"], {"x": x})[0]


@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large begins at 100 kB."""
    monkeypatch.setattr(onnx_file, "EMBEDDED_BYTES", 100_000)


def test_small_models_are_one_file(tmp_path: Path) -> None:
    model = append_decision_head(network(), DECISION)
    assert save_model(model, tmp_path / "m.onnx") == (tmp_path / "m.onnx",)
    assert logits(tmp_path / "m.onnx").shape == (5, 3)


@pytest.mark.usefixtures("small_limit")
def test_large_weights_lie_beside_and_are_linked_when_only_the_head_changes(tmp_path: Path) -> None:
    first, second = tmp_path / "1" / "model.onnx", tmp_path / "2" / "model.onnx"
    for path in (first, second):
        path.parent.mkdir()
    files = save_model(append_decision_head(network(), DECISION), first)
    assert [file.name for file in files] == ["model.onnx", "model.onnx.data"]
    assert first.stat().st_size < 10_000
    save_model(replace_decision_head(load_model(first), OTHER), second)
    assert second.with_name("model.onnx.data").samefile(first.with_name("model.onnx.data"))
    np.testing.assert_array_equal(logits(first), logits(second))
    first.with_name("model.onnx.data").unlink()  # what is linked outlives what it was linked from
    assert logits(second).shape == (5, 3)


@pytest.mark.usefixtures("small_limit")
def test_the_head_stays_in_the_file_however_many_labels_there_are(tmp_path: Path) -> None:
    num_labels = 2000  # 8 kB a constant: a size that lies beside the model elsewhere
    labels = [f"label {k}" for k in range(num_labels)]
    decision = Decision(labels=labels, thresholds=[0.4] * num_labels, bias=[1] * num_labels)
    save_model(append_decision_head(network(num_labels=num_labels), decision), tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    beside = {tensor.name for tensor in model.graph.initializer if tensor.external_data}
    assert beside == {"w", "v"}
    head_around_thresholds(model, decision)  # runs on what is in the file alone
    assert logits(tmp_path / "m.onnx").shape == (5, num_labels)


@pytest.mark.usefixtures("small_limit")
def test_weights_are_written_anew_where_the_file_system_does_not_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(append_decision_head(network(), DECISION), tmp_path / "a.onnx")

    def refuse(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(onnx_file.os, "link", refuse)
    save_model(replace_decision_head(load_model(tmp_path / "a.onnx"), OTHER), tmp_path / "b.onnx")
    np.testing.assert_array_equal(logits(tmp_path / "a.onnx"), logits(tmp_path / "b.onnx"))


@pytest.mark.usefixtures("small_limit")
def test_a_model_can_be_written_over_the_file_that_it_came_from(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    write_model(append_decision_head(network(), DECISION), path)
    before = logits(path)
    write_model(replace_decision_head(load_model(path), OTHER), path)
    np.testing.assert_array_equal(logits(path), before)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]


@pytest.mark.usefixtures("small_limit")
def test_weights_that_were_left_behind_are_named(tmp_path: Path) -> None:
    save_model(network(), tmp_path / "m.onnx")
    assert [file.name for file in data_files(load_model(tmp_path / "m.onnx"))] == ["m.onnx.data"]
    (tmp_path / "m.onnx.data").unlink()
    with pytest.raises(NotFoundError, match=r"m\.onnx\.data: no such file; m\.onnx keeps its"):
        load_model(tmp_path / "m.onnx")


@pytest.mark.parametrize("content", [b"", b"no model", b"\x00" * 100])
def test_what_is_no_model_is_said(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(ConversionError, match=r"m\.onnx: not an ONNX model"):
        load_model(tmp_path / "m.onnx")
    with pytest.raises(NotFoundError, match="no such file"):
        load_model(tmp_path / "n.onnx")


def test_the_command_needs_neither_torch_nor_mlflow(tmp_path: Path) -> None:
    save_model(network(), tmp_path / "m.onnx")
    DECISION.save(tmp_path / "decision.json")
    OTHER.save(tmp_path / "other.json")
    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.split('.')[0] in {'torch', 'mlflow', 'tritonclient'}:\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from thresher.cli import main\n"
        "main(['head', *sys.argv[1:]])"
    )

    def head(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    done = head("m.onnx", "decision.json", "-o", "out.onnx")
    assert (done.returncode, done.stdout) == (0, "Wrote out.onnx: 3 labels\n"), done.stderr
    again = head("m.onnx", "decision.json", "-o", "out.onnx")
    assert again.returncode == 1
    assert "out.onnx exists" in again.stderr
    twice = head("out.onnx", "decision.json", "-o", "twice.onnx")
    assert twice.returncode == 1
    assert "has a decision head already; replace it" in twice.stderr
    assert head("out.onnx", "other.json", "-o", "other.onnx", "--replace").returncode == 0
    np.testing.assert_array_equal(logits(tmp_path / "out.onnx"), logits(tmp_path / "other.onnx"))
