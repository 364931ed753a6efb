"""One `AsyncClient` in several event loops, one after the other and at once."""

from __future__ import annotations

import asyncio
import gc
import threading

import numpy as np

from thresher_serving import RunningServer
from thresher_serving.client.async_client import AsyncClient


def rows_of(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(9, 3)).astype(np.float32)


async def check(client: AsyncClient, seed: int, times: int = 10) -> None:
    async def once(at: int) -> None:
        rows = rows_of(1000 * seed + at)
        got = await client.predict("weather", rows, outputs=("probabilities", "logits"))
        np.testing.assert_array_equal(got.logits, rows)

    await asyncio.gather(*(once(at) for at in range(times)))


def test_a_second_loop_gets_a_connection_of_its_own(server: RunningServer) -> None:
    """As with `asyncio.run` in a notebook or a Flask view: each call is a loop of its own."""
    client = AsyncClient(server.grpc_url)
    for seed in range(5):
        asyncio.run(check(client, seed))
        gc.collect()

    async def closed() -> None:
        async with client:
            await check(client, 9)
        await check(client, 10)  # a closed client connects again
        await client.close()
        await client.close()

    asyncio.run(closed())


def test_loops_in_several_threads_share_a_client_and_get_their_own_rows(
    server: RunningServer,
) -> None:
    client = AsyncClient(server.grpc_url)
    failed: list[BaseException] = []

    def work(seed: int) -> None:
        async def asked() -> None:
            for turn in range(10):
                await check(client, 100 * seed + turn)
            await client.close()

        try:
            asyncio.run(asyncio.wait_for(asked(), 60))
        except BaseException as error:  # noqa: BLE001 - whatever it is, it fails the test
            failed.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed


def test_a_task_that_is_cancelled_leaves_the_client_and_the_server_working(
    server: RunningServer,
) -> None:
    """Its call goes on at the server; what is cancelled there can end a Triton 2.51."""

    async def asked() -> None:
        async with AsyncClient(server.grpc_url) as client:
            slow = np.zeros((1, 1), np.int64)  # its queue waits 0.3 s
            await client.infer("picking", slow)
            cancelled = 0
            for _ in range(20):
                task = asyncio.ensure_future(client.infer("picking", slow))
                await asyncio.sleep(0.01)
                task.cancel()
                (ended,) = await asyncio.gather(task, return_exceptions=True)
                cancelled += isinstance(ended, asyncio.CancelledError)
            assert cancelled > 10, "a full batch is answered at once, all others wait"
            await check(client, 1)

    asyncio.run(asked())
