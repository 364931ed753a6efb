"""The servers that benchmarks load: `thresher serve` of this tree or an older one, and the floor.

The floor is Triton with a compiled backend that answers with constants: what Triton itself costs.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
from against import ROOT

from thresher.repository import ModelRepository
from thresher_serving import Runtime, find_runtime, start_server

__all__ = [
    "Served",
    "floor",
    "publish_floor",
    "publish_small",
    "served",
    "server_of",
    "tree_environment",
]

MARK = "THRESHER_BENCHMARK"
"""Is in the environment of every process of a server, so that each can be found."""
FLOOR = Path(__file__).parent / "peers" / "constants.c"


@dataclass(frozen=True)
class Served:
    """What `thresher serve --background` started."""

    folder: Path
    mark: str
    server: dict[str, Any]
    """What the state file says of it."""

    @property
    def url(self) -> str:
        """Host and port for gRPC."""
        return f"127.0.0.1:{self.server['grpc_port']}"

    def processes(self) -> list[psutil.Process]:
        """Return every process: Triton, its backends' and what keeps watch over it."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(MARK) == self.mark and process.status() != "zombie":
                    found.append(process)
        return found

    def pss_mib(self) -> float:
        """Return the memory of all processes, what they share counted once."""
        total = 0
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_full_info().pss
        return total / 2**20

    def triton(self) -> psutil.Process:
        """Return Triton's own process.

        Raises:
            LookupError: If there is none at the moment.
        """
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                if process.name() == "tritonserver":
                    return process
        raise LookupError("no process is called tritonserver")


def server_of(folder: Path) -> dict[str, Any]:
    """Return what the state file in a working folder says of the server."""
    state = json.loads((folder / ".thresher" / "server.json").read_text())
    found: dict[str, Any] = state.get("server", state)  # ac9bf2d knew no supervisor
    return found


def tree_environment(tree: Path) -> dict[str, str]:
    """Return an environment in which Python imports a tree's packages."""
    stages = ("core", "training", "export", "serving", "benchmarks")
    path = os.pathsep.join(str(tree / stage) for stage in stages)
    return {**os.environ, "PYTHONPATH": path}


@contextlib.contextmanager
def served(repository: Path, folder: Path, *, tree: Path = ROOT) -> Iterator[Served]:
    """Run `thresher serve --background` of a tree while the block runs.

    Args:
        repository: The model repository.
        folder: Where state and log are kept; it is made.
        tree: The tree of the project whose command runs.

    Raises:
        RuntimeError: If the server does not start; with what it printed.
    """
    folder.mkdir(parents=True)
    mark = uuid.uuid4().hex
    environment = {**tree_environment(tree), MARK: mark}
    thresher = [sys.executable, "-m", "thresher"]
    ports = [part for name in ("grpc", "http", "metrics") for part in (f"--{name}-port", "0")]
    command = [*thresher, "serve", "--background", "--unproven", *ports]
    with (folder / "serve.log").open("w") as output:  # a pipe would stay open in the server
        done = subprocess.run(
            [*command, "--repository", str(repository.resolve())],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=output,
            check=False,
        )
    try:
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{(folder / 'serve.log').read_text()[-2000:]}")
        yield Served(folder, mark, server_of(folder))
    finally:
        subprocess.run(
            [*thresher, "stop"], cwd=folder, env=environment, stdout=subprocess.DEVNULL, check=False
        )


def publish_small(tree: Path, repository: Path) -> None:
    """Publish the small network as the export of an older tree configures it."""
    program = (
        "import sys, pathlib, serving; "
        "serving.publish({'small': serving.small_network()}, pathlib.Path(sys.argv[1])); "
        "import shutil; shutil.rmtree(pathlib.Path(sys.argv[1]) / 'floor')"
    )
    command = [sys.executable, "-c", program, str(repository)]
    subprocess.run(command, cwd=tree, env=tree_environment(tree), check=True)


def publish_floor(repository: Path, like: str) -> None:
    """Publish the floor: a model with inputs, outputs and instances of another one, and no file."""
    config = ModelRepository(repository).read_config(like)
    config.name, config.backend, config.default_model_filename = "floor", "constants", ""
    config.parameters.clear()
    del config.output[2:]  # logits, which the load does not ask for
    for output in config.output:
        output.label_filename = ""
    (repository / "floor" / "1").mkdir(parents=True)
    (repository / "floor" / "config.pbtxt").write_text(str(config))


@contextlib.contextmanager
def floor(repository: Path, folder: Path) -> Iterator[str]:
    """Yield the gRPC address of a Triton that serves the published floor alone."""
    backends = folder / "backends"
    (backends / "constants").mkdir(parents=True)
    compile_backend([FLOOR], backends / "constants" / "libtriton_constants.so")
    runtime: Runtime = replace(find_runtime(), backend_directory=backends)
    server = start_server(
        repository, runtime=runtime, models=["floor"], state_dir=None, log_file=folder / "log",
        grpc_port=0, http_port=0, metrics_port=0,
    )  # fmt: skip
    try:
        yield server.grpc_url
    finally:
        server.stop()


def compile_backend(sources: list[Path], library: Path) -> None:
    command = ["cc", "-std=c11", "-O2", "-fPIC", "-shared", "-fvisibility=hidden"]
    subprocess.run([*command, "-o", str(library), *map(str, sources)], check=True)
