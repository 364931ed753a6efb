"""Scores tables in memory: Arrow tables, frames, lists of dicts, or a stream of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

from thresher.errors import DataError
from thresher.tables.memory import memory_rows
from thresher.tables.rows import Rows
from thresher_serving.scoring.engines import Engine
from thresher_serving.scoring.job import ScoringJob, ScoringOptions
from thresher_serving.scoring.model import ScoredVersion
from thresher_serving.scoring.outputs import rejects_table
from thresher_serving.scoring.pipeline import Chunk, chunk_rows, scored
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
        data: A `pyarrow.Table` or record batch, a pandas or Polars frame, a dict of columns or a
            list of dicts; or an iterator of them, each of which is answered for itself, while the
            next one is read.
        engine: Who scores, such as `OnnxRuntimeEngine`.
        options: Which columns are read, and what is returned.

    Raises:
        DataError: If the columns do not fit, or it is no table.
        ServerError: If no server answers.

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
            where = f"table {number}"
            kinds, found = memory_rows(given, chunk_rows=size, where=where)
            if None in kinds.values():
                kinds, found = _with_arrow(kinds, next(found), options.form.columns, where)
            job.take(kinds, where=where)
            for rows in found:
                yield Chunk(rows=rows, inputs=job.inputs(rows), row=rows.first_row)
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


def _with_arrow(
    kinds: dict[str, Any], rows: Rows, columns: Sequence[str], where: str
) -> tuple[dict[str, Any], Iterator[Rows]]:
    """Return rows of Python objects with some columns as Arrow's, which are to be written.

    Raises:
        DataError: If a column mixes kinds.
    """
    import pyarrow as pa

    made: dict[str, Any] = {}
    for name in columns:
        try:
            made |= {name: pa.array(rows.columns[name])} if name in kinds else {}
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise DataError(f'{where}: column "{name}" mixes kinds: {error}') from error
    kinds = kinds | {name: cells.type for name, cells in made.items()}
    return kinds, iter([dataclasses.replace(rows, columns={**rows.columns, **made})])
