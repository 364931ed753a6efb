"""Inputs that lie on an NVIDIA GPU, and the GPU memory through which a server gets them.

The one copy that is made is one on the device, into a region that the server maps through CUDA's
inter-process handles. It goes through tritonclient's own module, which needs the package
cuda-python; that is loaded with the first such input.
"""

from __future__ import annotations

import functools
import uuid
from types import SimpleNamespace
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from thresher.errors import DataError, MissingExtraError

__all__ = ["CudaArray", "CudaRegion", "DlpackArray", "as_array"]

Array = npt.NDArray[Any]

_CUDA = 2
"""DLPack's number for a GPU's own memory (kDLCUDA)."""

_GRAIN_BYTES = 2 << 20
"""CUDA hands out smaller allocations from one block, all of which another process would map.

Source: CUDA Runtime API, cudaIpcGetMemHandle.
"""

_LEGACY_STREAM = 1
"""The default stream, in DLPack as in CUDA."""


class DlpackArray(Protocol):
    """An array of any library that speaks DLPack, such as a PyTorch tensor."""

    def __dlpack__(self, *args: Any, **options: Any) -> Any:
        """Return a capsule of the array."""

    def __dlpack_device__(self) -> tuple[Any, Any]:
        """Return the kind and number of the device that it lies on."""


class CudaArray:
    """An array on a GPU, as far as checks and batches need one; NumPy is given a copy of it.

    Args:
        where: What it is, for messages.
        tensor: The array itself, of a library that speaks DLPack.

    Raises:
        DataError: If its type is none of NumPy's.
    """

    def __init__(self, where: str, tensor: Any) -> None:
        name = str(tensor.dtype).rpartition(".")[2]  # PyTorch says torch.float32
        try:
            self.dtype = np.dtype(name)
        except TypeError:
            raise DataError(f"{where} is {tensor.dtype}, which NumPy does not know") from None
        self.where = where
        self.tensor = tensor
        self.shape = tuple(int(size) for size in tensor.shape)
        self.device = int(tensor.__dlpack_device__()[1])

    @property
    def ndim(self) -> int:
        """How many axes it has."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """How many bytes its values take."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> Self:
        return type(self)(self.where, self.tensor[rows])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """Return a copy in this host's memory.

        Raises:
            DataError: If the library that holds it does not give one.
        """
        tensor = self.tensor
        for method in ("cpu", "get"):  # PyTorch's, CuPy's
            if hasattr(tensor, method):
                tensor = getattr(tensor, method)()
                break
        try:
            return np.asarray(tensor, dtype)
        except (TypeError, RuntimeError, ValueError) as error:
            raise DataError(f"{self.where} cannot be read from the GPU: {error}") from None


def as_array(where: str, given: Any) -> Array | CudaArray:
    """Return what a caller gave as an input: an array here, or one that stays on its GPU.

    Raises:
        DataError: If it is no array, or one that does not let itself be read.
    """
    if isinstance(given, np.ndarray):
        return given
    if not hasattr(given, "__dlpack__") or not hasattr(given, "__dlpack_device__"):
        raise DataError(f"{where} is a {type(given).__name__}, expected a NumPy array")
    if int(given.__dlpack_device__()[0]) == _CUDA:
        return CudaArray(where, given)
    try:
        array: Array = np.from_dlpack(given)
    except (BufferError, RuntimeError, TypeError) as error:
        raise DataError(f"{where} cannot be read: {error}") from None
    return array


class CudaRegion:
    """Memory of one GPU that a server on this host can map; see `regions.Region`.

    Args:
        size: The least bytes.
        device: The number of the GPU.

    Raises:
        MissingExtraError: If cuda-python is not installed.
        OSError: If the GPU has no room, or there is none that this process can use.
    """

    kind = "cuda"

    def __init__(self, size: int, *, device: int) -> None:
        self.name = f"thresher_{uuid.uuid4().hex}"
        self.size = -(-size // _GRAIN_BYTES) * _GRAIN_BYTES
        self._device = device
        self._library = _library()
        memory = self._library.memory
        try:
            self._handle = memory.create_shared_memory_region(self.name, self.size, device)
        except memory.CudaSharedMemoryException as error:
            raise OSError(str(error)) from None

    def registration(self) -> tuple[Any, ...]:
        """See `regions.Region.registration`."""
        raw = self._library.memory.get_raw_handle(self._handle)
        return raw, self._device, self.size

    def free(self) -> None:
        """See `regions.Region.free`."""
        handle, self._handle = self._handle, None
        if handle is not None:
            self._library.memory.destroy_shared_memory_region(handle)

    def write(self, array: CudaArray) -> bool:
        """Copy an array to the region's start, on the device; return whether that could be done.

        tritonclient copies without waiting for the stream that computes the array, so that is
        waited for first; and it takes an axis of one for a gap, so it is given a flat view.
        """
        memory, runtime = self._library.memory, self._library.runtime
        _, before = runtime.cudaGetDevice()
        runtime.cudaSetDevice(self._device)  # PyTorch gives its tensors to their own device only
        try:
            flat = array.tensor.reshape(-1)
            flat.__dlpack__(stream=_LEGACY_STREAM)
            runtime.cudaStreamSynchronize(runtime.cudaStream_t(_LEGACY_STREAM))
            memory.set_shared_memory_region_from_dlpack(self._handle, [flat])
        except (BufferError, memory.CudaSharedMemoryException):
            return False
        finally:
            runtime.cudaSetDevice(before)
        return True


@functools.cache
def _library() -> Any:
    """Return tritonclient's module and CUDA's runtime: the only place that reaches CUDA.

    Raises:
        MissingExtraError: If cuda-python is not installed.
    """
    try:
        import tritonclient.utils.cuda_shared_memory as memory
        from cuda.bindings import runtime
    except (ImportError, RuntimeError):
        raise MissingExtraError(
            "an input on a GPU goes to the server without a copy through this host's memory by the "
            "package cuda-python; install it with: pip install 'tritonclient[cuda]'. Or pass "
            "shared_memory=False to the client, which copies it"
        ) from None
    return SimpleNamespace(memory=memory, runtime=runtime)
