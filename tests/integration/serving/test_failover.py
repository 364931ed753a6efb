"""Servers that fail, come back, or want keys and certificates; each one a real Triton."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from support.certificates import write_certificates
from support.mlflow_server import free_port
from support.served_weather import write_weather
from support.triton import Triton, triton
from thresher.errors import NotFoundError, ServerError
from thresher_serving import Client, Runtime
from thresher_serving.client.async_client import AsyncClient
from thresher_serving.client.retries import Retries
from thresher_serving.connection import Connection, Tls

LOGITS = np.float32([[0.3, -1.7, 2.1], [-0.2, 0.9, -3.3]])
NOBODY = "127.0.0.1:1"
"""Nothing listens there: connections are refused."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    write_weather(root)
    return root


@pytest.fixture(scope="module")
def alive(
    models: Path, runtime: Runtime, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Triton]:
    log = tmp_path_factory.mktemp("alive") / "log"
    with triton(runtime, models, ["weather"], log=log) as running:
        yield running


@pytest.fixture
def silent() -> Iterator[str]:
    """Return the address of something that takes connections and never answers."""
    import socket

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(50)
        yield f"127.0.0.1:{listening.getsockname()[1]}"


def test_the_next_server_answers_where_the_first_is_down(alive: Triton) -> None:
    url = alive.grpc_url
    with Client([NOBODY, url]) as client:
        assert len(client.predict("weather", LOGITS)) == 2
        assert client.url == url
        assert len(client.predict("weather", LOGITS)) == 2
        assert client.url == url, "it stays with the one that answers"

    async def asked() -> str:
        async with AsyncClient([NOBODY, url]) as client:
            await asyncio.gather(*(client.predict("weather", LOGITS) for _ in range(20)))
            return client.url

    assert asyncio.run(asked()) == url


def test_a_server_that_hangs_does_not_use_up_the_time(alive: Triton, silent: str) -> None:
    with Client([silent, alive.grpc_url]) as client:
        assert len(client.predict("weather", LOGITS, timeout_s=2)) == 2
    with (
        Client(silent) as client,
        pytest.raises(ServerError, match="did not answer in time"),
    ):
        client.predict("weather", LOGITS, timeout_s=0.3)


def test_where_all_are_down_the_error_names_one_and_the_next_step() -> None:
    with (
        Client([NOBODY, "127.0.0.1:2"], retries=Retries(attempts=2)) as client,
        pytest.raises(ServerError, match=r"no Triton server answers at 127\.0\.0\.1:\d\. Run"),
    ):
        client.predict("weather", LOGITS)


def test_no_attempt_begins_after_the_deadline() -> None:
    start = time.monotonic()
    with (
        Client(NOBODY, retries=Retries(attempts=10_000, base_s=0.05, cap_s=0.05)) as client,
        pytest.raises(ServerError, match="no Triton server answers"),
    ):
        client.predict("weather", LOGITS, timeout_s=1)
    assert time.monotonic() - start < 10


def test_what_the_server_refuses_is_asked_once(alive: Triton) -> None:
    start = time.monotonic()
    with Client(alive.grpc_url, retries=Retries(attempts=5, base_s=30, cap_s=30)) as client:
        with pytest.raises(NotFoundError, match="unknown model"):
            client.predict("wether", LOGITS)
    assert time.monotonic() - start < 10, "a second attempt comes after 15 s on average"


def test_calls_outlive_a_server_that_is_killed_while_they_are_under_way(
    models: Path, runtime: Runtime, alive: Triton, tmp_path: Path
) -> None:
    """Of two servers, the one that is asked dies: every call is answered by the other."""
    answered, failed = [], []
    with triton(runtime, models, ["weather"], log=tmp_path / "log") as dying:
        urls = [dying.grpc_url, alive.grpc_url]
        with Client(urls) as client:
            client.predict("weather", LOGITS)
            assert client.url == urls[0]
            end = threading.Event()

            def ask() -> None:
                while not end.is_set():
                    try:
                        answered.append(client.predict("weather", LOGITS, timeout_s=20))
                    except Exception as error:  # noqa: BLE001 - whatever it is, it fails the test
                        failed.append(error)

            threads = [threading.Thread(target=ask) for _ in range(4)]
            for thread in threads:
                thread.start()
            time.sleep(0.3)
            before = len(answered)
            dying.kill()
            time.sleep(0.5)
            end.set()
            for thread in threads:
                thread.join()
            assert client.url == urls[1]
    assert not failed
    assert 0 < before < len(answered)


def test_a_server_that_is_started_again_is_found_again(
    models: Path, runtime: Runtime, tmp_path: Path
) -> None:
    ports = {"grpc_port": free_port(), "http_port": free_port()}
    url = f"127.0.0.1:{ports['grpc_port']}"
    retries = Retries(attempts=1000, base_s=0.2, cap_s=0.2)
    with Client(url, retries=retries) as client:
        with triton(runtime, models, ["weather"], log=tmp_path / "log", **ports):
            client.predict("weather", LOGITS)
        with pytest.raises(ServerError, match="no Triton server answers"):
            client.predict("weather", LOGITS, timeout_s=0.5)
        late: list[int] = []
        asking = threading.Thread(
            target=lambda: late.append(len(client.predict("weather", LOGITS, timeout_s=60)))
        )
        asking.start()
        with triton(runtime, models, ["weather"], log=tmp_path / "log", **ports):
            asking.join(60)
    assert late == [2]


