"""Tensors through shared memory, for a client and a server on one host: they are in no message.

Inputs and outputs lie in system memory from a size on; an input that lies on a GPU stays there. A
server that refuses this (Triton from 26.04 on by default, or without the key for it), or cannot see
this host's memory, is sent plain messages.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from multiprocessing.shared_memory import SharedMemory as Block
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from thresher_serving.client.cuda_memory import CudaArray, CudaRegion
from thresher_serving.client.metadata import TensorMetadata
from thresher_serving.client.regions import Call, Region, Regions, Sleep
from thresher_serving.connection import Connection

if TYPE_CHECKING:
    from thresher_serving.client.transport import Request

__all__ = ["LARGE_BYTES", "LARGE_OUTPUT_BYTES", "Loan", "SharedMemory"]

Array = npt.NDArray[Any]

LARGE_BYTES = 1 << 20
"""From here on shared memory is several times as fast: see benchmarks/serving_client.py."""

LARGE_OUTPUT_BYTES = 1 << 19
"""The same for outputs."""

_ALIGNMENT = 64

_SYSTEM_MEMORY = Path("/dev/shm")  # noqa: S108 - where Linux shows what shm_open made


class SystemRegion:
    """A region of this host's memory; see `regions.Region`.

    Its pages are there from the start: a write to one that has none kills the process.

    Args:
        size: Its bytes.

    Raises:
        OSError: If there is no room.
    """

    kind = "system"

    def __init__(self, size: int) -> None:
        self._block = Block(create=True, size=size)
        self.name = self._block.name
        self.size = size
        try:
            descriptor = os.open(_SYSTEM_MEMORY / self.name, os.O_RDWR)
            try:
                os.posix_fallocate(descriptor, 0, size)
            finally:
                os.close(descriptor)
        except OSError:
            self.free()
            raise

    def registration(self) -> tuple[Any, ...]:
        """See `regions.Region.registration`."""
        return f"/{self.name}", self.size

    def free(self) -> None:
        """See `regions.Region.free`."""
        self._block.close()
        self._block.unlink()

    def view(self, shape: Sequence[int], dtype: np.dtype[Any], offset: int) -> Array:
        """Return an array that lies in the region."""
        return np.ndarray(shape, dtype, self._block.buf, offset)


class Loan:
    """What one request uses of the shared memory; given back when the server is done with it."""

    def __init__(self) -> None:
        self.regions: list[tuple[Regions, Region]] = []
        self.outputs: dict[str, tuple[SystemRegion, int]] = {}
        """The region and the offset at which the server writes an output, by name."""

    def read(self, response: Any) -> dict[str, Array]:
        """Return the outputs that the server wrote here, by name: copies, the caller's to keep.

        Args:
            response: The server's answer, which tells their types and shapes.
        """
        arrays = {}
        for tensor in response.outputs:
            if tensor.name in self.outputs:
                region, offset = self.outputs[tensor.name]
                dtype = TensorMetadata(name=tensor.name, datatype=tensor.datatype, shape=()).dtype
                arrays[tensor.name] = region.view(tuple(tensor.shape), dtype, offset).copy()
        return arrays

    def give_back(self, error: BaseException | None) -> None:
        """Give the regions back; the request that used them ended with this error, or well."""
        while self.regions:
            regions, region = self.regions.pop()
            regions.give_back(region, error)


class SharedMemory:
    """The shared memory of one connection; to be closed.

    Args:
        connection: The server that maps it.
        min_bytes: Inputs that take less in all are sent in the message.
        min_output_bytes: The same for outputs.
        sleep: Returns after so many seconds.
    """

    def __init__(
        self, connection: Connection, *, min_bytes: int, min_output_bytes: int, sleep: Sleep
    ) -> None:
        self._min_bytes = min_bytes
        self._min_output_bytes = min_output_bytes
        self._new_regions = partial(Regions, connection, sleep=sleep)
        self._system = self._new_regions(SystemRegion)
        self._by_gpu: dict[int, Regions] = {}

    def takes(self, request: Request) -> bool:
        """Return whether a part of a request would go through it."""
        if any(isinstance(array, CudaArray) for array in request.inputs.values()):
            return True
        if self._system.is_refused:
            return False
        return self._takes_inputs(request.inputs) or self._takes_outputs(request.output_bytes)

    async def lent(
        self, call: Call, request: Request, feeds: Sequence[Any], wanted: Sequence[Any]
    ) -> Loan:
        """Return what a request borrows; its inputs are in their place then, wherever that is.

        Args:
            call: Calls a method of the tritonclient by name.
            request: What is asked.
            feeds: Its inputs, as tritonclient's `InferInput`.
            wanted: Its outputs, as tritonclient's `InferRequestedOutput`.

        Raises:
            CallFailure: If the server does not answer.
            MissingExtraError: If an input lies on a GPU and cuda-python is not installed.
        """
        loan = Loan()
        arrays: dict[str, Array] = {}
        by_name = {feed.name(): feed for feed in feeds}
        try:
            for name, array in request.inputs.items():
                if not isinstance(array, CudaArray):
                    arrays[name] = array
                elif not await self._lent_on_gpu(call, loan, by_name[name], array):
                    arrays[name] = np.asarray(array)
            shares_inputs = self._takes_inputs(arrays)
            shares_outputs = self._takes_outputs(request.output_bytes)
            size = sum(_aligned(array.nbytes) for array in arrays.values()) * shares_inputs
            size += sum(map(_aligned, request.output_bytes.values())) * shares_outputs
            region = await self._lent(call, loan, self._system, size) if size else None
            offset = 0
            for name, array in arrays.items():
                if region is None or not shares_inputs:
                    by_name[name].set_data_from_numpy(np.ascontiguousarray(array))
                    continue
                region.view(array.shape, array.dtype, offset)[...] = array
                by_name[name].set_shared_memory(region.name, array.nbytes, offset)
                offset += _aligned(array.nbytes)
            if region is not None and shares_outputs:
                for output in wanted:
                    num_bytes = request.output_bytes.get(output.name())
                    if num_bytes is not None:
                        output.set_shared_memory(region.name, num_bytes, offset)
                        loan.outputs[output.name()] = region, offset
                        offset += _aligned(num_bytes)
        except BaseException:
            loan.give_back(None)
            raise
        return loan

    async def close(self, call: Call) -> None:
        """Unregister and free each region."""
        for regions in (self._system, *self._by_gpu.values()):
            await regions.close(call)

    async def _lent_on_gpu(self, call: Call, loan: Loan, feed: Any, array: CudaArray) -> bool:
        """Return whether an input that lies on a GPU is in its place, without leaving the GPU."""
        if array.device not in self._by_gpu:
            create = partial(CudaRegion, device=array.device)
            self._by_gpu.setdefault(array.device, self._new_regions(create))
        regions = self._by_gpu[array.device]
        region = await self._lent(call, loan, regions, array.nbytes)
        if region is None or not region.write(array):
            return False
        feed.set_shared_memory(region.name, array.nbytes)
        return True

    async def _lent(self, call: Call, loan: Loan, regions: Regions, size: int) -> Any:
        region = await regions.lent(call, size)
        if region is not None:
            loan.regions.append((regions, region))
        return region

    def _takes_inputs(self, arrays: Mapping[str, Array]) -> bool:
        if any(array.dtype.kind == "O" for array in arrays.values()):
            return False
        return sum(array.nbytes for array in arrays.values()) >= self._min_bytes

    def _takes_outputs(self, output_bytes: Mapping[str, int]) -> bool:
        return sum(output_bytes.values()) >= self._min_output_bytes


def _aligned(num_bytes: int) -> int:
    return -(-num_bytes // _ALIGNMENT) * _ALIGNMENT
