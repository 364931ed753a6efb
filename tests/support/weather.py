"""A small network and its logged, registered version, for tests of what comes after training."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from thresher import Decision
from thresher.evaluation import EvaluationSplit
from thresher.registry import DECISION_FILE, ModelVersion, connect, register

LABELS = ("sun", "rain", "fog", "wind")
NUM_FEATURES = 6


class Weather(torch.nn.Module):
    """A small network with batch-norm and dropout, which must be off once it is logged."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = torch.nn.Sequential(
            torch.nn.Linear(NUM_FEATURES, 32),
            torch.nn.BatchNorm1d(32),
            torch.nn.ReLU(),
            torch.nn.Dropout(0.5),
            torch.nn.Linear(32, len(LABELS)),
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.body(features) * 3
        return logits


DECISION = Decision(
    labels=LABELS,
    thresholds=[0.5, 0.3, 0.61, 0.42],
    scale=[1.25, 1.0, 0.8, 1.0],
    bias=[0.0, -0.25, 0.0, 0.5],
)

_seeds = itertools.count()


def log_version(
    folder: Path,
    network: torch.nn.Module | None = None,
    *,
    name: str = "weather",
    frozen_batch: bool = False,
    decision: Decision = DECISION,
    num_rows: int = 150,
    logits_of: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> ModelVersion:
    """Log and register a network as training does, with artifacts staged in ``folder``.

    What is logged as logits comes from ``logits_of``; from the network where that is left out.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    mlflow = connect()
    network = (network or Weather()).eval()
    rng = np.random.default_rng(next(_seeds))
    run_folder = folder / f"run-{next(_seeds)}"
    (run_folder / "evaluation").mkdir(parents=True)
    decision.save(run_folder / DECISION_FILE)
    for split in ("validation", "test"):
        x = rng.normal(size=(num_rows, NUM_FEATURES)).astype(np.float32)
        with torch.no_grad():
            logits = (logits_of or network)(torch.from_numpy(x)).numpy()
        targets = (rng.random(logits.shape) < 0.3).astype(np.float32)
        rows = EvaluationSplit(inputs={"features": x}, targets_NL=targets, logits_NL=logits)
        rows.save(run_folder / "evaluation" / f"{split}.npz")
    batch = 3 if frozen_batch else -1
    with mlflow.start_run():
        mlflow.log_artifacts(str(run_folder))
        info = mlflow.pytorch.log_model(
            network,
            name="model",
            serialization_format="pt2",
            input_example=x[:3],
            signature=ModelSignature(
                inputs=Schema([TensorSpec(np.dtype("float32"), (batch, NUM_FEATURES), "features")]),
                outputs=Schema([TensorSpec(np.dtype("float32"), (batch, len(LABELS)), "logits")]),
            ),
            pip_requirements=["torch"],
        )
    return register(model_uri=info.model_uri, name=name, alias="candidate", tags={})
