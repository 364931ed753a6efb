"""How calls wait and how several run at once: in threads that block, or in an event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, Protocol, TypeVar

__all__ = ["BlockingPace", "Pace", "SuspendingPace", "run"]

T = TypeVar("T")

Job = Callable[[], Coroutine[Any, Any, T]]


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine returns that blocks instead of suspending."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    coroutine.close()
    raise AssertionError("a blocking client has suspended")


def _run_job(job: Job[T]) -> T:
    return run(job())


class Pace(Protocol):
    """Waiting, and doing several things at once."""

    def sleep(self, seconds: float) -> Awaitable[None]:
        """Return after so many seconds."""

    def gather(self, jobs: Sequence[Job[T]]) -> Awaitable[list[T]]:
        """Return the jobs' results in order; none runs any more when this ends."""

    async def close(self) -> None:
        """Free what is held."""


class BlockingPace:
    """Sleeps in the calling thread, and runs jobs in a few threads of its own.

    Args:
        in_flight: The most jobs at once.
    """

    def __init__(self, in_flight: int) -> None:
        self._in_flight = in_flight
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    async def sleep(self, seconds: float) -> None:
        """Return after so many seconds."""
        time.sleep(seconds)

    async def gather(self, jobs: Sequence[Job[T]]) -> list[T]:
        """Return the jobs' results in order; none runs any more when this ends."""
        if self._in_flight == 1 or len(jobs) < 2:
            return [run(job()) for job in jobs]
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._in_flight, "thresher-client")
        futures = [self._pool.submit(_run_job, job) for job in jobs]
        try:
            return [future.result() for future in futures]
        except BaseException:
            for future in futures:
                future.cancel()
            wait(futures)
            raise

    async def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None


class SuspendingPace:
    """Sleeps and runs jobs in the event loop that calls.

    Args:
        in_flight: The most jobs at once.
    """

    def __init__(self, in_flight: int) -> None:
        self._in_flight = in_flight

    async def sleep(self, seconds: float) -> None:
        """Return after so many seconds."""
        await asyncio.sleep(seconds)

    async def gather(self, jobs: Sequence[Job[T]]) -> list[T]:
        """Return the jobs' results in order; none runs any more when this ends."""
        room = asyncio.Semaphore(self._in_flight)

        async def limited(job: Job[T]) -> T:
            async with room:
                return await job()

        tasks = [asyncio.ensure_future(limited(job)) for job in jobs]
        try:
            return list(await asyncio.gather(*tasks))
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise

    async def close(self) -> None:
        """Nothing is held."""
