"""The hardened preset, for a server that other machines can reach: a key, TLS, limits.

Who has no key gets health, metadata, configuration and predictions over gRPC, and nothing else.
Triton's HTTP and metrics know no TLS: they stay on this machine. Predictions over HTTP need the
key as well, because requests in JSON can end a Triton 2.51.0 (docs/safety.md).

Source: Triton's customization guide, "Limited API access"; options of release 24.10.
"""

from __future__ import annotations

import os
import re
import secrets
import ssl
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thresher.errors import ConfigError
from thresher_serving.connection import Connection, Tls

__all__ = [
    "KEY_FILE",
    "KEY_VARIABLE",
    "RESTRICTED_BY_OPTION",
    "Public",
    "Security",
    "connection_from_environment",
    "key_headers",
    "public_server",
]

KEY_VARIABLE = "THRESHER_SERVER_KEY"
"""The environment variable that holds a hardened server's key."""

KEY_FILE = "server.key"
"""The file in the state folder that holds it otherwise."""

_RESTRICTED = ("model-repository", "shared-memory", "logging", "trace", "statistics")

RESTRICTED_BY_OPTION = {
    "--grpc-restricted-protocol": _RESTRICTED,
    "--http-restricted-api": (*_RESTRICTED, "inference"),
}
"""What only a call with the key gets: Triton's names. Bodies over HTTP can end Triton 2.51.0."""

_HEADER = "thresher-key"
_GRPC_PREFIX = "triton-grpc-protocol-"
_KEY = re.compile(r"[A-Za-z0-9_.~+/-]{16,512}")
_NAMES = ("DNS", "IP Address")
_MAX_HTTP_BYTES = 64 * 2**20


def key_headers(key: str) -> dict[str, str]:
    """Return the headers that carry a server's key, by the names that gRPC and HTTP ask for."""
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
    host = plain.address.rpartition(":")[0].strip("[]")
    here = host in {"127.0.0.1", "localhost", "::1"}
    has_files = ca or certificate or key
    tls = Tls(ca=ca, certificate=certificate, key=key) if has_files else None
    secret = os.environ.get(KEY_VARIABLE)
    sent = bool(secret) and (here or tls is not None or plain.is_encrypted)
    return Connection(url=url, headers=key_headers(secret or "") if sent else {}, tls=tls)


