"""The engines that parity compares: torch as the reference, ONNX Runtime as what will serve."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from thresher.agreement import Outputs
from thresher.decision import FloatArray
from thresher.errors import ConversionError, DataError

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram

__all__ = [
    "CPU",
    "Inputs",
    "OnnxRuntimeEngine",
    "Provider",
    "TorchEngine",
    "in_batches",
    "providers_at_hand",
    "session",
]

Inputs = Mapping[str, npt.NDArray[Any]]


def in_batches(
    inputs: Inputs, batch_size: int, run: Callable[[dict[str, npt.NDArray[Any]]], Any]
) -> Iterator[Any]:
    """Yield what ``run`` gives for each batch of rows, in order."""
    num_rows = len(next(iter(inputs.values())))
    for start in range(0, num_rows, batch_size):
        yield run({name: array[start : start + batch_size] for name, array in inputs.items()})


class TorchEngine:
    """Torch, eagerly, operator by operator, on the CPU.

    Args:
        source: A logged program, or a module in evaluation mode whose forward() takes tensors by
            the names of the inputs.
    """

    def __init__(self, source: ExportedProgram | torch.nn.Module) -> None:
        self._source = source

    @cached_property
    def program(self) -> ExportedProgram | None:
        """The program, None where the reference is a module."""
        import torch

        return None if isinstance(self._source, torch.nn.Module) else self._source

    @cached_property
    def _call(self) -> Callable[[Inputs], Any]:
        import torch

        program = self.program
        if program is None:
            return lambda batch: self._source(
                **{name: torch.from_numpy(array) for name, array in batch.items()}
            )
        module = program.module()
        # logged by position: MLflow's pt2 has no keywords
        names = program.graph_signature.user_inputs

        def call(batch: Inputs) -> Any:
            if set(names) != set(batch):
                raise DataError(
                    f"rows have inputs {sorted(batch)}, the program takes {list(names)}"
                )
            return module(*(torch.from_numpy(np.ascontiguousarray(batch[str(n)])) for n in names))

        return call

    def __call__(self, batch: Inputs) -> torch.Tensor:
        """Return one batch's logits [N, L] as the network gives them."""
        logits: torch.Tensor = self._call(batch)
        return logits

    def logits(self, inputs: Inputs, *, batch_size: int) -> FloatArray:
        """Return float32 [N, L] logits.

        Raises:
            DataError: If the rows do not fit the program's inputs.
        """
        import torch

        def run(batch: dict[str, npt.NDArray[Any]]) -> FloatArray:
            with torch.no_grad():
                logits: FloatArray = self._call(batch).float().numpy()
            return logits

        try:
            return np.concatenate(list(in_batches(inputs, batch_size, run)))
        except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
            shapes = {name: (str(array.dtype), list(array.shape)) for name, array in inputs.items()}
            raise DataError(f"torch cannot run the program on rows {shapes}: {error}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """One way in which ONNX Runtime computes."""

    name: str
    """As reports call it, such as ``ONNX Runtime, CUDA without TF32``."""
    execution: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    """ONNX Runtime's execution providers with their options, first choice first."""
    precision: str | None = None
    """Whose tolerances it is judged by, None for those of the model's body."""

    def describe(self) -> str:
        """Return the execution provider and its options, such as ``CUDA... use_tf32=0``."""
        name, settings = self.execution[0]
        return " ".join([name, *(f"{key}={value}" for key, value in settings)])


_ON_CPU: tuple[str, tuple[tuple[str, str], ...]] = ("CPUExecutionProvider", ())

CPU = Provider(name="ONNX Runtime", execution=(_ON_CPU,))

_ON_GPU = (
    Provider(
        name="ONNX Runtime, CUDA without TF32",
        execution=(("CUDAExecutionProvider", (("use_tf32", "0"),)), _ON_CPU),
    ),
    Provider(
        name="ONNX Runtime, CUDA",
        execution=(("CUDAExecutionProvider", (("use_tf32", "1"),)), _ON_CPU),
        precision="tf32",
    ),
    # TensorRT has no option for TF32 (NVIDIA_TF32_OVERRIDE=0 in the environment turns it off, for
    # a whole process): it is judged as what it is
    Provider(
        name="ONNX Runtime, TensorRT",
        execution=(
            ("TensorrtExecutionProvider", (("trt_fp16_enable", "0"), ("trt_int8_enable", "0"))),
            ("CUDAExecutionProvider", (("use_tf32", "0"),)),
            _ON_CPU,
        ),
        precision="tf32",
    ),
)


def providers_at_hand() -> tuple[Provider, ...]:
    """Return the CPU, and what ONNX Runtime offers on a GPU where there is one.

    ONNX Runtime lists CUDA and TensorRT on machines that have no GPU, and falls back to the CPU
    without a word where their libraries are missing: only a session that says it runs there does.
    """
    offered = set(ort.get_available_providers())
    if not offered & {"CUDAExecutionProvider", "TensorrtExecutionProvider"} or not _has_gpu():
        return (CPU,)
    ort.preload_dlls()  # CUDA's libraries out of NVIDIA's wheels, where no torch has done it
    return (CPU, *(p for p in _ON_GPU if p.execution[0][0] in offered and _starts(p)))


def _has_gpu() -> bool:
    """Whether NVIDIA's driver is here and finds a device."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return (
        driver.cuInit(0) == 0
        and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
        and count.value > 0
    )


def _starts(provider: Provider) -> bool:
    """Whether a session on the smallest model really runs on the provider."""
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in ("x", "y"))
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    try:
        started = session(model.SerializeToString(), provider)
        started.run(None, {"x": np.ones(1, np.float32)})
    except Exception:  # noqa: BLE001 -- ONNX Runtime's exceptions share no public base
        return False
    return bool(started.get_providers()[0] == provider.execution[0][0])


def session(
    model: Path | bytes,
    provider: Provider = CPU,
    *,
    num_threads: int = 0,
    weights_folder: Path | None = None,
    is_optimised: bool = True,
) -> ort.InferenceSession:
    """Return an ONNX Runtime session.

    Args:
        model: A path (weights beside it are found) or a serialised model.
        provider: Where it computes.
        num_threads: Threads inside an operator; 0 lets ONNX Runtime choose.
        weights_folder: Where a serialised model keeps weights that lie outside it.
        is_optimised: Whether ONNX Runtime may rewrite the graph.

    Raises:
        ConversionError: If ONNX Runtime cannot load the model.
    """
    options = ort.SessionOptions()
    # as torch does: ONNX Runtime itself does not look at it
    options.intra_op_num_threads = num_threads or int(os.environ.get("OMP_NUM_THREADS", "0"))
    options.log_severity_level = 3
    if not is_optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if weights_folder is not None:
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(weights_folder)
        )
    source = model if isinstance(model, bytes) else str(model)
    execution = [(name, dict(settings)) for name, settings in provider.execution]
    try:
        return ort.InferenceSession(source, options, providers=execution)
    except Exception as error:  # noqa: BLE001 -- its exceptions share no public base
        raise ConversionError(f"ONNX Runtime cannot load the model: {error}") from None


class OnnxRuntimeEngine:
    """ONNX Runtime over a model file or its bytes; arguments as for `session`.

    Raises:
        ConversionError: If ONNX Runtime cannot load the model.
    """

    def __init__(
        self,
        model: Path | bytes,
        provider: Provider = CPU,
        *,
        num_threads: int = 0,
        weights_folder: Path | None = None,
    ) -> None:
        self._session = session(
            model, provider, num_threads=num_threads, weights_folder=weights_folder
        )

    def run(self, inputs: Inputs, *, batch_size: int) -> Outputs:
        """Return what a model with a decision head gives for the rows (logits if it has them).

        Raises:
            ConversionError: If ONNX Runtime fails on a batch; says which size.
        """
        offered = {output.name for output in self._session.get_outputs()}
        names = [name for name in ("probabilities", "labels", "logits") if name in offered]

        def run(batch: dict[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
            try:
                answers: list[npt.NDArray[Any]] = self._session.run(names, batch)
            except Exception as error:  # noqa: BLE001 -- its exceptions share no public base
                shapes = {name: list(array.shape) for name, array in batch.items()}
                size = len(next(iter(batch.values())))
                raise ConversionError(
                    f"ONNX Runtime fails on a batch of {size} rows, {shapes}: {error}"
                ) from None
            size = len(next(iter(batch.values())))
            if any(len(answer) != size for answer in answers):
                raise ConversionError(
                    f"ONNX Runtime gives {[len(a) for a in answers]} rows of {names} for a batch "
                    f"of {size} rows"
                )
            return answers

        parts = list(in_batches(inputs, batch_size, run))
        whole = {name: np.concatenate(arrays) for name, *arrays in zip(names, *parts, strict=True)}
        return Outputs(
            probabilities_NL=whole["probabilities"],
            labels_NL=whole["labels"],
            logits_NL=whole.get("logits"),
        )
