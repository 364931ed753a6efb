"""What a client does, written once for `Client` and `AsyncClient`: check, ask, put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy.typing as npt

from thresher.errors import DataError, NotFoundError, ThresherError
from thresher.published_models import TEXT_SUFFIX
from thresher_serving.client import batching
from thresher_serving.client.asking import Asking
from thresher_serving.client.canary import Canaries, canary_of, share_of
from thresher_serving.client.cuda_memory import DlpackArray
from thresher_serving.client.examples import ExampleReader, NoTokenizerError
from thresher_serving.client.failures import CallFailure, GoneError, RefusedError
from thresher_serving.client.metadata import ModelMetadata, checked_inputs, metadata_of
from thresher_serving.client.pace import Pace
from thresher_serving.client.prediction import Prediction, check_is_number, prediction_of
from thresher_serving.client.retries import Deadline, Retries
from thresher_serving.client.transport import Answer, Request, Transport

__all__ = ["Inputs", "Session"]

Array = npt.NDArray[Any]
Inputs = Mapping[str, Any] | Array | DlpackArray | Sequence[Any] | Any
"""Arrays, a table, a path, a text, a picture, or a list of these: see `ExampleReader.arrays`."""
Choice = Callable[[ModelMetadata], list[str]]

_TURNS = 5
"""How often everything is asked anew because the version that had begun to answer went away."""

_LOOK_S = 1.0
"""How long a look for a canary may keep a call waiting."""


class Session:
    """The servers, what is known of their models, and how to ask them.

    Args:
        servers: Where to ask; at least one.
        pace: How to wait.
        retries: When to ask again.
        examples: Makes a model's inputs of what a caller gives.
    """

    def __init__(
        self,
        servers: Sequence[Transport],
        *,
        pace: Pace,
        retries: Retries,
        examples: ExampleReader,
    ) -> None:
        self._asking = Asking(servers, pace=pace, retries=retries)
        self.servers = self._asking.servers
        self._pace = pace
        self._examples = examples
        self._known: dict[tuple[str, int | None], ModelMetadata] = {}
        self._canaries = Canaries()

    async def close(self) -> None:
        """Close each connection."""
        await self._pace.close()
        for server in self.servers:
            await server.close()

    async def wait_ready(self, model: str, version: int | None, timeout_s: float) -> None:
        """Return once the server, or a model on it, is ready."""
        await self._asking.wait_ready(model, version, timeout_s)

    async def metadata(self, model: str, version: int | None, deadline: Deadline) -> ModelMetadata:
        """Return what a model takes and gives, asked for now."""
        number = "" if version is None else str(version)
        metadata, config, chosen = await self._asking.ask(
            lambda server, left_s: server.describe(model, number, left_s), deadline, model, number
        )
        found = metadata_of(metadata, config, chosen)
        self._known[model, version] = self._known[model, found.version] = found
        return found

    async def predict(
        self,
        model: str,
        inputs: Inputs,
        *,
        version: int | None,
        outputs: Sequence[str],
        deadline: Deadline,
        allow_nonfinite: bool,
    ) -> Prediction:
        """Return probabilities and labels for N rows, in their order, from one version.

        A call that goes to a canary, and fails there, is made as if there were none.
        """
        choice = partial(batching.checked_outputs, outputs=outputs)
        if version is None and (canary := await self._canary(model, deadline)) is not None:
            try:
                by, arrays = await self._infer_as(
                    canary, canary.version, inputs, choice, deadline.half(), allow_nonfinite
                )
                found = prediction_of(by, arrays)
                return found if allow_nonfinite else check_is_number(found)
            except DataError:  # what serves may take it, or says what is wrong with it
                pass
            except ThresherError:
                self._canaries.failed(model)
        try:
            by, arrays = await self._infer(
                model, inputs, version, choice, deadline, allow_nonfinite
            )
        except NoTokenizerError as error:
            by, arrays = await self._infer_texts(model, error, version, choice, deadline)
        found = prediction_of(by, arrays)
        return found if allow_nonfinite else check_is_number(found)

    async def _infer_texts(
        self,
        model: str,
        error: NoTokenizerError,
        version: int | None,
        choice: Choice,
        deadline: Deadline,
    ) -> tuple[ModelMetadata, dict[str, Array]]:
        """Ask the model that takes texts for another one; without it, raise what was missing."""
        try:
            return await self._infer(
                f"{model}{TEXT_SUFFIX}", error.texts, version, choice, deadline, False
            )
        except NotFoundError:
            raise error from None

    async def infer(
        self,
        model: str,
        inputs: Inputs,
        *,
        version: int | None,
        outputs: Sequence[str],
        deadline: Deadline,
        allow_nonfinite: bool,
    ) -> dict[str, Array]:
        """Return a model's outputs as they are, by name."""

        def choice(described: ModelMetadata) -> list[str]:
            for name in outputs:
                described.output(name)
            return list(dict.fromkeys(outputs or described.outputs))

        _, arrays = await self._infer(model, inputs, version, choice, deadline, allow_nonfinite)
        return arrays

    async def _canary(self, model: str, deadline: Deadline) -> ModelMetadata | None:
        """Return the model's canary if there is one and this call is of its share."""
        if self._canaries.look_is_due(model):
            if (model, None) not in self._known:  # finds a server that answers
                await self.metadata(model, None, deadline)
            found, share = None, 0.0
            try:
                metadata, config, version = await self.servers.current.describe(
                    canary_of(model), "", max(0.01, min(_LOOK_S, deadline.left_s / 2))
                )
                if share := share_of(config):
                    found = metadata_of(metadata, config, version)
            except (CallFailure, ThresherError):
                pass
            self._canaries.found(model, found, share)
        return self._canaries.drawn(model)

    async def _infer(
        self,
        model: str,
        inputs: Inputs,
        version: int | None,
        choice: Choice,
        deadline: Deadline,
        allow_nonfinite: bool,
    ) -> tuple[ModelMetadata, dict[str, Array]]:
        """Return the version that answered, and its outputs.

        Without a version, what was known may be outdated: where inputs, or the server, disagree
        with it, it is asked for anew.
        """
        known = self._known.get((model, version))
        if known is not None:
            try:
                return await self._infer_as(
                    known, version, inputs, choice, deadline, allow_nonfinite
                )
            except (DataError, NotFoundError, RefusedError):
                pass
        for turn in range(_TURNS):
            described = await self.metadata(model, version, deadline)
            try:
                return await self._infer_as(
                    described, version, inputs, choice, deadline, allow_nonfinite
                )
            except GoneError:
                if version is not None or turn == _TURNS - 1:
                    raise
        raise AssertionError("the last turn returns or raises")

    async def _infer_as(
        self,
        described: ModelMetadata,
        version: int | None,
        inputs: Inputs,
        choice: Choice,
        deadline: Deadline,
        allow_nonfinite: bool,
    ) -> tuple[ModelMetadata, dict[str, Array]]:
        """Return the version that answered, and its outputs, given what is held for true."""
        arrays = self._checked(described, inputs, allow_nonfinite)
        asked = choice(described)
        if described.max_batch_size and not len(next(iter(arrays.values()))):
            return described, batching.empty(described, asked)
        answers = await self._answers(described, version, arrays, asked, deadline)
        answered = answers[0].version
        by = described
        if answered != described.version:
            known = self._known.get((described.name, answered))
            by = known or await self.metadata(described.name, answered, deadline)
        if version is None:
            self._known[described.name, None] = by
        return by, batching.join([answer.arrays for answer in answers])

    def _checked(
        self, described: ModelMetadata, inputs: Inputs, allow_nonfinite: bool
    ) -> dict[str, Array]:
        given = self._examples.arrays(described, inputs)
        return checked_inputs(described, given, allow_nonfinite=allow_nonfinite)

    async def _answers(
        self,
        described: ModelMetadata,
        version: int | None,
        arrays: dict[str, Array],
        outputs: Sequence[str],
        deadline: Deadline,
    ) -> list[Answer]:
        """Return an answer for each part; the first one settles the version for the rest."""
        parts = batching.cut(arrays, described.max_batch_size)
        answers: list[Answer] = []
        pinned = "" if version is None else str(version)
        if not pinned:
            answers = [await self._answer(described, "", parts[0], outputs, deadline)]
            pinned = str(answers[0].version)
        jobs = [
            partial(self._answer, described, pinned, part, outputs, deadline)
            for part in parts[len(answers) :]
        ]
        return answers + await self._pace.gather(jobs)

    async def _answer(
        self,
        described: ModelMetadata,
        version: str,
        part: dict[str, Array],
        outputs: Sequence[str],
        deadline: Deadline,
    ) -> Answer:
        request = Request(
            model=described.name,
            version=version,
            inputs=part,
            datatypes={name: described.inputs[name].datatype for name in part},
            outputs=tuple(outputs),
            output_bytes=batching.output_bytes(described, outputs, part),
        )
        return await self._asking.ask(
            lambda server, left_s: server.infer(request, left_s), deadline, request.model, version
        )
