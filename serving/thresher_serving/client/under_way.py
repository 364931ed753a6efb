"""Inference over gRPC that is given up by its caller, never cancelled at the server.

A deadline or a cancellation on the wire that meets the server's answer can crash Triton releases
before 24.12, the one of the wheel included (seen with 2.51.0: signal 11 after some hundred short
deadlines). So a caller that has waited long enough goes its way, and the call ends by itself.

Source: triton-inference-server/server, issue 7368 and pull request 7840.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any

from thresher_serving.client import forks
from thresher_serving.client.failures import CallFailure

__all__ = ["BlockingCalls", "SuspendingCalls"]

_GRACE_S = 60.0
"""How much later than its caller's deadline a call is cancelled after all."""


def _late() -> CallFailure:
    return CallFailure("DEADLINE_EXCEEDED", "no answer in time")


class BlockingCalls:
    """Calls whose callers block; each is made in a worker's thread, which may outlast the caller.

    Workers are started as needed and kept: gRPC's own futures start a thread for each call.
    """

    def __init__(self) -> None:
        self._under_way: set[concurrent.futures.Future[Any]] = set()
        self._idle: list[queue.SimpleQueue[Callable[[], None] | None]] = []
        self._is_closing = False

    async def infer(
        self,
        client: Any,
        model: str,
        feeds: Sequence[Any],
        *,
        timeout_s: float,
        **options: Any,
    ) -> Any:
        """Return tritonclient's result; raises its exception, or `CallFailure` when it is late.

        Args:
            client: The tritonclient.
            model: The model's name.
            feeds: Its inputs.
            timeout_s: How long to wait.
            options: More arguments of tritonclient's ``infer``.
        """
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self._under_way.add(future)
        self._is_closing = False

        def call() -> None:
            late_s = timeout_s + _GRACE_S
            try:
                with forks.CALLS:
                    result = client.infer(model, feeds, client_timeout=late_s, **options)
            except BaseException as error:  # noqa: BLE001 - it is the caller's
                future.set_exception(error)
            else:
                future.set_result(result)
            self._under_way.discard(future)

        try:
            work = self._idle.pop()
        except IndexError:
            work = queue.SimpleQueue()
            # no thread that waits for a server may keep the program from ending
            threading.Thread(target=self._serve, args=(work,), daemon=True).start()
        work.put(call)
        try:
            return future.result(timeout_s)
        except TimeoutError:
            raise _late() from None

    async def ended(self, timeout_s: float) -> None:
        """Return when no call is under way any more, or after so many seconds; workers end too."""
        self._is_closing = True
        concurrent.futures.wait(list(self._under_way), timeout_s)
        while self._idle:
            self._idle.pop().put(None)

    def _serve(self, work: queue.SimpleQueue[Callable[[], None] | None]) -> None:
        while (call := work.get()) is not None:
            call()
            del call  # while the worker waits, nothing of the last call is held
            if self._is_closing:
                return
            self._idle.append(work)


class SuspendingCalls:
    """Calls whose callers are in an event loop."""

    def __init__(self) -> None:
        self._under_way: set[asyncio.Task[Any]] = set()

    async def infer(
        self,
        client: Any,
        model: str,
        feeds: Sequence[Any],
        *,
        timeout_s: float,
        **options: Any,
    ) -> Any:
        """See `BlockingCalls.infer`."""
        call = client.infer(model, feeds, client_timeout=timeout_s + _GRACE_S, **options)
        task = asyncio.ensure_future(call)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        done, _ = await asyncio.wait({task}, timeout=timeout_s)
        if not done:
            raise _late()
        return task.result()

    async def ended(self, timeout_s: float) -> None:
        """Return when no call is under way any more, or after so many seconds."""
        if self._under_way:
            await asyncio.wait(set(self._under_way), timeout=timeout_s)
