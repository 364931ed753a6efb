"""How one server is asked over HTTP, with binary tensors; NumPy alone suffices.

`HttpTransport` blocks and needs the standard library only. `AsyncHttpTransport` uses aiohttp, which
comes with `tritonclient[http]`.

Source: Triton's "Binary Tensor Data Extension" of the KServe v2 protocol.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote, urlsplit

from thresher.errors import MissingExtraError
from thresher_serving.client import binary_tensors
from thresher_serving.client.failures import CallFailure
from thresher_serving.client.transport import Answer, Request
from thresher_serving.connection import Connection, Tls
from thresher_serving.control import ModelState

__all__ = ["AsyncHttpTransport", "HttpTransport"]

_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    429: "UNAVAILABLE",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
"""The gRPC status of an HTTP one; INTERNAL of all others."""


class _Http:
    """What both transports share: which path is asked, and what an answer means."""

    def __init__(self, connection: Connection) -> None:
        self.url = connection.url
        self._address = urlsplit(connection.url)
        self._headers = dict(connection.headers)
        self._tls = _tls_context(connection.tls) if connection.is_encrypted else None

    async def infer(self, request: Request, timeout_s: float) -> Answer:
        """Return the server's answer."""
        body, headers = binary_tensors.encoded(request)
        path = f"{_path(request.model, request.version)}/infer"
        status, got, answer = await self._exchange("POST", path, body, headers, timeout_s)
        _check(status, answer)
        return binary_tensors.decoded(got, answer, request.outputs)

    async def describe(self, model: str, version: str, timeout_s: float) -> tuple[Any, Any, int]:
        """Return Triton's metadata and configuration of a model, and the version they are of."""
        metadata = await self._json("GET", _path(model, ""), timeout_s)
        chosen = version or str(max(map(int, metadata["versions"])))
        config = await self._json("GET", f"{_path(model, chosen)}/config", timeout_s)
        return _as_message(metadata), _as_config(config), int(chosen)

    async def states(self, timeout_s: float) -> list[ModelState]:
        """Return the state of each model and version in the repository."""
        return [
            ModelState(
                name=model["name"],
                version=int(model["version"]) if model.get("version") else None,
                state=model.get("state") or "UNKNOWN",
                reason=model.get("reason", ""),
            )
            for model in await self._json("POST", "/v2/repository/index", timeout_s)
        ]

    async def is_ready(self, model: str, version: str, timeout_s: float) -> bool:
        """Return whether a model is ready; the server, where the name is empty."""
        path = f"{_path(model, version)}/ready" if model else "/v2/health/live"
        status, _, answer = await self._exchange("GET", path, [], {}, timeout_s)
        if status in {401, 403}:
            _check(status, answer)
        return status == 200

    async def _json(self, method: str, path: str, timeout_s: float) -> Any:
        status, _, answer = await self._exchange(method, path, [], {}, timeout_s)
        _check(status, answer)
        try:
            return json.loads(answer)
        except ValueError:
            raise CallFailure("INTERNAL", f"{path}: the answer is no JSON") from None

    async def _exchange(
        self,
        method: str,
        path: str,
        body: list[bytes],
        headers: Mapping[str, str],
        timeout_s: float,
    ) -> tuple[int, Mapping[str, str], bytes]:
        raise NotImplementedError


