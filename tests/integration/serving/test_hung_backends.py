"""A backend process that does not run, or hangs, is ended; one that computes is left alone."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from thresher.errors import ServerError
from thresher_serving import RunningServer, Runtime, start_server
from thresher_serving.connection import as_connection

HUNG_S = 3.0

ODD = """
import time
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            x = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
            end = time.monotonic() + abs(x[0, 0])
            while time.monotonic() < end:
                if x[0, 0] < 0:
                    time.sleep(0.1)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("y", x)]))
        return responses
"""
"""Computes for as many seconds as it is asked, or sleeps where they are negative."""

CONFIG = """
backend: "python"
max_batch_size: 4
input { name: "x" data_type: TYPE_FP32 dims: 1 }
output { name: "y" data_type: TYPE_FP32 dims: 1 }
instance_group { count: 1 kind: KIND_CPU }
"""


@pytest.fixture
def watched(
    publish: Callable[..., Path], runtime: Runtime, tmp_path: Path
) -> Iterator[RunningServer]:
    """A server that has loaded one model, which does what it is asked, and has another at hand."""
    root = tmp_path / "models"
    publish("odd", ODD.encode(), CONFIG, file="model.py", root=root)
    slow = f"import time\ntime.sleep(2)\n{ODD}"
    publish("slow", slow.encode(), CONFIG, file="model.py", root=root)
    started = start_server(
        root,
        runtime=runtime,
        models=["odd"],
        state_dir=tmp_path / "state",
        watch=True,
        hung_s=HUNG_S,
        grpc_port=0,
        http_port=0,
        metrics_port=0,
    )
    yield started
    started.stop(timeout_s=0.1)


def asked(server: RunningServer, seconds: float) -> float:
    from tritonclient.grpc import InferInput

    client = as_connection(server.grpc_url).open()
    feed = InferInput("x", [1, 1], "FP32").set_data_from_numpy(np.float32([[seconds]]))
    try:
        return float(client.infer("odd", [feed], client_timeout=60).as_numpy("y")[0, 0])
    finally:
        client.close()


def backends(server: RunningServer, model: str) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(server.pid).children():
        try:
            if child.status() != psutil.STATUS_ZOMBIE and f"/{model}/1/" in str(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


def wait_for(check: Callable[[], object], *, within_s: float = 30) -> None:
    end = time.monotonic() + within_s
    while not check():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.02)


def test_a_process_that_does_nothing_though_asked_is_ended_and_the_model_answers_again(
    watched: RunningServer,
) -> None:
    from tritonclient.utils import InferenceServerException

    assert asked(watched, 0.0) == 0.0
    (hung,) = backends(watched, "odd")
    start = time.monotonic()
    with pytest.raises(InferenceServerException, match="not healthy"):
        asked(watched, -50.0)
    assert HUNG_S < time.monotonic() - start < 30
    wait_for(lambda: "odd version 1 answers again" in Path(watched.log_file).read_text())
    assert f"its backend process {hung.pid} hung for" in Path(watched.log_file).read_text()
    assert asked(watched, 0.0) == 0.0
    assert hung not in backends(watched, "odd")


def test_a_process_that_computes_for_longer_than_that_is_left_alone(watched: RunningServer) -> None:
    assert asked(watched, 0.0) == 0.0
    before = backends(watched, "odd")
    assert asked(watched, 14.0) == 14.0
    assert backends(watched, "odd") == before
    log = Path(watched.log_file).read_text()
    assert f"Its process {before[0].pid} computes, and is left alone" in log
    assert "loading it anew" not in log


def test_a_process_that_stops_while_it_is_loaded_fails_the_load_and_not_the_server(
    watched: RunningServer,
) -> None:
    stopped: list[psutil.Process] = []

    def stop() -> None:
        wait_for(lambda: backends(watched, "slow"))
        (process,) = backends(watched, "slow")
        wait_for(lambda: process.num_threads() > 1)
        time.sleep(0.5)
        process.send_signal(signal.SIGSTOP)
        stopped.append(process)
        time.sleep(4)
        if process.is_running():
            process.send_signal(signal.SIGCONT)

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(ServerError, match="cannot run model slow"):
        watched.load_model("slow", timeout_s=20)
    thread.join()
    assert watched.is_alive(), "Triton alone dies of it (boost::interprocess::lock_exception)"
    assert asked(watched, 0.0) == 0.0
    told = f"slow version 1: its backend process {stopped[0].pid} did not run for 1 s"
    assert told in Path(watched.log_file).read_text()
    assert [state.is_ready for state in watched.load_model("slow")] == [True]
