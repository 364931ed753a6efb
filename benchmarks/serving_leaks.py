"""What a million requests leave behind, in the client's process and in the server's.

Each kind of client in turn, with a `thresher serve` of its own on this machine; one call is 100
small requests, eight in flight at a time. Memory, open files and threads are read after a warm-up
and at the end::

    python benchmarks/serving_leaks.py --quick               20,000 requests each
    python benchmarks/serving_leaks.py --clients Client

Prints a table, writes ``benchmarks/results/serving_leaks.json``, by client, and exits with 1 where
memory grew by more than the limit.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from page import put, table
from serving_networks import WIDTH, publish, small_network
from serving_servers import Served, served

from thresher_export.triton_options import TritonOptions
from thresher_serving import AsyncClient, Client

PAGE = Path(__file__).parents[1] / "docs" / "client.md"
RESULTS = Path(__file__).parent / "results" / "serving_leaks.json"
ROWS_A_REQUEST, REQUESTS_A_CALL = 4, 100
ROWS = ROWS_A_REQUEST * REQUESTS_A_CALL
WARM_REQUESTS = 10_000
CLIENTS = ("Client", "AsyncClient")
LIMIT_MIB = 5e6 / 2**20

Ask = Callable[[int], None]


@dataclass(frozen=True)
class Held:
    """What processes hold."""

    mib: float
    files: int
    threads: int


@dataclass(frozen=True)
class Outcome:
    """What the requests of one kind of client left behind, before and after."""

    requests: int
    per_s: float
    client: tuple[Held, Held]
    server: tuple[Held, Held]
    date: str

    @property
    def grown_mib(self) -> float:
        """How much more memory the one of both that grew more has."""
        return max(after.mib - before.mib for before, after in (self.client, self.server))


def held(processes: list[psutil.Process]) -> Held:
    gc.collect()
    return Held(
        mib=round(sum(one.memory_full_info().pss for one in processes) / 2**20, 1),
        files=sum(one.num_fds() for one in processes),
        threads=sum(one.num_threads() for one in processes),
    )


def opened(url: str, kind: str) -> tuple[Ask, Callable[[], None]]:
    """Return a function that makes so many calls, and one that closes the client."""
    x = np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32)
    if kind == "Client":
        client = Client(url, in_flight=8)

        def ask(calls: int) -> None:
            for _ in range(calls):
                assert len(client.predict("small", x)) == ROWS

        return ask, client.close
    loop = asyncio.new_event_loop()
    awaiting = AsyncClient(url, in_flight=8)

    async def asked(calls: int) -> None:
        for _ in range(calls):
            assert len(await awaiting.predict("small", x)) == ROWS

    def close() -> None:
        loop.run_until_complete(awaiting.close())
        loop.close()

    return lambda calls: loop.run_until_complete(asked(calls)), close


def measured(server: Served, kind: str, requests: int, limit_s: float) -> Outcome:
    """Return what so many requests leave behind, or as many as the time allows."""
    here = [psutil.Process()]
    ask, close = opened(server.url, kind)
    try:
        ask(WARM_REQUESTS // REQUESTS_A_CALL)
        before = held(here), held(server.processes())
        start, done = time.perf_counter(), 0
        while done < requests and time.perf_counter() - start < limit_s:
            ask(50)
            done += 50 * REQUESTS_A_CALL
            if done % 100_000 == 0:
                print(f"{kind}: {done:,} requests", file=sys.stderr, flush=True)
        took = time.perf_counter() - start
        after = held(here), held(server.processes())
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
            f"{before['mib']:.1f} to {after['mib']:.1f}",
            f"{before['files']} to {after['files']}",
            f"{before['threads']} to {after['threads']}",
        ]

    heads = [
        f"{who}: {what}" for who in ("client", "server") for what in ("MiB", "files", "threads")
    ]
    return table(
        ["", "requests", *heads],
        [
            [kind, f"{one['requests']:,}", *cells(one["client"]), *cells(one["server"])]
            for kind, one in found.items()
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="20,000 requests; writes nothing")
    parser.add_argument("--requests", type=int, default=1_000_000, help="of each kind of client")
    parser.add_argument("--seconds", type=float, default=900, help="the most that one may take")
    parser.add_argument("--clients", nargs="*", default=CLIENTS, choices=CLIENTS, metavar="KIND")
    given = parser.parse_args()
    found: dict[str, Any] = {}
    has_grown = False
    for kind in given.clients:
        with tempfile.TemporaryDirectory(prefix="thresher-leaks-") as folder:
            models = Path(folder) / "models"
            options = TritonOptions(max_batch_size=ROWS_A_REQUEST)
            publish({"small": small_network()}, models, options=options)
            with served(models, Path(folder) / "run") as server:
                requests = 20_000 if given.quick else given.requests
                outcome = measured(server, kind, requests, given.seconds)
        found[kind] = asdict(outcome)
        has_grown |= outcome.grown_mib > LIMIT_MIB
        print(f"{kind}: {outcome.grown_mib:+.1f} MiB (limit {LIMIT_MIB:.1f}): {outcome}")
    if not given.quick:
        before = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        found = {kind: {**before, **found}[kind] for kind in CLIENTS if kind in {**before, **found}}
        RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        put(PAGE, "serving_leaks", page_table(found))
    sys.exit(has_grown)


if __name__ == "__main__":
    main()
