"""Names and thresholds are those of what answers, also where a version number gets another model.

A real Triton is restarted, and its model exchanged; what must happen between two packets is done
by a server of the tests' own.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from tritonclient import grpc

from support.fake_triton import fake_triton
from support.mlflow_server import free_port
from support.served_weather import write_weather
from support.triton import triton
from thresher import Decision
from thresher.config_pbtxt import config_text, decision_key, read_config
from thresher.errors import NotFoundError, ServerError
from thresher_serving import AsyncClient, Client, Prediction, Runtime
from thresher_serving.client.metadata import checksum_of, decided_by
from thresher_serving.control import load_model, unload_model

ROWS = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
"""Ten requests; nearly all probabilities are between .1 and .9."""

FIRST = Decision(labels=["rain", "fog", "snow"], thresholds=[0.2, 0.3, 0.4])
RENAMED = Decision(labels=["snow", "rain", "fog"], thresholds=[0.2, 0.3, 0.4])
"""No label of an answer tells it from the first one."""
MOVED = Decision(labels=["rain", "fog", "snow"], thresholds=[0.8, 0.7, 0.6])


def is_of(got: Prediction, decision: Decision) -> bool:
    return (
        got.label_names == decision.labels
        and got.thresholds is not None
        and np.array_equal(got.thresholds, decision.thresholds)
        and np.array_equal(got.labels, got.probabilities >= decision.thresholds)
    )


def publish(root: Path, decision: Decision) -> None:
    """Put a decision in the place of version 1's."""
    shutil.rmtree(root / "weather", ignore_errors=True)
    folder = write_weather(root, thresholds=decision.thresholds.tolist())
    config = folder / "config.pbtxt"
    first = Decision(labels=FIRST.labels, thresholds=decision.thresholds.tolist()).to_json()
    escaped = decision.to_json().replace('"', r"\"")
    text = config.read_text()
    assert first.replace('"', r"\"") in text
    config.write_text(text.replace(first.replace('"', r"\""), escaped))


@pytest.mark.parametrize("second", [RENAMED, MOVED], ids=["renamed", "moved"])
@pytest.mark.parametrize("pause_s", [0, 1.0], ids=["asks all the time", "asks before and after"])
def test_a_server_that_restarts_with_another_version_1_is_noticed(
    runtime: Runtime, tmp_path: Path, second: Decision, pause_s: float
) -> None:
    port, got = free_port(), []
    with Client(f"127.0.0.1:{port}") as client:
        for decision in (FIRST, second, FIRST):
            publish(tmp_path / "models", decision)
            with triton(
                runtime, tmp_path / "models", ["weather"], log=tmp_path / "log", grpc_port=port
            ):
                for _ in range(3):
                    got.append((client.predict("weather", ROWS, timeout_s=60), decision))
                    time.sleep(pause_s)
    assert [is_of(answer, decision) for answer, decision in got] == [True] * 9


def test_the_backend_sends_the_checksum_of_what_decides(runtime: Runtime, tmp_path: Path) -> None:
    odd = Decision(labels=["rain ☂", 'fog "thick"', "näss\\e"], thresholds=[0.2, 0.3, 0.4])
    folder = write_weather(tmp_path / "models", thresholds=[0.2, 0.3, 0.4])
    config = read_config(folder / "config.pbtxt")
    config.parameters[decision_key(1)].string_value = odd.to_json()
    config.parameters["thresher.certificate_sha256/1"].string_value = "0f" * 32
    (folder / "config.pbtxt").write_text(config_text(config))
    with triton(runtime, tmp_path / "models", ["weather"], log=tmp_path / "log") as server:
        client = grpc.InferenceServerClient(server.grpc_url)
        rows = grpc.InferInput("x", [2, 3], "FP32").set_data_from_numpy(ROWS[:2])
        answer = client.infer("weather", [rows]).get_response()
        client.close()
    expected = checksum_of(decided_by(config, 1))
    assert len(expected) == 16
    assert answer.parameters["thresher.decision"].string_param == expected


