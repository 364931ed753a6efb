"""Asks a served model for probabilities and labels, and names them.

Label names and thresholds come from the server, with the model, so a client has no file that could
be out of step with the version that answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from thresher.decision import FloatArray
from thresher.errors import DataError, NotFoundError, ServerError
from thresher_serving import control
from thresher_serving.metadata import ModelMetadata, TensorMetadata, checked_inputs, metadata_of

__all__ = ["Client", "ModelMetadata", "NamedLabel", "Prediction", "TensorMetadata"]

Array = npt.NDArray[Any]


class NamedLabel(NamedTuple):
    """One label of one row; the threshold is None where the model tells none."""

    name: str
    probability: float
    threshold: float | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prediction:
    """What one version of a model says about N rows and L labels."""

    probabilities: FloatArray
    """float32 [N, L]."""

    labels: npt.NDArray[np.bool_]
    """bool [N, L]: the server's own yes or no."""

    label_names: tuple[str, ...]
    """L names; "label_0" and so on where the model's configuration names none."""

    thresholds: FloatArray | None
    """float32 [L]; None where the model's configuration holds none."""

    model_name: str
    """The model that answered."""

    model_version: int
    """The version that answered, the same one for each row."""

    logits: FloatArray | None = None
    """float32 [N, L] if they were asked for."""

    def __len__(self) -> int:
        return len(self.probabilities)

    def named(self, row: int, *, every: bool = False) -> list[NamedLabel]:
        """Return the labels that a row has, with their probabilities and thresholds.

        Args:
            row: Which row.
            every: Whether to return all L labels, those that the row does not have too.
        """
        limits = [None] * len(self.label_names) if self.thresholds is None else self.thresholds
        columns = zip(
            self.label_names, self.probabilities[row], limits, self.labels[row], strict=True
        )
        return [
            NamedLabel(name, float(p), None if limit is None else float(limit))
            for name, p, limit, label in columns
            if label or every
        ]


