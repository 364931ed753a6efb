"""Each example in docs/client.md runs against a real Triton, word for word but for the ports."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from support.triton import Triton, triton
from thresher import Decision
from thresher_serving import Runtime

PAGE = Path(__file__).parents[3] / "docs" / "client.md"
LABELS = [str(digit) for digit in range(10)]
THRESHOLDS = [0.5 + digit / 100 for digit in range(10)]


@pytest.fixture(scope="module")
def server(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    """A model named digits whose logits are ten pixels of the picture, over 100, less 1."""
    root = tmp_path_factory.mktemp("models")
    folder = root / "digits"
    (folder / "1").mkdir(parents=True)
    value, node = helper.make_tensor_value_info, helper.make_node
    graph = helper.make_graph(
        [
            node("Slice", ["image", "starts", "ends", "axes"], ["strip"]),
            node("Flatten", ["strip"], ["flat"]),
            node("Cast", ["flat"], ["pixels"], to=TensorProto.FLOAT),
            node("Div", ["pixels", "hundred"], ["scaled"]),
            node("Sub", ["scaled", "one"], ["logits"]),
            node("Sigmoid", ["logits"], ["probabilities"]),
            node("GreaterOrEqual", ["probabilities", "thresholds"], ["labels"]),
        ],
        "graph",
        [value("image", TensorProto.UINT8, ["batch", 1, 24, 80])],
        [
            value("probabilities", TensorProto.FLOAT, ["batch", 10]),
            value("labels", TensorProto.BOOL, ["batch", 10]),
        ],
        [
            numpy_helper.from_array(np.int64([0, 0]), "starts"),
            numpy_helper.from_array(np.int64([1, 10]), "ends"),
            numpy_helper.from_array(np.int64([2, 3]), "axes"),
            numpy_helper.from_array(np.float32(100), "hundred"),
            numpy_helper.from_array(np.float32(1), "one"),
            numpy_helper.from_array(np.float32(THRESHOLDS), "thresholds"),
        ],
    )
    opset = [helper.make_opsetid("", 20)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10)
    (folder / "1" / "model.onnx").write_bytes(model.SerializeToString())
    (folder / "labels.txt").write_text("\n".join(LABELS) + "\n")
    decision = json.dumps(Decision(labels=LABELS, thresholds=THRESHOLDS).to_json())
    (folder / "config.pbtxt").write_text(
        'backend: "onnxruntime"\nmax_batch_size: 8\n'
        'input { name: "image" data_type: TYPE_UINT8 dims: [1, 24, 80] }\n'
        'output { name: "probabilities" data_type: TYPE_FP32 dims: 10 '
        'label_filename: "labels.txt" }\n'
        'output { name: "labels" data_type: TYPE_BOOL dims: 10 }\n'
        "dynamic_batching {}\ninstance_group { count: 1 kind: KIND_CPU }\n"
        f'parameters {{ key: "thresher.decision/1" value {{ string_value: {decision} }} }}\n'
    )
    log = tmp_path_factory.mktemp("digits") / "log"
    with triton(runtime, root, ["digits"], log=log) as running:
        yield running


def examples(language: str, server: Triton) -> list[str]:
    """Return the page's examples, asking this server; those marked as not run are left out."""
    found = re.findall(
        rf"(<!-- not run here[^\n]*-->\n)?```{language}\n(.*?)```",
        PAGE.read_text(encoding="utf-8"),
        re.DOTALL,
    )
    ports = {":8001": f":{server.grpc_port}", ":8000": f":{server.http_port}"}
    codes = [code for not_run, code in found if not not_run]
    for port, real in ports.items():
        codes = [code.replace(port, real) for code in codes]
    return codes


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 1, 24, 80), dtype=np.uint8)


def test_python_examples_agree_with_each_other(server: Triton, pictures: np.ndarray) -> None:
    codes = examples("python", server)
    assert len(codes) == 6
    # tritonclient alone cuts no batches
    names: dict[str, Any] = {"pictures": pictures[:8], "np": np}
    for code in codes:
        exec(compile(code, str(PAGE), "exec"), names)
    names["triton"].close()
    answer = names["answer"]
    assert (answer.label_names, answer.model_version) == (tuple(LABELS), 1)
    np.testing.assert_array_equal(answer.thresholds, np.float32(THRESHOLDS))
    expected = [[label.name for label in answer.named(row)] for row in range(8)]
    assert any(expected)
    assert names["names"] == names["http_names"] == expected
    assert isinstance(names["http_margins"], np.ndarray)
    np.testing.assert_array_equal(names["http_margins"] >= 0, answer.labels)
    assert [one["labels"] for one in answer.to_dicts()] == expected
    assert [[label.name for label in one.named(0)] for one in names["answers"]] == expected
    assert names["table"].num_rows == 80
    np.testing.assert_array_equal(names["frame"][LABELS].to_numpy(), answer.probabilities)
    for row, words in zip(answer.top(3), names["top"], strict=True):
        told = [word.decode().split(":") for word in words]
        assert [label.name for label in row] == [name for _, _, name in told]
        assert [label.probability for label in row] == [pytest.approx(float(p)) for p, _, _ in told]


def test_shell_examples_give_names_without_thresher(server: Triton, tmp_path: Path) -> None:
    named, classified = (
        subprocess.run(
            ["sh", "-ec", code], cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout
        for code in examples("sh", server)
    )
    labels, thresholds = (json.loads(line.replace("'", '"')) for line in named.splitlines())
    assert labels == [], "a blank picture has no label"
    assert thresholds == dict(zip(LABELS, map(pytest.approx, THRESHOLDS), strict=True))
    (output,) = json.loads(classified)["outputs"]
    assert [entry.split(":")[1:] for entry in output["data"]] == [
        ["0", "0"],
        ["1", "1"],
        ["2", "2"],
    ]

    content = json.loads((tmp_path / "request.json").read_text())
    content["inputs"][0]["data"][3] = content["inputs"][0]["data"][7] = 255
    code = examples("sh", server)[0]
    code = code[code.index("curl") :]
    (tmp_path / "request.json").write_text(json.dumps(content))
    named = subprocess.run(
        ["sh", "-ec", code], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    assert named.splitlines()[0] == "['3', '7']"
