"""Where a Triton server is and how it is reached: address, TLS, header keys, keepalive."""

from __future__ import annotations

import ipaddress
import numbers
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thresher.errors import ConfigError, NotFoundError

__all__ = ["MOST_PORT", "Connection", "Tls", "as_connection", "checked_timeout"]

_SCHEMES = ("grpc", "grpcs")
_AUTHORITY = re.compile(r"(?P<host>[^\s:/?#@\[\]]+|\[[0-9A-Fa-f:.]+(?:%\w+)?\])(?::(?P<port>.*))?")
MOST_PORT = 65_535

_MOST_TIMEOUT_S = 1_000_000.0
"""Sockets count milliseconds in 31 bits."""
_GRPC_PORT = 8001
_HEADER_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_HEADER_VALUE = re.compile(r"[ -~]*")

_KEEPALIVE_MS = 300_000
"""Triton takes pings closer than this as an attack, and hangs up."""

_KEEPALIVE_TIMEOUT_MS = 10_000
"""How long a peer may leave sent bytes unacknowledged before the connection counts as dead."""

_MAX_RECONNECT_MS = 2_000
"""gRPC's own pause between attempts grows to two minutes: a server that is back would be missed."""

_MAX_MESSAGE_BYTES = 2**31 - 1

_CHANNEL_ARGUMENTS = (
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", _MAX_RECONNECT_MS),
    # a connection is shared with no other client: after a fork that would be the parent's
    ("grpc.use_local_subchannel_pool", 1),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """The certificates of an encrypted connection; PEM files.

    Raises:
        ConfigError: If there is a certificate without its key, or a key without its certificate.
    """

    ca: Path | None = None
    """The authorities that may vouch for the server; the usual public ones where left out."""

    certificate: Path | None = None
    """This client's own certificate, for a server that wants to know who asks (mutual TLS)."""

    key: Path | None = None
    """The private key of that certificate."""

    server_name: str | None = None
    """The name that the server's certificate bears, where the address is another one (gRPC)."""

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            given, missing = ("certificate", "key") if self.certificate else ("key", "certificate")
            raise ConfigError(f"tls: got a {given} and no {missing}; expected both or neither")

    def read(self, name: str) -> bytes | None:
        """Return the content of one of the three files; None where it is left out.

        Raises:
            NotFoundError: If the file cannot be read.
        """
        path: Path | None = getattr(self, name)
        if path is None:
            return None
        try:
            return Path(path).read_bytes()
        except OSError as error:
            raise NotFoundError(f"tls: {name} {path} cannot be read: {error.strerror}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """How one Triton server is reached.

    Raises:
        ConfigError: If the address or a header is none.
    """

    url: str = "127.0.0.1:8001"
    """Host and port of the gRPC endpoint, or the host alone for port 8001; with a scheme where
    wanted, grpc or grpcs (TLS)."""

    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Sent with every call, such as the keys of a hardened server. They are kept out of repr."""

    tls: Tls | None = None
    """Certificates; None is a plain connection, unless the scheme is grpcs."""

    def __post_init__(self) -> None:
        if not isinstance(self.url, str):
            raise ConfigError(
                f"a server's address is a {type(self.url).__name__}, {self.url!r}; expected a text "
                "such as 127.0.0.1:8001"
            )
        if self.scheme in {"http", "https"}:
            match = _AUTHORITY.match(self.address)
            host = match["host"] if match else "HOST"
            raise ConfigError(
                f"{self.url} is an HTTP address, and this goes over gRPC: give "
                f"{host}:{_GRPC_PORT}, or the port that --grpc-port names. docs/client.md, "
                '"Over HTTP", shows how tritonclient.http and curl get names and thresholds'
            )
        match = _AUTHORITY.fullmatch(self.address)
        if self.scheme not in _SCHEMES or match is None:
            raise ConfigError(
                f'"{self.url}" is no address of a Triton server; expected HOST:PORT of its gRPC '
                "endpoint, and an IPv6 address in brackets: [::1]:8001"
            )
        port = match["port"]
        if port is not None and not _is_port(port):
            raise ConfigError(
                f'"{self.url}": "{port}" is no port; expected a whole number from 1 to '
                f"{MOST_PORT}, as in 127.0.0.1:8001"
            )
        for name, value in self.headers.items():
            if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
                raise ConfigError(
                    f'header "{name}": expected a name of letters, digits and -_. and a value of '
                    "printable ASCII"
                )

    @property
    def scheme(self) -> str:
        """The scheme of the address, "grpc" where it has none."""
        return self.url.partition("://")[0] if self.has_scheme else "grpc"

    @property
    def has_scheme(self) -> bool:
        """Whether the address names one."""
        return "://" in self.url

    @property
    def address(self) -> str:
        """The address without its scheme, as gRPC takes it."""
        address = self.url.rpartition("://")[2].rstrip("/")
        match = _AUTHORITY.fullmatch(address)
        return f"{address}:{_GRPC_PORT}" if match and match["port"] is None else address

    @property
    def is_loopback(self) -> bool:
        """Whether the address is one of this host's own, so that the server may well run here."""
        match = _AUTHORITY.fullmatch(self.address)
        host = match["host"].strip("[]") if match else ""
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return host.rstrip(".").lower() == "localhost"
        return address.is_loopback or address.is_unspecified

    @property
    def is_encrypted(self) -> bool:
        """Whether it uses TLS."""
        return self.tls is not None or self.scheme == "grpcs"

    def open(self) -> Any:
        """Return a `tritonclient.grpc.InferenceServerClient`; it connects with its first call.

        Raises:
            NotFoundError: If a certificate cannot be read.
        """
        from tritonclient.grpc import InferenceServerClient

        return self._opened(InferenceServerClient)

    def open_async(self) -> Any:
        """Return a `tritonclient.grpc.aio.InferenceServerClient`.

        Raises:
            NotFoundError: If a certificate cannot be read.
        """
        from tritonclient.grpc.aio import InferenceServerClient

        return self._opened(InferenceServerClient)

    def _opened(self, kind: Any) -> Any:
        arguments: list[tuple[str, Any]] = list(_CHANNEL_ARGUMENTS)
        if self.is_loopback:  # gRPC would go through http_proxy, which cannot reach this host
            arguments.append(("grpc.enable_http_proxy", 0))
        if self.tls is not None and self.tls.server_name is not None:
            arguments.append(("grpc.ssl_target_name_override", self.tls.server_name))
        client = kind(self.address, channel_args=arguments, **self._tls_options())
        if self.headers:
            client.register_plugin(_Headers(self.headers))
        return client

    def _tls_options(self) -> dict[str, Any]:
        if not self.is_encrypted:
            return {}
        tls = self.tls or Tls()
        files = {
            "root_certificates": "ca",
            "private_key": "key",
            "certificate_chain": "certificate",
        }
        given = {option: name for option, name in files.items() if tls.read(name) is not None}
        return {"ssl": True, **{option: str(getattr(tls, name)) for option, name in given.items()}}


def as_connection(where: str | Connection) -> Connection:
    """Return how a server is reached, given that or its address.

    Raises:
        ConfigError: If the text is no address.
    """
    return where if isinstance(where, Connection) else Connection(url=where)


def checked_timeout(timeout_s: Any, name: str = "timeout_s") -> float:
    """Return a time-out that calls can keep to.

    Args:
        timeout_s: Seconds.
        name: What the caller calls it.

    Raises:
        ConfigError: If it is no number above 0, or more than a socket can wait.
    """
    is_number = isinstance(timeout_s, numbers.Real) and not isinstance(timeout_s, bool)
    if not is_number or not 0 < timeout_s <= _MOST_TIMEOUT_S:
        raise ConfigError(
            f"{name} is {timeout_s!r}; expected seconds, a number above 0 and at most "
            f"{_MOST_TIMEOUT_S:,.0f}"
        )
    return float(timeout_s)


def _is_port(port: str | int) -> bool:
    return re.fullmatch("[0-9]{1,5}", str(port)) is not None and 1 <= int(port) <= MOST_PORT


class _Headers:
    """A tritonclient plugin that adds headers to each call; gRPC wants their names in lower case.

    tritonclient calls what it is given, so no base class is imported with this module.
    """

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = {name.lower(): value for name, value in headers.items()}

    def __call__(self, request: Any) -> None:
        request.headers.update(self._headers)
