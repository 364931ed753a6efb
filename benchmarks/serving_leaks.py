"""What a million requests leave behind, in the client's process and in the server's.

One way of asking after the other, each with a client and a Triton of its own on this machine; one
call is 100 small requests, several under way at a time. Memory, open files and threads are read
after a warm-up and at the end::

    python benchmarks/serving_leaks.py --quick                        20,000 requests a way
    python benchmarks/serving_leaks.py --ways gRPC --requests 1000000

Prints a table and adds to ``benchmarks/results/serving_leaks.json``, by way.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import gc
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from page import put, table
from serving_client import both, publish

from thresher_serving import AsyncClient, Client, RunningServer, find_runtime, start_server

PAGE = Path(__file__).parents[1] / "docs" / "client.md"
RESULTS = Path(__file__).parent / "results" / "serving_leaks.json"
ROWS_A_REQUEST, REQUESTS_A_CALL = 4, 100
WARM_REQUESTS = 10_000
WAYS = (
    "gRPC",
    "gRPC, shared memory",
    "HTTP",
    "the faster way",
    "gRPC, event loop",
    "HTTP, event loop",
    "gRPC, shared memory, event loop",
)

Ask = Callable[[int], None]


@dataclass(frozen=True)
class Held:
    """What processes hold."""

    mib: float
    files: int
    threads: int


@dataclass(frozen=True)
class Outcome:
    """What one way's requests left behind."""

    requests: int
    per_s: float
    client: tuple[Held, Held]
    server: tuple[Held, Held]
    date: str


def held(processes: list[psutil.Process]) -> Held:
    gc.collect()
    return Held(
        mib=round(sum(one.memory_info().rss for one in processes) / 2**20, 1),
        files=sum(one.num_fds() for one in processes),
        threads=sum(one.num_threads() for one in processes),
    )


def opened(server: RunningServer, way: str) -> tuple[Ask, Callable[[], None]]:
    """Return what makes so many calls by a way, and what closes its client."""
    http, rows = f"http://{server.http_url}", ROWS_A_REQUEST * REQUESTS_A_CALL
    where: Any = http if way.startswith("HTTP") else server.grpc_url
    where = both(server) if way == "the faster way" else where
    options: dict[str, Any] = {"in_flight": 8}
    if not way.startswith("HTTP") and way != "the faster way":
        options["shared_memory"] = "memory" in way
    x = np.random.default_rng(0).normal(size=(rows, 3)).astype(np.float32)
    if "event loop" not in way:
        client = Client(where, **options)

        def ask(calls: int) -> None:
            for _ in range(calls):
                assert len(client.predict("model", x)) == rows

        return ask, client.close
    loop = asyncio.new_event_loop()
    awaiting = AsyncClient(where, **options)

    async def asked(calls: int) -> None:
        for _ in range(calls):
            assert len(await awaiting.predict("model", x)) == rows

    def close() -> None:
        loop.run_until_complete(awaiting.close())
        loop.close()

    return lambda calls: loop.run_until_complete(asked(calls)), close


def measured(server: RunningServer, way: str, requests: int, limit_s: float) -> Outcome:
    """Return what so many requests leave behind, or as many as the time allows."""
    here, there = psutil.Process(), psutil.Process(server.pid)
    served = [there, *there.children(recursive=True)]
    ask, close = opened(server, way)
    try:
        ask(WARM_REQUESTS // REQUESTS_A_CALL)
        before = held([here]), held(served)
        start, done = time.perf_counter(), 0
        while done < requests and time.perf_counter() - start < limit_s:
            ask(50)
            done += 50 * REQUESTS_A_CALL
        took = time.perf_counter() - start
        after = held([here]), held(served)
    finally:
        close()
    return Outcome(
        requests=done,
        per_s=round(done / took),
        client=(before[0], after[0]),
        server=(before[1], after[1]),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
    )


def page_table(found: dict[str, dict[str, Any]]) -> str:
    """Return the outcomes as the documentation's table: before and after, for both processes."""

    def cells(pair: Any) -> list[str]:
        before, after = pair
        return [
            f"{before['mib']:.0f} to {after['mib']:.0f}",
            f"{before['files']} to {after['files']}",
            f"{before['threads']} to {after['threads']}",
        ]

    heads = [
        f"{who}: {what}" for who in ("client", "server") for what in ("MiB", "files", "threads")
    ]
    return table(
        ["way", "requests", *heads],
        [
            [way, f"{one['requests']:,}", *cells(one["client"]), *cells(one["server"])]
            for way, one in found.items()
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="20,000 requests; writes nothing")
    parser.add_argument("--requests", type=int, default=100_000, help="of each way")
    parser.add_argument("--seconds", type=float, default=480, help="the most that a way may take")
    parser.add_argument("--ways", nargs="*", default=WAYS, choices=WAYS, metavar="WAY")
    given = parser.parse_args()
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for way in given.ways:
        with tempfile.TemporaryDirectory() as folder:
            publish(Path(folder) / "models", "model", (3,), max_batch=ROWS_A_REQUEST)
            server = start_server(
                Path(folder) / "models",
                runtime=find_runtime(),
                grpc_port=0,
                http_port=0,
                metrics_port=0,
                log_file=Path(folder) / "log",
                state_dir=None,
            )
            try:
                requests = 20_000 if given.quick else given.requests
                outcome = measured(server, way, requests, given.seconds)
            finally:
                server.stop(timeout_s=5)
        print(f"{way}: {outcome}", flush=True)
        found[way] = asdict(outcome)
        if not given.quick:
            RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            done = {way: found[way] for way in WAYS if way in found}
            put(PAGE, "serving_leaks", page_table(done))


if __name__ == "__main__":
    main()
