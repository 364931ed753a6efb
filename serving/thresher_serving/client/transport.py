"""How one server is asked over gRPC, blocking or awaiting.

Everything above the transports is written once, as coroutines. A blocking transport's coroutines
never suspend, so `pace.run` drives them to their end in the thread that calls.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from thresher_serving.client.failures import CallFailure, failure_of
from thresher_serving.client.shared_memory import Loan, SharedMemory
from thresher_serving.client.under_way import BlockingCalls, Calls, SuspendingCalls
from thresher_serving.connection import Connection
from thresher_serving.control import ModelState

__all__ = ["Answer", "GrpcTransport", "Request", "Transport"]

Array = npt.NDArray[Any]

_CLOSING_S = 2.0
"""How long closing waits for calls that nobody waits for any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One inference request."""

    model: str
    """The model's name."""

    version: str
    """Its version; empty leaves the choice to the server."""

    inputs: Mapping[str, Any]
    """The arrays that are sent, by input name; one that lies on a GPU is a `CudaArray`."""

    datatypes: Mapping[str, str]
    """Triton's name of each input's type."""

    outputs: tuple[str, ...]
    """What is asked for; none asks for all."""

    output_bytes: Mapping[str, int] = field(default_factory=dict)
    """How many bytes an output will take, where the model's metadata tells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The server's answer to a request."""

    version: int
    """The version that answered."""

    arrays: dict[str, Array]
    """Outputs by name; some may be read-only views of the message."""


class Transport(Protocol):
    """One server, over one protocol. Each method raises `CallFailure` where it fails."""

    url: str

    async def infer(self, request: Request, timeout_s: float) -> Answer:
        """Return the server's answer."""

    async def describe(self, model: str, version: str, timeout_s: float) -> tuple[Any, Any, int]:
        """Return Triton's metadata and configuration of a model, and the version they are of."""

    async def states(self, timeout_s: float) -> list[ModelState]:
        """Return the state of each model and version in the repository."""

    async def is_ready(self, model: str, version: str, timeout_s: float) -> bool:
        """Return whether a model is ready; the server, where the name is empty."""

    async def close(self) -> None:
        """Close the connection."""


class GrpcTransport:
    """A server over gRPC: one connection, over which any number of calls travel side by side.

    Args:
        connection: Where the server is.
        is_async: Whether to wait by suspending, for a caller inside an event loop.
        memory: Shared memory for tensors; None sends them in the messages.
    """

    def __init__(
        self, connection: Connection, *, is_async: bool, memory: SharedMemory | None = None
    ) -> None:
        self.url = connection.url if connection.has_scheme else connection.address
        self._connection = connection
        self._is_async = is_async
        self._memory = memory
        self._opened: Any = None
        self._calls: Calls = SuspendingCalls() if is_async else BlockingCalls()

    async def infer(self, request: Request, timeout_s: float) -> Answer:
        """Return the server's answer, its tensors sent through shared memory if that is on."""
        from tritonclient.grpc import InferInput, InferRequestedOutput

        feeds = [
            InferInput(name, list(array.shape), request.datatypes[name])
            for name, array in request.inputs.items()
        ]
        end = time.monotonic() + timeout_s
        if self._memory is not None:
            wanted = [InferRequestedOutput(name) for name in request.outputs]
            loan = await self._memory.lent(self._call, request, feeds, wanted)
            try:
                return await self._sent(request, feeds, wanted, timeout_s, loan)
            except CallFailure as failure:
                if not failure.is_about_memory:
                    raise
            # the server was started anew and knows the region no more, or an output is too large
        for feed, array in zip(feeds, request.inputs.values(), strict=True):
            feed.set_data_from_numpy(np.ascontiguousarray(array))
        wanted = [InferRequestedOutput(name) for name in request.outputs]
        return await self._sent(request, feeds, wanted, end - time.monotonic(), Loan())

    async def _sent(
        self, request: Request, feeds: list[Any], wanted: list[Any], timeout_s: float, loan: Loan
    ) -> Answer:
        """Return the answer to a request whose inputs are in their place."""
        read: dict[str, Array] = {}

        def over(result: Any, error: BaseException | None) -> None:
            if result is not None:  # whoever borrows the memory next writes over it
                read.update(loan.read(result.get_response()))
            loan.give_back(error)

        with _failing():
            result = await self._calls.infer(
                self._client(),
                request.model,
                feeds,
                when_over=over,
                timeout_s=timeout_s,
                model_version=request.version,
                outputs=wanted or None,
            )
        response = result.get_response()
        names = request.outputs or [output.name for output in response.outputs]
        arrays = {name: read[name] if name in read else result.as_numpy(name) for name in names}
        return Answer(version=int(response.model_version), arrays=arrays)

    def shares(self, request: Request) -> bool:
        """Return whether a part of a request would go through shared memory."""
        return self._memory is not None and self._memory.takes(request)

    async def describe(self, model: str, version: str, timeout_s: float) -> tuple[Any, Any, int]:
        """Return Triton's metadata and configuration of a model, and the version they are of."""
        metadata = await self._call("get_model_metadata", model, client_timeout=timeout_s)
        # the configuration is asked for by version: a new one may come between the two calls
        chosen = version or str(max(map(int, metadata.versions)))
        answer = await self._call("get_model_config", model, chosen, client_timeout=timeout_s)
        return metadata, answer.config, int(chosen)

    async def states(self, timeout_s: float) -> list[ModelState]:
        """Return the state of each model and version in the repository."""
        index = await self._call("get_model_repository_index", client_timeout=timeout_s)
        return [
            ModelState(
                name=model.name,
                version=int(model.version) if model.version else None,
                state=model.state or "UNKNOWN",
                reason=model.reason,
            )
            for model in index.models
        ]

    async def is_ready(self, model: str, version: str, timeout_s: float) -> bool:
        """Return whether a model is ready; the server, where the name is empty."""
        if model:
            ready = await self._call("is_model_ready", model, version, client_timeout=timeout_s)
        else:
            ready = await self._call("is_server_live", client_timeout=timeout_s)
        return bool(ready)

    async def close(self) -> None:
        """Wait for calls that were given up, give the shared memory back, and hang up."""
        if self._opened is None:
            return
        await self._calls.ended(_CLOSING_S)
        if self._memory is not None:
            await self._memory.close(self._call)
        closing = self._opened.close()
        if self._is_async:
            await closing
        self._opened = None

    def _client(self) -> Any:
        if self._opened is None:
            opens = self._connection.open_async if self._is_async else self._connection.open
            self._opened = opens()
        return self._opened

    async def _call(self, method: str, *args: Any, **options: Any) -> Any:
        with _failing():
            result = getattr(self._client(), method)(*args, **options)
            return await result if self._is_async else result


@contextmanager
def _failing() -> Iterator[None]:
    """Turn tritonclient's exceptions into `CallFailure`."""
    from tritonclient.utils import InferenceServerException

    try:
        yield
    except InferenceServerException as error:
        raise failure_of(error) from None
