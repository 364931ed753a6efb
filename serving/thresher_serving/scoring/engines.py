"""What answers a batch: ONNX Runtime in this process, or a Triton server; one result."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from thresher.errors import DataError, MissingExtraError, ServerError
from thresher_serving.client.failures import RefusedError
from thresher_serving.connection import Connection, as_connection
from thresher_serving.scoring.model import ScoredVersion

__all__ = ["Answers", "Engine", "OnnxRuntimeEngine", "RefusedRowsError", "TritonEngine"]

Array = npt.NDArray[Any]

_BATCH_BYTES = 1 << 18
_MIN_ROWS, _MAX_ROWS = 32, 1024
_MAX_REASON = 300

_OF_ONNX_RUNTIME = re.compile(r"onnx ?runtime|non-zero status code", re.IGNORECASE)
"""In what a server says of an error that arose while the network ran."""
_OF_THE_MACHINE = re.compile(
    r"allocat|out of memory|bad_alloc|\b(CUDA|CUDNN|CUBLAS|TensorRT)\b", re.IGNORECASE
)
"""In errors that other rows would meet as well."""


class RefusedRowsError(DataError):
    """The network does not take these rows; fewer of them, or others, it may take."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answers:
    """What a version says of n rows."""

    probabilities_NL: npt.NDArray[np.float32]
    labels_NL: npt.NDArray[np.bool_]
    logits_NL: npt.NDArray[np.float32] | None
    """None where they were not asked for."""


class Engine(Protocol):
    """Answers batches, several at a time from several threads."""

    batch_rows: int
    """The rows that it takes best at once."""
    concurrency: int
    """The batches that it works on side by side."""

    def answer(self, inputs: Mapping[str, Array], *, with_logits: bool) -> Answers:
        """Return what the version says of a batch.

        Raises:
            RefusedRowsError: If the network fails on what these rows hold.
            ServerError: If no server answers.
        """
        ...

    def close(self) -> None:
        """Let go of what it holds."""
        ...


class OnnxRuntimeEngine:
    """The published file in this process: each thread runs a batch of its own, on one core.

    Batches side by side use a machine better than the threads of one batch do: nobody waits at
    the end of each operator, and what reads and writes finds a core between two batches.

    Args:
        version: The version.
        threads: Batches at a time; as many as there are cores where left out.
        batch_rows: Rows a batch; chosen by the size of a row where left out.
        device: ``"cuda"``, ``"cpu"``, or ``"auto"`` for CUDA where ONNX Runtime has it and there
            is a GPU.

    Raises:
        MissingExtraError: If ONNX Runtime is not installed.
        DataError: If it cannot load the file.
    """

    def __init__(
        self,
        version: ScoredVersion,
        *,
        threads: int | None = None,
        batch_rows: int | None = None,
        device: str = "auto",
    ) -> None:
        try:
            import onnxruntime as ort
        except ModuleNotFoundError:
            raise MissingExtraError(
                "scoring in this process needs ONNX Runtime. Run: pip install 'thresher[score]'; "
                "or score through a server: --engine triton"
            ) from None
        self.batch_rows = batch_rows or _batch_rows(version)
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(
                str(version.file), sess_options=options, providers=_providers(ort, device)
            )
        except Exception as error:  # noqa: BLE001 - ONNX Runtime raises many kinds
            raise DataError(f"{version.file}: ONNX Runtime cannot load it: {error}") from None
        self.is_cuda = self._session.get_providers()[0] == "CUDAExecutionProvider"
        if device == "cuda" and not self.is_cuda:
            raise DataError("device is cuda, and ONNX Runtime cannot start it; it says why above")
        self.concurrency = 2 if self.is_cuda else threads or _cores()
        self._title = version.title

    def answer(self, inputs: Mapping[str, Array], *, with_logits: bool) -> Answers:
        """Return what the version says of a batch."""
        try:
            found = self._session.run(_outputs(with_logits), dict(inputs))
        except Exception as error:
            if not _OF_THE_MACHINE.search(str(error)):
                raise _refused(error) from error
            shapes = {name: list(array.shape) for name, array in inputs.items()}
            raise DataError(f"{self._title} fails on a batch of {shapes}: {error}") from error
        return Answers(
            probabilities_NL=found[0],
            labels_NL=found[1],
            logits_NL=found[2] if with_logits else None,
        )

    def close(self) -> None:
        """Nothing is held that would not go by itself."""


