"""The life of a server process: started, found again, stopped, and never left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from thresher.errors import ConfigError, NotFoundError, ServerError
from thresher_serving import (
    Client,
    RunningServer,
    Runtime,
    running_server,
    start_server,
    stop_server,
)
from thresher_serving.embedded.command import check_host
from thresher_serving.embedded.state import ServerState, server_state

ECHO = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [
            pb_utils.InferenceResponse(
                [pb_utils.Tensor("y", pb_utils.get_input_tensor_by_name(r, "x").as_numpy())]
            )
            for r in requests
        ]
"""
ECHO_CONFIG = """
backend: "python"
input { name: "x" data_type: TYPE_FP32 dims: 1 }
output { name: "y" data_type: TYPE_FP32 dims: 1 }
instance_group { count: 1 kind: KIND_CPU }
"""
NO_PORTS = {"grpc_port": 0, "http_port": 0, "metrics_port": 0}


@pytest.fixture
def small(publish: Callable[..., Path], repository: Path, zoo: list[str], tmp_path: Path) -> Path:
    """A repository of one good model and one that cannot be loaded."""
    root = tmp_path / "models"
    for name in ("bare", "type_int8"):
        model = (repository / name / "1/model.onnx").read_bytes()
        publish(name.replace("bare", "good"), model, 'backend: "onnxruntime"\n', root=root)
    publish("broken", b"no model", 'backend: "onnxruntime"\n', root=root)
    return root


@pytest.fixture
def clean(tmp_path: Path) -> Iterator[Path]:
    """A state folder; whatever a test leaves running there is stopped."""
    yield tmp_path / "state"
    stop_server(tmp_path / "state", timeout_s=0.1)


def session_of(leader: int) -> list[int]:
    """Return the living processes of a session."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (ProcessLookupError, psutil.Error):
            continue
    return found


def tritons_on(folder: Path) -> list[int]:
    """Return the servers and helpers whose command line names a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            command = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if str(folder) in command and "triton" in command.split(" ", 1)[0]:
            found.append(process.pid)
    return found


def gone(check: Callable[[], Any], *, within_s: float = 15) -> bool:
    end = time.monotonic() + within_s
    while check() and time.monotonic() < end:
        time.sleep(0.05)
    return not check()


def test_a_server_is_found_again_and_stopped_with_all_it_started(
    small: Path, runtime: Runtime, clean: Path
) -> None:
    started = start_server(small, runtime=runtime, state_dir=clean, models=["good"], **NO_PORTS)
    assert started.problems == ()
    assert running_server(clean) == started
    assert session_of(started.pid)
    with pytest.raises(ServerError, match=f"runs already: process {started.pid}"):
        start_server(small, runtime=runtime, state_dir=clean, **NO_PORTS)
    with Client(started.grpc_url) as client:
        client.wait_ready("good")
    stopped = stop_server(clean)
    assert stopped == started
    assert session_of(started.pid) == []
    assert not started.is_alive()
    assert running_server(clean) is None
    assert stop_server(clean) is None
    assert list(clean.glob("*.json*")) == []


def test_a_model_that_cannot_load_leaves_the_others_serving_and_is_told(
    small: Path, runtime: Runtime, clean: Path
) -> None:
    started = start_server(small, runtime=runtime, state_dir=clean, **NO_PORTS)
    (problem,) = started.problems
    assert problem.startswith("broken version 1 is UNAVAILABLE")
    assert "Protobuf parsing failed" in problem
    ready = sorted(state.name for state in started.models if state.is_ready)
    assert ready == ["good", "type_int8"]
    started.stop(timeout_s=0)
    assert session_of(started.pid) == []
    assert not [p for p in Path("/dev/shm").glob("triton_*") if started_by(p, started.pid)]


def started_by(region: Path, pid: int) -> bool:
    """Return whether a shared memory region is mapped by a process of a session."""
    return any(str(region) in str(psutil.Process(p).memory_maps()) for p in session_of(pid))


def test_no_model_at_all_is_an_error_with_reasons_and_leaves_no_process(
    small: Path, runtime: Runtime, clean: Path
) -> None:
    with pytest.raises(ServerError, match=r"(?s)no model could be loaded.*broken.*Protobuf"):
        start_server(small, runtime=runtime, state_dir=clean, models=["broken"], **NO_PORTS)
    assert tritons_on(small) == []
    assert running_server(clean) is None


def test_a_port_in_use_is_named_with_its_option_before_anything_starts(
    small: Path, runtime: Runtime, clean: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServerError, match=rf"port {port} on 127.0.0.1.*in use.*--http-port"):
            start_server(
                small, runtime=runtime, state_dir=clean, grpc_port=0, http_port=port, metrics_port=0
            )
    assert not (clean / "server.log").exists()


