"""What a server does when its surroundings fail: disk, log, repository, MLflow."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from thresher.errors import ServerError
from thresher_serving import Runtime, start_server

NO_PORTS = {"grpc_port": 0, "http_port": 0, "metrics_port": 0}

COMMON = """
import os, signal, subprocess, sys, time
from pathlib import Path
import numpy as np, psutil
from tritonclient.grpc import InferInput
from tritonclient.utils import InferenceServerException
from thresher.errors import PublishError, ServerError
from thresher.repository import ModelRepository
from thresher_serving import find_runtime, stop_server
from thresher_serving.connection import as_connection
from thresher_serving.embedded.background import serve_in_background
from thresher_serving.embedded.launch import PORT_OPTIONS, ServeOptions
from thresher_serving.embedded.state import server_state
from thresher_serving.rollout import roll_out

models, folder = Path(sys.argv[1]), Path(sys.argv[2])

def start(log_file=None):
    options = ServeOptions(
        repository=models, runtime=find_runtime(install=False), host="127.0.0.1",
        ports=dict.fromkeys(PORT_OPTIONS, 0), state_dir=folder / "state",
        log_file=log_file or folder / "state/server.log")
    return serve_in_background(options, folder / "state").server

def ask(server, rows=1):
    client = as_connection(server.grpc_url).open()
    array = np.random.default_rng(0).random((rows, 2), np.float32)
    feed = InferInput("x", list(array.shape), "FP32").set_data_from_numpy(array)
    try:
        answer = client.infer("pair", [feed], client_timeout=20).as_numpy("y")
    except InferenceServerException as error:
        return "error: " + str(error)
    finally:
        client.close()
    return "right" if np.array_equal(answer, array) else "WRONG"

def kill_triton():
    os.kill(server_state(folder / "state").server.pid, signal.SIGKILL)
    wait_for(lambda: ask(server) != "right")

def wait_for(check, within_s=40):
    end = time.monotonic() + within_s
    while not check():
        if time.monotonic() > end:
            print("not in time"); sys.exit(1)
        time.sleep(0.1)

def stop():
    stop_server(folder / "state", timeout_s=0.1)

def mount(*options):
    subprocess.run(["mount", *map(str, options)], check=True)
"""


@pytest.fixture
def models(publish: Callable[..., Path], repository: Path, zoo: list[str], tmp_path: Path) -> Path:
    text = (repository / "warm/config.pbtxt").read_text().split("model_warmup")[0]
    text = text.replace("max_batch_size: 4", "max_batch_size: 1000000")
    text += "instance_group { count: 1 kind: KIND_CPU }"
    model = (repository / "warm/1/model.onnx").read_bytes()
    return publish("pair", model, text, root=tmp_path / "models").parent


def run(script: str, *arguments: Path, in_namespace: bool) -> list[str]:
    """Return the lines that a script prints, run with mounts of its own where it needs them."""
    prefix = []
    if in_namespace:
        prefix = ["unshare", "--user", "--map-root-user", "--mount"]
        if (
            shutil.which("unshare") is None
            or subprocess.run([*prefix, "true"], check=False).returncode
        ):
            pytest.skip("mounts without privileges (unshare) are not allowed here")
    command = [*prefix, sys.executable, "-c", COMMON + script, *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout.splitlines()


def test_a_full_disk_takes_the_log_and_no_answer(models: Path, tmp_path: Path) -> None:
    script = """
def fill():
    with (folder / "filler").open("ab", buffering=0) as file:
        while True:
            try:
                file.write(b"0" * 64)
            except OSError as error:
                return error.strerror

mount("-t", "tmpfs", "-o", "size=256k", "tmpfs", folder)
server = start()
try:
    print(fill())
    print(ask(server))
    kill_triton()
    wait_for(lambda: ask(server) == "right")
    print(ask(server), "again")
finally:
    stop()
fill()
(folder / "state/server.json").unlink(missing_ok=True)
try:
    start(log_file=Path("/dev/full"))
except ServerError as error:
    print(error)
found = [(p.pid, p.info) for p in psutil.process_iter(["cmdline", "name"])]
print([pid for pid, i in found if "tritonserver" in (i["name"] or "")
       and str(models) in " ".join((i["cmdline"] or [])[1:4])])
"""
    (tmp_path / "disk").mkdir()
    full, answer, again, refused, left = run(script, models, tmp_path / "disk", in_namespace=True)
    assert full == "No space left on device"
    assert (answer, again) == ("right", "right again")
    assert "server.json cannot be written" in refused
    assert left == "[]", "no process is left behind"


def test_a_repository_that_cannot_be_written_serves_and_is_served_again(
    models: Path, tmp_path: Path
) -> None:
    script = """
mount("--bind", models, models)
mount("-o", "remount,ro,bind", models)
server = start()
try:
    print(ask(server))
    kill_triton()
    wait_for(lambda: ask(server) == "right")
    print(ask(server), "again")
    roll_out(ModelRepository(models), "pair", 1, server.grpc_url)
except PublishError as error:
    print(error)
finally:
    stop()
"""
    before, after, rollout = run(script, models, tmp_path, in_namespace=True)
    assert (before, after) == ("right", "right again")
    assert f"{models} cannot be written to (Read-only file system); a rollout" in rollout


def test_a_repository_that_vanishes_is_missed_at_the_next_start_and_served_when_it_is_back(
    models: Path, tmp_path: Path
) -> None:
    script = """
server = start()
try:
    models.rename(folder / "elsewhere")
    print(ask(server))
    kill_triton()
    wait_for(lambda: "no such folder" in server_state(folder / "state").reason)
    print(server_state(folder / "state").phase)
    (folder / "elsewhere").rename(models)
    wait_for(lambda: ask(server) == "right")
    print(ask(server), "again")
finally:
    stop()
"""
    before, phase, again = run(script, models, tmp_path, in_namespace=False)
    assert (before, phase, again) == ("right", "starting", "right again")


def test_a_log_that_cannot_be_written_costs_nothing_but_the_log(
    models: Path, tmp_path: Path
) -> None:
    script = """
server = start(log_file=Path("/dev/full"))
try:
    kill_triton()
    wait_for(lambda: ask(server) == "right")
    print(ask(server))
finally:
    stop()
"""
    assert run(script, models, tmp_path, in_namespace=False) == ["right"]


def test_a_log_that_cannot_be_made_is_named_before_anything_starts(
    models: Path, runtime: Runtime, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ServerError, match=r"cannot be started, log .*file/server.log"):
        start_server(
            models,
            runtime=runtime,
            state_dir=tmp_path / "state",
            log_file=tmp_path / "file/server.log",
            **NO_PORTS,
        )
    assert not (tmp_path / "state/server.json").exists()
