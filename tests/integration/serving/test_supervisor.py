"""A server that dies is started again, and given up where that does not help."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from support.versions import ROWS, publish_version
from thresher.errors import ServerError, ThresherError
from thresher_serving import Client, Runtime, running_server
from thresher_serving.embedded import supervisor
from thresher_serving.embedded.background import serve_in_background
from thresher_serving.embedded.launch import PORT_OPTIONS, ServeOptions
from thresher_serving.embedded.server import lock_folder, server_state, stop_server
from thresher_serving.embedded.state import ServerState
from thresher_serving.embedded.stop_signals import StopSignals
from thresher_serving.embedded.supervisor import Supervisor

KILLER = """
import os, signal
os.kill(os.getppid(), signal.SIGKILL)
"""
PYTHON_MODEL = """
backend: "python"
input { name: "x" data_type: TYPE_FP32 dims: 1 }
output { name: "y" data_type: TYPE_FP32 dims: 1 }
instance_group { count: 1 kind: KIND_CPU }
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A folder whose server is stopped at the end."""
    yield tmp_path
    stop_server(tmp_path / "state", timeout_s=0.1)


def options_for(home: Path, runtime: Runtime) -> ServeOptions:
    return ServeOptions(
        repository=home / "models",
        runtime=runtime,
        host="127.0.0.1",
        ports=dict.fromkeys(PORT_OPTIONS, 0),
        log_file=home / "state/server.log",
        state_dir=home / "state",
    )


def fake_triton(home: Path, runtime: Runtime, script: str) -> Runtime:
    """Return a server that is a shell script, which notes when it is started."""
    server = home / "tritonserver"
    server.write_text(f"#!/bin/sh\ndate +%s.%N >>{home}/starts\n{script}\n")
    server.chmod(server.stat().st_mode | stat.S_IXUSR)
    return replace(runtime, server=server)


def starts(home: Path) -> list[float]:
    return [float(line) for line in (home / "starts").read_text().split()]


@contextlib.contextmanager
def supervised(home: Path, runtime: Runtime) -> Iterator[StopSignals]:
    """Run a supervisor in a thread until the block ends."""
    (home / "state").mkdir()
    signals = StopSignals()
    keeper = Supervisor(options_for(home, runtime), home / "state", signals=signals)
    lock = lock_folder(home / "state")
    ended: list[BaseException | None] = []

    def run() -> None:
        try:
            keeper.run()
        except ThresherError as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield signals
    finally:
        signals.stop()
        signals.stop()
        thread.join(60)
        os.close(lock)
    assert not thread.is_alive()


def wait_for(home: Path, check: Callable[[ServerState], object], *, within_s: float) -> ServerState:
    end = time.monotonic() + within_s
    while True:
        state = server_state(home / "state")
        if state is not None and check(state):
            return state
        assert time.monotonic() < end, (state, (home / "state/server.log").read_text()[-3000:])
        time.sleep(0.02)


def log_of(home: Path) -> str:
    return (home / "state/server.log").read_text()


def test_five_deaths_before_it_is_ready_are_given_up_with_the_reason(
    home: Path, runtime: Runtime
) -> None:
    publish_version(home / "models", "m", 1)
    runtime = fake_triton(home, runtime, "echo the very reason\nexit 3")
    with pytest.raises(ServerError, match=r"(?s)ended with exit code 3.*5 times.*the very reason"):
        serve_in_background(options_for(home, runtime), home / "state")
    waits = np.diff(starts(home))
    assert len(waits) == 4
    np.testing.assert_array_less([0, 0.95, 1.95, 3.95], waits)
    state = server_state(home / "state")
    assert state is not None
    assert (state.phase, state.server, state.restarts) == ("failed", None, 4)
    assert "ended with exit code 3 while it started" in state.reason
    assert "the very reason" in state.reason
    assert running_server(home / "state") is None
    assert stop_server(home / "state") is None, "there is nothing to stop"
    assert server_state(home / "state") is None


def test_what_can_never_start_is_refused_at_once(home: Path, runtime: Runtime) -> None:
    publish_version(home / "models", "m", 1)
    runtime = replace(runtime, server=home / "nowhere")
    with pytest.raises(ServerError, match=r"nowhere cannot be started"):
        serve_in_background(options_for(home, runtime), home / "state")


def test_a_port_that_another_process_answers_on_is_not_taken_for_the_servers(
    home: Path, runtime: Runtime
) -> None:
    """The port is taken after it was chosen: the server cannot bind it, and something answers."""
    publish_version(home / "models", "m", 1)
    listen = (
        "import socket, sys, time\n"
        "s = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n"
        "time.sleep(60)\n"
    )
    (home / "listen.py").write_text(listen)
    python = shutil.which("python3")
    script = (
        f'for word; do case "$word" in --grpc-port=*) port="${{word#*=}}";; esac; done\n'
        f"setsid {python} {home}/listen.py $port &\n"
        f"echo $! >>{home}/listeners\n"
        "sleep 60"
    )
    try:
        with supervised(home, fake_triton(home, runtime, script)):
            wait_for(home, lambda state: state.server is not None, within_s=20)
            state = server_state(home / "state")
            assert state is not None
            assert state.server is not None
            end = time.monotonic() + 20
            while not answers(state.server.grpc_port):
                assert time.monotonic() < end
                time.sleep(0.05)
            time.sleep(1)
            state = server_state(home / "state")
            assert state is not None
            assert state.phase == "starting"
    finally:
        for pid in map(int, (home / "listeners").read_text().split()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def answers(port: int) -> bool:
    import socket

    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def test_a_model_whose_load_ends_the_server_is_left_out_and_the_others_serve(
    home: Path, runtime: Runtime, publish: Callable[..., Path]
) -> None:
    publish_version(home / "models", "m", 1)
    publish_version(home / "models", "z", 1)
    publish("killer", KILLER.encode(), PYTHON_MODEL, file="model.py", root=home / "models")
    state = serve_in_background(options_for(home, runtime), home / "state")
    assert state is not None
    assert state.server is not None
    assert state.left_out == {"killer": "the server died 2 times while it was loaded"}
    assert state.server.ready == {"m": [1], "z": [1]}
    assert state.restarts == 2
    with Client(state.server.grpc_url) as client:
        assert len(client.predict("m", ROWS)) == len(ROWS)
    os.kill(state.server.pid, signal.SIGKILL)
    again = wait_for(home, lambda s: s.phase == "ready" and s.restarts == 3, within_s=30)
    assert set(again.left_out) == {"killer"}
    assert "Warning: killer is left out" in log_of(home)


class Load:
    """Clients that ask a model, and note when they get a right answer, and each wrong one."""

    def __init__(self, url: str, num_clients: int) -> None:
        self.right: list[float] = []
        self.wrong: list[object] = []
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(url,)) for _ in range(num_clients)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, url: str) -> None:
        with Client(url) as client:
            expected = None
            while not self._stop.is_set():
                try:
                    answer = client.predict("m", ROWS, timeout_s=5)
                except ServerError:
                    time.sleep(0.01)
                    continue
                expected = answer.probabilities if expected is None else expected
                if not np.array_equal(answer.probabilities, expected):
                    self.wrong.append(answer)
                self.right.append(time.monotonic())


def test_a_server_killed_five_times_under_clients_answers_again_soon(
    home: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_EARLY_S", 0.0)  # as if half a minute lay between two kills
    publish_version(home / "models", "m", 1)
    gaps_s = []
    with supervised(home, runtime):
        state = wait_for(home, lambda s: s.phase == "ready", within_s=60)
        assert state.server is not None
        with Load(state.server.grpc_url, num_clients=8) as load:
            for restarts in range(5):
                state = wait_for(
                    home, lambda s, n=restarts: (s.phase, s.restarts) == ("ready", n), within_s=60
                )
                assert state.server is not None
                enough = len(load.right) + 50
                wait_until(lambda n=enough: len(load.right) > n)
                os.kill(state.server.pid, signal.SIGKILL)
                killed = time.monotonic()
                wait_until(lambda at=killed: load.right[-1] > at + 0.2)
                gaps_s.append(min(at for at in load.right if at > killed + 0.2) - killed)
                reason = f"the Triton server (process {state.server.pid}) was ended by SIGKILL"
                again = wait_for(home, lambda s, n=restarts: s.restarts == n + 1, within_s=60)
                assert again.reason == reason
                assert f"{reason}; it is started again at once" in log_of(home)
    print(f"right answers again {', '.join(f'{gap:.1f}' for gap in gaps_s)} s after SIGKILL")
    assert load.wrong == []
    assert max(gaps_s) < 20, "1.5 to 3 s with a core to spare"


def wait_until(check: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not check():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.02)


def test_a_version_whose_bytes_changed_is_not_served_by_the_next_start(
    home: Path, runtime: Runtime
) -> None:
    publish_version(home / "models", "m", 1)
    publish_version(home / "models", "other", 1)
    state = serve_in_background(options_for(home, runtime), home / "state")
    assert state is not None
    assert state.server is not None
    with (home / "models/m/1/model.onnx").open("ab") as model:
        model.write(b"\x00")
    os.kill(state.server.pid, signal.SIGKILL)
    again = wait_for(home, lambda s: s.phase == "ready" and s.restarts == 1, within_s=30)
    assert again.server is not None
    assert again.server.ready == {"other": [1]}
    assert "m" in again.left_out
    assert "m is left out" in log_of(home)


def test_the_log_of_every_start_is_kept_and_the_ports_stay(home: Path, runtime: Runtime) -> None:
    publish_version(home / "models", "m", 1)
    state = serve_in_background(options_for(home, runtime), home / "state")
    assert state is not None
    assert state.server is not None
    os.kill(state.server.pid, signal.SIGABRT)
    again = wait_for(home, lambda s: s.phase == "ready" and s.restarts == 1, within_s=30)
    assert again.server is not None
    assert again.server.grpc_url == state.server.grpc_url
    assert again.server.http_url == state.server.http_url
    assert log_of(home).count("Started GRPCInferenceService") == 2
    assert again.supervisor == state.supervisor
    stopped = stop_server(home / "state")
    assert stopped is not None
    assert stopped.pid == again.server.pid
    assert again.supervisor is not None
    assert not psutil.pid_exists(again.supervisor[0]) or (
        psutil.Process(again.supervisor[0]).status() == psutil.STATUS_ZOMBIE
    )
    assert not (home / "state/server.json").exists()


def test_a_supervisor_that_is_killed_takes_the_server_with_it(home: Path, runtime: Runtime) -> None:
    publish_version(home / "models", "m", 1)
    state = serve_in_background(options_for(home, runtime), home / "state")
    assert state is not None
    assert state.server is not None
    assert state.supervisor is not None
    os.kill(state.supervisor[0], signal.SIGKILL)
    end = time.monotonic() + 40
    while state.server.is_alive():
        assert time.monotonic() < end
        time.sleep(0.05)
    assert running_server(home / "state") is None
    assert json.loads((home / "state/server.json").read_text()), "left for the next to clear away"
    assert stop_server(home / "state") is None
    assert subprocess.run(
        ["pgrep", "-f", f"tritonserver.*{home}"], check=False, capture_output=True
    ).stdout == (b"")
