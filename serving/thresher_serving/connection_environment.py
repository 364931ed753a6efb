"""How a server is reached with the key and the certificates that environment variables name."""

from __future__ import annotations

import os
from pathlib import Path

from thresher_serving.connection import Connection, Tls

__all__ = ["KEY_VARIABLE", "connection_from_environment", "key_headers"]

KEY_VARIABLE = "THRESHER_SERVER_KEY"
"""The environment variable that holds the key of a server with restricted protocols."""

_HEADER = "thresher-key"
_GRPC_PREFIX = "triton-grpc-protocol-"
"""Triton puts it before the name of a restricted protocol's header, over gRPC alone."""


def key_headers(key: str) -> dict[str, str]:
    """Return the headers that carry a server's key, by the names that gRPC and HTTP ask for.

    Source: Triton's customization guide, "Limited Endpoint Access".
    """
    return {_GRPC_PREFIX + _HEADER: key, _HEADER: key}


def connection_from_environment(url: str) -> Connection:
    """Return how a server is reached, with the key and certificates that the environment names.

    THRESHER_TLS_CA, THRESHER_TLS_CERT and THRESHER_TLS_KEY are files in PEM form; one of them, or
    an address that begins with ``grpcs://``, makes it TLS. THRESHER_SERVER_KEY goes along over TLS
    and to this machine itself, and is never sent over a network in the clear.

    Raises:
        ConfigError: If the address is none, or a certificate lacks its key.
    """
    ca, certificate, key = (
        Path(os.environ[name]) if os.environ.get(name) else None
        for name in ("THRESHER_TLS_CA", "THRESHER_TLS_CERT", "THRESHER_TLS_KEY")
    )
    plain = Connection(url=url)
    has_files = ca or certificate or key
    tls = Tls(ca=ca, certificate=certificate, key=key) if has_files else None
    secret = os.environ.get(KEY_VARIABLE)
    sent = bool(secret) and (plain.is_loopback or tls is not None or plain.is_encrypted)
    return Connection(url=url, headers=key_headers(secret or "") if sent else {}, tls=tls)
