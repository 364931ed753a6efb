"""A canary whose backend process is killed is a canary again, or none; no call fails of it."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from support.versions import ROWS, publish_version
from thresher.repository import ModelRepository
from thresher_serving import Client, RunningServer, Runtime, control, start_server
from thresher_serving.client.canary import canary_of
from thresher_serving.connection import as_connection
from thresher_serving.rollout import Canary, find_canary, start_canary


@pytest.fixture(scope="module")
def watched(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server of version 1 of a model, of which version 2 is published too."""
    home = tmp_path_factory.mktemp("canaries")
    for version in (1, 2):
        publish_version(home / "models", "m", version)
    ports = dict.fromkeys(("grpc_port", "http_port", "metrics_port"), 0)
    server = start_server(
        home / "models", runtime=runtime, state_dir=home / "state", watch=True, **ports
    )
    yield server
    server.stop(timeout_s=0.1)


def found(server: RunningServer) -> Canary | None:
    with control.connect(server.grpc_url) as client:
        return find_canary("m", as_connection(server.grpc_url), client)


def kill(server: RunningServer, model: str) -> None:
    for child in psutil.Process(server.pid).children():
        if child.status() != psutil.STATUS_ZOMBIE and f"/{model}/" in " ".join(child.cmdline()):
            child.kill()


def wait_for(check: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not check():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.02)


def asked(server: RunningServer, calls: int) -> Counter[int]:
    """Return how many calls of a new client got which version."""
    with Client(server.grpc_url) as client:
        return Counter(client.predict("m", ROWS).model_version for _ in range(calls))


def test_a_dead_canary_is_loaded_anew_and_goes_where_it_cannot_be(watched: RunningServer) -> None:
    repository, log = ModelRepository(Path(watched.repository)), Path(watched.log_file)
    start_canary(repository, "m", 2, watched.grpc_url, share=0.5)
    kill(watched, canary_of("m"))
    assert sum(asked(watched, 20).values()) == 20
    wait_for(lambda: "the canary of m, version 2 answers again" in log.read_text())
    assert found(watched) == Canary(version=2, share=0.5)
    assert set(asked(watched, 40)) == {1, 2}

    shutil.rmtree(repository.root / "m" / "2")
    kill(watched, canary_of("m"))
    wait_for(lambda: "m has no canary any more, and what serves gets" in log.read_text())
    assert found(watched) is None
    assert asked(watched, 20) == {1: 20}
    assert not list(repository.root.glob(".canary.*"))
    assert "m version 1" not in log.read_text().partition("thresher: ")[2], "it was left alone"