@pytest.mark.parametrize("asks_async", [False, True], ids=["blocking", "awaiting"])
def test_deadlines_that_pass_while_the_server_works_leave_it_alive(
    models: Path, runtime: Runtime, tmp_path: Path, asks_async: bool
) -> None:
    """Calls that are cancelled at the server as it answers end it: some hundred were enough."""
    rows = np.zeros((13, 3), np.float32)
    waits = np.random.default_rng(0).uniform(0.0003, 0.006, 1500)
    late = 0
    with triton(runtime, models, ["weather"], log=tmp_path / "log") as server:
        if asks_async:

            async def asked() -> int:
                async with AsyncClient(server.grpc_url) as client:
                    await client.metadata("weather")
                    given_up = 0
                    for some in np.split(waits, 150):
                        tasks = [client.predict("weather", rows, timeout_s=s) for s in some]
                        ended = await asyncio.gather(*tasks, return_exceptions=True)
                        given_up += sum("in time" in str(one) for one in ended)
                    return given_up

            late = asyncio.run(asked())
        else:
            with Client(server.grpc_url) as client:
                client.metadata("weather")
                for wait in waits:
                    try:
                        client.predict("weather", rows, timeout_s=wait)
                    except ServerError as error:
                        late += "did not answer in time" in str(error)
        with Client(server.grpc_url) as client:
            assert len(client.predict("weather", rows)) == 13
    assert late > 100, "too few passed for this to tell anything"


KEYS = {"triton-grpc-protocol-wanted": "open sesame"}


@pytest.fixture(scope="module")
def guarded(
    models: Path, runtime: Runtime, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Triton]:
    """A server that answers inference only to those that send a key."""
    option = "--grpc-restricted-protocol=inference:wanted=open sesame"
    log = tmp_path_factory.mktemp("guarded") / "log"
    with triton(runtime, models, ["weather"], option, log=log) as running:
        yield running


def test_a_key_opens_a_guarded_server_and_its_lack_is_explained(guarded: Triton) -> None:
    url = guarded.grpc_url
    with Client(url, headers=KEYS) as client:
        assert len(client.predict("weather", LOGITS)) == 2
    wrong = dict.fromkeys(KEYS, "wrong")
    for headers in (None, wrong):
        start = time.monotonic()
        with Client(url, headers=headers, retries=Retries(base_s=30, cap_s=30)) as client:
            with pytest.raises(ServerError, match="wants a key for this call.*headers="):
                client.predict("weather", LOGITS)
        assert time.monotonic() - start < 10, "it is not asked again"

    async def asked() -> int:
        async with AsyncClient(Connection(url=url, headers=KEYS)) as client:
            return len(await client.predict("weather", LOGITS))

    assert asyncio.run(asked()) == 2


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    write_certificates(folder)
    return folder


@pytest.fixture(scope="module", params=[False, True], ids=["tls", "mtls"])
def encrypted(
    request: pytest.FixtureRequest,
    models: Path,
    runtime: Runtime,
    certificates: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Triton, bool]]:
    options = [
        "--grpc-use-ssl=true",
        f"--grpc-server-cert={certificates / 'server.crt'}",
        f"--grpc-server-key={certificates / 'server.key'}",
    ]
    if request.param:
        options += [
            "--grpc-use-ssl-mutual=true",
            f"--grpc-root-cert={certificates / 'ca.crt'}",
        ]
    log = tmp_path_factory.mktemp("encrypted") / "log"
    with triton(runtime, models, ["weather"], *options, log=log) as running:
        yield running, request.param


def test_encrypted_servers_are_asked_with_certificates(
    encrypted: tuple[Triton, bool], certificates: Path
) -> None:
    server, wants_ours = encrypted
    ca = certificates / "ca.crt"
    own = {"certificate": certificates / "client.crt", "key": certificates / "client.key"}
    with Client(server.grpc_url, tls=Tls(ca=ca, **own)) as client:
        assert len(client.predict("weather", LOGITS)) == 2

    async def asked() -> int:
        async with AsyncClient(server.grpc_url, tls=Tls(ca=ca, **own)) as client:
            return len(await client.predict("weather", LOGITS))

    assert asyncio.run(asked()) == 2
    refused = [None, Tls(), *([Tls(ca=ca)] if wants_ours else [])]
    for tls in refused:
        with (
            Client(server.grpc_url, tls=tls, retries=Retries(attempts=1)) as client,
            pytest.raises(ServerError),
        ):
            client.predict("weather", LOGITS, timeout_s=5)
    if not wants_ours:
        with Client(server.grpc_url, tls=Tls(ca=ca)) as client:
            assert len(client.predict("weather", LOGITS)) == 2
