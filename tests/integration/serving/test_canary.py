"""A canary on a real Triton: who gets it, how it ends, and what happens when it goes wrong."""

from __future__ import annotations

import asyncio
import os
import signal
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from support.triton import Triton, triton
from support.versions import ROWS, offset, publish_version
from thresher.errors import DecisionError, ParityError, ServerError, ThresherError
from thresher.repository import ModelRepository
from thresher_serving import AsyncClient, Client, Prediction, Runtime, control
from thresher_serving.client.canary import LOOK_EVERY_S, canary_of
from thresher_serving.connection import as_connection
from thresher_serving.rollout import (
    Canary,
    CanaryEnd,
    History,
    find_canary,
    roll_back,
    roll_out,
    start_canary,
)

COMPLETE = "--disable-auto-complete-config"
THRESHOLDS = {1: 0.15, 2: 0.45, 3: 0.75}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("canaries") / "models"
    root.mkdir()
    return root


@pytest.fixture(scope="module")
def server(
    root: Path, runtime: Runtime, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Triton]:
    log = tmp_path_factory.mktemp("log") / "triton.log"
    with triton(runtime, root, [], COMPLETE, log=log) as running:
        yield running


@pytest.fixture
def model(
    root: Path, server: Triton, request: pytest.FixtureRequest
) -> tuple[ModelRepository, str, str]:
    """A model of the test's own: versions 1 to 3 are published, 1 serves."""
    name = f"model-{zlib.crc32(request.node.name.encode()):08x}"
    for version, threshold in THRESHOLDS.items():
        publish_version(root, name, version, thresholds=threshold)
    control.load_model(server.grpc_url, name)
    return ModelRepository(root), name, server.grpc_url


def check(answer: Prediction) -> int:
    """Return the version that an answer names, proven to be the one that gave it."""
    version = answer.model_version
    assert answer.thresholds is not None
    assert np.array_equal(answer.thresholds, np.full(3, THRESHOLDS[version], np.float32))
    p = 1 / (1 + np.exp(-(ROWS + offset(version)).astype(np.float64)))
    assert np.allclose(answer.probabilities, p, rtol=0, atol=1e-6)
    assert np.array_equal(answer.labels, answer.probabilities >= answer.thresholds)
    return version


def counted(url: str, name: str, calls: int = 60) -> Counter[int]:
    """Return how many calls of a new client got which version."""
    with Client(url) as client:
        return Counter(check(client.predict(name, ROWS)) for _ in range(calls))


def canary(model: tuple[ModelRepository, str, str]) -> Canary | None:
    _, name, url = model
    with control.connect(url) as client:
        return find_canary(name, as_connection(url), client)


@pytest.mark.parametrize("scheme", ["grpc", pytest.param("http", marks=pytest.mark.slow)])
def test_a_share_of_calls_gets_it_and_every_answer_is_of_the_version_that_it_names(
    model: tuple[ModelRepository, str, str], server: Triton, scheme: str
) -> None:
    repository, name, url = model
    done = start_canary(repository, name, 2, url, share=0.3)
    assert (done.version, done.serving, done.replaced, done.num_rows) == (2, 1, None, 4)
    assert canary(model) == Canary(version=2, share=0.3)
    assert not list(repository.root.glob(".canary.*")), "nothing is left on the disk"
    with Client(url if scheme == "grpc" else server.http_url) as client:
        answers = [client.predict(name, ROWS) for _ in range(400)]
        assert all(check(answer) in {1, 2} for answer in answers)
        assert all(a.is_canary == (a.model_version == 2) for a in answers)
        assert {answer.model_name for answer in answers} == {name}
        # 400 draws: 120 expected, a standard deviation of 9.2
        assert 74 <= sum(answer.is_canary for answer in answers) <= 166
        assert not any(client.predict(name, ROWS, version=1).is_canary for _ in range(30))
        many = np.tile(ROWS, (100, 1))
        for _ in range(8):
            answer = client.predict(name, many)
            assert np.array_equal(answer.probabilities[:4], answer.probabilities[-4:])
        assert client.predict(name, many[:0]).probabilities.shape == (0, 3)


def test_a_task_of_an_event_loop_gets_it_too_and_tritonclient_does_not(
    model: tuple[ModelRepository, str, str],
) -> None:
    repository, name, url = model
    start_canary(repository, name, 2, url, share=0.5)

    async def ask() -> Counter[int]:
        async with AsyncClient(url) as client:
            return Counter(
                check(a)
                for a in await asyncio.gather(*(client.predict(name, ROWS) for _ in range(200)))
            )

    seen = asyncio.run(ask())
    assert 60 <= seen[2] <= 140
    from tritonclient.grpc import InferenceServerClient, InferInput

    with InferenceServerClient(url) as plain:
        rows = InferInput("features", list(ROWS.shape), "FP32").set_data_from_numpy(ROWS)
        got = {plain.infer(name, [rows]).get_response().model_version for _ in range(40)}
        assert got == {"1"}
        chosen = plain.infer(canary_of(name), [rows]).get_response()
        assert chosen.model_version == "2", "who wants it can name it"


def test_a_running_client_learns_of_its_start_and_of_its_end(
    model: tuple[ModelRepository, str, str],
) -> None:
    repository, name, url = model
    with Client(url) as client:
        assert check(client.predict(name, ROWS)) == 1
        start_canary(repository, name, 2, url, share=0.9)
        end = time.monotonic() + LOOK_EVERY_S + 2
        while check(client.predict(name, ROWS)) == 1:
            assert time.monotonic() < end
        roll_back(repository, name, url)
        assert {check(client.predict(name, ROWS)) for _ in range(50)} == {1}


