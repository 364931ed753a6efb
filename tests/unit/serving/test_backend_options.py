"""How the backend reads a model's configuration into ONNX Runtime's options."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

import thresher_serving
from thresher_serving.embedded.runtime_install import runtime_folder
from thresher_serving.embedded.runtime_platform import site_packages

LEVEL = onnxruntime.GraphOptimizationLevel
PACKAGE = Path(thresher_serving.__file__).parent


@pytest.fixture(scope="module")
def backend() -> Any:
    """The backend's file, imported beside Triton's own Python module."""
    triton = site_packages(runtime_folder()) / "pytriton/tritonserver/backends/python"
    if not (triton / "triton_python_backend_utils.py").is_file():
        pytest.skip("the Triton server is not installed; run: thresher runtime install")
    sys.path.insert(0, str(triton))
    try:
        spec = importlib.util.spec_from_file_location(
            "onnxruntime_backend", PACKAGE / "backends/onnxruntime/model.py"
        )
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module._import_onnxruntime()
    finally:
        sys.path.remove(str(triton))
    return module


def parameters(**values: str) -> dict[str, Any]:
    return {"parameters": {key: {"string_value": value} for key, value in values.items()}}


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (None, LEVEL.ORT_ENABLE_ALL),
        (0, LEVEL.ORT_ENABLE_ALL),
        (-1, LEVEL.ORT_ENABLE_BASIC),
        (1, LEVEL.ORT_ENABLE_EXTENDED),
        (2, LEVEL.ORT_DISABLE_ALL),
    ],
)
def test_graph_levels_mean_what_they_mean_to_triton(
    backend: Any, level: int | None, expected: Any
) -> None:
    config = {} if level is None else {"optimization": {"graph": {"level": level}}}
    assert backend._session_options(config).graph_optimization_level == expected


@pytest.mark.parametrize(
    ("key", "value", "attribute", "expected"),
    [
        ("intra_op_thread_count", "3", "intra_op_num_threads", 3),
        ("intra_op_thread_count", "-1", "intra_op_num_threads", 0),
        ("inter_op_thread_count", "2", "inter_op_num_threads", 2),
        ("execution_mode", "0", "execution_mode", onnxruntime.ExecutionMode.ORT_SEQUENTIAL),
        ("execution_mode", "1", "execution_mode", onnxruntime.ExecutionMode.ORT_PARALLEL),
        ("enable_mem_arena", "0", "enable_cpu_mem_arena", False),
        ("enable_mem_arena", "true", "enable_cpu_mem_arena", True),
        ("enable_mem_pattern", "false", "enable_mem_pattern", False),
    ],
)
def test_session_parameters_arrive(
    backend: Any, key: str, value: str, attribute: str, expected: Any
) -> None:
    options = backend._session_options(parameters(**{key: value}))
    assert getattr(options, attribute) == expected


def test_session_entries_are_passed_on(backend: Any) -> None:
    key = "session.use_device_allocator_for_initializers"
    options = backend._session_options(parameters(**{key: "1"}))
    assert options.get_session_config_entry(key) == "1"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("intra_op_thread_count", "two", 'intra_op_thread_count is "two", expected a whole number'),
        ("execution_mode", "2", 'execution_mode is "2", expected "0" or "1"'),
        ("enable_mem_pattern", "maybe", 'is "maybe", expected "0", "1", "true" or "false"'),
    ],
)
def test_a_value_that_means_nothing_is_an_error(
    backend: Any, key: str, value: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        backend._session_options(parameters(**{key: value}))


def test_tensorrt_parameters_become_provider_options(backend: Any) -> None:
    given = {
        "precision_mode": "FP16",
        "max_workspace_size_bytes": "1073741824",
        "int8_calibration_table_name": "table",
        "int8_use_native_calibration_table": "0",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": "cache",
    }
    assert backend._tensorrt_options(given, "1") == {
        "device_id": "1",
        "trt_fp16_enable": "1",
        "trt_op_types_to_exclude": "NonMaxSuppression,NonZero,RoiAlign,Sigmoid,GreaterOrEqual",
        "trt_max_workspace_size": "1073741824",
        "trt_int8_calibration_table_name": "table",
        "trt_int8_use_native_calibration_table": "0",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": "cache",
    }
    assert backend._tensorrt_options({"precision_mode": "FP32"}, "0") == {"device_id": "0"}
    with pytest.raises(ValueError, match="unsupported precision mode 'FP4'"):
        backend._tensorrt_options({"precision_mode": "FP4"}, "0")
    with pytest.raises(ValueError, match="unknown parameter 'speed' is provided for TensorRT"):
        backend._tensorrt_options({"speed": "max"}, "0")


@pytest.mark.parametrize("precision", ["FP16", "BF16", "INT8"])
def test_the_head_stays_out_of_a_tensorrt_that_may_lower_it(backend: Any, precision: str) -> None:
    lowered = backend._tensorrt_options({"precision_mode": precision}, "0")
    assert lowered["trt_op_types_to_exclude"].endswith("Sigmoid,GreaterOrEqual")
    own = {"precision_mode": precision, "trt_op_types_to_exclude": "NonZero"}
    assert backend._tensorrt_options(own, "0")["trt_op_types_to_exclude"] == "NonZero"
    assert backend._tensorrt_options({"precision_mode": "FP32"}, "0") == {"device_id": "0"}


def test_cuda_parameters_of_both_kinds_become_provider_options(backend: Any) -> None:
    config = parameters(
        cudnn_conv_algo_search="1", arena_extend_strategy="1", gpu_mem_limit="1000000"
    )
    assert backend._cuda_options(config, {"use_tf32": "0"}, "2") == {
        "device_id": "2",
        "use_tf32": "0",
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
        "gpu_mem_limit": "1000000",
    }
    with pytest.raises(ValueError, match="unsupported cudnn_conv_algo_search value '7'"):
        backend._cuda_options(parameters(cudnn_conv_algo_search="7"), {}, "0")


def test_a_cpu_instance_asks_for_the_cpu_alone(backend: Any) -> None:
    assert backend._providers({}, "CPU", "0", []) == [("CPUExecutionProvider", {})]


def test_notes_of_others_are_let_be_and_unknown_keys_named(backend: Any) -> None:
    config = parameters(**{"thresher.decision/1": "{}", "team.owner": "a"})
    assert backend._unknown_keys(config, "CPU") == []
    config = parameters(**{"threads": "1", "memory.limit": "1", "do_copy_in_default_stream": "1"})
    assert backend._unknown_keys(config, "CPU") == [
        "parameter threads: unknown",
        "parameter memory.limit: unknown",
        "parameter do_copy_in_default_stream: this instance is on CPU",
    ]
    assert "do_copy" not in str(backend._unknown_keys(config, "GPU"))
