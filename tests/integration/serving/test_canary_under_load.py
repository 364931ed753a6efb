"""Canaries come and go under constant load: no request fails, each answer is of one version."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from support.load import Traffic, traffic
from support.triton import triton
from support.versions import ROWS, offset, publish_version
from thresher import Decision
from thresher.repository import ModelRepository
from thresher_serving import AsyncClient, Runtime
from thresher_serving.client.canary import LOOK_EVERY_S
from thresher_serving.rollout import CanaryEnd, roll_back, roll_out, start_canary

OURS = ("ours", "ours over http", "async", "async over http")
PLAIN = ("grpc", "http")


@contextmanager
def tasks(
    urls: Mapping[str, str], decisions: Mapping[int, tuple[int, Decision]], seen: Traffic
) -> Iterator[None]:
    """Ask from four tasks of each of several event-loop clients until the block ends."""
    stop = threading.Event()

    async def ask(kind: str, client: AsyncClient) -> None:
        while not stop.is_set():
            try:
                got = await client.predict("m", ROWS)
            except Exception as error:  # noqa: BLE001 - every failure counts
                with seen.lock:
                    seen.failed.append(f"{kind}: {error}")
                continue
            weights, decision = decisions[got.model_version]
            p, yes = decision.apply(ROWS + offset(weights))
            right = (
                np.allclose(got.probabilities, p, rtol=0, atol=1e-6)
                and np.array_equal(got.labels, yes)
                and np.array_equal(got.thresholds, decision.thresholds)
            )
            with seen.lock:
                seen.answered[kind, got.model_version] += 1
                if not right:
                    seen.wrong.append(f"{kind}: version {got.model_version}: {got}")
            await asyncio.sleep(0.01)

    async def run() -> None:
        clients = {kind: AsyncClient(url) for kind, url in urls.items()}
        await asyncio.gather(*(ask(kind, c) for kind, c in clients.items() for _ in range(4)))
        for client in clients.values():
            await client.close()

    thread = threading.Thread(target=asyncio.run, args=(run(),), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)
    assert not thread.is_alive(), "a client hangs"


def window(seen: Traffic, seconds: float) -> dict[str, Counter[int]]:
    """Return the answers of so many seconds, by kind of client, then version."""
    with seen.lock:
        before = Counter(seen.answered)
    time.sleep(seconds)
    with seen.lock:
        now = Counter(seen.answered)
    found: dict[str, Counter[int]] = {}
    for (kind, version), count in (now - before).items():
        found.setdefault(kind, Counter())[version] = count
    return found


def share_under_load(runtime: Runtime, folder: Path, rounds: int) -> dict[str, object]:
    """Start, change, promote and end canaries, promote every other one; return what was counted."""
    root = folder / "models"
    repository = ModelRepository(root)
    decisions: dict[int, tuple[int, Decision]] = {}

    def publish(version: int) -> None:
        # thresholds between the probabilities of the rows, so that no rounding flips a label
        thresholds = [0.15 + 0.7 * ((version * k) % 11) / 11 + 0.003 for k in (3, 5, 7)]
        decision = publish_version(root, "m", version, thresholds=np.float32(thresholds))
        decisions[version] = version, decision

    publish(1)
    counts: Counter[str] = Counter()
    serving = newest = 1
    options = ["--disable-auto-complete-config"]
    with triton(runtime, root, ["m"], *options, log=folder / "log") as server:
        url = server.grpc_url
        urls = {"async": url, "async over http": server.http_url}
        with (
            traffic(url, server.http_url, "m", decisions, num_clients=8, pause_s=0.02) as seen,
            tasks(urls, decisions, seen),
        ):
            time.sleep(0.5)
            for turn in range(rounds):
                share, other, trial = (0.1, 0.3)[turn % 2], newest + 1, newest + 2
                newest = trial
                publish(other)
                publish(trial)
                start_canary(repository, "m", other, url, share=0.5)
                start_canary(repository, "m", trial, url, share=0.5)  # takes its place
                assert isinstance(roll_back(repository, "m", url), CanaryEnd)
                start_canary(repository, "m", trial, url, share=share)
                time.sleep(LOOK_EVERY_S + 0.5)
                got = window(seen, 2)
                for kind in PLAIN:
                    assert set(got[kind]) == {serving}, "Triton knows of no canary"
                ours = sum((got[kind] for kind in OURS), Counter[int]())
                calls = ours.total()
                assert set(ours) == {serving, trial}
                assert all(got[kind][trial] for kind in OURS)
                bound = 5 * math.sqrt(calls * share * (1 - share))
                assert abs(ours[trial] - share * calls) <= bound, (ours, share)
                counts["calls while a canary ran"] += calls
                counts["of those, the canary's"] += ours[trial]
                if turn % 2 == 0:
                    roll_out(repository, "m", trial, url)
                    serving = trial
                else:
                    assert isinstance(roll_back(repository, "m", url), CanaryEnd)
                time.sleep(0.2)  # what the canary had taken is answered
                after = window(seen, 0.5)
                assert {version for by in after.values() for version in by} == {serving}
    assert not seen.failed, seen.failed[:5]
    assert not seen.wrong, seen.wrong[:5]
    assert set(seen.by_kind()) == {*OURS, *PLAIN}
    return {
        "answers": seen.num_answers,
        "by client": dict(seen.by_kind()),
        "failed": len(seen.failed),
        **counts,
    }


def test_no_request_fails_while_canaries_come_and_go(
    runtime: Runtime, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = share_under_load(runtime, tmp_path, 1)
    with capsys.disabled():
        print(f"\n{counts}")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_request_fails_in_thirty_canaries(
    runtime: Runtime, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = share_under_load(runtime, tmp_path, 10)
    with capsys.disabled():
        print(f"\n{counts}")
