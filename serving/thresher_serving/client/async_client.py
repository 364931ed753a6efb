"""`Client` for programs with an event loop: single rows from many tasks travel side by side."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import numpy.typing as npt

from thresher_serving.client.connecting import BaseClient
from thresher_serving.client.metadata import ModelMetadata
from thresher_serving.client.prediction import Prediction
from thresher_serving.client.retries import Deadline
from thresher_serving.client.session import Inputs

__all__ = ["AsyncClient"]

Array = npt.NDArray[Any]


class AsyncClient(BaseClient):
    """Predictions from Triton servers; to be closed, or used in an ``async with`` block.

    It opens one connection to a server for each event loop in which it is used, to be closed there;
    any number of calls may be under way. Its options are those of `Client`.

    Example:
        async with AsyncClient("127.0.0.1:8001") as client:
            asked = [client.predict("digits", image[None]) for image in images]
            predictions = await asyncio.gather(*asked)
    """

    _is_async = True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections of this event loop."""
        await self._session.close()

    async def wait_ready(
        self, model: str = "", *, version: int | None = None, timeout_s: float = 30
    ) -> None:
        """Return once the server, or a model on it, is ready. See `Client.wait_ready`."""
        await self._session.wait_ready(model, version, timeout_s)

    async def metadata(
        self, model: str, version: int | None = None, *, timeout_s: float = 10
    ) -> ModelMetadata:
        """Return what a model takes and gives, asked for now. See `Client.metadata`."""
        return await self._session.metadata(model, version, Deadline(timeout_s))

    async def predict(
        self,
        model: str,
        inputs: Inputs,
        *,
        version: int | None = None,
        outputs: Sequence[str] = ("probabilities", "labels"),
        timeout_s: float = 30,
        allow_nonfinite: bool = False,
    ) -> Prediction:
        """Return probabilities and labels for N rows, in order. See `Client.predict`."""
        return await self._session.predict(
            model,
            inputs,
            version=version,
            outputs=outputs,
            deadline=Deadline(timeout_s),
            allow_nonfinite=allow_nonfinite,
        )

    async def infer(
        self,
        model: str,
        inputs: Inputs,
        *,
        version: int | None = None,
        outputs: Sequence[str] = (),
        timeout_s: float = 30,
        allow_nonfinite: bool = False,
    ) -> dict[str, Array]:
        """Return a model's outputs by name, as they are. See `Client.infer`."""
        return await self._session.infer(
            model,
            inputs,
            version=version,
            outputs=outputs,
            deadline=Deadline(timeout_s),
            allow_nonfinite=allow_nonfinite,
        )
