"""Clients in processes that were forked: rows of their own, or an error at once, never a hang.

Each case runs in a Python of its own, so that no other test's use of gRPC is inherited.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from support.served_weather import write_weather
from support.triton import Triton, triton
from thresher_serving import Runtime

CHILDREN = 12

START = """
import asyncio, multiprocessing, os, signal, sys, threading, time
import numpy as np
import numpy.testing  # a module that a thread imports during a fork stays locked in the child
from thresher.errors import ServerError
from thresher_serving import AsyncClient, Client

URL, CHILDREN = sys.argv[1], int(sys.argv[2])

def check(client, seed, times=20):
    rng = np.random.default_rng(seed)
    for _ in range(times):
        rows = rng.normal(0, 3, (rng.integers(1, 11), 3)).astype(np.float32)
        got = client.predict("weather", rows, timeout_s=10)
        np.testing.assert_allclose(got.probabilities, 1 / (1 + np.exp(-rows)), atol=1e-6)

def in_child(work):
    pid = os.fork()
    if pid:
        return pid
    signal.alarm(60)  # a hang becomes a signal
    code = 1
    try:
        work()
        code = 0
    except ServerError as error:
        print(error, flush=True)
        code = 7
    except BaseException as error:
        print(repr(error), flush=True)
    os._exit(code)

def codes(pids):
    return sorted(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids)
"""


@pytest.fixture(scope="module")
def server(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    root = tmp_path_factory.mktemp("models")
    write_weather(root)
    log = tmp_path_factory.mktemp("log") / "log"
    with triton(runtime, root, ["weather"], log=log) as running:
        yield running


def run(server: Triton, code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", START + code, server.grpc_url, str(CHILDREN)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_children_of_a_client_that_has_asked_get_their_own_rows(server: Triton) -> None:
    """All at once, and the parent with them, over what was one connection."""
    run(
        server,
        """
client = Client(URL)
check(client, 0)
pids = [in_child(lambda: check(client, seed)) for seed in range(1, CHILDREN + 1)]
check(client, 99, 50)
assert codes(pids) == [0] * CHILDREN
check(client, 100)
client.close()
""",
    )


def test_a_child_may_leave_as_any_program_does(server: Triton) -> None:
    """Then it closes what it holds, which must not be the parent's."""
    run(
        server,
        """
client = Client(URL)
check(client, 0)
for seed in range(CHILDREN):
    pid = os.fork()
    if not pid:
        check(client, seed, 3)
        sys.exit(0)
    assert codes([pid]) == [0]
    check(client, seed, 3)
""",
    )


def test_forks_in_the_middle_of_calls_wait_for_them(server: Triton) -> None:
    """Threads ask without a pause while the process forks; gRPC alone crashes or hangs here."""
    run(
        server,
        """
client = Client(URL)
stop, failed = threading.Event(), []

def ask(seed):
    while not stop.is_set():
        try:
            check(client, seed, 1)
        except BaseException as error:
            failed.append(repr(error))

threads = [threading.Thread(target=ask, args=(seed,), daemon=True) for seed in range(4)]
for thread in threads:
    thread.start()
time.sleep(0.3)

def work():
    mine = [threading.Thread(target=check, args=(client, seed)) for seed in range(3)]
    for thread in mine:
        thread.start()
    check(client, os.getpid())
    for thread in mine:
        thread.join()

pids = []
for _ in range(CHILDREN):
    pids.append(in_child(work))
    time.sleep(0.05)
found = codes(pids)
stop.set()
for thread in threads:
    thread.join()
assert found == [0] * CHILDREN, found
assert not failed, failed[:3]
""",
    )


def test_a_pool_of_forked_processes_shares_a_client_by_inheritance(server: Triton) -> None:
    run(
        server,
        """
client = Client(URL)
check(client, 0)

def work(seed):
    check(client, seed, 5)
    return os.getpid()

with multiprocessing.get_context("fork").Pool(4) as pool:
    workers = set(pool.map(work, range(40), chunksize=2))
assert os.getpid() not in workers and workers
""",
    )


def test_a_client_that_has_not_asked_yet_works_in_a_child_of_either_kind(server: Triton) -> None:
    run(
        server,
        """
client, awaiting = Client(URL), AsyncClient(URL)

async def asked():
    async with awaiting:
        return len(await awaiting.predict("weather", np.zeros((5, 3), np.float32)))

def work():
    check(client, 1)
    assert asyncio.run(asked()) == 5

assert codes([in_child(work)]) == [0]
""",
    )


REFUSED = "forked from one that had used gRPC, which cannot be used here: "


def test_a_call_that_outlasts_the_forks_patience_makes_the_child_say_so(
    server: Triton,
) -> None:
    start = time.monotonic()
    output = run(
        server,
        """
import socket
silent = socket.create_server(("127.0.0.1", 0))
client = Client(f"127.0.0.1:{silent.getsockname()[1]}")
late = threading.Thread(target=lambda: client.infer("x", {}, timeout_s=12), daemon=True)
late.start()
time.sleep(0.5)
start = time.monotonic()
pid = in_child(lambda: check(Client(URL), 0))
assert 4 < time.monotonic() - start < 9
assert codes([pid]) == [7]
check(Client(URL), 0)
os._exit(0)
""",
    )
    assert REFUSED + "1 calls were under way" in output
    assert "multiprocessing.get_context(" in output
    assert time.monotonic() - start < 60


@pytest.mark.parametrize("closed", [False, True])
def test_an_event_loops_open_client_makes_the_child_say_so(server: Triton, closed: bool) -> None:
    """gRPC keeps a thread inside a call as long as such a connection is open."""
    output = run(
        server,
        f"""
client = AsyncClient(URL)
async def asked():
    await client.predict("weather", np.zeros((5, 3), np.float32))
    if {closed}:
        await client.close()
asyncio.run(asked())
def again():
    check(Client(URL), 0)
    asyncio.run(asked())
print(codes([in_child(again)]))
""",
    )
    if closed:
        assert output.endswith("[0]\n")
    else:
        assert REFUSED + "an AsyncClient was open" in output
        assert output.endswith("[7]\n")


def test_without_grpcs_fork_support_the_child_says_so(server: Triton) -> None:
    output = run(
        server,
        """
client = Client(URL)
check(client, 0)
start = time.monotonic()
print(codes([in_child(lambda: check(client, 0))]))
assert time.monotonic() - start < 5
""",
        GRPC_ENABLE_FORK_SUPPORT="0",
    )
    assert REFUSED + "GRPC_ENABLE_FORK_SUPPORT is off" in output
    assert output.endswith("[7]\n")


def test_a_fork_without_pythons_handlers_is_noticed(server: Triton) -> None:
    output = run(
        server,
        """
import ctypes
client = Client(URL)
check(client, 0)
os.fork = ctypes.PyDLL(None).fork
print(codes([in_child(lambda: check(client, 0))]))
""",
    )
    assert REFUSED + "the fork did not run Python's handlers" in output
    assert output.endswith("[7]\n")
