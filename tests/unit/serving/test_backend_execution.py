"""What the backend makes of requests, under sanitizers: a stand-in for Triton hands it what no
client can send, and ONNX Runtime computes."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest
from onnx import TensorProto, helper

from support.backend import SANITIZERS, SOURCES, compile_c

Execute = Callable[[str], tuple[list[str], list[int]]]
KINDS = {"FP32": TensorProto.FLOAT, "STRING": TensorProto.STRING, "BOOL": TensorProto.BOOL}
INVALID, UNAVAILABLE, INTERNAL, CANCELLED = 3, 4, 1, 7  # TRITONSERVER_Error_Code


def _model(folder: Path, kind: str) -> str:
    """Write an identity network; return its configuration."""
    shape = ["batch", "width"]
    x, y = (helper.make_tensor_value_info(name, KINDS[kind], shape) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "graph", [x], [y])
    opset = [helper.make_opsetid("", 20)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10)
    (folder / "1").mkdir(parents=True)
    (folder / "1/model.onnx").write_bytes(model.SerializeToString())
    io = {"data_type": f"TYPE_{kind}", "dims": [-1]}
    config = {"name": "net", "max_batch_size": 8, "input": [{"name": "x", **io}]}
    if folder.name == "warmup":
        config["model_warmup"] = [{"name": "a", "batch_size": 1, "count": 2}, {"batch_size": 0}]
    return json.dumps({**config, "output": [{"name": "y", **io}]})


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = Path(__file__).parent
    sources = [*SOURCES.glob("*.c"), here / "fake_triton.c", here / "execution_driver.c"]
    folder = tmp_path_factory.mktemp("execution")
    library = next(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*"))
    (folder / "libonnxruntime.so").symlink_to(library)
    return compile_c(folder / "driver", sources, *SANITIZERS)


@pytest.fixture
def execute(driver: Path, tmp_path: Path) -> Execute:
    """Return what runs a scenario: a line for each request, and the sizes of the runs."""

    def run(scenario: str, kind: str = "FP32") -> tuple[list[str], list[int]]:
        config = _model(tmp_path / scenario, kind)
        command = [str(driver), str(driver.parent), str(tmp_path / scenario), config, scenario]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            # what is not freed is looked for in the driver: it keeps requests, ONNX Runtime more
            env=os.environ | {"ASAN_OPTIONS": "detect_leaks=0"},
        )
        assert done.returncode == 0, done.stderr[-3000:]
        *lines, runs = done.stdout.splitlines()
        return lines, [int(size) for size in runs.split()[1:]]

    return run


def test_requests_of_other_widths_run_one_after_the_other_and_are_not_padded(
    execute: Execute,
) -> None:
    lines, runs = execute("widths")
    assert lines == [
        "y[1,1] 0",
        "y[1,3] 10 11 12",
        "y[1,3] 20 21 22",
        "y[1,2] 30 31",
        "y[2,1] 40 41",
        "y[1,3] 50 51 52",
    ]
    assert runs == [3, 3, 1]  # rows of width 1, of width 3, of width 2


def test_cancelled_requests_are_skipped_before_they_are_computed(execute: Execute) -> None:
    lines, runs = execute("cancelled")
    assert lines[1::2] == ["y[1,2] 1 2", "y[1,2] 3 4"]
    assert lines[::2] == [f"error {CANCELLED}: the request was cancelled"] * 3
    assert runs == [2]


def test_an_input_in_pieces_is_put_together(execute: Execute) -> None:
    lines, runs = execute("pieces")
    assert lines == ["y[2,2] 1 2 3 4", "y[1,2] 5 6", "y[1,3] 5 6 7", "y[1,4] 1 2 3 4"]
    assert runs == [3, 1, 1]


def test_requests_without_rows_or_values_are_answered(execute: Execute) -> None:
    lines, runs = execute("empty")
    assert lines == ["y[0,2]", "y[1,2] 3 4", "y[0,3]", "y[2,0]"]
    assert runs == [1, 0, 2]


def test_each_wrong_request_gets_its_error_and_the_others_their_answers(execute: Execute) -> None:
    lines, _ = execute("wrong")
    expected = [
        "y[1,2] 7 8",
        f"error {INVALID}: input 'x' has 7 bytes for 2 values of TYPE_FP32",
        f"error {INVALID}: input 'x' has a shape of no size",
        f"error {INVALID}: input 'x' has a shape of no size",
        f"error {INVALID}: input 'x' has another data type than TYPE_FP32",
        f"error {INVALID}: input 'x' has no batch dimension",
        f"error {INVALID}: the model has no input 'z'",
        f"error {INVALID}: the model has no output 'z'",
        f"error {INVALID}: input 'x' is missing",
        f"error {UNAVAILABLE}: a tensor is in a GPU's memory, and the CUDA driver cannot be used",
        f"error {INTERNAL}: no room",
        f"error {INVALID}: Invalid rank for input: x Got: 1 Expected: 2",
        f"error {INVALID}: input 'x' has 0 bytes for 4 values of TYPE_FP32",
        "y[1,2] 9 10",
    ]
    assert len(lines) == len(expected), "\n".join(lines)
    for line, start in zip(lines, expected, strict=True):
        assert line.startswith(start)


def test_strings_keep_every_byte_and_wrong_ones_are_refused(execute: Execute) -> None:
    lines, _ = execute("strings", "STRING")
    assert lines == [
        "y[1,2] 01 00 00 00 61 03 00 00 00 00 62 ff",
        "y[1,0]",
        f"error {INVALID}: a string is longer than the bytes that are left",
        f"error {INVALID}: fewer strings than the shape says",
        f"error {INVALID}: more strings than the shape says",
        f"error {INVALID}: fewer strings than the shape says",
        f"error {INVALID}: a string is longer than the bytes that are left",
        "y[1,1] 00 00 00 00",
    ]


def test_a_bool_of_another_value_is_true(execute: Execute) -> None:
    lines, _ = execute("bools", "BOOL")
    assert lines == ["y[1,4] 00 01 01 01"]


def test_executions_of_the_warmup_are_not_reported(execute: Execute) -> None:
    assert execute("warmup") == ([], [1])
