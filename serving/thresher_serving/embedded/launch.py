"""One start of Triton: its process, its ports, and what came of loading its models."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from thresher.errors import NotFoundError, ServerError, ThresherError, unknown_name
from thresher.published_models import NAME
from thresher_serving import control
from thresher_serving.client.failures import without_stack
from thresher_serving.embedded import process
from thresher_serving.embedded.command import is_complete, server_command
from thresher_serving.embedded.ports import listening_ports
from thresher_serving.embedded.runtime import Runtime
from thresher_serving.embedded.state import RunningServer
from thresher_serving.own_requests import server_begins

__all__ = [
    "PORT_OPTIONS",
    "Configured",
    "DiedError",
    "ServeOptions",
    "differing",
    "launched",
    "outcome_of_loading",
    "read_configured",
    "wait_open",
    "wanted_models",
]

PORT_OPTIONS = ("--grpc-port", "--http-port", "--metrics-port")

_OTHER_PORTS_S = 5.0
"""How long HTTP and metrics, which some builds of Triton lack, are waited for after gRPC."""


_ANSWER_S = 10.0
"""How long a server whose ports are open may take to answer."""


class DiedError(ServerError):
    """Triton's process ended before it was ready."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Configured:
    """What models' configurations say that matters at a start."""

    complete: bool
    """Whether they leave nothing for Triton to complete."""

    named: Mapping[str, list[int]]
    """The versions that each names, ascending; none where Triton chooses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """What a server is started with, and started again with."""

    repository: Path
    """The model repository, an absolute path."""

    runtime: Runtime
    """Which Triton."""

    host: str
    """The address to bind."""

    ports: Mapping[str, int]
    """The port of each of `PORT_OPTIONS`; 0 takes a free one."""

    log_file: Path
    """Where its output goes."""

    state_dir: Path | None
    """Where the state file is; None keeps none."""

    timeout_s: float = 120
    """How long it may take to be ready."""

    models: tuple[str, ...] | None = None
    """Which models to load; None loads each folder that holds a config.pbtxt."""

    configured: Configured | None = None
    """What the configurations say at the first start; None reads them then."""

    unproven: bool = False
    """Whether versions without a proof that fits are served too."""


def wanted_models(repository: Path, models: Sequence[str] | None) -> list[str]:
    """Return the models to load; folders whose names cannot name a model are none.

    Raises:
        NotFoundError: If there is no such repository or model, or nothing to serve.
    """
    if not repository.is_dir():
        raise NotFoundError(
            f"{repository}: no such folder; expected a Triton model repository. "
            "Run: thresher export models:/NAME@ALIAS"
        )
    entries = (path for path in repository.iterdir() if NAME.fullmatch(path.name))
    folders = sorted(path.name for path in entries if path.is_dir())
    if models is not None:
        for name in models:
            if name not in folders:
                raise NotFoundError(f"{repository}: {unknown_name('model', name, folders)}")
        return list(dict.fromkeys(models))
    found = [name for name in folders if (repository / name / "config.pbtxt").is_file()]
    if not found:
        raise NotFoundError(
            f"{repository}: no folder with a config.pbtxt, so there is nothing to serve. "
            "Run: thresher export"
        )
    return found


def launched(
    options: ServeOptions,
    ports: Mapping[str, int],
    wanted: Sequence[str],
    *,
    loads: bool = True,
    new_log: bool = True,
    ends_with_us: bool = False,
) -> tuple[RunningServer, Configured]:
    """Return a server whose process has just been started, and what it was started on.

    Args:
        options: What it is started with.
        ports: The port of each of `PORT_OPTIONS`.
        wanted: The models that it is to serve.
        loads: Whether it loads them before it opens its ports; else they are loaded later.
        new_log: Whether this is the first start, with an empty log.
        ends_with_us: Whether it ends when the calling thread does.

    Raises:
        ServerError: If the binary cannot be started or the log cannot be written.
    """
    shared_memory = f"triton_{os.urandom(8).hex()}_"
    configured = options.configured if new_log else None
    if configured is None:
        configured = read_configured(options.repository, wanted)
    command = server_command(
        options.runtime,
        options.repository,
        host=options.host,
        ports=ports,
        models=wanted if loads else (),
        shared_memory=shared_memory,
        complete=configured.complete,
    )
    pid = process.spawn(
        command,
        options.runtime.environment(),
        options.log_file,
        new_log=new_log,
        ends_with_us=ends_with_us,
    )
    server = RunningServer(
        pid=pid,
        created=process.created(pid) or 0.0,  # it has one until it is waited for
        host=options.host,
        grpc_port=ports["--grpc-port"],
        http_port=ports["--http-port"],
        metrics_port=ports["--metrics-port"],
        repository=str(options.repository),
        log_file=str(options.log_file.absolute()),
        runtime=f"{options.runtime.kind} {options.runtime.version}",
        shared_memory=shared_memory,
        state_dir=None if options.state_dir is None else str(options.state_dir.absolute()),
    )
    return server, configured


def wait_open(
    server: RunningServer, timeout_s: float, is_stopped: Callable[[], bool] = lambda: False
) -> bool:
    """Return whether the server answers; False once `is_stopped` says so.

    It opens its ports once its models are loaded or refused: gRPC first, HTTP and metrics some
    milliseconds later. What counts is that its own process listens.

    Raises:
        DiedError: If it ended.
        ServerError: If it is not ready in time; the message has the end of its log.
    """
    end = time.monotonic() + timeout_s
    others_end, log = end, Path(server.log_file)
    all_ports = {server.grpc_port, server.http_port, server.metrics_port}
    while True:
        process.hide_shared_memory(server.shared_memory)
        own = listening_ports(server.pid)
        now = time.monotonic()
        if server.grpc_port not in own:
            others_end = now + _OTHER_PORTS_S
        elif own >= all_ports or now > others_end:
            break
        if not server.is_alive():
            raise DiedError(
                f"the Triton server (process {server.pid}) {process.exit_words(server.pid)} while "
                "it started"
            )
        if is_stopped():
            return False
        if now > end:
            raise ServerError(
                f"the Triton server is not ready after {timeout_s:g} s (large models need "
                f"a longer timeout_s). The end of its log, {log}:\n{process.last_lines(log)}"
            )
        time.sleep(0.03)
    return True


def outcome_of_loading(
    server: RunningServer, wanted: Sequence[str], named: Mapping[str, Sequence[int]]
) -> RunningServer:
    """Return the server with the models that are ready, and a sentence on each that is not.

    Args:
        server: The server; its ports are open.
        wanted: The models that it is to serve.
        named: The versions that their configurations name.

    Raises:
        ServerError: If none of those that are wanted is.
    """
    states = _states(server)
    ready: dict[str, list[int]] = {}
    for state in states:
        if state.is_ready and state.version is not None:
            ready.setdefault(state.name, []).append(state.version)
    problems = []
    for name in wanted:
        if name in ready:
            problems += differing(name, ready[name], named.get(name, ()))
        else:
            reasons = [str(state) for state in states if state.name == name]
            problems.append("; ".join(reasons) or f"{name} is not known to the server")
    if problems and not ready:
        raise ServerError(
            "the Triton server started, but no model could be loaded:\n"
            + "\n".join(problems)
            + f"\nIts log: {server.log_file}"
        )
    server_begins(Path(server.repository), server.where, server.http_url)
    return replace(server, problems=tuple(problems), ready=ready)


def _states(server: RunningServer) -> list[control.ModelState]:
    """Ask for the state of each model, over HTTP: gRPC takes a third of a second to import."""
    connection = http.client.HTTPConnection(server.host, server.http_port, timeout=_ANSWER_S)
    try:
        connection.request("POST", "/v2/repository/index", "{}")
        found = json.load(connection.getresponse())
        return [
            control.ModelState(
                name=each["name"],
                version=int(each["version"]) if each.get("version") else None,
                state=each.get("state") or "UNKNOWN",
                reason=without_stack(each.get("reason", "")),
            )
            for each in found
        ]
    except (OSError, http.client.HTTPException, ValueError, TypeError, KeyError):
        return server.models  # a build without HTTP, for one
    finally:
        connection.close()


def read_configured(repository: Path, names: Sequence[str]) -> Configured:
    """Return what the configurations of models say; of those that only Triton reads, nothing."""
    from thresher.published_models import PublishedModels

    named = {}
    for name in names:
        with contextlib.suppress(ThresherError):
            named[name] = PublishedModels(repository).served_versions(name)
    return Configured(complete=is_complete(repository, names), named=named)


def differing(name: str, ready: Sequence[int], named: Sequence[int]) -> list[str]:
    """Return a sentence where the versions that answer are not those that config.pbtxt names.

    A load can fail for one of several versions, and it is a silent no-op where the times of the
    files are not newer than at the last load.
    """
    if not named or sorted(ready) == sorted(named):
        return []
    problem = (
        f"{name}: version {_list(ready) or 'none'} answers, and config.pbtxt names version "
        f"{_list(named)}. Run: thresher rollout {name}/{max(named)}"
    )
    return [problem]


def _list(versions: Sequence[int]) -> str:
    return ", ".join(map(str, sorted(versions)))
