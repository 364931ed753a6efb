"""Runs the watch of a server: in a thread of whoever waits for it, or in a process of its own."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

from thresher.errors import ServerError
from thresher_serving.embedded import process
from thresher_serving.embedded.state import RunningServer, from_json, to_json
from thresher_serving.embedded.watch import Watch

__all__ = ["start_watcher", "watching"]


def _log_of(server: RunningServer) -> Callable[[str], None]:
    def say(text: str) -> None:
        line = f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S} thresher: {text}\n"
        try:
            with Path(server.log_file).open("a", encoding="utf-8") as log:
                log.write(line)
        except OSError:  # a full disk, for one
            with contextlib.suppress(OSError):
                sys.stderr.write(line)

    return say


@contextlib.contextmanager
def watching(server: RunningServer) -> Iterator[None]:
    """Watch a server in a thread while the block runs."""
    stop = threading.Event()
    thread = threading.Thread(target=Watch(server, _log_of(server)).run, args=(stop,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=2)


def start_watcher(server: RunningServer) -> tuple[int, float]:
    """Return process id and start of a process that watches a server until that ends.

    Raises:
        ServerError: If it cannot be started.
    """
    command = [sys.executable, "-m", "thresher_serving.embedded.watcher"]
    try:
        pid = process.spawn_beside(command, to_json(server), Path(server.log_file))
    except OSError as error:
        raise ServerError(f"the server's watcher cannot be started: {error}") from None
    return pid, process.created(pid) or 0.0


def main() -> None:
    """Watch the server that standard input describes; `thresher stop` ends this process first."""
    server = from_json(sys.stdin.read())
    Watch(server, _log_of(server)).run(threading.Event())
    process.terminate(server.pid, server.created, timeout_s=0)  # what it has left behind
    _log_of(server)(
        f"the Triton server (process {server.pid}) has ended, and not by `thresher stop`."
        f"{process.known_reason(Path(server.log_file))} It is not started again by itself. "
        "Run: thresher serve --background"
    )


if __name__ == "__main__":
    main()
