"""Asks a server for the golden rows of a version, and judges the answers decision by decision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from thresher.agreement import Agreement, Outputs, Tolerances, compare
from thresher.certificate import Certificate
from thresher.decision import Decision
from thresher.errors import ParityError
from thresher.evaluation import EvaluationSplit
from thresher.golden import load_golden
from thresher_serving import control
from thresher_serving.connection import Connection

__all__ = ["GoldenRows"]

_OUTPUTS = ("probabilities", "labels", "logits")


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenRows:
    """Rows of a version whose right answers are known from its export."""

    name: str
    version: int
    split: EvaluationSplit
    decision: Decision
    tolerances: Tolerances
    max_batch_size: int

    @classmethod
    def load(
        cls, folder: Path, name: str, version: int, decision: Decision, *, max_batch_size: int
    ) -> GoldenRows | None:
        """Return the rows in a version's folder; None where it has none.

        Args:
            folder: The version's folder.
            name: The model's name.
            version: The version.
            decision: What it decides.
            max_batch_size: The most rows in a request; 0 for a model without a batch axis.
        """
        split = load_golden(folder)
        if split is None:
            return None
        try:
            given: dict[str, Any] = dict(Certificate.load(folder).tolerances)
        except ParityError:  # served all the same, as was asked for
            given = {}
        return cls(
            name=name,
            version=version,
            split=split,
            decision=decision,
            tolerances=Tolerances(**given),
            max_batch_size=max_batch_size,
        )

    @property
    def num_requests(self) -> int:
        """How many requests a comparison makes."""
        return -(-len(self.split) // (self.max_batch_size or len(self.split)))

    def compare(
        self,
        where: Connection,
        client: Any,
        *,
        model: str | None = None,
        versioned: bool,
        timeout_s: float = 30,
    ) -> Agreement:
        """Return how far the server answers as it should.

        Args:
            where: The server.
            client: A tritonclient gRPC client of it.
            model: The name under which the version is loaded; its own where left out.
            versioned: Whether the version is named in the request; where not, the version that
                the server chooses must be this one.
            timeout_s: How long one answer may take.

        Raises:
            ParityError: If another version answers, or one that does not decide as it should.
            ServerError: If the server does not answer.
        """
        model = model or self.name
        got, answered = self._ask(where, client, model, versioned=versioned, timeout_s=timeout_s)
        if answered != {self.version}:
            raise ParityError(
                f"version {', '.join(map(str, sorted(answered)))} of {self.name} answered, "
                f"expected version {self.version}"
            )
        reference = Outputs.of_logits(self.split.logits_NL, self.decision)
        agreement = compare(reference, got, self.decision, tolerances=self.tolerances)
        if problems := agreement.problems():
            listing = "; ".join(problems)
            raise ParityError(
                f"{self.name}/{self.version} does not answer as its golden rows say: {listing}"
            )
        return agreement

    def _ask(
        self, where: Connection, client: Any, model: str, *, versioned: bool, timeout_s: float
    ) -> tuple[Outputs, set[int]]:
        from tritonclient.grpc import InferRequestedOutput

        asked = [InferRequestedOutput(name) for name in _OUTPUTS]
        number = str(self.version) if versioned else ""
        size = self.max_batch_size or len(self.split)
        parts: list[dict[str, npt.NDArray[Any]]] = []
        answered: set[int] = set()
        for start in range(0, len(self.split), size):
            rows = self.split.rows(slice(start, start + size))
            with control.translated(where, client, model=model, version=number):
                result = client.infer(
                    model,
                    _inputs(rows),
                    model_version=number,
                    outputs=asked,
                    client_timeout=timeout_s,
                )
            answered.add(int(result.get_response().model_version))
            parts.append({name: result.as_numpy(name) for name in _OUTPUTS})
        joined = {name: np.concatenate([part[name] for part in parts]) for name in _OUTPUTS}
        outputs = Outputs(
            probabilities_NL=joined["probabilities"],
            labels_NL=joined["labels"],
            logits_NL=joined["logits"],
        )
        return outputs, answered


def _inputs(rows: Mapping[str, npt.NDArray[Any]]) -> list[Any]:
    from tritonclient.grpc import InferInput
    from tritonclient.utils import np_to_triton_dtype

    inputs = []
    for name, array in rows.items():
        # texts are kept as NumPy's own strings, and travel as objects
        sent = array.astype(np.object_) if array.dtype.kind in "US" else array
        given = InferInput(name, list(sent.shape), np_to_triton_dtype(sent.dtype))
        inputs.append(given.set_data_from_numpy(np.ascontiguousarray(sent)))
    return inputs
