"""Asks a running Triton, over gRPC, what it serves, and tells it to load or unload a model."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from thresher.errors import NotFoundError, ServerError, unknown_name
from thresher_serving.client.failures import explained, failure_of, without_stack
from thresher_serving.connection import Connection, as_connection, checked_timeout

__all__ = [
    "LoadTimeoutError",
    "ModelState",
    "connect",
    "load_model",
    "model_states",
    "served",
    "translated",
    "unload_model",
    "wait_out_of_service",
    "wait_ready",
]

_SETTLING_S = 2.0
"""How long a load that was acknowledged may take to show in the server's list of versions."""

_UNLOADING_S = 5.0
"""How long a model may take to free what it holds after it is out of service."""


class LoadTimeoutError(ServerError):
    """A server did not load a model in time; it goes on trying, and then does what came next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelState:
    """What a server says about one version of a model in its repository."""

    name: str
    """The model's name."""

    version: int | None
    """The version; None for a model of which no version was ever loaded."""

    state: str
    """READY, UNAVAILABLE, LOADING, UNLOADING, or UNKNOWN for one that was never asked for."""

    reason: str
    """Why it is not ready, in the server's words; empty where it gives none."""

    @property
    def is_ready(self) -> bool:
        """Whether this version answers requests."""
        return self.state == "READY"

    def __str__(self) -> str:
        version = "" if self.version is None else f" version {self.version}"
        reason = f": {self.reason}" if self.reason else ""
        return f"{self.name}{version} is {self.state}{reason}"


def connect(where: str | Connection) -> Any:
    """Return a tritonclient gRPC client; it connects with its first call.

    Args:
        where: Host and port, such as "127.0.0.1:8001", or a `Connection` with keys and TLS.
    """
    return as_connection(where).open()


@contextmanager
def translated(
    where: str | Connection, client: Any, *, model: str = "", version: str = ""
) -> Iterator[None]:
    """Turn tritonclient's errors into ours.

    Raises:
        NotFoundError: If the server has no such model or version; it lists what is served.
        ServerError: If the server does not answer, or refuses.
    """
    from tritonclient.utils import InferenceServerException

    try:
        yield
    except InferenceServerException as error:
        failure, ready = failure_of(error), None
        if failure.is_restricted and isinstance(where, Connection) and where.headers:
            raise ServerError(
                f"the Triton server at {where.url} does not take the key that was sent: it has "
                f"another one. Check THRESHER_SERVER_KEY. Got: {failure.message}"
            ) from None
        if model and failure.is_unknown:
            with suppress(ServerError):  # such as one that wants a key for the list
                ready = served(where, client)
        raise explained(failure, _url(where), model=model, version=version, ready=ready) from None


def _url(where: str | Connection) -> str:
    return where if isinstance(where, str) else where.url


def served(where: str | Connection, client: Any) -> dict[str, list[int]]:
    """Return the versions that are ready, by model name."""
    ready: dict[str, list[int]] = {}
    for state in model_states(where, client):
        if state.is_ready and state.version is not None:
            ready.setdefault(state.name, []).append(state.version)
    return ready


def model_states(
    where: str | Connection, client: Any = None, *, timeout_s: float = 10
) -> list[ModelState]:
    """Return the state of each model and version in the server's repository.

    Raises:
        ServerError: If the server does not answer.
    """
    with _client(where, client) as own, translated(where, own):
        index = own.get_model_repository_index(client_timeout=timeout_s)
    return [
        ModelState(
            name=model.name,
            version=int(model.version) if model.version else None,
            state=model.state or "UNKNOWN",
            reason=without_stack(model.reason),
        )
        for model in index.models
    ]


@contextmanager
def _client(where: str | Connection, client: Any = None) -> Iterator[Any]:
    if client is not None:
        yield client
        return
    own = connect(where)
    try:
        yield own
    finally:
        own.close()


def load_model(
    where: str | Connection, name: str, *, timeout_s: float = 120, config: Any = None
) -> list[ModelState]:
    """Return the model's states after the server has loaded it, and answers as it is to.

    Without a configuration Triton compares times of change, and a load does nothing unless a file
    in the model's folder is newer than all of them were at the last load: with one file's time in
    the future, later changes are not seen. With a configuration it always loads, and what answers
    afterwards is compared with that; where it differs, the model is unloaded and loaded again.
    Versions that are loaded already and have not changed stay as they are, unless the
    configuration changed in more than its version policy.

    Args:
        where: The server.
        name: The model's name.
        timeout_s: How long it may take; the server goes on loading after that.
        config: The `ModelConfig` message that takes the place of config.pbtxt, such as what that
            file says now; None lets Triton decide whether there is something to load.

    Raises:
        NotFoundError: If the repository has no such model.
        LoadTimeoutError: If it takes longer.
        ConfigError: If the time-out is none.
        ServerError: If the load fails (versions loaded before go on serving), no server answers,
            or another version or configuration answers after both attempts.
    """
    checked_timeout(timeout_s)
    with _client(where) as client:
        known = sorted({state.name for state in model_states(where, client)})
        if name not in known:
            raise NotFoundError(f"{_url(where)}: {unknown_name('model', name, known)}")
        _load(where, client, name, timeout_s, config)
        if config is not None and _difference(where, client, name, config):
            with translated(where, client, model=name):
                client.unload_model(name, client_timeout=timeout_s)
            _load(where, client, name, timeout_s, config)
            if difference := _difference(where, client, name, config):
                raise ServerError(
                    f"{_url(where)}: model {name} was loaded twice, and {difference}. Start the "
                    "server again"
                )
        return [state for state in model_states(where, client) if state.name == name]


