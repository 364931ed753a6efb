"""Chunks of rows through an engine: read ahead, several batches at a time, back in their order."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from thresher.tables.inputs import Inputs
from thresher.tables.rows import Rows
from thresher_serving.scoring.engines import Answers, Engine, RefusedRowsError
from thresher_serving.scoring.model import ScoredVersion

__all__ = ["Chunk", "chunk_rows", "scored"]

Array = npt.NDArray[Any]
T = TypeVar("T")
_Answered = tuple[Array, Answers]
"""int64 [n]: rows, by position among those that have inputs; and what is said of them."""

_CHUNK_ROWS = 32_768
_CHUNK_BYTES = 1 << 24
_ALL_SEEN = 1 << 14
_SEEN_EVERY = 32
_AHEAD = 2
"""Chunks that are read, and as many that are scored, before the one that is written."""


@dataclass(slots=True, kw_only=True, eq=False)
class Chunk:
    """Some rows of a part, with what a version says of those that have inputs."""

    rows: Rows
    inputs: Inputs
    row: int = 0
    """Its first row in what it is a part of."""
    part: Any = None
    """What they are of."""
    refused: dict[int, str] = field(default_factory=dict)
    """Why, of rows that the network does not take: by position among those that have inputs."""
    _order: Array | None = None
    _answers: list[Future[list[_Answered]]] = field(default_factory=list)
    _seen: list[Array] = field(default_factory=list)
    """Rows that are to be observed."""

    def send(self, engine: Engine, pool: ThreadPoolExecutor) -> None:
        """Put the rows into batches, those of like length together, and have them answered.

        Of a part's first 16,384 rows all are to be observed. Then it is every 32nd batch; or
        every 32nd row, where batches are of rows of like length and so are no fair sample.
        """
        inputs, size = self.inputs, engine.batch_rows
        num_rows, sees_all = len(inputs.kept), self.row < _ALL_SEEN
        if inputs.lengths is not None:
            # the longest first, so that no long batch is left to one core at the end
            self._order = np.argsort(-inputs.lengths, kind="stable")
            self._seen = [np.arange(0, num_rows, 1 if sees_all else _SEEN_EVERY)]
        for start in range(0, num_rows, size):
            stop = min(start + size, num_rows)
            is_seen = True
            if self._order is None:
                is_seen = sees_all or (self.row + start) // size % _SEEN_EVERY == 0
                if is_seen:
                    self._seen.append(np.arange(start, stop))
            self._answers.append(
                pool.submit(self._answered, engine, start, stop, with_logits=is_seen)
            )

    def _answered(
        self, engine: Engine, start: int, stop: int, *, with_logits: bool
    ) -> list[_Answered]:
        """Return the answers to a batch; where it is refused, to each half of it by itself."""
        try:
            found = engine.answer(self._batch(start, stop), with_logits=with_logits)
        except RefusedRowsError as error:
            if stop - start == 1:
                row = start if self._order is None else int(self._order[start])
                self.refused[row] = str(error)
                return []
            middle = (start + stop) // 2
            return [
                *self._answered(engine, start, middle, with_logits=with_logits),
                *self._answered(engine, middle, stop, with_logits=with_logits),
            ]
        rows = np.arange(start, stop) if self._order is None else self._order[start:stop]
        return [(rows, found)]

    def _batch(self, start: int, stop: int) -> dict[str, Array]:
        inputs = self.inputs
        if self._order is None or inputs.lengths is None:
            return {name: array[start:stop] for name, array in inputs.arrays.items()}
        rows = self._order[start:stop]
        return _trimmed(inputs, rows, int(inputs.lengths[rows].max(initial=1)))

    def answers(self) -> Answers | None:
        """Return what the version says of the rows that have inputs, None where it takes none.

        Of rows that are refused, probabilities are NaN. Its logits are those of the rows in `seen`
        alone.
        """
        found = [each for future in self._answers for each in future.result()]
        self._answers.clear()
        if not found:
            return None
        if self.refused:
            self._seen = [np.setdiff1d(self.seen, np.array([*self.refused]))]
        logits = [(rows, a.logits_NL) for rows, a in found if a.logits_NL is not None]
        logits_NL = None
        if logits and self._is_in_order:
            logits_NL = self._back(logits)  # of these rows alone
        elif logits:
            logits_NL = self._back(logits)[self.seen]
        return Answers(
            probabilities_NL=self._back([(rows, a.probabilities_NL) for rows, a in found]),
            labels_NL=self._back([(rows, a.labels_NL) for rows, a in found]),
            logits_NL=logits_NL,
        )

    @property
    def _is_in_order(self) -> bool:
        """Whether the answers, one after the other, are those of all rows as they were read."""
        return self._order is None and not self.refused

    @property
    def seen(self) -> Array:
        """int64: the rows, of those that have inputs, that are to be observed."""
        return np.concatenate(self._seen) if self._seen else np.arange(0)

    def cancel(self) -> None:
        """Take back the batches that nobody works on yet."""
        for future in self._answers:
            future.cancel()

    def _back(self, parts: list[tuple[Array, Array]]) -> Array:
        """Return the answers of some batches in the order in which their rows were read."""
        answers = [answers for _, answers in parts]
        whole = answers[0] if len(answers) == 1 else np.concatenate(answers)
        if self._is_in_order:
            return whole
        nothing = np.nan if whole.dtype.kind == "f" else 0
        found = np.full((len(self.inputs.kept), *whole.shape[1:]), nothing, dtype=whole.dtype)
        found[np.concatenate([rows for rows, _ in parts])] = whole
        return found


def chunk_rows(engine: Engine, version: ScoredVersion) -> int:
    """Return how many rows are read at once: whole batches, and not more than some megabytes."""
    rows = min(
        _CHUNK_ROWS, _CHUNK_BYTES // max(1, version.row_bytes + 9 * version.decision.num_labels)
    )
    return max(1, rows // engine.batch_rows, 4) * engine.batch_rows


def scored(chunks: Iterable[Chunk | T], engine: Engine) -> Iterator[Chunk | T]:
    """Yield chunks in their order, each when its answers are there; all else as it comes.

    Chunks are made in a thread of their own. Nothing runs on when the iterator is closed.

    Raises:
        ServerError: If no server answers; also what making a chunk raises.
    """
    waiting: deque[Chunk | T] = deque()
    pool = ThreadPoolExecutor(engine.concurrency, thread_name_prefix="score")
    with contextlib.closing(_ahead(chunks)) as made:
        try:
            for item in made:
                if isinstance(item, Chunk):
                    item.send(engine, pool)
                waiting.append(item)
                while len(waiting) > _AHEAD:
                    yield waiting.popleft()
            while waiting:
                yield waiting.popleft()
        finally:
            for item in waiting:
                if isinstance(item, Chunk):
                    item.cancel()
            pool.shutdown(cancel_futures=True)


def _trimmed(inputs: Inputs, rows: Array, length: int) -> dict[str, Array]:
    """Return some rows, without the columns that are padding in all of them."""
    assert inputs.lengths is not None
    width = max(1, length)
    return {
        name: np.ascontiguousarray(array[rows, :width] if array.ndim == 2 else array[rows])
        for name, array in inputs.arrays.items()
    }


class _Raised:
    def __init__(self, error: BaseException) -> None:
        self.error = error


_DONE = object()


def _ahead(items: Iterable[T]) -> Generator[T]:
    """Yield what is made in another thread, a little ahead; that thread ends with this iterator."""
    made: queue.Queue[Any] = queue.Queue(maxsize=_AHEAD)
    is_wanted = threading.Event()
    is_wanted.set()

    def put(item: Any) -> bool:
        while is_wanted.is_set():
            with contextlib.suppress(queue.Full):
                made.put(item, timeout=0.1)
                return True
        return False

    def work() -> None:
        iterator = iter(items)
        try:
            for item in iterator:
                if not put(item):
                    return
            put(_DONE)
        except BaseException as error:  # noqa: BLE001 - raised again by the other thread
            put(_Raised(error))
        finally:
            if hasattr(iterator, "close"):
                iterator.close()

    thread = threading.Thread(target=work, name="score-read", daemon=True)
    thread.start()
    try:
        while (item := made.get()) is not _DONE:
            if isinstance(item, _Raised):
                raise item.error
            yield item
    finally:
        is_wanted.clear()
        thread.join()
