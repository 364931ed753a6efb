"""Tries settings one after the other on a server of its own, and writes the best ones down."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from thresher.errors import DataError, ServerError
from thresher.golden import load_golden
from thresher.repository import ModelRepository
from thresher_serving import control
from thresher_serving.embedded.runtime import Runtime
from thresher_serving.embedded.server import RunningServer, start_server
from thresher_serving.tuning.load import Load, LoadGenerator, infer_request
from thresher_serving.tuning.settings import (
    Objective,
    Settings,
    candidates_of_processes,
    candidates_of_queue,
)

__all__ = ["Tuned", "tune_serving"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """What was tried, in order, and what is best."""

    name: str
    version: int
    objective: Objective
    tried: tuple[tuple[Settings, Load], ...]
    """The first are the settings as they were."""
    best: Settings

    @property
    def before(self) -> Load:
        """What the settings gave as they were."""
        return self.tried[0][1]

    @property
    def after(self) -> Load:
        """What the best ones gave."""
        return dict(self.tried)[self.best]

    @property
    def is_met(self) -> bool:
        """Whether the best ones are within the limit."""
        return self.objective.holds(self.after)


def tune_serving(
    repository: ModelRepository,
    name: str,
    objective: Objective,
    *,
    runtime: Runtime,
    batch_size: int = 1,
    num_clients: int = 32,
    seconds: float = 3.0,
    write: bool = True,
    progress: Callable[[Settings, Load], None] = lambda *_: None,
) -> Tuned:
    """Return the settings that give most rows a second within a limit; write them if they do.

    A server of its own is started on a copy of the model, with its golden rows as load: what
    serves is not touched, but the machine should have nothing else to do.

    Args:
        repository: Where the model is published.
        name: The model; its serving version.
        objective: The limit.
        runtime: Which Triton to start.
        batch_size: Rows in each request.
        num_clients: Clients with one request in flight each.
        seconds: How long each setting is measured.
        write: Whether the best settings are written into the repository, if they meet the limit.
        progress: Called after each setting.

    Raises:
        NotFoundError: If there is no such model.
        DataError: If it has no golden rows, or the batch is larger than the model takes.
        ServerError: If Triton does not start or load the model.
    """
    version = repository.serving_version(name)
    inputs = _rows(repository, name, version, batch_size)
    config = repository.read_config(name)
    start = Settings.of(config)
    if batch_size > start.max_batch_size:
        raise DataError(
            f"{name} takes {start.max_batch_size} rows in a request, --batch-size is {batch_size}"
        )
    tried: dict[Settings, Load] = {}
    with tempfile.TemporaryDirectory(prefix="thresher-tuning-") as temporary:
        root = Path(temporary) / "models"
        _copy(repository, name, version, root)
        server = start_server(
            root,
            runtime=runtime,
            grpc_port=0,
            http_port=0,
            metrics_port=0,
            state_dir=None,
            log_file=Path(temporary) / "server.log",
        )
        try:
            with LoadGenerator() as generator:

                def try_all(candidates: list[Settings]) -> Settings:
                    for settings in candidates:
                        if settings in tried or settings.max_batch_size < batch_size:
                            continue
                        _load(server, name, config, settings)
                        tried[settings] = generator.measure(
                            server.grpc_url,
                            infer_request(name, inputs),
                            num_rows=batch_size,
                            num_clients=num_clients,
                            seconds=seconds,
                        )
                        progress(settings, tried[settings])
                    best = start
                    for settings, load in tried.items():
                        if objective.better(load, tried[best]):
                            best = settings
                    return best

                best = try_all(candidates_of_processes(start))
                best = try_all(candidates_of_queue(best))
        finally:
            server.stop()
    tuned = Tuned(
        name=name, version=version, objective=objective, tried=tuple(tried.items()), best=best
    )
    if write and tuned.is_met and best != start:
        best.lay_over(config)
        repository.configure(name, version, config)
    return tuned


def _rows(
    repository: ModelRepository, name: str, version: int, batch_size: int
) -> Mapping[str, npt.NDArray[Any]]:
    golden = load_golden(repository.model_file(name, version).parent)
    if golden is None:
        raise DataError(
            f"{name}/{version} has no golden rows to ask with: it was exported by an earlier "
            "version of thresher. Export it anew under a new version"
        )
    rows = [k % len(golden) for k in range(batch_size)]
    return {key: np.ascontiguousarray(array) for key, array in golden.rows(rows).items()}


def _copy(repository: ModelRepository, name: str, version: int, root: Path) -> None:
    """Lay the model out in a repository of its own; its weights are linked where that can be."""
    source, target = repository.root / name, root / name
    target.mkdir(parents=True)
    for path in source.iterdir():
        if path.is_file():
            shutil.copy(path, target / path.name)
        elif path.name == str(version) or not path.name.isdecimal():
            shutil.copytree(path, target / path.name, copy_function=_link)


def _link(source: str, target: str) -> str:
    try:
        Path(target).hardlink_to(source)
    except OSError:
        shutil.copy(source, target)
    return target


def _load(server: RunningServer, name: str, config: Any, settings: Settings) -> None:
    """Load the model anew with other settings."""
    from google.protobuf.json_format import MessageToJson

    changed = type(config)()
    changed.CopyFrom(config)
    settings.lay_over(changed)
    with control.translated(server.grpc_url, None, model=name):
        client = control.connect(server.grpc_url)
        try:
            client.load_model(name, config=MessageToJson(changed, preserving_proto_field_name=True))
        finally:
            client.close()
    if not any(state.name == name and state.is_ready for state in server.models):
        raise ServerError(f"{name} did not load with {settings}; see {server.log_file}")