@dataclass(frozen=True, slots=True, kw_only=True)
class Security:
    """How tools on this machine reach a hardened server; it holds no secret."""

    certificate: str
    """The server's certificate (PEM): the one that it must show."""

    server_name: str
    """A name that the certificate bears."""

    own_key: str | None
    """The private key's file, where the server asks its clients for a certificate as well: tools
    on this machine show the server's own."""

    key_file: str | None
    """The file that holds the key; None where the environment does."""

    def connection(self, url: str) -> Connection:
        """Return how the server is reached.

        Raises:
            ConfigError: If the key cannot be found.
        """
        own = Path(self.certificate) if self.own_key else None
        return Connection(
            url=url,
            headers=key_headers(self._key()),
            tls=Tls(
                ca=Path(self.certificate),
                certificate=own,
                key=Path(self.own_key) if self.own_key else None,
                server_name=self.server_name,
            ),
        )

    def _key(self) -> str:
        if self.key_file is not None:
            return _read_key(Path(self.key_file))
        return _checked(os.environ.get(KEY_VARIABLE, ""), f"environment variable {KEY_VARIABLE}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Public:
    """What a server that other machines can reach is started with."""

    security: Security
    private_key: Path
    """The private key of the server's certificate."""

    clients_ca: Path | None
    """The authority of clients' certificates, which are asked for then (mutual TLS)."""

    key: str = field(repr=False)
    """What a call must bring along for whatever is restricted."""

    def options(self, offered: str) -> tuple[list[str], dict[str, str]]:
        """Return Triton's options, and those that must not be shown with what they stand for.

        Args:
            offered: What ``tritonserver --help`` prints: limits differ from release to release.
        """
        options = [
            "--http-address=127.0.0.1",
            "--metrics-address=127.0.0.1",
            "--allow-sagemaker=false",
            "--allow-vertex-ai=false",
            "--grpc-use-ssl=true",
            f"--grpc-server-cert={self.security.certificate}",
            f"--grpc-server-key={self.private_key.resolve()}",
        ]
        if self.clients_ca is not None:
            options += [
                "--grpc-use-ssl-mutual=true",
                f"--grpc-root-cert={self.clients_ca.resolve()}",
            ]
        if "--allow-client-shm" in offered:
            options.append("--allow-client-shm=false")
        if "--http-max-input-size" in offered:
            options.append(f"--http-max-input-size={_MAX_HTTP_BYTES}")
        hidden = {}
        for option, names in RESTRICTED_BY_OPTION.items():
            what = f"{option}={','.join(names)}:{_HEADER}="
            hidden[f"{what}(hidden)"] = what + self.key
        return [*options, *hidden], hidden


def public_server(
    *,
    certificate: Path,
    private_key: Path,
    clients_ca: Path | None = None,
    key_file: Path | None = None,
    state_dir: Path,
) -> Public:
    """Return what a hardened server needs, its files proven to be usable.

    The key is that of `key_file`; else of the environment variable THRESHER_SERVER_KEY; else of
    ``server.key`` in the state folder, which is made where it is missing.

    Args:
        certificate: The server's certificate, with those between it and its authority (PEM).
        private_key: Its private key.
        clients_ca: The authority of clients' certificates; None asks for none.
        key_file: A file with the key alone, readable by its owner alone.
        state_dir: The state folder.

    Raises:
        ConfigError: If a certificate is expired, does not fit its key or names no host, or the
            key is missing, too short, or readable by others.
    """
    if clients_ca is not None:
        _context(ssl.PROTOCOL_TLS_SERVER, clients_ca)
    name = _certified_name(certificate, private_key)
    where: Path | None = key_file
    if key_file is None:
        where = None if os.environ.get(KEY_VARIABLE) else state_dir / KEY_FILE
    if key_file is None and where is not None and not where.exists():
        state_dir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(where, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
    security = Security(
        certificate=str(certificate.resolve()),
        server_name=name,
        own_key=None if clients_ca is None else str(private_key.resolve()),
        key_file=None if where is None else str(where.resolve()),
    )
    key = (
        _read_key(where)
        if where is not None
        else _checked(os.environ[KEY_VARIABLE], f"environment variable {KEY_VARIABLE}")
    )
    return Public(security=security, private_key=private_key, clients_ca=clients_ca, key=key)


def _read_key(path: Path) -> str:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise ConfigError(
                f"{path}: other users may read the server's key (mode {mode:o}, expected 600). "
                f"Run: chmod 600 {path}"
            )
        return _checked(path.read_text(encoding="ascii").strip(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: the server's key cannot be read: {error}") from None


def _checked(key: str, where: str) -> str:
    if not _KEY.fullmatch(key):
        raise ConfigError(
            f"{where}: {len(key)} characters that cannot be a server's key; expected 16 to 512 "
            'letters, digits and "_.~+/-". Make one: python3 -c '
            "'import secrets; print(secrets.token_urlsafe(32))'"
        )
    return key


def _context(protocol: Any, ca: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{ca}: no certificate in PEM form: {error}") from None
    return context


def _certified_name(certificate: Path, private_key: Path) -> str:
    """Return a name that a certificate bears, once a handshake with itself has proven it usable."""
    here = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        here.load_cert_chain(certificate, private_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"{certificate} and {private_key}: not a certificate and its private key, in PEM form "
            f"and without a passphrase: {error}"
        ) from None
    there = _context(ssl.PROTOCOL_TLS_CLIENT, certificate)
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = there.wrap_bio(down, up)
    answering = here.wrap_bio(up, down, server_side=True)
    for side in (asking, answering, asking):  # TLS 1.3: the client is done with its second step
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLCertVerificationError as error:
            raise ConfigError(
                f"{certificate}: clients will refuse it: {error.verify_message}"
            ) from None
    done = asking.getpeercert() or {}
    names = [entry[1] for entry in done.get("subjectAltName", ()) if entry[0] in _NAMES]
    if not names:
        raise ConfigError(
            f"{certificate} names no host (subjectAltName), so clients will refuse it. Make one "
            "that does: openssl req -x509 ... -addext subjectAltName=DNS:models.example.org"
        )
    return str(names[0]).replace("*", "any")
