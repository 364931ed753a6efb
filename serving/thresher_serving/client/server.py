"""How one server is asked over gRPC, blocking or awaiting.

What a client does is written once, as coroutines. The coroutines of a blocking client never
suspend, so `pace.run` drives them to their end in the thread that calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy.typing as npt

from thresher.errors import DataError
from thresher_serving.client import forks
from thresher_serving.client.failures import failure_of
from thresher_serving.client.under_way import BlockingCalls, SuspendingCalls
from thresher_serving.connection import Connection
from thresher_serving.control import ModelState

__all__ = ["Answer", "Request", "Server"]

Array = npt.NDArray[Any]

_CHECKSUM = "thresher.decision"
"""The response parameter with which our backend says which decision it applied."""

_CLOSING_S = 2.0
"""How long closing waits for calls that nobody waits for any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One inference request."""

    model: str
    """The model's name."""

    version: str
    """Its version; empty leaves the choice to the server."""

    inputs: Mapping[str, Array]
    """The arrays that are sent, by input name."""

    datatypes: Mapping[str, str]
    """Triton's name of each input's type."""

    outputs: tuple[str, ...]
    """What is asked for; none asks for all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The server's answer to a request."""

    server: Server
    """Who gave it."""

    version: int
    """The version that answered."""

    checksum: str
    """The checksum of the decision that was applied; empty where the backend does not send it."""

    arrays: dict[str, Array]
    """Outputs by name; some may be read-only views of the message."""


class _Link(NamedTuple):
    """A connection, and the calls that go over it."""

    client: Any
    calls: BlockingCalls | SuspendingCalls


class Server:
    """One server: one connection for each event loop, or one for all threads.

    Each method raises `CallFailure` where a call fails.

    Args:
        connection: Where the server is.
        is_async: Whether to wait by suspending, for a caller inside an event loop.
    """

    def __init__(self, connection: Connection, *, is_async: bool) -> None:
        self.url = connection.url if connection.has_scheme else connection.address
        self.failures = 0
        """How many calls have failed so that the server may have been restarted since."""
        self.answered: set[str] = set()
        """The models about which it has answered."""
        self._connection = connection
        self._is_async = is_async
        self._links: dict[asyncio.AbstractEventLoop | None, _Link] = {}

    async def infer(self, request: Request, timeout_s: float) -> Answer:
        """Return the server's answer."""
        link = self._link()  # first: a module must not be half imported when a fork comes
        from tritonclient.grpc import InferInput, InferRequestedOutput

        feeds = []
        for name, array in request.inputs.items():
            feed = InferInput(name, list(array.shape), request.datatypes[name])
            with _refusing(request.model, name):
                feeds.append(feed.set_data_from_numpy(array))
        with _failing():
            result = await link.calls.infer(
                link.client,
                request.model,
                feeds,
                timeout_s=timeout_s,
                model_version=request.version,
                outputs=[InferRequestedOutput(name) for name in request.outputs] or None,
            )
        self.answered.add(request.model)
        response = result.get_response()
        names = request.outputs or [output.name for output in response.outputs]
        parameters = response.parameters
        return Answer(
            server=self,
            version=int(response.model_version),
            checksum=parameters[_CHECKSUM].string_param if _CHECKSUM in parameters else "",
            arrays={name: result.as_numpy(name) for name in names},
        )

    async def describe(self, model: str, version: str, timeout_s: float) -> tuple[Any, Any, int]:
        """Return Triton's metadata and configuration of a model, and the version they are of."""
        metadata = await self._call("get_model_metadata", model, client_timeout=timeout_s)
        # the configuration is asked for by version: a new one may come between the two calls
        chosen = version or str(max(map(int, metadata.versions)))
        config = await self.config(model, chosen, timeout_s)
        self.answered.add(model)
        return metadata, config, int(chosen)

    async def config(self, model: str, version: str, timeout_s: float) -> Any:
        """Return Triton's configuration of a model's version."""
        answer = await self._call("get_model_config", model, version, client_timeout=timeout_s)
        return answer.config

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
        """Wait for calls that were given up, and hang up; of an event loop, its own connection."""
        link = self._links.pop(self._loop(), None)
        if link is None:
            return
        await link.calls.ended(_CLOSING_S)
        if self._is_async:
            await link.client.close()
        else:
            with forks.CALLS:
                link.client.close()

    def _loop(self) -> asyncio.AbstractEventLoop | None:
        return asyncio.get_running_loop() if self._is_async else None

    def _link(self) -> _Link:
        forks.check_usable()
        loop = self._loop()
        found = self._links.get(loop)
        if found is not None:
            return found
        if not self._is_async:
            with forks.CALLS:
                opened = _Link(self._connection.open(), BlockingCalls())
            return self._links.setdefault(None, opened)
        for other in list(self._links):
            if other is not None and other.is_closed():  # nothing can be awaited there any more
                self._links.pop(other, None)
        client = self._connection.open_async()
        forks.AWAITING.add(client)
        self._links[loop] = _Link(client, SuspendingCalls())
        return self._links[loop]

    async def _call(self, method: str, *args: Any, **options: Any) -> Any:
        with _failing():
            call = getattr(self._link().client, method)
            if self._is_async:
                result = await call(*args, **options)
            else:
                with forks.CALLS:
                    result = call(*args, **options)
        return result


@contextmanager
def _failing() -> Iterator[None]:
    """Turn tritonclient's exceptions into `CallFailure`."""
    try:
        yield
    except Exception as error:
        from tritonclient.utils import InferenceServerException

        if not isinstance(error, InferenceServerException):
            raise
        raise failure_of(error) from None


@contextmanager
def _refusing(model: str, name: str) -> Iterator[None]:
    """Turn what tritonclient says of an input into our error."""
    from tritonclient.utils import InferenceServerException

    try:
        yield
    except (InferenceServerException, UnicodeEncodeError) as error:
        raise DataError(f'model {model}, input "{name}": {error}') from None
