"""One server over gRPC and HTTP: each request goes the way that was measured to be the faster one.

Measured with benchmarks/serving_client.py, on one host: large tensors through shared memory, which
goes with gRPC, and all others over HTTP with binary tensors.
"""

from __future__ import annotations

import time
from typing import Any

from thresher_serving.client.failures import CallFailure
from thresher_serving.client.metadata import metadata_of
from thresher_serving.client.transport import Answer, GrpcTransport, Request, Transport
from thresher_serving.control import ModelState

__all__ = ["FastestTransport"]

_COMPARING_S = 1.0
"""How long it may take to see whether both ends are one server."""

_REST_S = 30.0
"""How long gRPC alone is used for a model after HTTP did not do."""


class FastestTransport:
    """A server that is asked over gRPC, and for predictions over HTTP where that will do.

    HTTP is used for a model once both ends have told the same of it: versions, inputs, outputs,
    labels, thresholds. Where its end is closed, is another program or another server, or wants a
    key, everything goes over gRPC.

    Args:
        over_grpc: The server over gRPC.
        over_http: What may be the same server over HTTP.
    """

    def __init__(self, over_grpc: GrpcTransport, over_http: Transport) -> None:
        self.url = over_grpc.url
        self._over_grpc = over_grpc
        self._over_http = over_http
        self._same: set[str] = set()
        self._rests_until: dict[str, float] = {}

    async def infer(self, request: Request, timeout_s: float) -> Answer:
        """Return the server's answer."""
        end = time.monotonic() + timeout_s
        if not self._over_grpc.shares(request) and await self._is_same(request.model, timeout_s):
            try:
                return await self._over_http.infer(request, end - time.monotonic())
            except CallFailure as failure:
                if not (failure.is_transient or failure.is_restricted or failure.is_unknown):
                    raise
                self._rest(request.model)
        return await self._over_grpc.infer(request, end - time.monotonic())

    async def describe(self, model: str, version: str, timeout_s: float) -> tuple[Any, Any, int]:
        """Return Triton's metadata and configuration of a model, and the version they are of."""
        self._same.discard(model)  # something has changed
        return await self._over_grpc.describe(model, version, timeout_s)

    async def states(self, timeout_s: float) -> list[ModelState]:
        """Return the state of each model and version in the repository."""
        return await self._over_grpc.states(timeout_s)

    async def is_ready(self, model: str, version: str, timeout_s: float) -> bool:
        """Return whether a model is ready; the server, where the name is empty."""
        return await self._over_grpc.is_ready(model, version, timeout_s)

    async def close(self) -> None:
        """Close both connections."""
        await self._over_http.close()
        await self._over_grpc.close()

    async def _is_same(self, model: str, timeout_s: float) -> bool:
        """Return whether HTTP may be asked about a model."""
        if model in self._same:
            return True
        if time.monotonic() < self._rests_until.get(model, 0):
            return False
        self._rest(model)  # for other calls meanwhile, and if this fails
        limit_s = min(_COMPARING_S, timeout_s / 4)
        try:
            by_http = metadata_of(*await self._over_http.describe(model, "", limit_s))
            by_grpc = metadata_of(*await self._over_grpc.describe(model, "", limit_s))
        except Exception:  # noqa: BLE001 - whatever may answer where no Triton does
            return False
        if by_http != by_grpc:
            return False
        self._same.add(model)
        del self._rests_until[model]
        return True

    def _rest(self, model: str) -> None:
        self._same.discard(model)
        self._rests_until[model] = time.monotonic() + _REST_S
