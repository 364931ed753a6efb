"""Stand-ins, in host memory, for tensors on a GPU and for the calls that reach CUDA."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Self

import numpy as np


class OnGpu:
    """What a tensor library shows of a tensor on GPU 1; its values may be asked for when allowed.

    `asked` holds the streams that were told to wait for it.
    """

    def __init__(self, values: np.ndarray, *, readable: bool = False, asked: Any = None) -> None:
        self.values, self.readable = values, readable
        self.asked: list[int] = [] if asked is None else asked
        self.dtype, self.shape = f"torch.{values.dtype}", values.shape

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 1

    def __dlpack__(self, *, stream: int) -> object:
        self.asked.append(stream)
        return object()

    def _like(self, values: np.ndarray) -> Self:
        return type(self)(values, readable=self.readable, asked=self.asked)

    def __getitem__(self, rows: slice) -> Self:
        return self._like(self.values[rows])

    def reshape(self, size: int) -> Self:
        return self._like(self.values.reshape(size))

    def cpu(self) -> np.ndarray:
        assert self.readable, "it was copied to the host"
        return self.values


class Device:
    """CUDA and tritonclient's module for it, in host memory."""

    class CudaSharedMemoryException(Exception):  # noqa: N818 - tritonclient's name
        pass

    def __init__(self) -> None:
        self.held: dict[str, np.ndarray] = {}
        self.current = 0
        self.waited: list[tuple[int, int]] = []
        self.has_room = True

    def create_shared_memory_region(self, name: str, size: int, device: int) -> str:
        if not self.has_room:
            raise self.CudaSharedMemoryException("out of memory")
        self.held[name] = np.zeros(size, np.uint8)
        return name

    def get_raw_handle(self, handle: str) -> bytes:
        return handle.encode()

    def destroy_shared_memory_region(self, handle: str) -> None:
        del self.held[handle]

    def set_shared_memory_region_from_dlpack(self, handle: str, tensors: list[OnGpu]) -> None:
        (tensor,) = tensors
        assert self.current == 1, "PyTorch gives a tensor to its own device only"
        assert tensor.asked == [1], "what computes it was not waited for"
        content = tensor.values.view(np.uint8)
        self.held[handle][: len(content)] = content

    def library(self) -> SimpleNamespace:
        def set_device(device: int) -> None:
            self.current = device

        runtime = SimpleNamespace(
            cudaGetDevice=lambda: (0, self.current),
            cudaSetDevice=set_device,
            cudaStream_t=int,
            cudaStreamSynchronize=lambda stream: self.waited.append((self.current, stream)),
        )
        return SimpleNamespace(memory=self, runtime=runtime)