class _Asking:
    """Threads that share a client and ask without a pause."""

    def __init__(self, client: Client) -> None:
        self.answers: list[Prediction] = []
        self.failed: list[BaseException] = []
        self._client = client
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(at,)) for at in range(4)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def more(self) -> list[Prediction]:
        """Return the answers to calls that begin now."""
        time.sleep(0.2)
        before = len(self.answers)
        late = time.monotonic() + 120
        while len(self.answers) < before + 20:
            assert time.monotonic() < late, self.failed
            time.sleep(0.01)
        return self.answers[-10:]

    def _ask(self, at: int) -> None:
        rows = ROWS[at : at + 6]
        while not self._stop.is_set():
            try:
                got = self._client.predict("weather", rows, timeout_s=120)
                np.testing.assert_allclose(got.probabilities, 1 / (1 + np.exp(-rows)), atol=1e-6)
                self.answers.append(got)
            except BaseException as error:  # noqa: BLE001 - whatever it is, it fails the test
                self.failed.append(error)


def test_calls_wait_for_a_server_that_is_killed_and_comes_back(
    runtime: Runtime, tmp_path: Path
) -> None:
    """By signal 9, under load, three times, each time with another model of the same number."""
    port = free_port()
    with Client(f"127.0.0.1:{port}") as client, ExitStack() as stack:
        asking = _Asking(client)
        for turn, decision in enumerate((FIRST, RENAMED, FIRST)):
            publish(tmp_path / "models", decision)
            server = stack.enter_context(
                triton(
                    runtime, tmp_path / "models", ["weather"], log=tmp_path / "log", grpc_port=port
                )
            )
            if not turn:
                client.predict("weather", ROWS)
                asking.start()
            assert all(is_of(got, decision) for got in asking.more())
            if turn < 2:
                os.kill(server.pid, signal.SIGKILL)
        asking.stop()
    assert not asking.failed, asking.failed[:3]


