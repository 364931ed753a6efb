"""Inputs through system shared memory, against real servers that allow it and that refuse it."""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.served_weather import THRESHOLDS, write_weather
from support.triton import Triton, triton
from thresher.errors import ServerError
from thresher_serving import Client, Runtime
from thresher_serving.client.async_client import AsyncClient
from thresher_serving.connection import Connection

BATCH = 120_000
ROWS = np.random.default_rng(0).normal(0, 3, (2 * BATCH + 5, 3)).astype(np.float32)
"""Two requests of 1.4 MB and one of five rows."""

MEMORY = Path("/dev/shm")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    write_weather(root, max_batch_size=BATCH)
    return root


@pytest.fixture(scope="module")
def allowing(
    models: Path, runtime: Runtime, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Triton]:
    log = tmp_path_factory.mktemp("allowing") / "log"
    with triton(runtime, models, ["weather"], log=log) as running:
        yield running


@pytest.fixture(scope="module")
def refusing(
    models: Path, runtime: Runtime, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Triton]:
    """A server whose shared memory is behind a key."""
    log = tmp_path_factory.mktemp("refusing") / "log"
    option = "--grpc-restricted-protocol=shared-memory:wanted=open sesame"
    with triton(runtime, models, ["weather"], option, log=log) as running:
        yield running


@pytest.fixture
def left_over(request: pytest.FixtureRequest) -> Iterator[None]:
    """Prove that the test leaves no region in this host's memory."""
    before = set(MEMORY.glob("psm_*"))
    yield
    assert set(MEMORY.glob("psm_*")) <= before


def registered(server: Triton) -> dict[str, Any]:
    """Return the regions that a server maps."""
    client = Connection(url=server.grpc_url).open()
    try:
        return dict(client.get_system_shared_memory_status().regions)
    finally:
        client.close()


def check(probabilities: np.ndarray, labels: np.ndarray, rows: np.ndarray) -> None:
    expected = 1 / (1 + np.exp(-rows.astype(np.float64)))
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)
    np.testing.assert_array_equal(labels, probabilities >= np.float32(THRESHOLDS))


@pytest.mark.parametrize("wanted", [True, None])
def test_large_inputs_lie_in_regions_that_are_used_again_and_given_back(
    allowing: Triton, left_over: None, wanted: bool | None
) -> None:
    with Client(allowing.grpc_url, shared_memory=wanted, in_flight=2) as client:
        for _ in range(3):
            got = client.predict("weather", ROWS)
            check(got.probabilities, got.labels, ROWS)
            held = registered(allowing)
            assert 1 <= len(held) <= 2, "one for each request under way"
    assert registered(allowing) == {}


def test_small_inputs_travel_in_messages_unless_memory_is_asked_for(
    allowing: Triton, left_over: None
) -> None:
    for wanted, regions in [(None, 0), (False, 0), (True, 1)]:
        with Client(allowing.grpc_url, shared_memory=wanted) as client:
            check(*answered(client, ROWS[:3]), ROWS[:3])
            assert len(registered(allowing)) == regions
    with Client(allowing.grpc_url, shared_memory=False) as client:
        check(*answered(client, ROWS[:BATCH]), ROWS[:BATCH])
        assert registered(allowing) == {}


def answered(client: Client, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    got = client.predict("weather", rows)
    return got.probabilities, got.labels


def test_a_server_that_refuses_is_sent_messages(refusing: Triton, left_over: None) -> None:
    for wanted in (None, True):
        with Client(refusing.grpc_url, shared_memory=wanted) as client:
            for _ in range(2):
                check(*answered(client, ROWS), ROWS)
    keys = {"triton-grpc-protocol-wanted": "open sesame"}
    with Client(refusing.grpc_url, shared_memory=True, headers=keys) as client:
        check(*answered(client, ROWS), ROWS)


def test_a_server_that_knows_a_region_no_more_gets_messages_then_a_new_one(
    allowing: Triton, left_over: None
) -> None:
    with Client(allowing.grpc_url, in_flight=1) as client:
        answered(client, ROWS)
        (before,) = registered(allowing)
        other = Connection(url=allowing.grpc_url).open()
        other.unregister_system_shared_memory()
        other.close()
        check(*answered(client, ROWS[:BATCH]), ROWS[:BATCH])
        assert registered(allowing) == {}
        check(*answered(client, ROWS[:BATCH]), ROWS[:BATCH])
        (after,) = registered(allowing)
        assert after != before
    assert registered(allowing) == {}


def test_regions_are_given_back_after_errors(allowing: Triton, left_over: None) -> None:
    with Client(allowing.grpc_url, shared_memory=True) as client:
        client.metadata("weather")
        with pytest.raises(ServerError, match="did not answer in time"):
            client.predict("weather", ROWS, timeout_s=0.001)
    assert registered(allowing) == {}


def test_many_tasks_never_share_a_region_at_a_time(allowing: Triton, left_over: None) -> None:
    async def asked() -> None:
        async with AsyncClient(allowing.grpc_url, shared_memory=True) as client:
            for turn in range(3):  # from the second one on, regions are there to be used again
                starts = range(turn, turn + 40)
                parts = [ROWS[i * 1000 : (i + 1 + i % 3) * 1000] for i in starts]
                answers = await asyncio.gather(*(client.predict("weather", p) for p in parts))
                for part, got in zip(parts, answers, strict=True):
                    check(got.probabilities, got.labels, part)

    asyncio.run(asked())
    assert registered(allowing) == {}


def test_without_room_messages_carry_the_inputs(allowing: Triton, left_over: None) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Client(allowing.grpc_url, shared_memory=True) as client:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
        try:
            probabilities, labels = answered(client, ROWS[:BATCH])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        check(probabilities, labels, ROWS[:BATCH])
        assert registered(allowing) == {}


@pytest.mark.parametrize(
    "end",
    ["", "client.close()", "raise SystemExit(0)", "import os, signal; os.kill(os.getpid(), 9)"],
)
def test_a_program_that_ends_without_closing_leaves_no_memory(
    allowing: Triton, left_over: None, end: str
) -> None:
    code = f"""
import numpy as np
from thresher_serving import Client
client = Client("{allowing.grpc_url}")
print(len(client.predict("weather", np.zeros(({BATCH}, 3), np.float32))), flush=True)
{end}
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.split() == [str(BATCH)], done.stderr
    if "kill" in end:
        other = Connection(url=allowing.grpc_url).open()
        other.unregister_system_shared_memory()  # nobody else can: the mapping is the server's
        other.close()
    else:
        assert done.stderr == ""
        assert registered(allowing) == {}
