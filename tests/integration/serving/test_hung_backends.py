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

ASKER = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [
            pb_utils.InferenceResponse(
                pb_utils.InferenceRequest(
                    model_name="odd", requested_output_names=["y"], inputs=request.inputs()
                ).exec().output_tensors()
            )
            for request in requests
        ]
"""
"""Asks `odd`, as `NAME.text` asks NAME, and does nothing until that answers."""

COMPANION = 'parameters { key: "thresher.companion_of" value { string_value: "odd" } }'

CONFIG = """
backend: "python"
max_batch_size: 4
input { name: "x" data_type: TYPE_FP32 dims: 1 }
output { name: "y" data_type: TYPE_FP32 dims: 1 }
instance_group { count: 1 kind: KIND_CPU }
"""


@pytest.fixture(scope="module")
def watched(
    publish: Callable[..., Path], runtime: Runtime, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """A server of a model that does what it is told, and one that asks it; a third is at hand."""
    home = tmp_path_factory.mktemp("hung")
    root = home / "models"
    publish("odd", ODD.encode(), CONFIG, file="model.py", root=root)
    publish("asker", ASKER.encode(), CONFIG + COMPANION, file="model.py", root=root)
    slow = f"import time\ntime.sleep(2)\n{ODD}"
    publish("slow", slow.encode(), CONFIG, file="model.py", root=root)
    started = start_server(
        root,
        runtime=runtime,
        models=["odd", "asker"],
        state_dir=home / "state",
        watch=True,
        hung_s=HUNG_S,
        grpc_port=0,
        http_port=0,
        metrics_port=0,
    )
    yield started
    started.stop(timeout_s=0.1)


def asked(server: RunningServer, seconds: float, *, model: str = "odd") -> float:
    from tritonclient.grpc import InferInput

    client = as_connection(server.grpc_url).open()
    feed = InferInput("x", [1, 1], "FP32").set_data_from_numpy(np.float32([[seconds]]))
    try:
        return float(client.infer(model, [feed], client_timeout=60).as_numpy("y")[0, 0])
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


@pytest.mark.parametrize("seconds", [7.0, pytest.param(17.0, marks=pytest.mark.slow)])
def test_a_process_that_computes_is_left_alone_and_so_is_one_that_waits_for_it(
    watched: RunningServer, seconds: float
) -> None:
    assert asked(watched, 0.0, model="asker") == 0.0
    before = [*backends(watched, "odd"), *backends(watched, "asker")]
    told = len(Path(watched.log_file).read_text())
    assert asked(watched, seconds, model="asker") == seconds
    assert [*backends(watched, "odd"), *backends(watched, "asker")] == before
    log = Path(watched.log_file).read_text()[told:]
    assert "loading it anew" not in log
    if seconds > 15:  # the log tells of it after 10 s
        assert f"Its process {before[0].pid} computes, and is left alone" in log
        assert "It asks odd, and is left alone, as it may wait for that" in log


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