class Client:
    """Predictions from a Triton server over gRPC; to be closed, or used in a ``with`` block.

    Args:
        url: Host and port of the server's gRPC endpoint.

    Example:
        with Client("127.0.0.1:8001") as client:
            prediction = client.predict("digits", images)
            print(prediction.named(0), prediction.model_version)
    """

    def __init__(self, url: str = "127.0.0.1:8001") -> None:
        self.url = url
        self._client = control.connect(url)
        self._known: dict[tuple[str, int | None], ModelMetadata] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def wait_ready(
        self, model: str = "", *, version: int | None = None, timeout_s: float = 30
    ) -> None:
        """Return once the server, or a model on it, is ready.

        Raises:
            ServerError: If it is not ready in time.
        """
        control.wait_ready(self.url, model, version=version, timeout_s=timeout_s)

    def metadata(
        self, model: str, version: int | None = None, *, timeout_s: float = 10
    ) -> ModelMetadata:
        """Return what a model takes and gives, asked for now.

        Args:
            model: The model's name.
            version: Which version; the one that answers unversioned requests where left out.
            timeout_s: How long the server may take to answer.

        Raises:
            NotFoundError: If there is no such model or version; it lists what is served.
            ServerError: If no server answers.
        """
        number = "" if version is None else str(version)
        with control.translated(self.url, self._client, model=model, version=number):
            described = self._client.get_model_metadata(model, client_timeout=timeout_s)
            # the configuration is asked for by version: a new one may come between the two calls
            chosen = number or str(max(map(int, described.versions)))
            config = self._client.get_model_config(model, chosen, client_timeout=timeout_s).config
        found = metadata_of(described, config, int(chosen))
        self._known[model, version] = self._known[model, found.version] = found
        return found

    def predict(
        self,
        model: str,
        inputs: Mapping[str, Array] | Array,
        *,
        version: int | None = None,
        outputs: Sequence[str] = ("probabilities", "labels"),
        timeout_s: float = 30,
        allow_nonfinite: bool = False,
    ) -> Prediction:
        """Return probabilities and labels for N rows, in their order, from one version.

        More rows than the model takes at once are sent in parts. Where no version is named and
        another one goes into service between two parts, all come from the first one's; if that one
        is gone, everything is asked anew.

        Args:
            model: The model's name.
            inputs: Arrays [N, ...] by name, or the array of a model's only input.
            version: Which version; the one that Triton chooses (the highest) where left out.
            outputs: What to ask for: "probabilities", and if wanted "labels" and "logits". Labels
                that are not asked for are computed from probabilities and thresholds, which gives
                the server's own, bit for bit.
            timeout_s: How long the server may take for each part.
            allow_nonfinite: Whether NaN and infinities may be sent.

        Raises:
            DataError: If the inputs are not what the model takes; nothing was sent.
            NotFoundError: If there is no such model, version or output.
            ServerError: If no server answers, or it cannot.
        """
        known = self._known.get((model, version))
        described = known or self.metadata(model, version)
        try:
            arrays = checked_inputs(described, inputs, allow_nonfinite=allow_nonfinite)
        except DataError:
            if known is None:
                raise
            described = self.metadata(model, version)  # a newer one may take other inputs
            arrays = checked_inputs(described, inputs, allow_nonfinite=allow_nonfinite)
        asked = _checked_outputs(described, outputs)
        if described.max_batch_size and not len(next(iter(arrays.values()))):
            return _empty(described, asked)
        try:
            parts, answered = self._infer(described, version, arrays, asked, timeout_s)
        except NotFoundError:
            if version is not None:
                raise
            described = self.metadata(model)
            parts, answered = self._infer(described, version, arrays, asked, timeout_s)
        by = self._known.get((model, answered)) or self.metadata(model, answered)
        if version is None:
            self._known[model, None] = by
        joined = {
            name: parts[0][name] if len(parts) == 1 else np.concatenate([p[name] for p in parts])
            for name in asked
        }
        return _prediction(by, joined)

    def _infer(
        self,
        described: ModelMetadata,
        version: int | None,
        arrays: dict[str, Array],
        outputs: Sequence[str],
        timeout_s: float,
    ) -> tuple[list[dict[str, Array]], int]:
        """Send the rows in parts; the first answer settles the version for the rest."""
        from tritonclient.grpc import InferInput, InferRequestedOutput

        size = described.max_batch_size
        rows = len(next(iter(arrays.values()))) if size else 1
        asked = [InferRequestedOutput(name) for name in outputs]
        parts: list[dict[str, Array]] = []
        pinned = "" if version is None else str(version)
        for start in range(0, rows, size or 1):
            feeds = []
            for name, array in arrays.items():
                part = array[start : start + size] if size else array
                feed = InferInput(name, list(part.shape), described.inputs[name].datatype)
                feeds.append(feed.set_data_from_numpy(np.ascontiguousarray(part)))
            with control.translated(self.url, self._client, model=described.name, version=pinned):
                result = self._client.infer(
                    described.name,
                    feeds,
                    model_version=pinned,
                    outputs=asked,
                    client_timeout=timeout_s,
                )
            pinned = result.get_response().model_version
            parts.append({name: result.as_numpy(name) for name in outputs})
        return parts, int(pinned)


def _checked_outputs(model: ModelMetadata, outputs: Sequence[str]) -> list[str]:
    for name in outputs:
        model.output(name)
    if "probabilities" not in outputs:
        raise DataError(f'outputs are {list(outputs)}, expected "probabilities" among them')
    if "labels" not in outputs and model.decision is None:
        raise DataError(
            f"model {model.name} tells no thresholds, so labels cannot be computed here; "
            'ask for the output "labels" too'
        )
    return list(dict.fromkeys(outputs))


def _empty(model: ModelMetadata, outputs: Sequence[str]) -> Prediction:
    size = model.decision.num_labels if model.decision else model.output("probabilities").shape[-1]
    shape = (0, max(size, 0))
    return _prediction(model, {n: np.empty(shape, model.output(n).dtype) for n in outputs})


def _prediction(model: ModelMetadata, arrays: dict[str, Array]) -> Prediction:
    probabilities = arrays["probabilities"]
    decision = model.decision
    if decision is not None and probabilities.shape[-1] != decision.num_labels:
        raise ServerError(
            f"model {model.name} version {model.version}: {probabilities.shape[-1]} probabilities "
            f"for the {decision.num_labels} labels of its configuration. Export it anew"
        )
    names = tuple(f"label_{at}" for at in range(probabilities.shape[-1]))
    labels = arrays.get("labels")
    if labels is None:
        assert decision is not None
        labels = decision.decide(probabilities)
    return Prediction(
        probabilities=probabilities,
        labels=labels,
        label_names=names if decision is None else decision.labels,
        thresholds=None if decision is None else decision.thresholds,
        model_name=model.name,
        model_version=model.version,
        logits=arrays.get("logits"),
    )
