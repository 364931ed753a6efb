"""Asks a served model for probabilities and labels, and names them.

Label names and thresholds come from the server, with the model, so a client has no file that could
be out of step with the version that answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import numpy.typing as npt

from thresher_serving.client.connecting import BaseClient
from thresher_serving.client.metadata import ModelMetadata, TensorMetadata
from thresher_serving.client.pace import run
from thresher_serving.client.prediction import NamedLabel, Prediction
from thresher_serving.client.retries import Deadline
from thresher_serving.client.session import Inputs

__all__ = ["Client", "ModelMetadata", "NamedLabel", "Prediction", "TensorMetadata"]

Array = npt.NDArray[Any]


class Client(BaseClient):
    """Predictions from Triton servers; to be closed, or used in a ``with`` block.

    It opens one connection to a server, uses it for all calls, and may be shared between threads. A
    child that is forked while it is open gets connections of its own.

    Example:
        with Client("127.0.0.1:8001") as client:
            prediction = client.predict("digits", images)
            print(prediction.named(0), prediction.model_version)
    """

    _is_async = False

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
        """Close the connections."""
        run(self._session.close())

    def wait_ready(
        self, model: str = "", *, version: int | None = None, timeout_s: float = 30
    ) -> None:
        """Return once the server, or a model on it, is ready.

        Raises:
            ServerError: If it is not ready in time.
        """
        run(self._session.wait_ready(model, version, timeout_s))

    def metadata(
        self, model: str, version: int | None = None, *, timeout_s: float = 10
    ) -> ModelMetadata:
        """Return what a model takes and gives, asked for now.

        Args:
            model: The model's name.
            version: Which version; the one that answers unversioned requests where left out.
            timeout_s: How long it may take, retries included.

        Raises:
            NotFoundError: If there is no such model or version; it lists what is served.
            ServerError: If no server answers.
        """
        return run(self._session.metadata(model, version, Deadline(timeout_s)))

    def predict(
        self,
        model: str,
        inputs: Inputs,
        *,
        version: int | None = None,
        outputs: Sequence[str] = ("probabilities", "labels"),
        timeout_s: float = 30,
        allow_nonfinite: bool = False,
    ) -> Prediction:
        """Return probabilities and labels for N rows, in their order, from one version.

        More rows than the model takes at once are sent in parts, several of them at a time. Where
        no version is named, the first answer settles the version for the other parts; if that one
        goes away in between, everything is asked again.

        Args:
            model: The model's name.
            inputs: Arrays [N, ...] by name, or the array of a model's only input, NumPy's or of a
                library that speaks DLPack; nothing is converted. Or raw examples, which are made
                into inputs as in training: a table (a dict of columns, a list of dicts, an Arrow
                table, a frame), the path of a table or a picture, a text, a picture's content, a
                PIL image, or a list of texts, paths or pictures.
            version: Which version; the one that Triton chooses (the highest) where left out.
            outputs: What to ask for: "probabilities", and if wanted "labels" and "logits". Labels
                that are not asked for are computed from probabilities and thresholds, which gives
                the server's own, bit for bit.
            timeout_s: How long the call may take, parts and retries included.
            allow_nonfinite: Whether NaN and infinities may be sent, and NaN may come back.

        Raises:
            DataError: If the inputs are not what the model takes; nothing was sent.
            NotANumberError: If the model gives NaN for some rows: a `DataError` that names them,
                and holds the answer.
            NotFoundError: If there is no such model, version or output.
            ServerError: If no server answers in time, or it cannot.
        """
        return run(
            self._session.predict(
                model,
                inputs,
                version=version,
                outputs=outputs,
                deadline=Deadline(timeout_s),
                allow_nonfinite=allow_nonfinite,
            )
        )

    def infer(
        self,
        model: str,
        inputs: Inputs,
        *,
        version: int | None = None,
        outputs: Sequence[str] = (),
        timeout_s: float = 30,
        allow_nonfinite: bool = False,
    ) -> dict[str, Array]:
        """Return a model's outputs by name, as they are: for models that Thresher did not export.

        Args:
            model: The model's name.
            inputs: As in `predict`, like all that follow.
            version: See `predict`.
            outputs: What to ask for; all of the model's where left out.
            timeout_s: See `predict`.
            allow_nonfinite: See `predict`.

        Raises:
            DataError: If the inputs are not what the model takes; nothing was sent.
            NotFoundError: If there is no such model, version or output.
            ServerError: If no server answers in time, or it cannot.
        """
        return run(
            self._session.infer(
                model,
                inputs,
                version=version,
                outputs=outputs,
                deadline=Deadline(timeout_s),
                allow_nonfinite=allow_nonfinite,
            )
        )
