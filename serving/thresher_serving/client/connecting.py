"""Opens a client's session from the arguments that `Client` and `AsyncClient` share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from thresher.errors import ConfigError, MissingExtraError
from thresher.tables.csv_streams import CsvOptions
from thresher_serving.client.examples import ExampleReader
from thresher_serving.client.fastest import FastestTransport
from thresher_serving.client.pace import BlockingPace, SuspendingPace
from thresher_serving.client.retries import Retries
from thresher_serving.client.session import Session
from thresher_serving.client.shared_memory import LARGE_BYTES, LARGE_OUTPUT_BYTES, SharedMemory
from thresher_serving.client.transport import GrpcTransport, Transport
from thresher_serving.connection import Connection, Tls, as_connection

__all__ = ["Where", "opened"]

Where = str | Connection


def opened(
    url: Where | Sequence[Where],
    *,
    pace: BlockingPace | SuspendingPace,
    headers: Mapping[str, str] | None,
    tls: Tls | None,
    retries: Retries,
    shared_memory: bool | None,
    tokenizer: str | Path | None,
    max_length: int | None,
    repository: str | Path | None,
    csv: CsvOptions | None,
) -> Session:
    """Return a session; each server is connected to with its first call.

    Raises:
        ConfigError: If an option is wrong, or options do not go together.
        NotFoundError: If there is no such tokenizer.
    """
    places = [url] if isinstance(url, str | Connection) or not isinstance(url, Iterable) else [*url]
    if not places:
        raise ConfigError("got no server, expected at least one HOST:PORT")
    servers: list[Transport] = []
    for place in places:
        connection = as_connection(place)
        if headers is not None:
            connection = replace(connection, headers={**connection.headers, **headers})
        if tls is not None:
            connection = replace(connection, tls=tls)
        servers.append(_transport(connection, pace, shared_memory))
    examples = ExampleReader(
        tokenizer=tokenizer,
        max_length=max_length,
        repository=None if repository is None else Path(repository),
        csv=csv,
    )
    return Session(servers, pace=pace, retries=retries, examples=examples)


def _transport(
    connection: Connection, pace: BlockingPace | SuspendingPace, shared_memory: bool | None
) -> Transport:
    """Return how a server is asked, by its address: over gRPC, over HTTP, or by the faster one."""
    is_async = isinstance(pace, SuspendingPace)
    if connection.is_http:
        if shared_memory:
            raise ConfigError(
                f"{connection.url}: shared memory goes with gRPC; give HOST:PORT, 8001 by default"
            )
        return _over_http(connection, is_async)
    memory = _memory(connection, shared_memory, pace)
    over_grpc = GrpcTransport(connection, is_async=is_async, memory=memory)
    twin = connection.over_http
    if twin is None:
        return over_grpc
    try:
        return FastestTransport(over_grpc, _over_http(twin, is_async))
    except MissingExtraError:  # without aiohttp there is one way only
        return over_grpc


def _over_http(connection: Connection, is_async: bool) -> Transport:
    from thresher_serving.client.http_transport import AsyncHttpTransport, HttpTransport

    return (AsyncHttpTransport if is_async else HttpTransport)(connection)


def _memory(
    connection: Connection, wanted: bool | None, pace: BlockingPace | SuspendingPace
) -> SharedMemory | None:
    if not wanted and (wanted is False or not connection.is_loopback):
        return None
    return SharedMemory(
        connection,
        min_bytes=1 if wanted else LARGE_BYTES,
        min_output_bytes=1 if wanted else LARGE_OUTPUT_BYTES,
        sleep=pace.sleep,
    )
