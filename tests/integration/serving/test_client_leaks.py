"""What many requests leave behind in the client's process: memory, files, threads.

`benchmarks/serving_leaks.py` makes a million, and looks at the server's processes too.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import psutil
import pytest

from support.served_weather import write_weather
from support.triton import Triton, triton
from thresher_serving import Client, Runtime
from thresher_serving.client.async_client import AsyncClient

ROWS = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
"""Three requests: each call cuts, pipelines and joins."""

WARM_CALLS, CALLS = 1_000, 6_700
MOST_GROWTH = 4 << 20
"""A hundred bytes a request would be 2 MB; what is seen is the allocator's noise."""


@pytest.fixture(scope="module")
def server(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    root = tmp_path_factory.mktemp("models")
    write_weather(root)
    log = tmp_path_factory.mktemp("server") / "log"
    with triton(runtime, root, ["weather"], log=log) as running:
        yield running


def held() -> tuple[int, int, int]:
    gc.collect()
    process = psutil.Process()
    return process.memory_info().rss, process.num_fds(), threading.active_count()


def blocking(url: str) -> tuple[Callable[[int], None], Callable[[], None]]:
    client = Client(url)

    def ask(calls: int) -> None:
        for _ in range(calls):
            assert len(client.predict("weather", ROWS)) == len(ROWS)

    return ask, client.close


def awaiting(url: str) -> tuple[Callable[[int], None], Callable[[], None]]:
    loop = asyncio.new_event_loop()
    client = AsyncClient(url)

    async def asked(calls: int) -> None:
        for _ in range(calls // 10):
            await asyncio.gather(*(client.predict("weather", ROWS) for _ in range(10)))

    def close() -> None:
        loop.run_until_complete(client.close())
        loop.close()

    return lambda calls: loop.run_until_complete(asked(calls)), close


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("way", [blocking, awaiting])
def test_twenty_thousand_requests_leave_nothing_behind(
    server: Triton, way: Callable[[str], tuple[Callable[[int], None], Callable[[], None]]]
) -> None:
    ask, close = way(server.grpc_url)
    try:
        ask(WARM_CALLS)
        rss, files, threads = held()
        ask(CALLS)
        rss_after, files_after, threads_after = held()
    finally:
        close()
    growth = rss_after - rss
    print(f"{way.__name__}: {3 * CALLS} requests, {growth / 1024:.0f} KiB more memory")
    assert growth < MOST_GROWTH
    assert files_after <= files + 2
    assert threads_after <= threads


def test_clients_that_come_and_go_leave_nothing_behind(server: Triton) -> None:
    def once() -> None:
        ask, close = blocking(server.grpc_url)
        ask(2)
        close()

    once()
    _, files, _ = held()
    before = set(threading.enumerate())
    for _ in range(20):
        once()
    end = time.monotonic() + 20
    while (left := set(threading.enumerate()) - before) and time.monotonic() < end:
        time.sleep(0.05)  # gRPC's threads end some time after their channel is closed
    assert not left
    _, files_after, _ = held()
    assert files_after <= files + 2