class TritonEngine:
    """A Triton server, with several calls under way at a time.

    Args:
        version: The version; the server must have it loaded.
        where: Its gRPC address, or how it is reached.
        calls: Calls at a time; each is cut into requests that the server takes.
        timeout_s: What a call may take, retries included.

    Raises:
        ServerError: If the server does not answer, or does not serve this version.
    """

    def __init__(
        self,
        version: ScoredVersion,
        where: str | Connection,
        *,
        calls: int = 4,
        timeout_s: float = 60,
    ) -> None:
        from thresher_serving.client.client import Client

        self.batch_rows = version.model.max_batch_size
        self.concurrency = calls
        self._version = version
        self._timeout_s = timeout_s
        self._url = as_connection(where).url
        self._client = Client(as_connection(where))
        served = self._client.metadata(version.model.name, version.model.version)
        if served.decision is not None and served.decision.digest != version.decision.digest:
            self._client.close()
            raise ServerError(
                f"{as_connection(where).url} serves {version.title} with another decision than the "
                "repository holds; give the repository that it reads: --repository"
            )
        try:
            self._check_certificate(served.certificate_sha256)
        except ServerError:
            self._client.close()
            raise

    def answer(self, inputs: Mapping[str, Array], *, with_logits: bool) -> Answers:
        """Return what the server says of a batch."""
        try:
            found = self._client.predict(
                self._version.model.name,
                dict(inputs),
                version=self._version.model.version,
                outputs=_outputs(with_logits),
                timeout_s=self._timeout_s,
                allow_nonfinite=True,  # the job rejects the rows that are NaN, not the batch
            )
        except (DataError, ServerError) as error:
            if not _is_about_rows(error):
                raise
            raise _refused(error) from error
        self._check_certificate(found.certificate_sha256)
        return Answers(
            probabilities_NL=found.probabilities,
            labels_NL=found.labels,
            logits_NL=found.logits,
        )

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _check_certificate(self, digest: str) -> None:
        """Raise ServerError unless the server names the certificate that answers are stamped with.

        Args:
            digest: What it names; empty where it names none.
        """
        if self._version.certificate_sha256 in {"", digest}:
            return
        named = "another certificate" if digest else "no certificate"
        raise ServerError(
            f"{self._url} names {named} for {self._version.title}, and the repository holds "
            f"{self._version.certificate_sha256[:12]}...; give the repository that it reads: "
            "--repository; where the certificate was renewed, let the server load it again"
        )


def _is_about_rows(error: Exception) -> bool:
    """Return whether a server could not answer because of what a request holds."""
    if _OF_THE_MACHINE.search(str(error)):
        return False
    is_refused = isinstance(error, (DataError, RefusedError))
    return is_refused or _OF_ONNX_RUNTIME.search(str(error)) is not None


def _refused(error: Exception) -> RefusedRowsError:
    """Return an error on one line, of a length that a table of rejected rows can hold."""
    reason = " ".join(str(error).split())
    return RefusedRowsError(f"the network refuses it: {reason}"[:_MAX_REASON])


def _batch_rows(version: ScoredVersion) -> int:
    """Return how many rows are run at once: few texts, whose lengths differ, many small rows."""
    inputs = version.model.inputs.values()
    if any(-1 in tensor.shape and tensor.dtype.kind in "iu" for tensor in inputs):
        return _MIN_ROWS
    return min(max(_BATCH_BYTES // max(1, version.row_bytes), _MIN_ROWS), _MAX_ROWS)


def _outputs(with_logits: bool) -> list[str]:
    return ["probabilities", "labels", "logits"] if with_logits else ["probabilities", "labels"]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _providers(ort: Any, device: str) -> list[Any]:
    has_cuda = "CUDAExecutionProvider" in ort.get_available_providers() and _has_gpu()
    if device == "cuda" and not has_cuda:
        raise DataError(
            "device is cuda, but ONNX Runtime offers "
            f"{', '.join(ort.get_available_providers())} and a GPU is "
            f"{'there' if _has_gpu() else 'not there'}"
        )
    if device == "cpu" or not has_cuda:
        return ["CPUExecutionProvider"]
    ort.preload_dlls()  # CUDA's libraries out of NVIDIA's wheels, where no torch has done it
    # TF32 would move decisions that lie near a threshold
    return [("CUDAExecutionProvider", {"use_tf32": "0"}), "CPUExecutionProvider"]


def _has_gpu() -> bool:
    from pathlib import Path

    return Path("/dev/nvidia0").exists() or Path("/dev/nvidiactl").exists()
