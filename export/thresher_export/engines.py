"""The engines that parity compares: torch as the reference, ONNX Runtime as what will serve."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from thresher.agreement import Outputs
from thresher.decision import FloatArray
from thresher.errors import ConversionError, DataError

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = ["Inputs", "OnnxRuntimeEngine", "in_batches", "torch_logits"]

Inputs = Mapping[str, npt.NDArray[Any]]


def in_batches(
    inputs: Inputs, batch_size: int, run: Callable[[dict[str, npt.NDArray[Any]]], Any]
) -> Iterator[Any]:
    """Yield what ``run`` gives for each batch of rows, in order."""
    num_rows = len(next(iter(inputs.values())))
    for start in range(0, num_rows, batch_size):
        yield run({name: array[start : start + batch_size] for name, array in inputs.items()})


def torch_logits(program: ExportedProgram, inputs: Inputs, *, batch_size: int) -> FloatArray:
    """Return float32 [N, L] logits that torch computes eagerly, operator by operator.

    Raises:
        DataError: If the rows do not fit the program's inputs.
    """
    import torch

    module = program.module()
    names = program.graph_signature.user_inputs  # logged by position: MLflow's pt2 has no keywords
    if set(names) != set(inputs):
        raise DataError(f"rows have inputs {sorted(inputs)}, the program takes {list(names)}")

    def run(batch: dict[str, npt.NDArray[Any]]) -> FloatArray:
        with torch.no_grad():
            logits: FloatArray = (
                module(*(torch.from_numpy(batch[n]) for n in names)).float().numpy()
            )
        return logits

    try:
        return np.concatenate(list(in_batches(inputs, batch_size, run)))
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        shapes = {name: (str(array.dtype), list(array.shape)) for name, array in inputs.items()}
        raise DataError(f"torch cannot run the program on rows {shapes}: {error}") from None


class OnnxRuntimeEngine:
    """ONNX Runtime on the CPU, over a model file or its bytes.

    Args:
        model: A path (weights beside it are found) or a serialised model.
        num_threads: Threads inside an operator; 0 lets ONNX Runtime choose.

    Raises:
        ConversionError: If ONNX Runtime cannot load the model.
    """

    def __init__(self, model: Path | bytes, *, num_threads: int = 0) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.log_severity_level = 3
        source = model if isinstance(model, bytes) else str(model)
        try:
            self._session = ort.InferenceSession(
                source, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # noqa: BLE001 -- its exceptions share no public base
            raise ConversionError(f"ONNX Runtime cannot load the model: {error}") from None

    def run(self, inputs: Inputs, *, batch_size: int) -> Outputs:
        """Return what a model with a decision head gives for the rows (logits if it has them).

        Raises:
            ConversionError: If ONNX Runtime fails on a batch; says which size.
        """
        names = [output.name for output in self._session.get_outputs()]

        def run(batch: dict[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
            try:
                answers: list[npt.NDArray[Any]] = self._session.run(names, batch)
            except Exception as error:  # noqa: BLE001 -- its exceptions share no public base
                size = len(next(iter(batch.values())))
                raise ConversionError(
                    f"ONNX Runtime fails on a batch of {size} rows: {error}"
                ) from None
            return answers

        parts = list(in_batches(inputs, batch_size, run))
        whole = {name: np.concatenate(arrays) for name, *arrays in zip(names, *parts, strict=True)}
        return Outputs(
            probabilities_NL=whole["probabilities"],
            labels_NL=whole["labels"],
            logits_NL=whole.get("logits"),
        )
