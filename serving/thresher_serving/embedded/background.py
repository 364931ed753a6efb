"""Runs a supervisor: in this process, or in one of its own, in a session of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TextIO

from thresher.errors import ServerError, ThresherError
from thresher_serving.embedded import process
from thresher_serving.embedded.launch import (
    Configured,
    ServeOptions,
    read_configured,
    wanted_models,
)
from thresher_serving.embedded.ports import choose_ports
from thresher_serving.embedded.runtime import Runtime
from thresher_serving.embedded.server import lock_folder
from thresher_serving.embedded.state import ServerState, read_state, write_state
from thresher_serving.embedded.stop_signals import StopSignals
from thresher_serving.embedded.supervisor import Supervisor

__all__ = ["serve", "serve_in_background"]

_PATHS = ("server", "backend_directory", "cache_directory")


def serve(
    options: ServeOptions,
    state_dir: Path,
    *,
    on_ready: Callable[[ServerState], None],
    out: TextIO | None = None,
) -> bool:
    """Keep a server running until SIGINT, SIGTERM or SIGHUP; return whether it was ever ready.

    Args:
        options: What it is started with.
        state_dir: The state folder.
        on_ready: Called when it is ready for the first time.
        out: Where its log is copied to from then on.

    Raises:
        ConfigError: If a port is none.
        NotFoundError: If there is no such repository or model.
        ServerError: If a server runs there or is being started, it cannot be started, or it has
            died too often.
    """
    wanted_models(options.repository, options.models)
    signals = StopSignals()
    with signals.counted():
        lock = lock_folder(state_dir)
        try:
            supervisor = Supervisor(options, state_dir, signals=signals, on_ready=on_ready, out=out)
            return supervisor.run()
        finally:
            os.close(lock)


def serve_in_background(options: ServeOptions, state_dir: Path) -> ServerState | None:
    """Return the state of a server that is ready, supervised by a process of its own.

    SIGINT, SIGTERM or SIGHUP to this process ends that one too, as long as it is not ready; then
    None is returned.

    Args:
        options: What it is started with.
        state_dir: The state folder.

    Raises:
        ConfigError: If a port is none.
        NotFoundError: If there is no such repository or model.
        ServerError: If a server runs there or is being started, or it cannot be started.
    """
    wanted = wanted_models(options.repository, options.models)
    options = replace(options, configured=read_configured(options.repository, wanted))
    signals = StopSignals()
    with signals.counted():
        lock = lock_folder(state_dir)
        try:
            # a port in use is refused here already; the child chooses those that are free
            choose_ports(options.host, options.ports)
            me = os.getpid(), process.created(os.getpid()) or 0.0
            state = ServerState(phase="starting", repository=str(options.repository), supervisor=me)
            write_state(state, state_dir)
            child = _started(options, state_dir, lock)
        finally:
            os.close(lock)
        return _ready(child, options, state_dir, signals)


def _started(options: ServeOptions, state_dir: Path, lock: int) -> subprocess.Popen[str]:
    description = json.dumps(
        {"options": asdict(options), "state_dir": str(state_dir.absolute()), "lock": lock},
        default=str,
    )
    try:
        options.log_file.parent.mkdir(parents=True, exist_ok=True)
        options.log_file.write_bytes(b"")
        with options.log_file.open("ab") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=log,
                text=True,
                start_new_session=True,
                pass_fds=[lock],
            )
    except OSError as error:
        raise ServerError(f"the supervisor cannot be started: {error}") from None
    process.wait_for_child(child)
    assert child.stdin is not None
    with contextlib.suppress(BrokenPipeError), child.stdin as stdin:  # its end is noticed later
        stdin.write(description)
    return child


def _ready(
    child: subprocess.Popen[str], options: ServeOptions, state_dir: Path, signals: StopSignals
) -> ServerState | None:
    """Wait until the child's server is ready, or the child has ended."""
    is_ending = False
    while True:
        has_ended = child.poll() is not None
        state = read_state(state_dir)
        if state is not None and state.supervisor is not None and state.supervisor[0] == child.pid:
            if state.phase == "ready" and not signals.is_stopped():
                return state
            if state.phase == "failed":
                child.wait()
                raise ServerError(state.reason)
        if has_ended:
            if signals.is_stopped():
                return None
            if child.returncode in {0, -signal.SIGTERM}:
                raise ServerError("the server was stopped while it started")
            raise ServerError(
                f"the server's supervisor ended with exit code {child.returncode}. The end of its "
                f"log, {options.log_file}:\n{process.last_lines(options.log_file)}"
            )
        if signals.is_stopped() and not is_ending:
            child.send_signal(signal.SIGTERM)
            is_ending = True
        time.sleep(0.02)


def main() -> int:
    """Supervise the server that standard input describes."""
    given = json.load(sys.stdin)
    os.set_inheritable(given["lock"], False)
    runtime = given["options"]["runtime"]
    for name in _PATHS:
        if runtime[name] is not None:
            runtime[name] = Path(runtime[name])
    options = given["options"] | {"runtime": Runtime(**runtime)}
    for name in ("repository", "log_file", "state_dir"):
        options[name] = Path(options[name])
    if options["configured"] is not None:
        options["configured"] = Configured(**options["configured"])
    if options["models"] is not None:
        options["models"] = tuple(options["models"])
    signals = StopSignals()
    with signals.counted():
        try:
            Supervisor(ServeOptions(**options), Path(given["state_dir"]), signals=signals).run()
        except ThresherError:
            return 1  # the state file says why
    return 0


if __name__ == "__main__":
    sys.exit(main())
