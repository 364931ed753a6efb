"""Regions of memory that the client makes and the server maps, each used by one request at a time.

A region is registered once, lent to a request, and lent again after that one's answer; a request
that its caller has given up keeps it until then. After an error the server may still write to it:
it is not lent again, and given up when the server lets go of it. System memory and a GPU's differ
in how a region is made, filled and freed; everything else is here.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from thresher_serving.client.failures import CallFailure
from thresher_serving.connection import Connection

__all__ = ["Call", "Region", "Regions", "Sleep"]

Call = Callable[..., Awaitable[Any]]
Sleep = Callable[[float], Awaitable[None]]

_GRAIN_BYTES = 1 << 20
"""Regions are multiples of this, so that requests of about one size share them."""

_IN_USE = "in use"
_UNREGISTER_TRIES = 100
_UNREGISTER_PAUSE_S = 0.05


class Region(Protocol):
    """Memory that a server can map."""

    name: str
    """What the server knows it by."""

    size: int
    """Its bytes."""

    kind: str
    """Triton's word for where it lies: "system" or "cuda"."""

    def registration(self) -> tuple[Any, ...]:
        """Return what tritonclient's call to register it takes behind the name."""

    def free(self) -> None:
        """Give the memory back; the server has been told to let go of it."""


class Regions:
    """The regions of one kind and connection; to be closed, and freed with the process otherwise.

    Args:
        connection: The server that maps them.
        create: Makes a region of so many bytes; raises OSError where there is no room.
        sleep: Returns after so many seconds.
    """

    def __init__(
        self, connection: Connection, create: Callable[[int], Region], *, sleep: Sleep
    ) -> None:
        self._create = create
        self._sleep = sleep
        self._free: list[Region] = []
        self._failed: list[Region] = []
        self._registered: dict[str, Region] = {}
        self._refused = False
        self._finalizer = weakref.finalize(
            self, _give_back, connection, self._registered, os.getpid()
        )

    @property
    def is_refused(self) -> bool:
        """Whether the server does not take this kind of memory."""
        return self._refused

    async def lent(self, call: Call, size: int) -> Region | None:
        """Return a registered region that nobody uses, or None where there can be none.

        Args:
            call: Calls a method of the tritonclient by name.
            size: The least bytes.

        Raises:
            CallFailure: If the server does not answer.
        """
        if self._refused:
            return None
        for _ in range(len(self._failed)):
            with contextlib.suppress(IndexError):  # another thread may see to it
                failed = self._failed.pop(0)
                if not await self._dropped(call, failed):
                    self._failed.append(failed)
        with contextlib.suppress(IndexError):
            region = self._free.pop()
            if region.size >= size:
                return region
            await self._drop(call, region)
        try:
            region = self._create(-(-size // _GRAIN_BYTES) * _GRAIN_BYTES)
        except OSError:
            return None  # no room now; there may be later
        self._registered[region.name] = region
        try:
            await call(f"register_{region.kind}_shared_memory", region.name, *region.registration())
        except BaseException as error:
            await self._drop(call, region)
            if not isinstance(error, CallFailure) or error.is_transient:
                raise
            self._refused = True
            return None
        return region

    def give_back(self, region: Region, error: BaseException | None) -> None:
        """Take a region back when the request that used it is over.

        Args:
            region: The region.
            error: What the request ended with; None if it was answered.
        """
        (self._free if error is None else self._failed).append(region)

    async def close(self, call: Call) -> None:
        """Unregister and free each region."""
        self._free.clear()
        self._failed.clear()
        for region in list(self._registered.values()):
            await self._drop(call, region)

    async def _drop(self, call: Call, region: Region) -> None:
        """Unregister a region and free it, if need be while the server still uses it."""
        for _ in range(_UNREGISTER_TRIES):
            if await self._dropped(call, region):
                return
            await self._sleep(_UNREGISTER_PAUSE_S)
        self._registered.pop(region.name)
        region.free()

    async def _dropped(self, call: Call, region: Region) -> bool:
        """Unregister a region and free it; return whether the server has let go of it."""
        try:
            await call(f"unregister_{region.kind}_shared_memory", region.name, client_timeout=2)
        except CallFailure as failure:
            if _IN_USE in failure.message:  # by a request that was given up here
                return False
            # the server is gone, or never had it
        self._registered.pop(region.name)
        region.free()
        return True


def _give_back(connection: Connection, regions: dict[str, Region], owner: int) -> None:
    """Free what a client that was never closed still holds, here and at the server."""
    if not regions or os.getpid() != owner:
        return
    client = connection.open()
    try:
        while regions:
            name, region = regions.popitem()
            try:
                getattr(client, f"unregister_{region.kind}_shared_memory")(name, client_timeout=1)
            finally:
                region.free()
    except Exception:  # noqa: BLE001, S110 - the server may be gone, and nobody listens any more
        pass
    finally:
        client.close()
        while regions:
            regions.popitem()[1].free()