class HttpTransport(_Http):
    """A server over HTTP, for callers that block; each thread that waits has its own connection.

    Args:
        connection: Where the server is.
    """

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._idle: list[http.client.HTTPConnection] = []

    async def close(self) -> None:
        """Close the connections."""
        while self._idle:
            self._idle.pop().close()

    async def _exchange(
        self,
        method: str,
        path: str,
        body: list[bytes],
        headers: Mapping[str, str],
        timeout_s: float,
    ) -> tuple[int, Mapping[str, str], bytes]:
        try:
            connection, is_used = self._idle.pop(), True
        except IndexError:
            connection, is_used = self._new(timeout_s), False
        try:
            return self._once(connection, method, path, body, headers, timeout_s)
        except TimeoutError:
            connection.close()
            raise CallFailure("DEADLINE_EXCEEDED", "no answer in time") from None
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            if is_used:  # the server may have hung up while nobody asked
                await self.close()
                return await self._exchange(method, path, body, headers, timeout_s)
            raise CallFailure("UNAVAILABLE", _words(error)) from None
        except BaseException:
            connection.close()
            raise

    def _once(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: list[bytes],
        headers: Mapping[str, str],
        timeout_s: float,
    ) -> tuple[int, Mapping[str, str], bytes]:
        connection.timeout = timeout_s
        if connection.sock is not None:
            connection.sock.settimeout(timeout_s)
        length = {"Content-Length": str(sum(map(len, body)))}
        sent = {**self._headers, **headers, **length}
        connection.request(method, self._address.path + path, body=body, headers=sent)
        response = connection.getresponse()
        answer = response.read()
        if response.will_close:
            connection.close()
        else:
            self._idle.append(connection)
        return response.status, _lower(response.headers), answer

    def _new(self, timeout_s: float) -> http.client.HTTPConnection:
        host, port = self._address.hostname or "", self._address.port
        if self._tls is None:
            return http.client.HTTPConnection(host, port, timeout=timeout_s)
        return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=self._tls)


class AsyncHttpTransport(_Http):
    """A server over HTTP, for callers in an event loop.

    Args:
        connection: Where the server is.

    Raises:
        MissingExtraError: If aiohttp is not installed.
    """

    def __init__(self, connection: Connection) -> None:
        try:
            import aiohttp
        except ModuleNotFoundError:
            raise MissingExtraError(
                "AsyncClient over HTTP needs the package aiohttp; install it with: pip install "
                "'tritonclient[http]'"
            ) from None
        super().__init__(connection)
        self._library = aiohttp
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _exchange(
        self,
        method: str,
        path: str,
        body: list[bytes],
        headers: Mapping[str, str],
        timeout_s: float,
    ) -> tuple[int, Mapping[str, str], bytes]:
        aiohttp = self._library
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ssl=self._tls or True),
                headers={"Accept-Encoding": "identity", **self._headers},
            )
        base = f"{self._address.scheme}://{self._address.netloc}{self._address.path}"
        try:
            async with self._session.request(
                method,
                base + path,
                data=b"".join(body),
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=timeout_s),
                allow_redirects=False,
            ) as response:
                return response.status, _lower(response.headers), await response.read()
        except TimeoutError:
            raise CallFailure("DEADLINE_EXCEEDED", "no answer in time") from None
        except (aiohttp.ClientError, OSError) as error:
            raise CallFailure("UNAVAILABLE", _words(error)) from None


def _path(model: str, version: str) -> str:
    path = f"/v2/models/{quote(model, safe='')}"
    return f"{path}/versions/{version}" if version else path


def _check(status: int, answer: bytes) -> None:
    if status == 200:
        return
    text = answer[:10_000].decode("utf-8", "replace").strip()
    with contextlib.suppress(ValueError, TypeError, KeyError):
        text = str(json.loads(text)["error"])
    raise CallFailure(_STATUS.get(status, "INTERNAL"), text or f"HTTP status {status}")


def _lower(headers: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _tls_context(tls: Tls | None) -> ssl.SSLContext:
    tls = tls or Tls()
    authorities = tls.read("ca")
    context = ssl.create_default_context(
        cadata=None if authorities is None else authorities.decode("ascii")
    )
    if tls.certificate is not None:
        tls.read("certificate")
        tls.read("key")
        context.load_cert_chain(tls.certificate, tls.key)
    return context


def _as_message(metadata: dict[str, Any]) -> Any:
    """Return a model's metadata as gRPC would have it."""
    tensors = {
        key: [SimpleNamespace(**tensor) for tensor in metadata.get(key, [])]
        for key in ("inputs", "outputs")
    }
    return SimpleNamespace(name=metadata["name"], versions=metadata.get("versions", []), **tensors)


def _as_config(config: dict[str, Any]) -> Any:
    """Return what is read of a model's configuration as gRPC would have it."""
    return SimpleNamespace(
        max_batch_size=int(config.get("max_batch_size", 0)),
        input=[
            SimpleNamespace(name=tensor["name"], optional=bool(tensor.get("optional", False)))
            for tensor in config.get("input", [])
        ],
        parameters={
            key: SimpleNamespace(string_value=value.get("string_value", ""))
            for key, value in config.get("parameters", {}).items()
        },
    )
