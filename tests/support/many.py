"""A registry of many small models, made in moments, some of them poisoned.

The network is traced once; each model's weights are written into a copy of that file and everything
else lies where training puts it. What is registered and exported is real in all respects.
"""

from __future__ import annotations

import io
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from support.weather import DECISION, LABELS, NUM_FEATURES, Weather
from thresher import Decision
from thresher.evaluation import EvaluationSplit
from thresher.registry import DECISION_FILE, ModelVersion, connect, resolve

__all__ = ["CRASH", "EATS", "EXITS", "HANGS", "Registry", "empty_store"]

# What loading a poisoned program does: torch unpickles a program's example inputs.
HANGS = "__import__('time').sleep(1000000)"
EXITS = "__import__('os')._exit(7)"
CRASH = "__import__('os').kill(__import__('os').getpid(), __import__('signal').SIGSEGV)"
EATS = "[bytearray(b'x' * 2**24) for _ in range(1000000)]"


@contextmanager
def empty_store(empty_mlflow_db: Path, folder: Path) -> Iterator[None]:
    """Make a folder the working folder, with an MLflow store of its own, until the block ends."""
    shutil.copy(empty_mlflow_db, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        mlflow = connect()
        mlflow.set_tracking_uri(None)
        mlflow.create_experiment("tests", artifact_location=(folder / "artifacts").as_uri())
        yield


class _Runs:
    """Unpickles as what an expression gives."""

    def __init__(self, code: str) -> None:
        self._code = code

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, (self._code,)


class Registry:
    """Registers small models in the MLflow store that the environment names.

    Args:
        num_rows: Rows of each split.
    """

    def __init__(self, *, num_rows: int = 40) -> None:
        self._client = connect().MlflowClient()
        self._network = Weather().eval()
        self._num_rows = num_rows
        self._dynamic = self._traced(((torch.export.Dim("batch"), torch.export.Dim.STATIC),))
        self._frozen = self._traced(None)
        self._num_made = 0

    def add(
        self,
        name: str,
        *,
        decision: Decision = DECISION,
        runs: str | None = None,
        is_frozen: bool = False,
        logits_are_off: bool = False,
        tags: Mapping[str, str] | None = None,
        alias: str | None = None,
    ) -> ModelVersion:
        """Register the next version of a model, with weights of its own.

        Args:
            name: Made where it does not exist.
            decision: What it decides.
            runs: An expression that whoever loads the program evaluates.
            is_frozen: Its batch axis is 3, so that it cannot be converted.
            logits_are_off: What training logged is not what the program gives: parity fails.
            tags: Further tags of the version.
            alias: Moved to the version.
        """
        self._num_made += 1
        generator = torch.Generator().manual_seed(self._num_made)
        last = self._network.body[4]
        with torch.no_grad():
            last.weight.copy_(torch.randn(last.weight.shape, generator=generator) / 4)
        run = self._client.create_run(self._experiment())
        folder = Path(run.info.artifact_uri.removeprefix("file://"))
        (folder / "evaluation").mkdir(parents=True)
        (folder / "model/data").mkdir(parents=True)
        decision.save(folder / DECISION_FILE)
        rng = np.random.default_rng(self._num_made)
        for split in ("validation", "test"):
            x = rng.normal(size=(self._num_rows, NUM_FEATURES)).astype(np.float32)
            with torch.no_grad():
                logits = self._network(torch.from_numpy(x)).numpy()
            rows = EvaluationSplit(
                inputs={"features": x},
                targets_NL=(rng.random(logits.shape) < 0.3).astype(np.float32),
                logits_NL=logits + np.float32(logits_are_off),
            )
            rows.save(folder / "evaluation" / f"{split}.npz")
        (folder / "model/MLmodel").write_text("flavors: {}\n")
        self._write(folder / "model/data/model.pt2", self._frozen if is_frozen else self._dynamic,
                    last.weight.detach().numpy(), runs)  # fmt: skip
        if not self._client.search_registered_models(f"name = '{name}'"):
            self._client.create_registered_model(name)
        created = self._client.create_model_version(
            name,
            (folder / "model").as_uri(),
            run_id=run.info.run_id,
            tags={"thresher.decision_sha256": decision.digest, **(tags or {})},
        )
        if alias is not None:
            self._client.set_registered_model_alias(name, alias, created.version)
        return resolve(f"models:/{name}/{created.version}")

    def _experiment(self) -> str:
        return str(self._client.get_experiment_by_name("tests").experiment_id)

    def _traced(self, dynamic_shapes: object) -> bytes:
        """Return the program's file."""
        program = torch.export.export(
            self._network, (torch.zeros(3, NUM_FEATURES),), dynamic_shapes=dynamic_shapes
        )
        assert len(LABELS) == 4
        buffer = io.BytesIO()
        torch.export.save(program, buffer)
        return buffer.getvalue()

    @staticmethod
    def _write(path: Path, program: bytes, weight: np.ndarray, runs: str | None) -> None:
        poison = io.BytesIO()
        torch.save(_Runs(runs or "None"), poison)
        with zipfile.ZipFile(io.BytesIO(program)) as source, zipfile.ZipFile(path, "w") as target:
            for item in source.infolist():
                content = source.read(item)
                if item.filename.endswith("weights/weight_4"):
                    assert len(content) == weight.nbytes
                    content = weight.tobytes()
                elif runs is not None and "sample_inputs" in item.filename:
                    content = poison.getvalue()
                target.writestr(item, content)
