"""What a client does, written once for `Client` and `AsyncClient`: check, ask, put together."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy.typing as npt

from thresher.errors import DataError, NotFoundError
from thresher.published_models import TEXT_SUFFIX
from thresher_serving.client import batching
from thresher_serving.client.asking import Asking
from thresher_serving.client.examples import ExampleReader, NoTokenizerError
from thresher_serving.client.failures import CallFailure, ChangedError, GoneError, RefusedError
from thresher_serving.client.metadata import (
    DlpackArray,
    ModelMetadata,
    checked_inputs,
    checksum_of,
    decided_by,
    metadata_of,
)
from thresher_serving.client.pace import Pace
from thresher_serving.client.prediction import (
    Prediction,
    check_agrees,
    check_is_number,
    prediction_of,
)
from thresher_serving.client.retries import Deadline, Retries
from thresher_serving.client.server import Answer, Request, Server

__all__ = ["Inputs", "Session"]

Array = npt.NDArray[Any]
Inputs = Mapping[str, Any] | Array | DlpackArray | Sequence[Any] | Any
"""Arrays, a table, a path, a text, a picture, or a list of these: see `ExampleReader.arrays`."""
Choice = Callable[[ModelMetadata], list[str]]

_TURNS = 5
"""How often everything is asked again because what had begun to answer went away or changed."""

_FRESH_S = 0.1
"""How old a description may be that nothing confirms; a Triton takes longer to start and load."""

_REREAD_S = 0.05
"""The age at which one call reads it again, so that those side by side with it need not."""


@dataclass(slots=True)
class _Known:
    """A version as one server describes it."""

    model: ModelMetadata
    decided_by: str
    checksum: str
    read_at: float
    """When the description was asked for, by `time.monotonic`."""
    failures: int
    """The server's failures until then."""
    is_reread: bool = False
    """Whether a call is reading it again."""