def test_its_rollout_ends_it_once_the_version_serves(
    model: tuple[ModelRepository, str, str],
) -> None:
    repository, name, url = model
    start_canary(repository, name, 2, url, share=0.5)
    steps: list[str] = []
    seen: list[Canary | None] = []

    def look(step: str) -> None:
        steps.append(step)
        seen.append(canary(model))

    assert roll_out(repository, name, 2, url, progress=look).previous == 1
    assert [step.split()[0] for step in steps] == [
        *("Checking", "Comparing", "Loading", "Comparing", "Writing", "Ending")
    ], "it is loaded already, so no second time beside what serves"
    assert seen == [Canary(version=2, share=0.5)] * 6
    assert canary(model) is None
    assert counted(url, name) == {2: 60}
    assert roll_back(repository, name, url).version == 1


def test_a_rollback_ends_it_and_does_not_go_back_a_version(
    model: tuple[ModelRepository, str, str],
) -> None:
    repository, name, url = model
    roll_out(repository, name, 1, url)
    roll_out(repository, name, 2, url)
    start_canary(repository, name, 3, url, share=0.5)
    done = roll_back(repository, name, url)
    assert done == CanaryEnd(name=name, version=3, serving=2, server=url)
    assert counted(url, name) == {2: 60}
    assert History.load(repository.root, name, serving=2).serving == 2
    assert roll_back(repository, name, url).version == 1, "the next one goes back"


def test_another_canary_takes_its_place_and_so_does_another_share(
    model: tuple[ModelRepository, str, str],
) -> None:
    repository, name, url = model
    start_canary(repository, name, 2, url, share=0.5)
    with Client(url) as running:
        check(running.predict(name, ROWS))
        steps: list[str] = []
        done = start_canary(repository, name, 2, url, share=0.75, progress=steps.append)
        assert (done.replaced, done.share, canary(model)) == (
            2,
            0.75,
            Canary(version=2, share=0.75),
        )
        assert not any("under a name that nobody asks for" in step for step in steps)
        assert start_canary(repository, name, 3, url, share=0.5).replaced == 2
        assert canary(model) == Canary(version=3, share=0.5)
        assert {check(running.predict(name, ROWS)) for _ in range(40)} <= {1, 3}
    assert set(counted(url, name)) == {1, 3}


def test_the_rollout_of_another_version_ends_it(model: tuple[ModelRepository, str, str]) -> None:
    repository, name, url = model
    start_canary(repository, name, 2, url, share=0.25)
    steps: list[str] = []
    roll_out(repository, name, 3, url, progress=steps.append)
    assert "Ending the canary: version 2 gets 25% of the calls of Thresher's clients" in steps
    assert canary(model) is None
    assert counted(url, name) == {3: 60}


@pytest.mark.parametrize(
    ("broken", "kind", "reason"),
    [
        ({"model": b"not an ONNX model"}, ServerError, "Protobuf parsing failed"),
        ({"golden": "wrong"}, ParityError, "does not answer as its golden rows say"),
        # these two are checked where a rollout's are, of which there are tests too
        pytest.param(
            *({"certificate": False}, ParityError, "no certificate.json"), marks=pytest.mark.slow
        ),
        pytest.param(
            {"labels": ("fog", "rain", "snow")},
            DecisionError,
            "position 0 was .rain. and is .fog.",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_version_that_may_not_serve_is_no_canary_and_one_that_runs_goes_on(
    model: tuple[ModelRepository, str, str],
    broken: dict[str, Any],
    kind: type[ThresherError],
    reason: str,
) -> None:
    repository, name, url = model
    start_canary(repository, name, 2, url, share=0.5)
    publish_version(repository.root, name, 4, **broken)
    with pytest.raises(kind, match=reason):
        start_canary(repository, name, 4, url, share=0.5)
    assert canary(model) == Canary(version=2, share=0.5)
    assert set(counted(url, name)) == {1, 2}


def test_what_serves_or_stands_alone_is_no_canary(
    model: tuple[ModelRepository, str, str],
) -> None:
    repository, name, url = model
    with pytest.raises(ServerError, match=f"{name}/1 serves already; a canary needs another"):
        start_canary(repository, name, 1, url, share=0.5)
    control.unload_model(url, name)
    with pytest.raises(ServerError, match=f"none is served.*thresher rollout {name}/2"):
        start_canary(repository, name, 2, url, share=0.5)


def test_a_canary_whose_process_died_costs_no_call(
    model: tuple[ModelRepository, str, str], server: Triton
) -> None:
    repository, name, url = model
    stubs = {child.pid for child in psutil.Process(server.pid).children(recursive=True)}
    start_canary(repository, name, 2, url, share=0.9)
    with Client(url) as client:
        while check(client.predict(name, ROWS)) != 2:
            pass
        new = {c.pid for c in psutil.Process(server.pid).children(recursive=True)} - stubs
        for pid in new:
            os.kill(pid, signal.SIGKILL)
        assert {check(client.predict(name, ROWS)) for _ in range(50)} == {1}
    assert roll_out(repository, name, 2, url).previous == 1, "it is loaded anew"
    assert canary(model) is None
    assert counted(url, name) == {2: 60}


def test_a_server_that_is_started_anew_has_none(runtime: Runtime, tmp_path: Path) -> None:
    root = tmp_path / "models"
    for version, threshold in THRESHOLDS.items():
        publish_version(root, "m", version, thresholds=threshold)
    with triton(runtime, root, ["*"], COMPLETE, log=tmp_path / "log") as running:
        start_canary(ModelRepository(root), "m", 2, running.grpc_url, share=0.5)
        assert set(counted(running.grpc_url, "m")) == {1, 2}
        running.kill()
    with triton(runtime, root, ["*"], COMPLETE, log=tmp_path / "log") as running:
        assert counted(running.grpc_url, "m") == {1: 60}
