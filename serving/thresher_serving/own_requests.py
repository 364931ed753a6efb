"""Tells users' requests from those that a server made of itself and that we made of it.

Triton counts all requests of a version since it was loaded: the golden rows of a rollout, and with
NVIDIA's onnxruntime backend its warm-up, which the compiled one does not report. What was counted
when a version went into service, and what a check added since, stands in a small file in the
repository, which is shared by all who load versions and all who look; `status` subtracts it.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import filelock

from thresher.errors import ServerError
from thresher_serving import control
from thresher_serving.connection import Connection, as_connection

__all__ = [
    "Counts",
    "counted_as_own",
    "counts_of",
    "own_requests",
    "requests_begin",
    "server_begins",
]

_FILE = ".own-requests.json"
_FORMAT = "thresher-own-requests/1"
_ANSWER_S = 5.0
_LOCK_S = 5.0
_COUNTED_S = 1.0
"""How long Triton may take to count a request after it has answered it."""

_MOST_SERVERS = 50
"""The latest that are kept: a server on a free port has another address each time."""

Key = tuple[str, int]
"""A model's name and version."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What Triton's statistics say of a version since it was loaded."""

    requests: int = 0
    failures: int = 0
    total_ns: int = 0
    """Time in the server, of all requests that succeeded."""
    queue_ns: int = 0
    """Time in which they waited, of all requests."""
    queued: int = 0
    """How many requests waited."""
    rows: int = 0
    executions: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __sub__(self, other: Counts) -> Counts:
        return Counts(*(max(0, a - b) for a, b in zip(astuple(self), astuple(other), strict=True)))

    def without(self, num_requests: int) -> Counts:
        """Return these counts less some requests, each of the mean cost."""
        if not num_requests or not self.requests:
            return self
        share = min(1.0, num_requests / self.requests)
        return self - Counts(*(round(number * share) for number in astuple(self)))

    def includes(self, other: Counts) -> bool:
        """Return whether these can be later counts of the same load as the others."""
        return all(a >= b for a, b in zip(astuple(self), astuple(other), strict=True))


def counts_of(client: Any, where: Connection, name: str = "") -> dict[Key, Counts]:
    """Return the counts of each version that is loaded.

    Args:
        client: A tritonclient gRPC client.
        where: Its server.
        name: A model; empty for all.

    Raises:
        ServerError: If the server does not answer, or does not tell.
    """
    with control.translated(where, client, model=name):
        return _by_version(client.get_inference_statistics(name, client_timeout=10).model_stats)


def _by_version(model_stats: Iterable[Any]) -> dict[Key, Counts]:
    counts = {}
    for each in model_stats:
        stats = each.inference_stats
        counts[each.name, int(each.version)] = Counts(
            requests=stats.success.count,
            failures=stats.fail.count,
            total_ns=stats.success.ns,
            queue_ns=stats.queue.ns,
            queued=stats.queue.count,
            rows=each.inference_count,
            executions=each.execution_count,
        )
    return counts


def own_requests(root: Path, where: str | Connection) -> dict[Key, Counts]:
    """Return what of a server's counts is not users', by model and version; nothing if unknown."""
    entries = _read(root).get(_address(where), {})
    return {
        (name, int(version)): Counts(*numbers)
        for key, numbers in entries.items()
        for name, _, version in [key.rpartition("/")]
    }


def requests_begin(
    root: Path,
    where: str | Connection,
    name: str = "",
    version: int | None = None,
    *,
    if_new: bool = False,
) -> None:
    """Note that what was counted until now is not users': versions were just loaded.

    A repository that cannot be written to, and a server that does not tell, change nothing.

    Args:
        root: The model repository.
        where: The server.
        name: The model that was loaded; empty for all that are.
        version: The version; None for all that are loaded.
        if_new: Whether versions that were noted since they were loaded stay as they are.
    """
    with contextlib.suppress(ServerError), control.connect(where) as client:
        _begin(root, where, counts_of(client, as_connection(where)), name, version, if_new=if_new)


def server_begins(root: Path, where: str | Connection, http_url: str) -> None:
    """Do what `requests_begin` does for all models of a server that was just started.

    Over HTTP, where the server has it: gRPC takes a third of a second to import.

    Args:
        root: The model repository.
        where: The server.
        http_url: Its host and port for HTTP.
    """
    connection = http.client.HTTPConnection(http_url, timeout=_ANSWER_S)
    try:
        connection.request("GET", "/v2/models/stats")
        text = connection.getresponse().read()
        answer = json.loads(text, object_hook=lambda fields: SimpleNamespace(**fields))
        counts = _by_version(answer.model_stats)
    except (OSError, http.client.HTTPException, ValueError, AttributeError):
        requests_begin(root, where)
    else:
        _begin(root, where, counts)
    finally:
        connection.close()


def _begin(
    root: Path,
    where: str | Connection,
    now: Mapping[Key, Counts],
    name: str = "",
    version: int | None = None,
    *,
    if_new: bool = False,
) -> None:
    def note(entries: dict[str, list[int]]) -> None:
        for key in entries.keys() - {f"{n}/{v}" for n, v in now}:
            del entries[key]
        for (model, number), counts in now.items():
            entry = f"{model}/{number}"
            is_noted = entry in entries and counts.includes(Counts(*entries[entry]))
            if name in {"", model} and version in {None, number} and not (if_new and is_noted):
                entries[entry] = list(astuple(counts))

    _change(root, where, note)


@contextlib.contextmanager
def counted_as_own(
    root: Path, where: str | Connection, key: Key, num_requests: int
) -> Iterator[None]:
    """Count the requests that are made within a block as ours.

    Users' requests may be answered meanwhile: of the time that all of them took, ours get the
    share of their number.

    Args:
        root: The model repository.
        where: The server.
        key: The model and the version that answers.
        num_requests: How many requests are made.
    """
    connection = as_connection(where)
    before = _counts(connection, key)
    yield
    end = time.monotonic() + _COUNTED_S
    while True:
        after = _counts(connection, key)
        if before is None or after is None:
            return
        added = after - before
        if added.requests + added.failures >= num_requests or time.monotonic() > end:
            break
        time.sleep(0.01)
    if not added.requests:
        return
    ours = added - added.without(num_requests)

    def add(entries: dict[str, list[int]]) -> None:
        entry = f"{key[0]}/{key[1]}"
        if entry in entries:
            entries[entry] = list(astuple(Counts(*entries[entry]) + ours))

    _change(root, where, add)


def _counts(where: Connection, key: Key) -> Counts | None:
    with contextlib.suppress(ServerError), where.open() as client:
        return counts_of(client, where, key[0]).get(key)
    return None


def _address(where: str | Connection) -> str:
    url = as_connection(where).url
    host, _, port = url.rpartition("://")[2].rpartition(":")
    return f"{'127.0.0.1' if host == 'localhost' else host}:{port}"


def _read(root: Path) -> dict[str, dict[str, list[int]]]:
    try:
        content = json.loads((root / _FILE).read_text(encoding="utf-8"))
        servers: Mapping[str, Mapping[str, list[int]]] = content["servers"]
        if content["format"] != _FORMAT:
            return {}
        return {
            server: {key: [int(n) for n in numbers] for key, numbers in entries.items()}
            for server, entries in servers.items()
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}  # figures alone hang on it: it is written again at the next load


def _change(
    root: Path, where: str | Connection, change: Callable[[dict[str, list[int]]], None]
) -> None:
    """Change a server's entries in the file, where the disk takes it."""
    with (
        contextlib.suppress(OSError, filelock.Timeout),
        filelock.FileLock(root / f"{_FILE}.lock", timeout=_LOCK_S),
    ):
        servers, address = _read(root), _address(where)
        entries = servers.pop(address, {})
        change(entries)
        servers[address] = entries
        latest = dict(list(servers.items())[-_MOST_SERVERS:])
        path = root / f"{_FILE}.new"
        path.write_text(json.dumps({"format": _FORMAT, "servers": latest}), encoding="utf-8")
        path.replace(root / _FILE)
