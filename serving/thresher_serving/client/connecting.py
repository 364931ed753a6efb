"""What `Client` and `AsyncClient` are made of: their options, and the session that these open."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from thresher.errors import ConfigError
from thresher.tables.csv_streams import CsvOptions
from thresher_serving.client import forks
from thresher_serving.client.examples import ExampleReader
from thresher_serving.client.pace import BlockingPace, SuspendingPace
from thresher_serving.client.retries import Retries
from thresher_serving.client.server import Server
from thresher_serving.client.session import Session
from thresher_serving.connection import Connection, Tls, as_connection

__all__ = ["BaseClient", "Where"]

Where = str | Connection


class BaseClient:
    """The options of both clients."""

    _is_async: ClassVar[bool]

    def __init__(
        self,
        url: Where | Sequence[Where] = "127.0.0.1:8001",
        *,
        headers: Mapping[str, str] | None = None,
        tls: Tls | None = None,
        retries: Retries = Retries(),  # noqa: B008 - immutable
        in_flight: int = 4,
        tokenizer: str | Path | None = None,
        max_length: int | None = None,
        repository: str | Path | None = None,
        csv: CsvOptions | None = None,
    ) -> None:
        """Note where to ask and how; each server is connected to with its first call.

        Args:
            url: HOST:PORT of the server's gRPC endpoint, 8001 by default. Or several of them, which
                serve the same models: one is asked until it fails, then the next.
            headers: Sent with every call, such as a hardened server's keys.
            tls: Certificates; plain connections where left out.
            retries: When a call that failed for a passing reason is made again.
            in_flight: The most requests that one call of `predict` has under way at a time.
            tokenizer: The ``tokenizer.json`` for texts. Without it, texts go to the model's
                ``.text`` companion on the server, where there is one.
            max_length: The tokens that are kept of a text, where the model's configuration does not
                say.
            repository: A model repository on this machine. Tokenizers and long lists of categories
                are read from it, for the versions whose certificate is the one that the server has.
            csv: How CSV files are written, where it is not commas, quotes and UTF-8.

        Raises:
            ConfigError: If an address, a header or another option is wrong.
            NotFoundError: If there is no such tokenizer.
        """
        if isinstance(url, str | Connection) or not isinstance(url, Iterable):
            url = [url]
        self._connections = [as_connection(where) for where in url]
        if not self._connections:
            raise ConfigError("got no server, expected at least one HOST:PORT")
        if headers is not None:
            self._connections = [
                replace(each, headers={**each.headers, **headers}) for each in self._connections
            ]
        if tls is not None:
            self._connections = [replace(each, tls=tls) for each in self._connections]
        self._retries = retries
        self._in_flight = in_flight
        self._examples = ExampleReader(
            tokenizer=tokenizer,
            max_length=max_length,
            repository=None if repository is None else Path(repository),
            csv=csv,
        )
        self._session = self._opened()
        forks.reopen_after_fork(self)

    @property
    def url(self) -> str:
        """The server that is asked now."""
        return self._session.servers.current.url

    def open_again(self) -> None:
        """Start with connections of this process's own: called in a child after a fork."""
        forks.keep(self._session)
        self._session = self._opened()

    def _opened(self) -> Session:
        return Session(
            [Server(each, is_async=self._is_async) for each in self._connections],
            pace=(SuspendingPace if self._is_async else BlockingPace)(self._in_flight),
            retries=self._retries,
            examples=self._examples,
        )
