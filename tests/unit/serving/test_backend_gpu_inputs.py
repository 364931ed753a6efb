"""Inputs that lie on a GPU: what the backend makes of DLPack, tried with arrays of the host."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

import thresher_serving
from thresher_serving.embedded.runtime_install import runtime_folder
from thresher_serving.embedded.runtime_platform import site_packages

PACKAGE = Path(thresher_serving.__file__).parent
ROWS = np.float32([[1, 2], [3, 4], [5, 6]])


class Tensor:
    """A request's tensor, as Triton's stub gives it; ``is_cpu`` says where it pretends to lie."""

    def __init__(self, array: Any, *, is_cpu: bool = False, name: str = "x") -> None:
        self.array, self._is_cpu, self._name = array, is_cpu, name

    def name(self) -> str:
        return self._name

    def is_cpu(self) -> bool:
        return self._is_cpu

    def as_numpy(self) -> Any:
        return self.array

    def __dlpack__(self, stream: Any = None) -> Any:
        return self.array.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


@pytest.fixture(scope="module")
def backend() -> Any:
    triton = site_packages(runtime_folder()) / "pytriton/tritonserver/backends/python"
    if not (triton / "triton_python_backend_utils.py").is_file():
        pytest.skip("the Triton server is not installed; run: thresher runtime install")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(triton)
        spec = importlib.util.spec_from_file_location(
            "onnxruntime_backend_gpu", PACKAGE / "backends/onnxruntime/model.py"
        )
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module._import_onnxruntime()
    return module


@pytest.fixture(scope="module")
def session() -> onnxruntime.InferenceSession:
    """Two inputs and two outputs: ``double`` = 2x, ``either`` = y or not."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["double"]), helper.make_node("Not", ["y"], ["not"])],
        "graph",
        [value("x", TensorProto.FLOAT, ["n", 2]), value("y", TensorProto.BOOL, ["n", 1])],
        [value("double", TensorProto.FLOAT, ["n", 2]), value("not", TensorProto.BOOL, ["n", 1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )


def run(backend: Any, session: Any, x: Any) -> list[Any]:
    y = np.array([[True]] * len(x))
    return backend._run_bound(
        session, ["not", "double"], {"x": x, "y": y}, onnxruntime.RunOptions()
    )


def test_an_input_is_bound_where_it_lies(backend: Any, session: Any) -> None:
    rows = ROWS.copy()
    value = backend._from_cpu_or_gpu(Tensor(rows))
    assert type(value) is backend._OnGpu
    assert value.shape == (3, 2)
    assert len(value) == 3
    rows[0, 0] = 7  # what is bound is the memory itself, no copy
    negated, doubled = run(backend, session, value)
    np.testing.assert_array_equal(doubled, 2 * rows)
    np.testing.assert_array_equal(negated, [[False]] * 3)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "uint8", "int32", "int64"])
def test_types_keep_their_values(backend: Any, dtype: str) -> None:
    array = np.arange(6, dtype=dtype).reshape(3, 2)
    value = backend._OnGpu(Tensor(array))
    assert np.asarray(value).dtype == dtype
    np.testing.assert_array_equal(value, array)


def test_requests_that_are_joined_are_copied(backend: Any, session: Any) -> None:
    one, two = backend._OnGpu(Tensor(ROWS)), backend._from_cpu_or_gpu(Tensor(ROWS, is_cpu=True))
    joint = backend._joined([{"x": one}, {"x": two}])["x"]
    assert type(joint) is np.ndarray
    _, doubled = run(backend, session, joint)
    np.testing.assert_array_equal(doubled, 2 * np.concatenate([ROWS, ROWS]))


def test_an_input_of_the_host_takes_the_usual_way(backend: Any, session: Any) -> None:
    value = backend._from_cpu_or_gpu(Tensor(ROWS, is_cpu=True))
    assert type(value) is np.ndarray
    np.testing.assert_array_equal(run(backend, session, value)[1], 2 * ROWS)


def test_a_scalar_can_be_made_of_one_value(backend: Any) -> None:
    assert backend._OnGpu(Tensor(np.float32([3]))).reshape(()).shape == ()


def test_gaps_between_values_are_refused(backend: Any) -> None:
    with pytest.raises(RuntimeError, match="contiguous"):
        backend._OnGpu(Tensor(np.zeros((3, 4), np.float32)[:, ::2]))


def test_the_tensor_lives_as_long_as_its_value(backend: Any) -> None:
    array = ROWS.copy()
    before = sys.getrefcount(array)
    value = backend._OnGpu(Tensor(array))
    assert sys.getrefcount(array) > before
    del value
    assert sys.getrefcount(array) == before


def test_a_model_on_the_cpu_refuses_an_input_on_a_gpu(backend: Any) -> None:
    assert type(backend._from_cpu_alone(Tensor(ROWS, is_cpu=True))) is np.ndarray
    with pytest.raises(ValueError, match="'x' lies on a GPU, and the model runs on the CPU"):
        backend._from_cpu_alone(Tensor(ROWS))


def test_inputs_of_bool_are_refused_at_load(backend: Any, session: Any) -> None:
    config = {
        "name": "m",
        "parameters": {"FORCE_CPU_ONLY_INPUT_TENSORS": {"string_value": "no"}},
    }
    with pytest.raises(ValueError, match="BOOL cannot be taken from a GPU"):
        backend._check(config, session)