class Session:
    """The servers, what is known of their models, and how to ask them.

    Args:
        servers: Where to ask; at least one.
        pace: How to wait.
        retries: When to ask again.
        examples: Makes a model's inputs of what a caller gives.
    """

    def __init__(
        self, servers: Sequence[Server], *, pace: Pace, retries: Retries, examples: ExampleReader
    ) -> None:
        self._asking = Asking(servers, pace=pace, retries=retries)
        self.servers = self._asking.servers
        self._pace = pace
        self._examples = examples
        self._known: dict[tuple[Server, str, int | None], _Known] = {}

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
        _check_name(model)
        return (await self._described(model, version, deadline)).model

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
        """Return probabilities and labels for N rows, in their order, from one version."""
        _check_name(model)
        choice = partial(batching.checked_outputs, outputs=outputs)
        ask = partial(
            self._infer, version=version, choice=choice, deadline=deadline, has_decision=True
        )
        try:
            by, arrays = await ask(model, inputs, allow_nonfinite=allow_nonfinite)
        except NoTokenizerError as error:
            try:
                by, arrays = await ask(f"{model}{TEXT_SUFFIX}", error.texts, allow_nonfinite=False)
            except NotFoundError:
                raise error from None
        found = prediction_of(by, arrays)
        return found if allow_nonfinite else check_is_number(found)

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
        _check_name(model)

        def choice(described: ModelMetadata) -> list[str]:
            for name in outputs:
                described.output(name)
            return list(dict.fromkeys(outputs or described.outputs))

        _, arrays = await self._infer(
            model,
            inputs,
            version=version,
            choice=choice,
            deadline=deadline,
            allow_nonfinite=allow_nonfinite,
            has_decision=False,
        )
        return arrays

    async def _infer(
        self,
        model: str,
        inputs: Inputs,
        *,
        version: int | None,
        choice: Choice,
        deadline: Deadline,
        allow_nonfinite: bool,
        has_decision: bool,
    ) -> tuple[ModelMetadata, dict[str, Array]]:
        """Return the version that answered, and its outputs.

        What was known may be outdated: where inputs or the server disagree with it, it is asked for
        again.
        """
        ask = partial(
            self._infer_as,
            version=version,
            inputs=inputs,
            choice=choice,
            deadline=deadline,
            allow_nonfinite=allow_nonfinite,
            has_decision=has_decision,
        )
        known = self._known.get((self.servers.current, model, version))
        if known is not None:
            try:
                return await ask(known.model)
            except (DataError, NotFoundError, RefusedError, ChangedError):
                pass
        for turn in range(_TURNS):
            known = await self._described(model, version, deadline)
            try:
                return await ask(known.model)
            except (GoneError, ChangedError) as error:
                is_gone = version is not None and isinstance(error, GoneError)
                if is_gone or turn == _TURNS - 1:
                    raise
        raise AssertionError("the last turn returns or raises")

    async def _infer_as(
        self,
        described: ModelMetadata,
        *,
        version: int | None,
        inputs: Inputs,
        choice: Choice,
        deadline: Deadline,
        allow_nonfinite: bool,
        has_decision: bool,
    ) -> tuple[ModelMetadata, dict[str, Array]]:
        """Return the version that answered, and its outputs, given what is held for true."""
        given = self._examples.arrays(described, inputs)
        arrays = checked_inputs(described, given, allow_nonfinite=allow_nonfinite)
        asked = choice(described)
        if described.max_batch_size and not len(next(iter(arrays.values()))):
            return described, batching.empty(described, asked)
        answers = await self._answers(described, version, arrays, asked, deadline)
        joined = batching.join([answer.arrays for answer in answers])
        server = answers[0].server
        if not has_decision:
            if answers[0].version != described.version:
                self._known.pop((server, described.name, version), None)
            return described, joined
        by = await self._confirmed(described.name, answers, deadline)
        try:
            check_agrees(by.model, joined)
        except ChangedError:
            self._forget(server, by.model)
            raise
        if version is None:
            self._known[server, described.name, None] = by
        return by.model, joined

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
        )
        return await self._asking.ask(
            lambda server, left_s: server.infer(request, left_s), deadline, request.model, version
        )

    async def _described(self, model: str, version: int | None, deadline: Deadline) -> _Known:
        """Return a version's description, asked for now."""
        number = "" if version is None else str(version)

        async def call(server: Server, left_s: float) -> _Known:
            known = await self._description(server, model, number, left_s)
            self._known[server, model, version] = known
            return known

        return await self._asking.ask(call, deadline, model, number)

    async def _description(
        self, server: Server, model: str, version: str, timeout_s: float
    ) -> _Known:
        read_at, failures = time.monotonic(), server.failures
        metadata, config, chosen = await server.describe(model, version, timeout_s)
        text = decided_by(config, chosen)
        known = self._known[server, model, chosen] = _Known(
            model=metadata_of(metadata, config, chosen),
            decided_by=text,
            checksum=checksum_of(text),
            read_at=read_at,
            failures=failures,
        )
        return known

    def _forget(self, server: Server, model: ModelMetadata) -> None:
        for version in (model.version, None):
            self._known.pop((server, model.name, version), None)

    async def _confirmed(self, model: str, answers: Sequence[Answer], deadline: Deadline) -> _Known:
        """Return the description of what gave these answers, all of which one version gave.

        Raises:
            ChangedError: If that cannot be said, or not of all of them alike.
        """
        found = [
            await self._confirmed_at(
                server,
                model,
                answers[0].version,
                {answer.checksum for answer in answers if answer.server is server},
                deadline,
            )
            for server in dict.fromkeys(answer.server for answer in answers)
        ]
        if len({known.decided_by for known in found}) > 1:
            raise ChangedError.of(model, answers[0].version, "two servers hold different ones")
        return found[0]

    async def _confirmed_at(
        self, server: Server, model: str, version: int, checksums: set[str], deadline: Deadline
    ) -> _Known:
        """Return the description of a version that has just answered.

        A backend that sends a checksum with each answer makes this exact. With others, a server
        that is another one than the description was read from must have restarted since: that takes
        longer than `_FRESH_S`, and calls that meet it fail.
        """
        now, failures = time.monotonic(), server.failures
        left_s = max(deadline.left_s, 0.1)
        known = self._known.get((server, model, version))
        try:
            if known is None:
                known = await self._description(server, model, str(version), left_s)
                if time.monotonic() - now > _FRESH_S or server.failures != failures:
                    raise _changed(model, version)  # the next turn begins with this description
            if checksums != {""}:
                if checksums == {known.checksum}:
                    return known
                self._forget(server, known.model)
                raise _changed(model, version)
            due_s = _FRESH_S if known.is_reread else _REREAD_S
            if now - known.read_at < due_s and known.failures == failures:
                return known
            known.is_reread = True
            try:
                config = await server.config(model, str(version), left_s)
            finally:
                known.is_reread = False
        except CallFailure:
            raise _changed(model, version) from None
        if decided_by(config, version) != known.decided_by:
            self._forget(server, known.model)
            raise _changed(model, version)
        known.read_at, known.failures = now, failures
        return known


def _check_name(model: object) -> None:
    if not isinstance(model, str):
        raise DataError(f"a model's name is a str, got {type(model).__name__}: {model!r}")


def _changed(model: str, version: int) -> ChangedError:
    return ChangedError.of(model, version, "it was exchanged while it answered")
