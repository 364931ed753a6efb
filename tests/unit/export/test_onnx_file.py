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


LABELLED = Decision(labels=("sun", "rain", "fog"), thresholds=[0.5] * 3)
WEIGHTS = np.arange(12, dtype=np.float32).reshape(4, 3) / 10


def move_outside(tensor: TensorProto, file: Path, location: str = "") -> None:
    """Append a tensor's bytes to a file, and let it name that."""
    raw = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    start = file.stat().st_size if file.exists() else 0
    place = (("location", location or file.name), ("offset", start), ("length", len(raw)))
    for key, value in place:
        entry = tensor.external_data.add()
        entry.key, entry.value = key, str(value)
    with file.open("ab") as opened:
        opened.write(raw)


def matmul(nodes: list[onnx.NodeProto], **weights: object) -> onnx.ModelProto:
    """Return x @ w -> y after some nodes that make w."""
    graph = helper.make_graph(
        [*nodes, helper.make_node("MatMul", ["x", "w"], ["y"])],
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        **weights,
    )
    opset = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, opset_imports=opset, ir_version=10)


def of_initializer() -> onnx.ModelProto:
    return matmul([], initializer=[onnx.numpy_helper.from_array(WEIGHTS, "w")])


def with_head(path: Path, to: Path) -> np.ndarray:
    """Give a file a head, take the original away, and return what the copy answers."""
    to.parent.mkdir()
    write_model(append_decision_head(load_model(path), LABELLED), to)
    for file in path.parent.iterdir():
        if file.is_file():
            file.unlink()
    session = ort.InferenceSession(str(to), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"x": np.ones((2, 4), np.float32)})[0]


def test_weights_of_an_attribute_that_lie_outside_come_along(tmp_path: Path) -> None:
    constant = helper.make_node(
        "Constant", [], ["w"], value=onnx.numpy_helper.from_array(WEIGHTS, "w")
    )
    move_outside(constant.attribute[0].t, tmp_path / "weights.bin")
    (tmp_path / "m.onnx").write_bytes(matmul([constant]).SerializeToString())
    got = with_head(tmp_path / "m.onnx", tmp_path / "new" / "out.onnx")
    np.testing.assert_allclose(got[0], WEIGHTS.sum(axis=0), rtol=1e-6)


@pytest.mark.parametrize("limit", [10, 10_000])
def test_weights_of_branches_and_of_two_files_come_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(onnx_file, "EMBEDDED_BYTES", limit)
    output = helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 3])
    then = helper.make_graph(
        [helper.make_node("Identity", ["v"], ["w"])],
        "then",
        [],
        [output],
        [onnx.numpy_helper.from_array(WEIGHTS, "v")],
    )
    constant = onnx.numpy_helper.from_array(-WEIGHTS, "u")
    other = helper.make_graph(
        [helper.make_node("Constant", [], ["w"], value=constant)], "else", [], [output]
    )
    branch = helper.make_node("If", ["yes"], ["w"], then_branch=then, else_branch=other)
    for attribute in branch.attribute:
        for tensor in attribute.g.initializer:
            move_outside(tensor, tmp_path / "first.bin")
        for node in attribute.g.node:
            for inner in node.attribute:
                move_outside(inner.t, tmp_path / "second.bin")
    yes = onnx.numpy_helper.from_array(np.array(True), "yes")
    model = matmul([branch], initializer=[yes])
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    got = with_head(tmp_path / "m.onnx", tmp_path / "new" / "out.onnx")
    np.testing.assert_allclose(got[0], WEIGHTS.sum(axis=0), rtol=1e-6)


@pytest.mark.parametrize("is_constant", [False, True])
def test_sparse_weights_become_dense(tmp_path: Path, is_constant: bool) -> None:
    sparse = helper.make_sparse_tensor(
        onnx.numpy_helper.from_array(np.float32([1, 2]), "w"),
        onnx.numpy_helper.from_array(np.array([0, 5]), "at"),
        [4, 3],
    )
    node = helper.make_node("Constant", [], ["w"], sparse_value=sparse)
    model = matmul([node]) if is_constant else matmul([], sparse_initializer=[sparse])
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    got = with_head(tmp_path / "m.onnx", tmp_path / "new" / "out.onnx")
    np.testing.assert_array_equal(got[0], [1, 0, 2])


@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
def test_linked_weights_of_a_hub_are_read(tmp_path: Path, link: str) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "1"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    model = of_initializer()
    move_outside(model.graph.initializer[0], blobs / "abc", "m.onnx_data")
    (blobs / "def").write_bytes(model.SerializeToString())
    getattr(snapshot / "m.onnx", link)(blobs / "def")
    getattr(snapshot / "m.onnx_data", link)(blobs / "abc")
    got = with_head(snapshot / "m.onnx", tmp_path / "new" / "out.onnx")
    np.testing.assert_allclose(got[0], WEIGHTS.sum(axis=0), rtol=1e-6)


@pytest.mark.usefixtures("small_limit")
def test_what_is_linked_to_a_link_is_its_file(tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    save_model(network(), tmp_path / "hub" / "m.onnx")
    data = tmp_path / "hub" / "m.onnx.data"
    data.rename(tmp_path / "blob")
    data.symlink_to(tmp_path / "blob")
    write_model(
        append_decision_head(load_model(tmp_path / "hub" / "m.onnx"), DECISION), tmp_path / "o.onnx"
    )
    data.unlink()
    assert not (tmp_path / "o.onnx.data").is_symlink()
    assert logits(tmp_path / "o.onnx").shape == (5, 3)


@pytest.mark.parametrize(
    "location", ["../outside.bin", "a/../../outside.bin", "{folder}/outside.bin"]
)
def test_weights_that_the_model_names_outside_its_folder_are_refused(
    tmp_path: Path, location: str
) -> None:
    folder = tmp_path / "model"
    (folder / "a").mkdir(parents=True)
    model = of_initializer()
    place = location.format(folder=tmp_path)
    move_outside(model.graph.initializer[0], tmp_path / "outside.bin", place)
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ConversionError, match="outside its own folder"):
        load_model(folder / "m.onnx")


@pytest.mark.parametrize("left", [0, 20])
def test_weights_that_are_cut_short_are_named(tmp_path: Path, left: int) -> None:
    model = of_initializer()
    move_outside(model.graph.initializer[0], tmp_path / "weights.bin")
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "weights.bin").write_bytes(b"x" * left)
    with pytest.raises(ConversionError, match=rf'cut short: it has {left} bytes, and "w" needs'):
        load_model(tmp_path / "m.onnx")
