"""Parts scored by the machines of a Ray cluster: each actor loads the model once.

Ray's actors take whole parts, not blocks of rows as Ray Data's do: a part is written, noted and
resumed as in one process, and the outcome is the same file for file.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

from thresher.errors import MissingExtraError, ServerError
from thresher.tables.parts import Part
from thresher_serving.scoring.engines import OnnxRuntimeEngine
from thresher_serving.scoring.folder import OutputFolder
from thresher_serving.scoring.job import Progress, ScoringJob
from thresher_serving.scoring.tally import Tally

__all__ = ["RayWorkers"]


class _Scorer:
    """Runs in an actor: one engine, on one core."""

    def __init__(self, job: ScoringJob, folder: OutputFolder) -> None:
        self._job, self._folder = job, folder
        self._engine = OnnxRuntimeEngine(job.version, threads=1, device="cpu")

    def score(self, part: Part) -> Tally:
        """Score a part; return its counts."""
        ((_, tally),) = self._job.run([part], self._engine, self._folder)
        return tally


class RayWorkers:
    """Actors on a Ray cluster: that of ``RAY_ADDRESS``, or one that is started here.

    The model's folder, the input and the output must be where every machine sees them, under the
    same path or URI.

    Args:
        number: Actors, of one core each; as many as the cluster has cores where left out.

    Raises:
        MissingExtraError: If Ray is not installed.
    """

    def __init__(self, number: int | None = None) -> None:
        try:
            ray: Any = importlib.import_module("ray")  # has no place in the type checker's world
        except ModuleNotFoundError:
            raise MissingExtraError(
                "`thresher score --engine ray` needs Ray, which is not installed. "
                "Run: pip install 'thresher[ray]'"
            ) from None
        self._ray = ray
        self._is_ours = not ray.is_initialized()
        if self._is_ours:
            ray.init(
                address=os.environ.get("RAY_ADDRESS"),
                log_to_driver=False,
                include_dashboard=False,
                runtime_env={"env_vars": _environment()},
            )
        self._number = number or max(1, int(ray.cluster_resources().get("CPU", 1)))

    def run(
        self, job: ScoringJob, parts: Sequence[Part], folder: OutputFolder, progress: Progress
    ) -> Iterator[tuple[Part, Tally]]:
        """Score parts, each in the actor that is free first; one that dies costs a second try.

        Raises:
            ServerError: If actors keep dying; what is done stays.
        """
        make = self._ray.remote(num_cpus=1, max_restarts=3, max_task_retries=2)(_Scorer)
        actors = [make.remote(job, folder) for _ in range(min(self._number, len(parts)))]
        left = iter(parts)
        at_work: dict[Any, tuple[Any, Part]] = {}

        def give(actor: Any) -> None:
            part = next(left, None)
            if part is not None:
                at_work[actor.score.remote(part)] = actor, part

        try:
            for actor in actors:
                give(actor)
            while at_work:
                done, _ = self._ray.wait(list(at_work), num_returns=1)
                actor, part = at_work.pop(done[0])
                try:
                    tally = self._ray.get(done[0])
                except self._ray.exceptions.RayTaskError as error:
                    raise error.cause from None
                except self._ray.exceptions.RayError as error:
                    told = str(error).strip().partition("\n")[0]
                    raise ServerError(f"{part.path}: its actor on Ray died: {told}") from None
                progress(tally.num_read)
                yield part, tally
                give(actor)
        finally:
            for actor in actors:
                with contextlib.suppress(self._ray.exceptions.RayError):
                    self._ray.kill(actor)

    def close(self) -> None:
        """End Ray if it was started here."""
        if self._is_ours:
            self._ray.shutdown()


def _environment() -> dict[str, str]:
    """Return what actors must know of this process."""
    names = ("PYTHONPATH", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    found = {name: os.environ[name] for name in names if name in os.environ}
    return {**found, "OMP_NUM_THREADS": "1"}
