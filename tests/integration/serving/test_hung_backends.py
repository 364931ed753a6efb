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
                    time.sleep(1000 if x[0, 0] == -1000 else 0.1)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("y", x)]))
        return responses
"""
"""Computes for as many seconds as it is asked, or sleeps, now and then awake, where they are
negative; -1000 hangs it for good."""

LATE = """
import atexit, threading, time
threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
atexit.register(time.sleep, 2.5)
"""
"""Takes its time to end, with a thread beside that does nothing."""

ASKER = """
import time
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            if pb_utils.get_input_tensor_by_name(request, "x").as_numpy()[0, 0] == 1000:
                time.sleep(1000)
        return [
            pb_utils.InferenceResponse(
                pb_utils.InferenceRequest(
                    model_name="odd", requested_output_names=["y"], inputs=request.inputs()
                ).exec().output_tensors()
            )
            for request in requests
        ]
"""
"""Asks `odd`, as `NAME.text` asks NAME, and does nothing until that answers; 1000 hangs it."""

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
    """A server of a model that does what it is told, once with one copy and once with two, and of
    one that asks it; others are at hand."""
    home = tmp_path_factory.mktemp("hung")
    root = home / "models"
    publish("odd", ODD.encode(), CONFIG, file="model.py", root=root)
    publish("asker", ASKER.encode(), CONFIG + COMPANION, file="model.py", root=root)
    slow = f"import time\ntime.sleep(2)\n{ODD}"
    publish("slow", slow.encode(), CONFIG, file="model.py", root=root)
    publish("late", (LATE + ODD).encode(), CONFIG, file="model.py", root=root)
    publish(
        "pair", ODD.encode(), CONFIG.replace("count: 1", "count: 2"), file="model.py", root=root
    )
    started = start_server(
        root,
        runtime=runtime,
        models=["odd", "asker", "pair"],
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


def test_a_process_that_hangs_though_what_it_asks_answers_is_ended(
    watched: RunningServer,
) -> None:
    from tritonclient.utils import InferenceServerException

    before = backends(watched, "odd")
    (hung,) = backends(watched, "asker")
    with pytest.raises(InferenceServerException, match="not healthy"):
        asked(watched, 1000, model="asker")
    log = Path(watched.log_file)
    wait_for(lambda: "asker version 1 answers again" in log.read_text())
    assert f"asker version 1: its backend process {hung.pid} hung for" in log.read_text()
    assert backends(watched, "odd") == before
    assert asked(watched, 0.0, model="asker") == 0.0


def test_one_of_two_that_hangs_is_ended_while_the_other_answers(watched: RunningServer) -> None:
    from tritonclient.utils import InferenceServerException

    failed: list[str] = []

    def hang() -> None:
        try:
            asked(watched, -1000, model="pair")
        except InferenceServerException as error:
            failed.append(str(error))

    before = backends(watched, "pair")
    assert len(before) == 2
    thread = threading.Thread(target=hang)
    start = time.monotonic()
    thread.start()
    log = Path(watched.log_file)
    while "pair version 1 answers again" not in log.read_text():
        assert asked(watched, 0.01, model="pair") == np.float32(0.01)
        assert time.monotonic() < start + 30, "not in time"
    assert time.monotonic() - start > HUNG_S
    assert ", one of several, hung for 3 s" in log.read_text()
    thread.join()
    assert "not healthy" in failed[0]
    wait_for(lambda: len(backends(watched, "pair")) == 2)
    assert not set(before) & set(backends(watched, "pair"))


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


def test_a_process_that_takes_its_time_to_end_is_not_taken_for_a_stopped_one(
    watched: RunningServer,
) -> None:
    watched.load_model("late")
    (process,) = backends(watched, "late")
    told = len(Path(watched.log_file).read_text())
    start = time.monotonic()
    watched.unload_model("late")
    wait_for(lambda: not process.is_running())
    assert time.monotonic() - start > 2
    assert "thresher:" not in Path(watched.log_file).read_text()[told:]
