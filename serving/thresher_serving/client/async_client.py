"""`Client` for programs with an event loop: single rows from many tasks travel side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy.typing as npt

from thresher.tables.csv_streams import CsvOptions
from thresher_serving.client.connecting import Where, opened
from thresher_serving.client.metadata import ModelMetadata
from thresher_serving.client.pace import SuspendingPace
from thresher_serving.client.prediction import Prediction
from thresher_serving.client.retries import Deadline, Retries
from thresher_serving.client.session import Inputs
from thresher_serving.connection import Tls

__all__ = ["AsyncClient"]

Array = npt.NDArray[Any]


class AsyncClient:
    """Predictions from Triton servers; to be closed, or used in an ``async with`` block.

    It opens one connection to a server and uses it for all calls of its event loop.

    Args:
        url: As in `Client`, like all that follow.
        headers: See `Client`.
        tls: See `Client`.
        retries: See `Client`.
        in_flight: See `Client`. Any number of calls may be under way beside each other.
        shared_memory: See `Client`.
        tokenizer: See `Client`.
        max_length: See `Client`.
        repository: See `Client`.
        csv: See `Client`.

    Raises:
        ConfigError: If an address, a header or another option is wrong.
        NotFoundError: If there is no such tokenizer.

    Example:
        async with AsyncClient("127.0.0.1:8001") as client:
            asked = [client.predict("digits", image[None]) for image in images]
            predictions = await asyncio.gather(*asked)
    """

    def __init__(
        self,
        url: Where | Sequence[Where] = "127.0.0.1:8001",
        *,
        headers: Mapping[str, str] | None = None,
        tls: Tls | None = None,
        retries: Retries = Retries(),  # noqa: B008 - immutable
        in_flight: int = 4,
        shared_memory: bool | None = None,
        tokenizer: str | Path | None = None,
        max_length: int | None = None,
        repository: str | Path | None = None,
        csv: CsvOptions | None = None,
    ) -> None:
        self._session = opened(
            url,
            pace=SuspendingPace(in_flight),
            headers=headers,
            tls=tls,
            retries=retries,
            shared_memory=shared_memory,
            tokenizer=tokenizer,
            max_length=max_length,
            repository=repository,
            csv=csv,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def url(self) -> str:
        """The server that is asked now."""
        return self._session.servers.current.url

    async def close(self) -> None:
        """Close the connections."""
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
