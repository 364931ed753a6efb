"""A model that asks for inputs where they lie, in a real Triton that has no GPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from support.served_weather import THRESHOLDS, write_weather
from thresher_serving import Client, RunningServer, find_runtime, start_server

WHERE_THEY_LIE = 'parameters { key: "FORCE_CPU_ONLY_INPUT_TENSORS" value { string_value: "no" } }\n'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("models")
    file = write_weather(root) / "config.pbtxt"
    file.write_text(file.read_text() + WHERE_THEY_LIE)
    running = start_server(
        root,
        runtime=find_runtime(),
        grpc_port=0,
        http_port=0,
        metrics_port=0,
        state_dir=tmp_path_factory.mktemp("state"),
    )
    yield running
    running.stop(timeout_s=0.1)


def test_it_answers_as_ever_and_the_key_is_honoured(server: RunningServer) -> None:
    rows = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    with Client(server.grpc_url) as client:
        answer = client.predict("weather", rows)
    np.testing.assert_allclose(answer.probabilities, 1 / (1 + np.exp(-rows)), atol=1e-6)
    np.testing.assert_array_equal(answer.labels, answer.probabilities >= np.float32(THRESHOLDS))
    log = Path(server.log_file).read_text(errors="replace")
    assert "Input tensors can be both in CPU and GPU" in log  # Triton has read it
    assert "not honoured" not in log
