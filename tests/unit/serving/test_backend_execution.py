"""What the backend makes of requests, under sanitizers: a stand-in for Triton hands it what no
client can send, and ONNX Runtime computes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
from onnx import TensorProto, helper

from support.backend import SANITIZERS, SOURCES, STRICT, compile_c

Run = Callable[..., list[str]]
Execute = Callable[..., tuple[list[str], list[int]]]
LIBRARY = next(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*"))
KINDS = {"FP32": TensorProto.FLOAT, "STRING": TensorProto.STRING, "BOOL": TensorProto.BOOL}
INVALID, UNAVAILABLE, INTERNAL, CANCELLED = 3, 4, 1, 7  # TRITONSERVER_Error_Code


def write_model(folder: Path, kind: str, width: int | str) -> None:
    """Write an identity network as version 1."""
    shape = ["batch", width]
    x, y = (helper.make_tensor_value_info(name, KINDS[kind], shape) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "graph", [x], [y])
    opset = [helper.make_opsetid("", 20)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10)
    (folder / "1").mkdir(parents=True)
    (folder / "1/model.onnx").write_bytes(model.SerializeToString())


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = Path(__file__).parent
    sources = [*SOURCES.glob("*.c"), here / "fake_triton.c", here / "execution_driver.c"]
    folder = tmp_path_factory.mktemp("execution")
    (folder / "libonnxruntime.so").symlink_to(LIBRARY)
    return compile_c(folder / "driver", sources, *SANITIZERS)


@pytest.fixture(scope="session")
def gpu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with an ONNX Runtime and a CUDA driver whose GPU is the host's memory."""
    folder = tmp_path_factory.mktemp("gpu")
    flags = (*STRICT, "-fPIC", "-shared")
    source = Path(__file__).with_name("fake_gpu.c")
    compile_c(folder / "libonnxruntime.so", [source], *flags)
    compile_c(folder / "libcuda.so.1", [source], *flags)
    return folder


@pytest.fixture
def run(driver: Path, tmp_path: Path) -> Run:
    """Return what runs a scenario and gives what it prints."""

    def scenario(
        name: str,
        *,
        kind: str = "FP32",
        width: int | str = "width",
        more: Mapping[str, Any] | None = None,
        gpu: Path | None = None,
        **environment: str,
    ) -> list[str]:
        write_model(tmp_path / "model", kind, width)
        io = {"data_type": f"TYPE_{kind}", "dims": [width if width == 2 else -1]}
        config = {"name": "net", "max_batch_size": 8, "input": [{"name": "x", **io}]}
        text = json.dumps({**config, "output": [{"name": "y", **io}], **(more or {})})
        around = {"REAL_ONNXRUNTIME": str(LIBRARY), "ASAN_OPTIONS": "detect_leaks=0"}
        if gpu is not None:
            around["LD_LIBRARY_PATH"] = str(gpu)
        done = subprocess.run(
            [str(driver), str(gpu or driver.parent), str(tmp_path / "model"), text, name],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | around | environment,
        )
        shutil.rmtree(tmp_path / "model")
        assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
        return done.stdout.splitlines()

    return scenario


@pytest.fixture
def execute(run: Run) -> Execute:
    """Return what runs a scenario: a line for each request, and the sizes of the runs."""

    def scenario(name: str, **how: Any) -> tuple[list[str], list[int]]:
        *lines, runs = run(name, **how)
        return lines, [int(size) for size in runs.split()[1:]]

    return scenario


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
    lines, _ = execute("strings", kind="STRING")
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
    lines, _ = execute("bools", kind="BOOL")
    assert lines == ["y[1,4] 00 01 01 01"]


def test_executions_of_the_warmup_are_not_reported(execute: Execute) -> None:
    warmup = [{"name": "a", "batch_size": 1, "count": 2}, {"name": "b", "batch_size": 0}]
    assert execute("warmup", more={"model_warmup": warmup}) == ([], [1])