@pytest.mark.parametrize(
    ("port", "message"), [(70000, "--grpc-port is 70000, expected 0 to 65535")]
)
def test_a_port_out_of_range_is_refused(
    small: Path, runtime: Runtime, clean: Path, port: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        start_server(small, runtime=runtime, state_dir=clean, grpc_port=port)


def test_a_server_that_dies_at_start_shows_the_end_of_its_log(
    small: Path, runtime: Runtime, clean: Path, tmp_path: Path
) -> None:
    server = tmp_path / "tritonserver"
    server.write_text("#!/bin/sh\necho first line\necho the very reason >&2\nexit 3\n")
    server.chmod(server.stat().st_mode | stat.S_IXUSR)
    with pytest.raises(
        ServerError, match=r"(?s)ended with exit code 3 while it started.*the very reason"
    ):
        start_server(small, runtime=replace(runtime, server=server), state_dir=clean, **NO_PORTS)


def test_a_server_that_is_not_ready_in_time_is_ended(
    small: Path, runtime: Runtime, clean: Path
) -> None:
    with pytest.raises(ServerError, match=r"not ready after 0.05 s.*longer timeout_s"):
        start_server(small, runtime=runtime, state_dir=clean, timeout_s=0.05, **NO_PORTS)
    assert tritons_on(small) == []


def test_an_unknown_model_or_repository_is_named_before_anything_starts(
    small: Path, runtime: Runtime, clean: Path, tmp_path: Path
) -> None:
    with pytest.raises(NotFoundError, match='unknown model "god"; did you mean "good"'):
        start_server(small, runtime=runtime, state_dir=clean, models=["god"], **NO_PORTS)
    with pytest.raises(NotFoundError, match="no such folder"):
        start_server(tmp_path / "none", runtime=runtime, state_dir=clean, **NO_PORTS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFoundError, match=r"no folder with a config.pbtxt"):
        start_server(tmp_path / "empty", runtime=runtime, state_dir=clean, **NO_PORTS)


@pytest.fixture
def recorded(tmp_path: Path) -> Callable[..., Path]:
    """Write a state file that tells of some process."""

    def write(pid: int, created: float) -> Path:
        server = RunningServer(
            pid=pid,
            created=created,
            host="127.0.0.1",
            grpc_port=1,
            http_port=2,
            metrics_port=3,
            repository="models",
            log_file="server.log",
            runtime="wheel 2.51.0",
            state_dir=str(tmp_path),
        )
        state = ServerState(phase="ready", repository="models", server=server)
        (tmp_path / "server.json").write_text(json.dumps(asdict(state)))
        return tmp_path

    return write


def test_a_stale_state_file_counts_as_none_and_goes_with_the_next_stop(
    recorded: Callable[..., Path],
) -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    folder = recorded(process.pid, time.time())
    assert running_server(folder) is None
    assert server_state(folder) is None
    assert stop_server(folder) is None
    assert not (folder / "server.json").exists()


def test_another_process_under_the_recorded_id_is_not_touched(
    recorded: Callable[..., Path],
) -> None:
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as process:
        created = psutil.Process(process.pid).create_time()
        folder = recorded(process.pid, created - 100)
        assert running_server(folder) is None
        assert stop_server(folder) is None
        assert process.poll() is None
        process.kill()


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"pid": 1}'])
def test_a_damaged_state_file_counts_as_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "server.json").write_text(content)
    assert running_server(tmp_path) is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "models.example.org"])
def test_an_address_that_other_machines_reach_is_refused(
    small: Path, runtime: Runtime, clean: Path, host: str
) -> None:
    with pytest.raises(ServerError, match=f"--host {host} .*docs/deployment.md"):
        start_server(small, runtime=runtime, host=host, state_dir=clean, **NO_PORTS)
    assert not clean.exists()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.1.1", "::1", "localhost"])
def test_an_address_of_this_machine_alone_is_taken(host: str) -> None:
    check_host(host)


def test_requests_in_shared_memory_are_for_the_servers_user_alone(
    publish: Callable[..., Path], runtime: Runtime, clean: Path, tmp_path: Path
) -> None:
    """A model in Triton's Python backend, through whose shared memory every tensor goes."""
    publish("echo", ECHO.encode(), ECHO_CONFIG, file="model.py", root=tmp_path / "models")
    started = start_server(tmp_path / "models", runtime=runtime, state_dir=clean, **NO_PORTS)
    regions = [p for p in Path("/dev/shm").glob("triton_*") if started_by(p, started.pid)]
    assert regions
    assert [p.stat().st_mode & 0o777 for p in regions] == [0o600] * len(regions)
    os.kill(started.pid, signal.SIGKILL)
    stop_server(clean)
    assert not [p for p in regions if p.exists()]
