"""A Triton server started with whatever options a test is about."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from support.mlflow_server import free_port
from thresher_serving import Runtime
from thresher_serving.embedded.process import created, terminate


@dataclass(frozen=True)
class Triton:
    pid: int
    grpc_port: int
    http_port: int
    log: Path

    @property
    def grpc_url(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def http_url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    def kill(self) -> None:
        """End it at once, and the processes of its models."""
        terminate(self.pid, created(self.pid) or 0.0, timeout_s=0)


@contextmanager
def triton(
    runtime: Runtime,
    repository: Path,
    models: Sequence[str],
    *options: str,
    log: Path,
    grpc_port: int = 0,
    http_port: int = 0,
) -> Iterator[Triton]:
    """Run a server until the block ends; it listens on 127.0.0.1 only."""
    ports = grpc_port or free_port(), http_port or free_port()
    command = [
        str(runtime.server),
        f"--model-repository={repository}",
        f"--backend-directory={runtime.backend_directory}",
        "--model-control-mode=explicit",
        "--grpc-address=127.0.0.1",
        "--http-address=127.0.0.1",
        f"--grpc-port={ports[0]}",
        f"--http-port={ports[1]}",
        "--allow-metrics=false",
        "--log-error=true",
        *(f"--load-model={name}" for name in models),
        *options,
    ]
    with log.open("ab") as out:
        process = subprocess.Popen(
            command, env=runtime.environment(), stdout=out, stderr=out, start_new_session=True
        )
    server = Triton(process.pid, *ports, log)
    try:
        end = time.monotonic() + 60
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", ports[0]), timeout=1):
                with (
                    suppress(OSError),
                    socket.create_connection(("127.0.0.1", ports[1]), timeout=1),
                ):
                    break
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < end, log.read_text()[-3000:]
            time.sleep(0.05)
        yield server
    finally:
        if process.poll() is None:
            server.kill()
        process.wait(20)