def test_a_request_on_the_gpu_is_read_and_answered_where_it_is(run: Run, gpu: Path) -> None:
    lines = run("gpu one", gpu=gpu, width=2)
    assert lines[-4:] == ["on the GPU: 8 bytes"] * 2 + ["y[1,2] 1 2", "runs 1"]
    assert not any(line.startswith("cuMemcpy") for line in lines)


def test_requests_that_are_joined_meet_in_host_memory(run: Run, gpu: Path) -> None:
    lines = run("gpu two", gpu=gpu, width=2)
    copied = ["cuMemcpy 8"] * 2  # the first one's input, and its output
    assert lines[-5:] == [*copied, "y[1,2] 1 2", "y[1,2] 5 6", "runs 2"]


def test_an_output_of_unknown_shape_is_copied_to_the_gpu(run: Run, gpu: Path) -> None:
    lines = run("gpu one", gpu=gpu)
    assert lines[-4:] == ["on the GPU: 8 bytes", "cuMemcpy 8", "y[1,2] 1 2", "runs 1"]


def parameters(**values: str) -> dict[str, Any]:
    return {"parameters": {key: {"string_value": value} for key, value in values.items()}}


def accelerators(**given: Mapping[str, str]) -> dict[str, Any]:
    listed = [{"name": name, "parameters": values} for name, values in given.items()]
    return {"optimization": {"execution_accelerators": {"gpu_execution_accelerator": listed}}}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, "level 99"),
        ({"optimization": {"graph": {"level": -1}}}, "level 1"),
        ({"optimization": {"graph": {"level": 1}}}, "level 2"),
        ({"optimization": {"graph": {"level": 2}}}, "level 0"),
        (parameters(intra_op_thread_count="3"), "intra 3"),
        (parameters(intra_op_thread_count="-1"), "intra 0"),
        (parameters(inter_op_thread_count="2"), "inter 2"),
        (parameters(execution_mode="1"), "mode 1"),
        (parameters(enable_mem_arena="FALSE"), "arena off"),
        (parameters(enable_mem_arena="1"), "arena on"),
        (parameters(enable_mem_pattern="0"), "pattern off"),
        (parameters(enable_mem_pattern="true"), "pattern on"),
        (
            parameters(**{"session.set_denormal_as_zero": "1"}),
            "session session.set_denormal_as_zero 1",
        ),
        (
            parameters(**{"memory.enable_memory_arena_shrinkage": "cpu:0"}),
            "run memory.enable_memory_arena_shrinkage cpu:0",
        ),
    ],
)
def test_options_reach_onnx_runtime(run: Run, gpu: Path, more: Any, expected: str) -> None:
    assert expected in run("none", gpu=gpu, more=more)


