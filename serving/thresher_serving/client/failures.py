"""What a failed call means: whether it may be tried again, and what its user should do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from thresher.errors import NotFoundError, ServerError, ThresherError, unknown_name
from thresher.terminal import printable

__all__ = [
    "CallFailure",
    "ChangedError",
    "GoneError",
    "RefusedError",
    "explained",
    "failure_of",
    "without_stack",
]

_UNKNOWN = ("unknown model", "is not found", "not ready")
_AWAY = "has no available versions"
_FULL = "queue size"


class CallFailure(Exception):  # noqa: N818 - never seen outside: `explained` makes the error of it
    """A call that failed.

    Args:
        status: The name of the gRPC status, such as "UNAVAILABLE".
        message: What the server or the transport says.

    Source: https://grpc.io/docs/guides/status-codes/
    """

    def __init__(self, status: str, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = without_stack(message)

    @property
    def is_restricted(self) -> bool:
        """Whether the server wants a header key; Triton gives that the status UNAVAILABLE."""
        return "restricted, expecting header" in self.message

    @property
    def is_unknown(self) -> bool:
        """Whether the server has no such model or version, or has it no more."""
        return self.status == "NOT_FOUND" or any(words in self.message for words in _UNKNOWN)

    @property
    def is_broken_model(self) -> bool:
        """Whether this server's process for the model died, while it takes calls as before."""
        return "not healthy" in self.message

    @property
    def is_transient(self) -> bool:
        """Whether the same call may succeed when it is made again.

        Inference, metadata and readiness change nothing on the server, so a call that may have
        been answered already is safe to make twice.
        """
        if self.is_away:
            return True
        return self.status == "UNAVAILABLE" and not (
            self.is_restricted or self.is_unknown or self.is_broken_model
        )

    @property
    def is_away(self) -> bool:
        """Whether the model is being loaded again, or the server is stopping."""
        return _AWAY in self.message

    @property
    def is_outage(self) -> bool:
        """Whether the server cannot be reached, rather than being busy."""
        return self.is_transient and not self.is_away and _FULL not in self.message

    @property
    def is_late(self) -> bool:
        """Whether the answer did not come in time."""
        return self.status == "DEADLINE_EXCEEDED"


def failure_of(error: Any) -> CallFailure:
    """Return the failure that a tritonclient exception of gRPC stands for."""
    return CallFailure(str(error.status()).removeprefix("StatusCode."), str(error.message()))


def without_stack(message: str) -> str:
    """Return a message of Triton's without the stack that the Python backend appends."""
    return message.partition("\n\nAt:\n")[0].strip()


class RefusedError(ServerError):
    """The server understood the call and refuses it: another version may take it."""


class ChangedError(ServerError):
    """What answered is not what the server says of it: it was exchanged under its number."""

    @classmethod
    def of(cls, model: str, version: int, why: str) -> ChangedError:
        """Return the error for a version, with the next step."""
        return cls(
            f"model {model} version {version}: {why}. A version number must stand for one model: "
            "run thresher status, which compares what is served with what is published"
        )


class GoneError(NotFoundError):
    """No such model or version is served: it never was, or it has just gone."""


def explained(
    failure: CallFailure,
    url: str,
    *,
    model: str = "",
    version: str = "",
    ready: Mapping[str, Sequence[int]] | None = None,
) -> ThresherError:
    """Return the error that tells the user what happened and what to do.

    Args:
        failure: What happened.
        url: The server.
        model: The model that the call was about, if any.
        version: Its version, if one was asked for.
        ready: The versions that are ready, by model; None where the server does not tell.
    """
    got = f"Got: {printable(failure.message)}"
    if failure.is_late:
        return ServerError(f"the Triton server at {url} did not answer in time. Is it overloaded?")
    if failure.is_restricted:
        return ServerError(
            f"the Triton server at {url} wants a key for this call. Set THRESHER_SERVER_KEY for "
            f'commands; in a program, Client("{url}", headers={{NAME: KEY}}). {got}'
        )
    if failure.is_broken_model:
        return ServerError(
            f"the Triton server at {url} cannot run model {model}: its backend process died. "
            f"Unload the model, then load it. {got}"
        )
    if model and failure.is_unknown:
        if ready is None:
            number = f" version {version}" if version else ""
            return GoneError(f"{url}: no model {model}{number} is served. {got}")
        if model not in ready:
            return GoneError(f"{url}: {unknown_name('model', model, ready)}. {got}")
        if version and int(version) not in ready[model]:
            versions = [str(number) for number in ready[model]]
            unknown = unknown_name("version", version, versions)
            return GoneError(f"{url}: model {model}: {unknown}")
    if _FULL in failure.message:
        return ServerError(f"the Triton server at {url} is overloaded: its queue is full. {got}")
    if failure.status == "UNAVAILABLE" and not failure.is_unknown:
        return ServerError(
            f"no Triton server answers at {url}. Run: thresher serve (it prints its address). "
            f"{got}{_other_end_hint(failure, url)}"
        )
    what = f"model {model}" + (f" version {version}" if version else "") if model else "a call"
    kind = RefusedError if failure.status == "INVALID_ARGUMENT" else ServerError
    return kind(f"the Triton server at {url} refused {what}: {failure.message}")


def _other_end_hint(failure: CallFailure, url: str) -> str:
    """Return what may be wrong where something listens, and hangs up."""
    address = url.rpartition("://")[2]
    if "Socket closed" not in failure.message:
        return ""
    return (
        f". If {address} is an HTTP port: gRPC has its own, 8001 by default. If that server wants "
        f'TLS: set THRESHER_TLS_CA for commands; in a program, Client("{url}", tls=Tls(ca=...))'
    )
