"""Makes a client's calls: again, and at another server, where that may help."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from thresher.errors import ServerError
from thresher_serving.client.failures import CallFailure, explained
from thresher_serving.client.pace import Pace
from thresher_serving.client.retries import Deadline, Endpoints, Retries
from thresher_serving.client.server import Server

__all__ = ["Asking"]

T = TypeVar("T")

_POLL_S = 0.05

_LOADING_S = 10.0
"""How long a model that has answered may be away; one that was unloaded for good is so for ever."""


class Asking:
    """The servers, and how long to go on asking them.

    Args:
        servers: Where to ask; at least one.
        pace: How to wait.
        retries: When to ask again.
    """

    def __init__(self, servers: Sequence[Server], *, pace: Pace, retries: Retries) -> None:
        self.servers = Endpoints(servers)
        self._pace = pace
        self._retries = retries

    async def ask(
        self,
        call: Callable[[Server, float], Awaitable[T]],
        deadline: Deadline,
        model: str,
        version: str,
    ) -> T:
        """Return a call's result, made again and at another server where that may help.

        Where another server is at hand, one attempt may take no more than its share of the time
        that is left: a server that hangs must not use it up.
        """
        failures, start = 0, time.monotonic()
        while True:
            server = self.servers.current
            left_s = deadline.left_s
            if left_s <= 0:
                late = CallFailure("DEADLINE_EXCEEDED", "the time was over before it was sent")
                raise explained(late, server.url)
            try:
                return await call(server, left_s / (1 + self.servers.others))
            except CallFailure as failure:
                failures += 1
                if failure.is_transient or failure.is_late:
                    server.failures += 1
                moves_on = failure.is_transient or failure.is_late or failure.is_broken_model
                has_other = moves_on and self.servers.failed(server)
                pause_s = 0.0 if has_other else self._retries.pause_s(failures)
                goes_on = has_other or (
                    failure.is_transient
                    and (
                        failures < self._retries.attempts * len(self.servers)
                        or self._restarts(server, model, failure, time.monotonic() - start)
                    )
                )
                if not goes_on or pause_s >= deadline.left_s:
                    ready = await self._ready(server, deadline) if failure.is_unknown else None
                    raise explained(
                        failure, server.url, model=model, version=version, ready=ready
                    ) from None
            await self._pace.sleep(pause_s)

    def _restarts(self, server: Server, model: str, failure: CallFailure, lasts_s: float) -> bool:
        """Return whether what has answered before may be back within the call's time."""
        is_back = failure.is_outage or (failure.is_away and lasts_s < _LOADING_S)
        return is_back and self._retries.attempts > 1 and model in server.answered

    async def _ready(self, server: Server, deadline: Deadline) -> dict[str, list[int]] | None:
        """Return the versions that are ready, by model; None where the server does not tell."""
        ready: dict[str, list[int]] = {}
        try:
            for state in await server.states(max(deadline.left_s, 0.1)):
                if state.is_ready and state.version is not None:
                    ready.setdefault(state.name, []).append(state.version)
        except CallFailure:
            return None
        return ready

    async def wait_ready(self, model: str, version: int | None, timeout_s: float) -> None:
        """Return once the server, or a model on it, is ready."""
        deadline = Deadline(timeout_s)
        number = "" if version is None else str(version)
        server = self.servers.current
        while True:
            try:
                if await server.is_ready(model, number, 2):
                    return
            except CallFailure as failure:
                if failure.is_restricted:
                    raise explained(failure, server.url) from None
                self.servers.failed(server)
            if deadline.left_s < 0:
                break
            await self._pace.sleep(_POLL_S)
            server = self.servers.current
        what = "the server"
        if model:
            what = f"model {model}" + (f" version {number}" if number else "")
        try:
            states = [str(one) for one in await server.states(2) if one.name == model]
        except CallFailure as failure:
            raise explained(failure, server.url) from None
        raise ServerError(
            f"{server.url}: {what} is not ready after {timeout_s:g} s. {'; '.join(states)}".rstrip()
        )
