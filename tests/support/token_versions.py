"""A network of tokens and its logged, registered version, with the tokenizer in its run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from support.text_models import LABELS, write_tokenizer
from thresher import Decision
from thresher.evaluation import EvaluationSplit
from thresher.registry import DECISION_FILE, ModelVersion, connect, register

LENGTH = 8
DECISION = Decision(labels=LABELS, thresholds=[0.5, 0.25])


class Emotions(torch.nn.Module):
    """A small network of tokens, as it was initialized."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = torch.nn.Embedding(16, 4)
        self.head = torch.nn.Linear(4, len(LABELS))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        mask = attention_mask.unsqueeze(-1).to(torch.float32)
        mean = (self.embedding(input_ids) * mask).sum(1) / mask.sum(1).clamp(min=1)
        logits: torch.Tensor = self.head(mean)
        return logits


def log_token_version(
    store: Path, number: int = 1, *, with_tokenizer: bool = True, name: str = "emotions"
) -> ModelVersion:
    """Log and register a network of tokens as training does."""
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    mlflow, network = connect(), Emotions().eval()
    folder = store / f"run-{name}-{number}"
    (folder / "evaluation").mkdir(parents=True)
    DECISION.save(folder / DECISION_FILE)
    if with_tokenizer:
        (folder / "assets").mkdir()
        write_tokenizer(folder / "assets" / "tokenizer.json", version=number)
    rng = np.random.default_rng(0)
    kinds = ("input_ids", "attention_mask")
    for split in ("validation", "test"):
        rows = {
            kind: rng.integers(0, high, (20, LENGTH), np.int64)
            for kind, high in zip(kinds, (16, 2), strict=True)
        }
        with torch.no_grad():
            logits = network(*(torch.from_numpy(rows[kind]) for kind in kinds)).numpy()
        targets = (rng.random(logits.shape) < 0.3).astype(np.float32)
        EvaluationSplit(inputs=rows, targets_NL=targets, logits_NL=logits).save(
            folder / "evaluation" / f"{split}.npz"
        )
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype("int64"), (-1, LENGTH), kind) for kind in kinds]),
        outputs=Schema([TensorSpec(np.dtype("float32"), (-1, len(LABELS)), "logits")]),
    )
    with mlflow.start_run():
        mlflow.log_artifacts(str(folder))
        info = mlflow.pytorch.log_model(
            network,
            name="model",
            serialization_format="pt2",
            input_example=tuple(rows[kind][:3] for kind in kinds),
            signature=signature,
            pip_requirements=["torch"],
        )
    return register(model_uri=info.model_uri, name=name, alias="candidate", tags={})
