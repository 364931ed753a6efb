"""Opens a client's session from the arguments that `Client` and `AsyncClient` share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from thresher.errors import ConfigError
from thresher_serving.client.pace import BlockingPace, SuspendingPace
from thresher_serving.client.retries import Retries
from thresher_serving.client.session import Session
from thresher_serving.client.shared_memory import LARGE_BYTES, Regions
from thresher_serving.client.texts import TextTokenizer
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
    max_length: int,
) -> Session:
    """Return a session; each server is connected to with its first call.

    Raises:
        ConfigError: If an option is wrong, or options do not go together.
        NotFoundError: If there is no such tokenizer.
    """
    places = [url] if isinstance(url, str | Connection) else list(url)
    if not places:
        raise ConfigError("got no server, expected at least one HOST:PORT")
    is_async = isinstance(pace, SuspendingPace)
    servers: list[Transport] = []
    for place in places:
        connection = as_connection(place)
        if headers is not None:
            connection = replace(connection, headers={**connection.headers, **headers})
        if tls is not None:
            connection = replace(connection, tls=tls)
        if connection.is_http:
            if shared_memory:
                raise ConfigError(
                    f"{connection.url}: shared memory goes with gRPC; give HOST:PORT, 8001 by "
                    "default"
                )
            from thresher_serving.client.http_transport import AsyncHttpTransport, HttpTransport

            servers.append((AsyncHttpTransport if is_async else HttpTransport)(connection))
        else:
            regions = _regions(connection, shared_memory, pace)
            servers.append(GrpcTransport(connection, is_async=is_async, regions=regions))
    texts = TextTokenizer(tokenizer, max_length=max_length)
    return Session(servers, pace=pace, retries=retries, tokenizer=texts)


def _regions(
    connection: Connection, wanted: bool | None, pace: BlockingPace | SuspendingPace
) -> Regions | None:
    if wanted:
        return Regions(connection, min_bytes=1, sleep=pace.sleep)
    if wanted is None and connection.is_loopback:
        return Regions(connection, min_bytes=LARGE_BYTES, sleep=pace.sleep)
    return None
