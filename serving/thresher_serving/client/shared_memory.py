"""Inputs through system shared memory, for a client and a server on one host.

A region is written by the client and mapped by the server, so that a tensor travels in no message.
Regions are registered once, used by one request at a time, and used again. A server that refuses
them (Triton from 26.04 on by default, or without the key for them), or cannot see this host's
memory, is sent plain messages.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Awaitable, Callable, Mapping, Sequence
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from thresher_serving.client.failures import CallFailure, is_about_memory
from thresher_serving.connection import Connection

__all__ = ["LARGE_BYTES", "Regions"]

Array = npt.NDArray[Any]
Call = Callable[..., Awaitable[Any]]
Sleep = Callable[[float], Awaitable[None]]

LARGE_BYTES = 1 << 20
"""From here on shared memory is several times as fast: see benchmarks/serving_client.py."""

_GRAIN_BYTES = 1 << 20
"""Regions are multiples of this, so that requests of about one size share them."""

_ALIGNMENT = 64

_IN_USE = "in use"
_UNREGISTER_TRIES = 100
_UNREGISTER_PAUSE_S = 0.05

_SYSTEM_MEMORY = Path("/dev/shm")  # noqa: S108 - where Linux shows what shm_open made


class Regions:
    """The shared memory of one connection; to be closed, and given back with the process otherwise.

    Args:
        connection: The server that maps it.
        min_bytes: Smaller requests are sent plainly.
        sleep: Returns after so many seconds.
    """

    def __init__(self, connection: Connection, *, min_bytes: int, sleep: Sleep) -> None:
        self._min_bytes = min_bytes
        self._sleep = sleep
        self._free: list[SharedMemory] = []
        self._registered: dict[str, SharedMemory] = {}
        self._refused = False
        self._finalizer = weakref.finalize(
            self, _give_back, connection, self._registered, os.getpid()
        )

    @property
    def is_refused(self) -> bool:
        """Whether the server does not take shared memory, so that messages carry the inputs."""
        return self._refused

    async def lent(
        self, call: Call, arrays: Mapping[str, Array], feeds: Sequence[Any]
    ) -> SharedMemory | None:
        """Return a region that holds the inputs, to be given back; None to send them plainly.

        Args:
            call: Calls a method of the tritonclient by name.
            arrays: The inputs.
            feeds: The same as tritonclient's `InferInput`, which are made to point to the region.

        Raises:
            CallFailure: If the server does not answer.
        """
        size = sum(-(-array.nbytes // _ALIGNMENT) * _ALIGNMENT for array in arrays.values())
        strings = any(array.dtype.kind == "O" for array in arrays.values())
        if self._refused or strings or size < self._min_bytes:
            return None
        region = await self._region(call, size)
        if region is None:
            return None
        offset = 0
        for feed, array in zip(feeds, arrays.values(), strict=True):
            np.ndarray(array.shape, array.dtype, region.buf, offset)[...] = array
            feed.set_shared_memory(region.name, array.nbytes, offset)
            offset += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
        return region

    def give_back(self, region: SharedMemory, error: BaseException | None) -> None:
        """Take a region back when the server is done with it; one that it does not know is freed.

        Args:
            region: The region.
            error: What the request that used it ended with.
        """
        if error is not None and is_about_memory(str(error)):
            self._registered.pop(region.name, None)
            _unlink(region)
        else:
            self._free.append(region)

    async def close(self, call: Call) -> None:
        """Unregister and unlink each region."""
        self._free.clear()
        for region in list(self._registered.values()):
            await self._drop(call, region)

    async def _region(self, call: Call, size: int) -> SharedMemory | None:
        """Return a registered region that nobody uses, or None where there can be none."""
        try:
            region = self._free.pop()
        except IndexError:
            pass
        else:
            if region.size >= size:
                return region
            await self._drop(call, region)
        try:
            region = _created(-(-size // _GRAIN_BYTES) * _GRAIN_BYTES)
        except OSError:
            return None  # no room now; there may be later
        self._registered[region.name] = region
        try:
            await call("register_system_shared_memory", region.name, f"/{region.name}", region.size)
        except BaseException as error:
            await self._drop(call, region)
            if not isinstance(error, CallFailure) or error.is_transient:
                raise
            self._refused = True
            return None
        return region

    async def _drop(self, call: Call, region: SharedMemory) -> None:
        del self._registered[region.name]
        _unlink(region)  # the server's own mapping stays until it is told
        for _ in range(_UNREGISTER_TRIES):
            try:
                await call("unregister_system_shared_memory", region.name, client_timeout=2)
            except CallFailure as failure:
                if _IN_USE not in failure.message:
                    return  # the server is gone, or never had it
                await self._sleep(_UNREGISTER_PAUSE_S)  # by a request that was given up here
            else:
                return


def _created(size: int) -> SharedMemory:
    """Return a new region whose pages are there: a write to one that has none kills the process.

    Raises:
        OSError: If there is no room.
    """
    region = SharedMemory(create=True, size=size)
    try:
        descriptor = os.open(_SYSTEM_MEMORY / region.name, os.O_RDWR)
        try:
            os.posix_fallocate(descriptor, 0, size)
        finally:
            os.close(descriptor)
    except OSError:
        _unlink(region)
        raise
    return region


def _unlink(region: SharedMemory) -> None:
    region.close()
    region.unlink()


def _give_back(connection: Connection, regions: dict[str, SharedMemory], owner: int) -> None:
    """Free what a client that was never closed still holds, here and at the server."""
    if not regions or os.getpid() != owner:
        return
    client = connection.open()
    try:
        while regions:
            name, region = regions.popitem()
            _unlink(region)
            client.unregister_system_shared_memory(name, client_timeout=1)
    except Exception:  # noqa: BLE001, S110 - the server may be gone, and nobody listens any more
        pass
    finally:
        client.close()
        while regions:
            _unlink(regions.popitem()[1])
