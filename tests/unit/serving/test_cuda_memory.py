"""Inputs of other libraries, on the CPU and on a GPU; the GPU's are stand-ins in host memory."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest
import torch

from support.on_gpu import Device, OnGpu
from thresher.errors import DataError, MissingExtraError
from thresher_serving.client import batching, cuda_memory
from thresher_serving.client.cuda_memory import CudaArray, CudaRegion, as_array
from thresher_serving.client.metadata import ModelMetadata, TensorMetadata, checked_inputs

MODEL = ModelMetadata(
    name="weather",
    version=1,
    versions=(1,),
    max_batch_size=4,
    inputs={"x": TensorMetadata(name="x", datatype="FP32", shape=(3,))},
    outputs={},
    decision=None,
)


def test_an_array_of_another_library_is_read_without_a_copy() -> None:
    tensor = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    array = as_array("input", tensor)
    assert isinstance(array, np.ndarray)
    tensor[0, 0] = 7
    assert array[0, 0] == 7


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.ones(2, 3, requires_grad=True), "require gradient"),
        (torch.ones(2, 3, dtype=torch.bfloat16), "input cannot be read"),
        ([[1.0, 2.0, 3.0]], "is a list, expected a NumPy array"),
    ],
)
def test_what_cannot_be_read_is_named(given: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        as_array("input", given)


def test_what_lies_on_a_gpu_is_checked_and_cut_there() -> None:
    rows = np.arange(15, dtype=np.float32).reshape(5, 3)
    checked = checked_inputs(MODEL, OnGpu(rows), allow_nonfinite=False)
    assert isinstance(checked["x"], CudaArray)
    assert checked["x"].nbytes == rows.nbytes
    assert checked["x"].device == 1
    parts = batching.cut(checked, 4)
    assert [part["x"].shape for part in parts] == [(4, 3), (1, 3)]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((2, 4), np.float32), "axis 1 is 4, not 3"),
        (np.zeros(3, np.float32), "1 axes, not 2"),
        (np.zeros((2, 3), np.float64), "is float64, expected float32"),
    ],
)
def test_a_wrong_shape_or_type_on_a_gpu_is_refused(values: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        checked_inputs(MODEL, OnGpu(values), allow_nonfinite=False)


def test_numpy_is_given_a_copy_in_host_memory() -> None:
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    array = CudaArray("input", OnGpu(rows, readable=True))
    np.testing.assert_array_equal(np.ascontiguousarray(array[1:]), rows[1:])
    np.testing.assert_array_equal(np.asarray(CudaArray("input", torch.from_numpy(rows))), rows)
    with pytest.raises(DataError, match="input cannot be read from the GPU"):
        np.asarray(CudaArray("input", torch.ones(2, requires_grad=True)))


@pytest.mark.skipif(importlib.util.find_spec("cuda") is not None, reason="cuda-python is here")
def test_without_cuda_python_the_error_says_what_to_install() -> None:
    with pytest.raises(MissingExtraError, match=r"pip install 'tritonclient\[cuda\]'"):
        CudaRegion(10, device=0)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    device = Device()
    monkeypatch.setattr(cuda_memory, "_library", device.library)
    return device


def test_a_region_on_a_gpu_is_made_filled_and_freed(device: Device) -> None:
    rows = np.arange(6, dtype=np.float32).reshape(2, 1, 3)
    region = CudaRegion(64, device=1)
    assert region.registration() == (region.name.encode(), 1, 2 << 20)
    assert region.write(CudaArray("input", OnGpu(rows)))
    assert device.held[region.name][:24].tobytes() == rows.tobytes()
    assert device.waited == [(1, 1)]
    assert device.current == 0, "the caller's device is as it was"
    region.free()
    region.free()
    assert device.held == {}


def test_a_gpu_without_room_is_no_region(device: Device) -> None:
    device.has_room = False
    with pytest.raises(OSError, match="out of memory"):
        CudaRegion(64, device=1)


def test_what_the_library_does_not_give_is_not_written(device: Device) -> None:
    class Withheld(OnGpu):
        def __dlpack__(self, *, stream: int) -> object:
            raise BufferError("not for export")

    region = CudaRegion(64, device=1)
    assert not region.write(CudaArray("input", Withheld(np.zeros(3, np.float32))))
    assert device.current == 0
