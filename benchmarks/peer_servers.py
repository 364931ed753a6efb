"""The peers of benchmarks/serving.py, each in an environment of its own under .thresher/peers."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from load import Endpoint

__all__ = ["FILES", "PEERS", "Peer", "json_endpoint", "started"]

ROOT = Path(__file__).parent.parent
FILES = Path(__file__).parent / "peers"
VENVS = ROOT / ".thresher" / "peers"
START_S = 90


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A server that somebody might use instead."""

    name: str
    packages: tuple[str, ...]
    """What its environment holds; empty for one that runs in ours."""
    command: tuple[str, ...]
    """Its arguments; {python}, {port}, {grpc}, {files}, {onnx} and {mlflow} are filled in."""
    path: str
    """Where requests go."""
    how: str
    """How it was configured, for the table."""
    is_grpc: bool = False
    key: str = "x"
    """What JSON calls the input."""


PEERS = (
    Peer(
        name="MLServer, gRPC",
        packages=("mlserver", "onnxruntime", "numpy<2"),
        command=("{bin}/mlserver", "start", "{folder}"),
        path="/inference.GRPCInferenceService/ModelInfer",
        how="custom runtime, gRPC with raw tensors, parallel_workers 0",
        is_grpc=True,
    ),
    Peer(
        name="LitServe, JSON",
        packages=("litserve", "onnxruntime"),
        command=("{bin}/python", "{files}/litserve_server.py", "{port}", "{onnx}"),
        path="/predict",
        how="max_batch_size 32, batch_timeout 1 ms, 1 worker",
    ),
    Peer(
        name="BentoML, JSON",
        packages=("bentoml", "onnxruntime"),
        command=(
            *("{bin}/bentoml", "serve", "bentoml_service:Network", "--working-dir", "{files}"),
            *("--port", "{port}", "--host", "127.0.0.1"),
        ),
        path="/predict",
        how="batchable, 1 worker",
    ),
    Peer(
        name="mlflow models serve, JSON",
        packages=(),
        command=(
            *("{python}", "-m", "mlflow", "models", "serve", "-m", "{mlflow}", "-p", "{port}"),
            *("--env-manager", "local", "-h", "127.0.0.1"),
        ),
        path="/invocations",
        how="onnx flavour, env-manager local",
        key="inputs",
    ),
)


@contextmanager
def started(peer: Peer, folder: Path, onnx_file: Path) -> Iterator[str]:
    """Run a peer and yield the address of its endpoint.

    Raises:
        RuntimeError: If it cannot be installed or does not start; says what it printed.
    """
    places = {
        "bin": str(_installed(peer) / "bin"),
        "python": sys.executable,
        "port": str(_free_port()),
        "files": str(FILES),
        "onnx": str(onnx_file),
        "mlflow": str(folder.parent / "mlflow"),
        "folder": str(folder),
    }
    grpc = _free_port()
    port = int(places["port"])
    if peer.is_grpc:
        _write_mlserver_settings(folder, port, grpc)
    log = folder / "peer.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [part.format(**places) for part in peer.command],
            cwd=folder,
            env={
                **os.environ,
                "NETWORK": str(onnx_file),
                "PATH": f"{places['bin']}{os.pathsep}{os.environ['PATH']}",
                "PYTHONPATH": str(FILES),
            },
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        _wait(process, grpc if peer.is_grpc else port, log)
        yield f"http://127.0.0.1:{grpc if peer.is_grpc else port}{peer.path}"
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(process.pid, number)
                process.wait(timeout=15)


def json_endpoint(peer: Peer, url: str, x: np.ndarray) -> Endpoint:
    """Return a request in JSON, tried once: its answer must hold a row for each that is sent."""
    value = {peer.key: {"x": x.tolist()} if peer.key == "inputs" else x.tolist()}
    body = json.dumps(value).encode()
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(url, body, headers)  # noqa: S310 -- our own address
    with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
        answer = json.load(response)
    while isinstance(answer, dict):
        answer = next(iter(answer.values()))
    if len(answer) != len(x):
        raise RuntimeError(f"{peer.name} answered {str(answer)[:200]}")
    return Endpoint(url=url, body=body, headers=headers)


def _installed(peer: Peer) -> Path:
    if not peer.packages:
        return Path(sys.executable).parent.parent
    venv = VENVS / peer.packages[0]
    if not (venv / "installed").is_file():
        print(f"Installing {peer.packages[0]} in {venv.relative_to(ROOT)}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", venv], check=True)
        pip = [venv / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "install", "-q"]
        done = subprocess.run([*pip, *peer.packages], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{peer.name} cannot be installed: {done.stderr[-400:]}")
        (venv / "installed").touch()
    return venv


def _write_mlserver_settings(folder: Path, http: int, grpc: int) -> None:
    (folder / "settings.json").write_text(
        json.dumps(
            {
                "host": "127.0.0.1",
                "http_port": http,
                "grpc_port": grpc,
                "metrics_port": _free_port(),
                "parallel_workers": 0,
                "debug": False,
            }
        )
    )
    settings = {"name": "small", "implementation": "mlserver_network.Network"}
    (folder / "model-settings.json").write_text(json.dumps(settings))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            time.sleep(3)  # a port is open before models are loaded
            return
        time.sleep(0.2)
    raise RuntimeError(f"it did not start: {log.read_text(errors='replace')[-600:]}")
