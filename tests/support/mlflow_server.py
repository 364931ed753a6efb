"""A real MLflow server in a process of its own, which a test can kill and start again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Self

__all__ = ["MlflowServer", "free_port"]


def free_port() -> int:
    """Return a port of 127.0.0.1 on which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class MlflowServer:
    """``mlflow server`` on a free port of 127.0.0.1; ended with the ``with`` block."""

    def __init__(
        self,
        folder: Path,
        *,
        store: str,
        artifacts: str,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._folder = folder
        self._port = free_port()
        self._command = [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"),
            *("--port", str(self._port), "--workers", "1"),
            *("--backend-store-uri", store, "--artifacts-destination", artifacts),
        ]
        self._environment = {
            **os.environ,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            **(environment or {}),
        }
        self._environment.pop("MLFLOW_TRACKING_URI", None)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """What ``MLFLOW_TRACKING_URI`` is set to."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        """The process, which leads the group of its workers."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the server and wait until it answers."""
        with (self._folder / "mlflow-server.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + 120
        while True:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                    return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                log_text = (self._folder / "mlflow-server.log").read_text()
                assert self._process.poll() is None, log_text
                assert time.monotonic() < deadline, log_text
                time.sleep(0.1)

    def kill(self) -> None:
        """End the server and its workers at once, as a power cut would."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(timeout=30)
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