def test_a_model_exchanged_in_a_running_server_is_named_by_what_it_decided(
    runtime: Runtime, tmp_path: Path
) -> None:
    root, stop = tmp_path / "models", threading.Event()
    publish(root, FIRST)
    seen: list[bool] = []
    problems: list[str] = []

    def ask(client: Client) -> None:
        while not stop.is_set():
            try:
                got = client.predict("weather", ROWS)
            except (NotFoundError, ServerError):
                continue  # there is a moment without the model
            applied = FIRST if got.labels.mean() > 0.6 else MOVED
            if not is_of(got, applied):
                problems.append(f"{got.thresholds}: {got.labels.mean():.2f}")
            seen.append(applied is FIRST)

    with (
        triton(runtime, root, ["weather"], log=tmp_path / "log") as server,
        Client(server.grpc_url) as client,
    ):
        threads = [threading.Thread(target=ask, args=(client,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            for turn in range(4):
                decision = (MOVED, FIRST)[turn % 2]
                publish(root, decision)
                unload_model(server.grpc_url, "weather")
                load_model(server.grpc_url, "weather")
                late = time.monotonic() + 30
                while not seen or seen[-1] is not (decision is FIRST):
                    assert time.monotonic() < late
                    time.sleep(0.01)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    assert not problems
    assert {True, False} == set(seen)


def test_a_configuration_that_contradicts_its_network_is_an_error(
    runtime: Runtime, tmp_path: Path
) -> None:
    root = tmp_path / "models"
    publish(root, FIRST)
    config = root / "weather" / "config.pbtxt"
    text = config.read_text()
    assert "[0.2,0.3,0.4]" in text
    config.write_text(text.replace("[0.2,0.3,0.4]", "[0.2,0.3,0.9]"))
    with (
        triton(runtime, root, ["weather"], log=tmp_path / "log") as server,
        Client(server.grpc_url) as client,
        pytest.raises(ServerError, match=r"weather version 1: its labels are not.*thresher status"),
    ):
        client.predict("weather", ROWS)


@pytest.fixture(params=["blocking", "awaiting"])
def asking(request: pytest.FixtureRequest) -> Callable[[str], Callable[..., Prediction]]:
    """Return what asks a server, over one connection."""

    def blocking(url: str) -> Callable[..., Prediction]:
        client = Client(url)
        request.addfinalizer(client.close)
        return client.predict

    def awaiting(url: str) -> Callable[..., Prediction]:
        client, loop = AsyncClient(url), asyncio.new_event_loop()

        def close() -> None:
            loop.run_until_complete(client.close())
            loop.close()

        request.addfinalizer(close)
        return lambda *given, **named: loop.run_until_complete(client.predict(*given, **named))

    return blocking if request.param == "blocking" else awaiting


@pytest.mark.parametrize("outputs", [("probabilities",), ("probabilities", "labels")])
def test_with_a_checksum_each_answer_is_bound_to_its_decision(
    asking: Callable[[str], Callable[..., Prediction]], outputs: tuple[str, ...]
) -> None:
    """Exchanged between two requests over one connection, with nothing else to see it by."""
    with fake_triton(FIRST, sends_checksum=True) as server:
        ask = asking(server.url)
        for decision in (FIRST, RENAMED, MOVED, FIRST, RENAMED):
            server.decision = decision
            for _ in range(2):
                assert is_of(ask("weather", ROWS, outputs=outputs), decision)


def test_with_a_checksum_nothing_is_read_twice(
    asking: Callable[[str], Callable[..., Prediction]],
) -> None:
    with fake_triton(FIRST, sends_checksum=True) as server:
        ask = asking(server.url)
        for _ in range(4):
            ask("weather", ROWS[:4])
            time.sleep(0.1)
        assert server.calls == {"metadata": 1, "config": 1, "infer": 4}


@pytest.mark.parametrize("sends_checksum", [True, False])
def test_rows_that_two_decisions_answered_are_asked_about_again(
    asking: Callable[[str], Callable[..., Prediction]], sends_checksum: bool
) -> None:
    with fake_triton(FIRST, sends_checksum=sends_checksum) as server:
        ask = asking(server.url)
        ask("weather", ROWS)
        for decision in (MOVED, FIRST):
            server.next_decision = decision  # after the first of ten parts
            assert is_of(ask("weather", ROWS), decision)


def test_without_a_checksum_a_description_is_confirmed_when_it_is_no_longer_fresh(
    asking: Callable[[str], Callable[..., Prediction]],
) -> None:
    with fake_triton(FIRST, sends_checksum=False) as server:
        ask = asking(server.url)
        for decision in (FIRST, RENAMED, MOVED):
            server.decision = decision
            time.sleep(0.1)
            assert is_of(ask("weather", ROWS), decision)
            before = server.calls["metadata"]
            time.sleep(0.1)
            assert is_of(ask("weather", ROWS), decision)
            assert server.calls["metadata"] == before, "the configuration alone is read again"


def test_a_model_that_is_exchanged_at_each_request_is_an_error(
    asking: Callable[[str], Callable[..., Prediction]],
) -> None:
    with fake_triton(FIRST, sends_checksum=True) as server:
        ask = asking(server.url)
        server.alternates = True
        with pytest.raises(ServerError, match="weather version 1: it was exchanged while it answ"):
            ask("weather", ROWS)


def test_of_two_servers_each_is_described_by_itself() -> None:
    with fake_triton(MOVED, sends_checksum=False) as other:
        with fake_triton(FIRST, sends_checksum=False) as server:
            client = Client([server.url, other.url])
            assert is_of(client.predict("weather", ROWS), FIRST)
        assert is_of(client.predict("weather", ROWS), MOVED)
        client.close()
