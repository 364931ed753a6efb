"""`thresher serve` and `stop`: interrupted at any moment, twice at once, and found again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from support.versions import ROWS, publish_version
from thresher_serving import Client, running_server, stop_server
from thresher_serving.embedded.state import server_state

PORTS = ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0"]
SERVE = [sys.executable, "-m", "thresher", "serve", *PORTS]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A working folder with a published model; its server is stopped at the end."""
    publish_version(tmp_path / "model_repository", "m", 1)
    yield tmp_path
    stop_server(tmp_path / ".thresher", timeout_s=0.1)


def thresher(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "thresher", *arguments],
        cwd=home,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def processes_of(home: Path) -> list[str]:
    """Return the command lines of processes that name a folder, or work in it."""
    found = []
    for process in psutil.process_iter():
        try:
            command = " ".join(process.cmdline())
            if process.status() != psutil.STATUS_ZOMBIE and (
                str(home) in command or Path(process.cwd()) == home
            ):
                found.append(f"{process.pid} {command}")
        except psutil.Error:
            continue
    return found


def none_left(home: Path, *, within_s: float = 20) -> bool:
    end = time.monotonic() + within_s
    while (left := processes_of(home)) and time.monotonic() < end:
        time.sleep(0.05)
    assert left == []
    return True


@pytest.mark.parametrize("background", [[], ["--background"]], ids=["foreground", "background"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "term"])
def test_a_start_that_is_interrupted_at_any_moment_leaves_no_process(
    home: Path, background: list[str], number: signal.Signals
) -> None:
    """Each time a little later, until the server is ready before it is interrupted."""
    delay_s, was_ready = 0.05, False
    while not was_ready:
        with subprocess.Popen(
            [*SERVE, *background],
            cwd=home,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            time.sleep(delay_s)
            was_ready = running_server(home / ".thresher") is not None
            process.send_signal(number)
            out, errors = process.communicate(timeout=60)
        # before the command runs, Python itself shows where its imports were interrupted
        assert "Traceback" not in errors or "supervisor" not in errors, errors
        if background and "serves m version 1" in out:  # it was ready before it was interrupted
            assert stop_server(home / ".thresher") is not None
            was_ready = True
        assert none_left(home), (delay_s, out, errors)
        assert server_state(home / ".thresher") is None, (delay_s, out, errors)
        delay_s += 0.35


def test_the_command_killed_while_its_server_starts_is_found_by_stop(home: Path) -> None:
    for delay_s in (0.5, 1.0, 1.5):
        with subprocess.Popen(
            [*SERVE, "--background"],
            cwd=home,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            time.sleep(delay_s)
            process.kill()
        thresher(home, "stop")
        assert none_left(home), delay_s


def test_stop_ends_a_start_at_any_moment(home: Path) -> None:
    for delay_s in (0.6, 1.2, 1.8):
        with subprocess.Popen(
            [*SERVE, "--background"], cwd=home, stderr=subprocess.PIPE, text=True
        ) as process:
            end = time.monotonic() + 30
            while server_state(home / ".thresher") is None and time.monotonic() < end:
                time.sleep(0.01)
            time.sleep(delay_s - 0.6)
            stopped = thresher(home, "stop")
            _, errors = process.communicate(timeout=60)
        assert stopped.returncode == 0, stopped.stderr
        assert stopped.stdout.startswith("Stopped "), (stopped.stdout, errors)
        assert none_left(home), delay_s


def test_of_two_at_once_the_second_says_so(home: Path) -> None:
    started = [
        subprocess.Popen(
            [*SERVE, "--background"],
            cwd=home,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    outcomes = []
    for process in started:
        out, errors = process.communicate(timeout=120)
        outcomes.append((process.returncode, out, errors))
    (_, out, _), (code, _, refused) = sorted(outcomes)
    assert "serves m version 1" in out
    assert code == 1
    assert "a Triton server is being started in this folder by process" in refused
    assert "thresher stop" in refused
    assert len([p for p in processes_of(home) if "tritonserver" in p.split()[1]]) == 1
    third = thresher(home, "serve", *PORTS)
    assert third.returncode == 1
    assert "a Triton server runs already: process" in third.stderr
    fourth = thresher(home, "serve", "--background", *PORTS)
    assert fourth.returncode == 0
    assert "its models are up to date" in fourth.stdout
    assert thresher(home, "stop").stdout.startswith("Stopped Triton (process ")
    assert none_left(home)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_foreground_shows_the_log_and_ends_cleanly(home: Path, number: signal.Signals) -> None:
    with subprocess.Popen(
        SERVE, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().endswith("serves m version 1\n")
        while "Started GRPCInferenceService" not in (line := process.stderr.readline()):
            assert line, "the log is shown"
        server = running_server(home / ".thresher")
        assert server is not None
        if number == signal.SIGINT:
            os.kill(server.pid, signal.SIGKILL)
            while "it is started again at once" not in (line := process.stderr.readline()):
                assert line, "what happened is shown"
            while " is ready, after" not in (line := process.stderr.readline()):
                assert line, "what happened is shown"
            with Client(server.grpc_url) as client:
                assert len(client.predict("m", ROWS)) == len(ROWS)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert none_left(home)


def test_versions_published_since_are_loaded_and_compared_with_what_answers(home: Path) -> None:
    assert thresher(home, "serve", "--background", *PORTS).returncode == 0
    publish_version(home / "model_repository", "m", 2, serve=True)
    future = time.time() + 3600
    for path in (home / "model_repository/m").rglob("*"):
        os.utime(path, (future, future))
    updated = thresher(home, "serve", "--background", *PORTS)
    assert updated.returncode == 0, updated.stderr
    assert "its models are up to date" in updated.stdout
    publish_version(home / "model_repository", "m", 3, serve=True)  # of today: Triton sees nothing
    again = thresher(home, "serve", "--background", *PORTS)
    server = running_server(home / ".thresher")
    assert server is not None
    answering = {state.version for state in server.models if state.is_ready}
    assert (again.returncode == 0) == (answering == {3}), (answering, again.stderr)
    if again.returncode:
        assert "m: version 2 answers, and config.pbtxt names version 3" in again.stderr


def test_another_address_is_refused_with_the_page_on_deployment(home: Path) -> None:
    refused = thresher(home, "serve", "--background", "--host", "0.0.0.0", *PORTS)
    assert refused.returncode == 1
    assert "docs/deployment.md" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_serve_and_stop_need_no_mlflow(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    started = thresher(home, "serve", "--background", *PORTS)
    assert started.returncode == 0, started.stderr
    assert "m version 1" in started.stdout
    assert thresher(home, "stop").stdout.startswith("Stopped Triton")
    assert thresher(home, "stop").stdout == "No Triton server is running here\n"


def test_folders_whose_names_cannot_name_a_model_are_left_out_with_a_warning_each(
    home: Path,
) -> None:
    models = home / "model_repository"
    bad = ["über", "sp ace", "_x", "-d", ".old", "x" * 129]
    for name in bad:
        shutil.copytree(models / "m", models / name)
    (models / ".git").mkdir()  # without a configuration, so nothing to warn of
    for _ in range(2):  # the second one updates the server that runs
        started = thresher(home, "serve", "--background", *PORTS)
        assert started.returncode == 0, started.stderr
        warnings = [line for line in started.stderr.splitlines() if "is left out" in line]
        assert sorted(w.split(" is left out")[0] for w in warnings) == sorted(
            f"Warning: {Path('model_repository') / name}" for name in bad
        )
    server = running_server(home / ".thresher")
    assert server is not None
    assert {state.name for state in server.models if state.is_ready} == {"m"}
