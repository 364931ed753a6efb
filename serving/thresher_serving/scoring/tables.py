"""Scores tables in memory: Arrow tables, pandas frames, or a stream of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, overload

from thresher.errors import DataError
from thresher_serving.scoring.engines import Engine
from thresher_serving.scoring.job import ScoringJob, ScoringOptions
from thresher_serving.scoring.model import ScoredVersion
from thresher_serving.scoring.outputs import rejects_table
from thresher_serving.scoring.pipeline import Chunk, chunk_rows, scored
from thresher_serving.scoring.rows import Rows
from thresher_serving.scoring.tally import Tally

__all__ = ["Scored", "score"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scored:
    """What a version says of a table's rows."""

    table: Any
    """A `pyarrow.Table` of the rows that were scored, in their order; ``row`` is their position."""
    rejects: Any
    """A `pyarrow.Table` of those that could not be: ``row``, ``column`` and ``reason``."""
    tally: Tally
    """Counts that add up, rates, and what was observed."""


@overload
def score(
    version: ScoredVersion, data: Iterator[Any], engine: Engine, options: ScoringOptions = ...
) -> Iterator[Scored]: ...


@overload
def score(
    version: ScoredVersion, data: Any, engine: Engine, options: ScoringOptions = ...
) -> Scored: ...


def score(
    version: ScoredVersion,
    data: Any,
    engine: Engine,
    options: ScoringOptions = ScoringOptions(),  # noqa: B008 - immutable
) -> Any:
    """Return what a version says of each row, and why of those that it cannot score.

    Args:
        version: The version, from `ScoredVersion.published`.
        data: A `pyarrow.Table` or record batch, or a pandas frame; or an iterator of them, each of
            which is answered for itself, while the next one is read.
        engine: Who scores, such as `OnnxRuntimeEngine`.
        options: Which columns are read, and what is returned.

    Raises:
        DataError: If the columns do not fit, or it is no table.
        ServerError: If there is nobody who answers.

    Example:
        version = ScoredVersion.published(PublishedModels(Path("model_repository")), "digits", 3)
        found = score(version, table, OnnxRuntimeEngine(version))
        print(found.table, found.rejects)
    """
    if isinstance(data, Iterator):
        return _each(version, data, engine, options)
    return next(_each(version, iter([data]), engine, options))


@dataclass(frozen=True, slots=True)
class _End:
    """A table has ended."""


def _each(
    version: ScoredVersion, data: Iterable[Any], engine: Engine, options: ScoringOptions
) -> Iterator[Scored]:
    import pyarrow as pa

    job = ScoringJob(version, options)
    size = chunk_rows(engine, version)

    def chunks() -> Iterator[Chunk | _End]:
        for number, given in enumerate(data):
            table = _table(given)
            kinds = {field.name: field.type for field in table.schema}
            job.take(kinds, where=f"table {number}")
            start = 0
            for batch in table.to_batches(max_chunksize=size):
                columns = dict(zip(batch.schema.names, batch.columns, strict=True))
                rows = Rows(columns=columns, num_rows=batch.num_rows, first_row=start)
                yield Chunk(rows=rows, inputs=job.inputs(rows), row=start)
                start += batch.num_rows
            yield _End()

    batches: list[Any] = []
    rejects: list[Any] = []
    tally = Tally()
    for item in scored(chunks(), engine):
        if isinstance(item, Chunk):
            batch, rejected = job.written(item, tally)
            batches += [] if batch is None else [batch]
            rejects.append(rejected)
            continue
        yield Scored(
            table=pa.Table.from_batches(batches, job.schema),
            rejects=pa.concat_tables(rejects) if rejects else rejects_table([]),
            tally=tally,
        )
        batches, rejects, tally = [], [], Tally()


def _table(given: Any) -> Any:
    import pyarrow as pa

    if isinstance(given, pa.Table):
        return given
    if isinstance(given, pa.RecordBatch):
        return pa.Table.from_batches([given])
    if hasattr(given, "iloc") and hasattr(given, "columns"):
        return pa.Table.from_pandas(given, preserve_index=False)
    raise DataError(
        f"got a {type(given).__name__}, expected a pyarrow table, a pandas frame, or an iterator "
        "of them; for files there is score_files"
    )