def _load(where: str | Connection, client: Any, name: str, timeout_s: float, config: Any) -> None:
    from google.protobuf import json_format
    from tritonclient.utils import InferenceServerException

    text = None
    if config is not None:
        text = json_format.MessageToJson(config, preserving_proto_field_name=True)
    with translated(where, client, model=name):
        try:
            client.load_model(name, config=text, client_timeout=timeout_s)
        except InferenceServerException as error:
            if "DEADLINE_EXCEEDED" not in str(error.status()):
                raise
            raise LoadTimeoutError(
                f"the Triton server at {_url(where)} has not loaded model {name} after "
                f"{timeout_s:g} s; it goes on trying. See its log, or give it more time"
            ) from None


def _difference(where: str | Connection, client: Any, name: str, config: Any) -> str:
    """Return how what answers differs from a configuration; empty where it does not.

    Compared are the version that unversioned requests get, and the parameters, which hold each
    version's decision and the digests of what was proven.
    """
    named = sorted(config.version_policy.specific.versions)
    end = time.monotonic() + _SETTLING_S
    while True:
        ready = sorted(served(where, client).get(name, []))
        is_settled = ready == named if named else bool(ready)
        if is_settled or time.monotonic() > end:
            break
        time.sleep(0.02)
    if not ready or (named and ready[-1] != named[-1]):
        serving = f"version {ready[-1]}" if ready else "no version"
        return f"{serving} answers, expected version {named[-1] if named else 'any'}"
    version = ready[-1]
    with translated(where, client, model=name, version=str(version)):
        loaded = client.get_model_config(name, str(version), client_timeout=10).config
    keys = {*loaded.parameters, *config.parameters}
    other = sorted(
        key
        for key in keys
        if key not in loaded.parameters
        or key not in config.parameters
        or loaded.parameters[key] != config.parameters[key]
    )
    if other:
        return f'version {version} answers with another "{other[0]}" than its configuration says'
    return ""


def unload_model(where: str | Connection, name: str, *, timeout_s: float = 60) -> None:
    """Take a model out of service, all its versions, and wait until it is.

    A Python backend whose process died stays UNLOADING for ever; the model can be loaded again all
    the same, so that is waited for no longer than a few seconds.

    Raises:
        NotFoundError: If no such model is served.
        ServerError: If it is still served after the time, or no server answers.
    """
    checked_timeout(timeout_s)
    with _client(where) as client:
        ready = served(where, client)
        if name not in ready:
            raise NotFoundError(f"{_url(where)}: {unknown_name('model', name, ready)}")
        with translated(where, client, model=name):
            client.unload_model(name, client_timeout=timeout_s)
        wait_out_of_service(where, name, ready[name], client=client, timeout_s=timeout_s)


def wait_out_of_service(
    where: str | Connection,
    name: str,
    versions: Collection[int],
    *,
    client: Any = None,
    timeout_s: float = 60,
) -> None:
    """Return once versions that the server was asked to unload have answered what they had taken.

    Raises:
        ServerError: If one is still served after the time, or no server answers.
    """
    start = time.monotonic()
    with _client(where, client) as own:
        while True:
            states = {
                state.state
                for state in model_states(where, own)
                if state.name == name and state.version in versions
            }
            waited = time.monotonic() - start
            if not states & {"READY", "UNLOADING"}:
                return
            if "READY" not in states and waited > _UNLOADING_S:
                return
            if waited > timeout_s:
                numbers = ", ".join(map(str, sorted(versions)))
                raise ServerError(
                    f"{_url(where)}: model {name} version {numbers} is still served after "
                    f"{timeout_s:g} s"
                )
            time.sleep(0.02)


def wait_ready(
    where: str | Connection, name: str = "", *, version: int | None = None, timeout_s: float
) -> None:
    """Return once a server, or a model on it, is ready.

    Args:
        where: The server.
        name: A model; empty for the server itself.
        version: A version of the model; any one where left out.
        timeout_s: How long to wait.

    Raises:
        ServerError: If it is not ready in time; the message says what the server says.
    """
    from tritonclient.utils import InferenceServerException

    end = time.monotonic() + checked_timeout(timeout_s)
    number = "" if version is None else str(version)
    with _client(where) as client:
        while True:
            try:
                if name:
                    ready = client.is_model_ready(name, number, client_timeout=2)
                else:
                    ready = client.is_server_live(client_timeout=2)
            except InferenceServerException:
                ready = False
            if ready:
                return
            if time.monotonic() > end:
                break
            time.sleep(0.05)
        states = [str(state) for state in model_states(where, client) if state.name == name]
    what = f"model {name}" + (f" version {number}" if number else "") if name else "the server"
    raise ServerError(
        f"{_url(where)}: {what} is not ready after {timeout_s:g} s. {'; '.join(states)}".rstrip()
    )