HEAD = "trt_op_types_to_exclude=NonMaxSuppression,NonZero,RoiAlign,Sigmoid,GreaterOrEqual"


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, ["cuda use_tf32=0 device_id=0"]),
        (accelerators(cuda={"use_tf32": "1"}), ["cuda use_tf32=1 device_id=0"]),
        (
            parameters(
                cudnn_conv_algo_search="1",
                arena_extend_strategy="1",
                gpu_mem_limit="99",
                do_copy_in_default_stream="0",
            ),
            [
                " ".join(
                    (
                        "cuda use_tf32=0 cudnn_conv_algo_search=HEURISTIC",
                        "arena_extend_strategy=kSameAsRequested gpu_mem_limit=99",
                        "do_copy_in_default_stream=0 device_id=0",
                    )
                )
            ],
        ),
        (
            accelerators(tensorrt={"precision_mode": "FP16", "max_workspace_size_bytes": "7"}),
            [
                f"tensorrt device_id=0 trt_fp16_enable=1 trt_max_workspace_size=7 {HEAD}",
                "cuda use_tf32=0 device_id=0",
            ],
        ),
        (
            accelerators(tensorrt={"trt_fp16_enable": "1", "trt_op_types_to_exclude": "Gelu"}),
            [
                "tensorrt device_id=0 trt_fp16_enable=1 trt_op_types_to_exclude=Gelu",
                "cuda use_tf32=0 device_id=0",
            ],
        ),
        (
            accelerators(tensorrt={"precision_mode": "FP32"}),
            ["tensorrt device_id=0", "cuda use_tf32=0 device_id=0"],
        ),
    ],
)
def test_a_gpus_options_reach_its_providers(
    run: Run, gpu: Path, more: Any, expected: list[str]
) -> None:
    lines = run("gpu none", gpu=gpu, more=more)
    assert [line for line in lines if line.startswith(("cuda", "tensorrt"))] == expected


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (parameters(intra_op_thread_count="two"), 'intra_op_thread_count is "two", expected a'),
        (parameters(execution_mode="2"), 'execution_mode is "2", expected "0" or "1"'),
        (parameters(enable_mem_arena="maybe"), 'enable_mem_arena is "maybe", expected "0", "1"'),
        (parameters(cudnn_conv_algo_search="3"), "unsupported cudnn_conv_algo_search value '3'"),
        (accelerators(rocket={}), "unknown Execution Accelerator 'rocket'"),
        (accelerators(tensorrt={"precision_mode": "FP4"}), "unsupported precision mode 'FP4'"),
        (accelerators(tensorrt={"use_tf32": "0"}), "unknown parameter 'use_tf32' is provided for"),
    ],
)
def test_what_means_nothing_refuses_the_model(run: Run, gpu: Path, more: Any, reason: str) -> None:
    with pytest.raises(AssertionError) as refused:
        run("gpu none", gpu=gpu, more=more)
    assert reason in str(refused.value)


def test_a_gpu_that_does_not_start_leaves_the_model_on_the_cpu(run: Run, gpu: Path) -> None:
    lines = run("gpu two", gpu=gpu, width=2, CUDA_FAILS="1")
    (warning,) = [line for line in lines if line.startswith("warning")]
    assert warning.startswith("warning: model 'net': not honoured: KIND_GPU, the CPU runs: ")
    assert "/no/such/device" in warning
    assert lines[-3:] == ["y[1,2] 1 2", "y[1,2] 5 6", "runs 2"]
    assert not any(line.startswith("on the GPU") for line in lines)


def test_providers_that_cannot_be_had_are_a_warning_each(run: Run) -> None:
    lines = run("gpu two", width=2, more=accelerators(tensorrt={}))  # without the stand-in
    start = "warning: model 'net': not honoured: "
    tensorrt, cuda = (line for line in lines if line.startswith("warning"))
    assert tensorrt.startswith(f"{start}accelerator tensorrt: ")
    assert cuda.startswith(f"{start}instance_group KIND_GPU, the CPU runs: ")
    assert lines[-2:] == ["y[1,2] 5 6", "runs 1"]


def test_a_library_that_cannot_serve_is_named(run: Run, gpu: Path, tmp_path: Path) -> None:
    with pytest.raises(
        AssertionError, match=r"libonnxruntime\.so is ONNX Runtime 1\.19\.2; 1\.20 or"
    ):
        run("none", gpu=gpu, TOO_OLD="1")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(AssertionError, match=r"libonnxruntime\.so is missing or leads nowhere"):
        run("none", gpu=empty)
    (empty / "libonnxruntime.so").write_text("no library")
    with pytest.raises(AssertionError, match=r"cannot be loaded: .*libonnxruntime\.so"):
        run("none", gpu=empty)
    (empty / "libonnxruntime.so").unlink()
    (empty / "libonnxruntime.so").symlink_to(gpu / "other.so")
    (gpu / "other.c").write_text("int nothing;")
    compile_c(gpu / "other.so", [gpu / "other.c"], "-shared", "-fPIC")
    with pytest.raises(AssertionError, match="is not ONNX Runtime: no OrtGetApiBase"):
        run("none", gpu=empty)
