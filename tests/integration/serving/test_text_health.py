"""A model that takes texts and answers no more is loaded again; users' texts are not touched."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

pytest.importorskip("tokenizers", reason="pip install tokenizers")

from support.text_models import publish_text_model
from thresher.errors import ServerError
from thresher.repository import ModelRepository
from thresher_serving import Client, Runtime
from thresher_serving.embedded.background import serve_in_background
from thresher_serving.embedded.launch import PORT_OPTIONS, ServeOptions
from thresher_serving.embedded.server import server_state, stop_server
from thresher_serving.embedded.state import ServerState
from thresher_serving.rollout import StatusReader, roll_out


@pytest.fixture
def served(tmp_path: Path, runtime: Runtime) -> Iterator[ServerState]:
    """A supervised server of a text model."""
    if runtime.kind == "wheel" and sys.version_info >= (3, 13):
        pytest.skip("strings need Python 3.11 or 3.12 here")
    publish_text_model(tmp_path / "models", 1)
    options = ServeOptions(
        repository=tmp_path / "models",
        runtime=runtime,
        host="127.0.0.1",
        ports=dict.fromkeys(PORT_OPTIONS, 0),
        log_file=tmp_path / "state/server.log",
        state_dir=tmp_path / "state",
        unproven=True,
    )
    state = serve_in_background(options, tmp_path / "state")
    assert state is not None
    yield state
    stop_server(tmp_path / "state", timeout_s=0.1)


def process_of(state: ServerState, model: str) -> psutil.Process:
    assert state.server is not None
    (found,) = (
        child
        for child in psutil.Process(state.server.pid).children()
        if child.status() != psutil.STATUS_ZOMBIE and f"/{model}/" in " ".join(child.cmdline())
    )
    return found


def wait_for(check: Callable[[], object], *, within_s: float) -> None:
    end = time.monotonic() + within_s
    while not check():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.1)


def answers(state: ServerState) -> bool:
    assert state.server is not None
    with Client(state.server.grpc_url) as client:
        try:
            return len(client.predict("emotions.text", ["why?"], timeout_s=3)) == 1
        except ServerError:
            return False


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_that_is_gone_or_stopped_is_replaced(
    served: ServerState, how: signal.Signals, tmp_path: Path
) -> None:
    """By a load, or with the whole server where Triton does not survive the stopped one."""
    assert answers(served)
    os.kill(process_of(served, "emotions.text").pid, how)
    log = tmp_path / "state/server.log"
    wait_for(
        lambda: (
            "emotions.text is loaded again" in log.read_text()
            or " is ready, after" in log.read_text()
        ),
        within_s=60,
    )
    wait_for(lambda: answers(served), within_s=30)
    assert server_state(tmp_path / "state") is not None


def test_texts_sent_are_counted_and_a_model_that_answers_is_left_alone(
    served: ServerState, tmp_path: Path
) -> None:
    from tritonclient.grpc import InferenceServerClient

    assert served.server is not None
    before = process_of(served, "emotions.text").pid
    with Client(served.server.grpc_url) as client:
        expected = client.predict("emotions.text", ["why?"]).probabilities
    state = served

    def counted() -> bool:
        nonlocal state
        found = server_state(tmp_path / "state")
        assert found is not None
        state = found
        return state.health_texts.get("emotions.text", 0) >= 2

    wait_for(counted, within_s=40)
    with InferenceServerClient(served.server.grpc_url) as plain:
        (text,) = plain.get_inference_statistics("emotions.text").model_stats
        (model,) = plain.get_inference_statistics("emotions").model_stats
    sent = text.inference_stats.success.count - 1
    assert 0 <= sent - state.health_texts["emotions.text"] <= 1, "one may be under way"
    assert model.inference_stats.success.count <= 2, "the model that it asks got the user's text"
    with Client(served.server.grpc_url) as client:
        got = client.predict("emotions.text", ["why?"]).probabilities
    np.testing.assert_array_equal(got, expected)
    assert process_of(served, "emotions.text").pid == before
    assert "it is loaded again" not in (tmp_path / "state/server.log").read_text()


def test_status_shows_the_texts_of_users_alone(served: ServerState, tmp_path: Path) -> None:
    assert served.server is not None
    url, state_dir = served.server.grpc_url, tmp_path / "state"
    repository = ModelRepository(tmp_path / "models")
    reader = StatusReader(url, repository=repository, state_dir=state_dir)

    def requests() -> dict[str, tuple[int | None, int | None]]:
        return {each.model: (each.version, each.requests) for each in reader.read().versions}

    def sent() -> int:
        found = server_state(state_dir)
        return 0 if found is None else found.health_texts.get("emotions.text", 0)

    assert answers(served)
    wait_for(lambda: sent() >= 3, within_s=40)
    assert requests() == {"emotions": (1, 1), "emotions.text": (1, 1)}
    publish_text_model(repository.root, 2, golden=True)
    before = sent()
    roll_out(repository, "emotions", 2, url)
    assert requests() == {"emotions": (2, 0), "emotions.text": (2, 0)}
    wait_for(lambda: 0 < sent() < before, within_s=40)
    assert answers(served)
    wait_for(lambda: sent() >= 2, within_s=40)
    assert requests() == {"emotions": (2, 1), "emotions.text": (2, 1)}
