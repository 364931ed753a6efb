"""The rows of some parts, read, scored, written and counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from thresher.errors import DataError
from thresher.observations import Observations
from thresher_serving.scoring.csv_files import CsvForm
from thresher_serving.scoring.engines import Answers, Engine
from thresher_serving.scoring.folder import OutputFolder, PartWriter
from thresher_serving.scoring.inputs import InputMaker, Inputs
from thresher_serving.scoring.model import ScoredVersion
from thresher_serving.scoring.numbers import is_finite
from thresher_serving.scoring.outputs import OutputForm, rejects_table
from thresher_serving.scoring.parts import Part
from thresher_serving.scoring.pipeline import Chunk, chunk_rows, scored
from thresher_serving.scoring.places import Place
from thresher_serving.scoring.reading import columns_of, rows_of
from thresher_serving.scoring.rows import Reject, Rows
from thresher_serving.scoring.tally import Tally

__all__ = ["Progress", "ScoringJob", "ScoringOptions"]

Progress = Callable[[int], None]
"""Called with the rows that were read since it was called last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringOptions:
    """How an input is read and an output written."""

    form: OutputForm = field(default_factory=OutputForm)
    """The output's columns."""
    features: tuple[str, ...] = ()
    """Columns of the input of numbers, in the order of training, where that is not known."""
    text_column: str | None = None
    """The column with texts, where it is not the one of training."""
    csv: CsvForm = field(default_factory=CsvForm)
    """How CSV files are written."""


@dataclass(frozen=True, slots=True)
class _End:
    """All rows of a part were read, or it was found broken."""

    part: Part
    broken: DataError | None = None


class ScoringJob:
    """What is scored by which version.

    Args:
        version: The version.
        options: How rows are read and written.
        place: Where files lie; None for tables in memory.
    """

    def __init__(
        self, version: ScoredVersion, options: ScoringOptions, place: Place | None = None
    ) -> None:
        self.version, self.options, self._place = version, options, place
        self._kinds: dict[str, Any] = {}
        self._maker: InputMaker | None = None

    def check(self, parts: Iterable[Part]) -> None:
        """Look at the columns of every file, before a row of any is read.

        Raises:
            DataError: If a column is missing, of the wrong kind, or another one in another file.
        """
        for part in parts:
            try:
                found = columns_of(part, self._system, self.options.csv)
            except DataError:
                continue  # a broken file is rejected as a whole, in its turn
            if found:
                self.take(found, where=part.path)

    def take(self, columns: Mapping[str, Any], *, where: str) -> None:
        """Settle by the first file what the others have to hold, or refuse one that does not.

        Args:
            columns: A file's Arrow types by name.
            where: Its path.

        Raises:
            DataError: If a column is missing, of the wrong kind, or another one than before.
        """
        import pyarrow as pa

        taken_over = self.options.form.columns
        for column in taken_over:
            if column not in columns:
                raise DataError(
                    f'{where}: no column "{column}" to take over; the columns are '
                    f"{', '.join([*columns][:20])}"
                )
        if self._maker is None:
            self._maker = InputMaker(
                self.version,
                columns,
                features=self.options.features,
                text_column=self.options.text_column,
                read_picture=None if self._place is None else self._read_picture,
            )
            self._kinds = {column: columns[column] for column in taken_over}
        self._maker.check(columns, where)
        for column, kind in [*self._kinds.items()]:
            if pa.types.is_null(kind):  # a column without a value fits whatever others hold
                self._kinds[column] = columns[column]
            elif columns[column] != kind and not pa.types.is_null(columns[column]):
                raise DataError(
                    f'{where}: column "{column}" is {columns[column]}, in the files before it '
                    f"is {kind}"
                )

    @property
    def schema(self) -> Any:
        """The Arrow schema of scored rows."""
        return self.options.form.schema(self.version, self._kinds)

    def inputs(self, rows: Rows, *, folder: str = "") -> Inputs:
        """Return the inputs of a chunk; pictures that its cells name lie in the folder."""
        assert self._maker is not None
        return self._maker.inputs(rows, folder=folder)

    @property
    def _system(self) -> Any:
        assert self._place is not None
        return self._place.system

    def run(
        self,
        parts: Sequence[Part],
        engine: Engine,
        folder: OutputFolder,
        *,
        progress: Progress = lambda _: None,
    ) -> Iterator[tuple[Part, Tally]]:
        """Score some parts; yield each with its counts when it is written and noted.

        Reading, scoring and writing run side by side, also across the border of two parts.

        Raises:
            ServerError: If there is nobody who answers; what is written stays.
            PublishError: If the folder cannot be written.
        """
        writer: PartWriter | None = None
        tally, schema = Tally(), self.schema
        try:
            for item in scored(self._chunks(parts, engine), engine):
                if writer is None:
                    writer, tally = PartWriter(folder, item.part.name, schema), Tally()
                if isinstance(item, Chunk):
                    batch, rejects = self.written(item, tally)
                    if batch is not None:
                        writer.write(batch)
                    writer.reject(rejects)
                    progress(item.rows.num_rows + len(item.rows.rejects))
                    continue
                if item.broken is not None:
                    writer.drop()
                    writer = PartWriter(folder, item.part.name, schema)
                    tally = _of_broken(item.part, item.broken)
                    writer.reject(rejects_table([Reject(row=None, reason=str(item.broken))]))
                writer.close()
                writer = None
                folder.finish(item.part.name, tally)
                yield item.part, tally
        finally:
            if writer is not None:
                writer.drop()

    def _chunks(self, parts: Sequence[Part], engine: Engine) -> Iterator[Chunk | _End]:
        for part in parts:
            try:
                yield from self._chunks_of(part, engine)
            except DataError as error:
                yield _End(part, error)
            else:
                yield _End(part)

    def _chunks_of(self, part: Part, engine: Engine) -> Iterator[Chunk]:
        if self._maker is None:  # every file is empty, or broken
            columns_of(part, self._system, self.options.csv)
            return
        wanted = tuple(dict.fromkeys([*self._maker.needed, *self._kinds]))
        size = chunk_rows(engine, self.version)
        csv = self.options.csv
        for rows in rows_of(part, self._system, wanted, chunk_rows=size, csv=csv):
            inputs = self.inputs(rows, folder=part.folder)
            row = rows.first_row - part.first_row
            yield Chunk(part=part, rows=rows, inputs=inputs, row=row)

    def _read_picture(self, path: str) -> bytes:
        """Return a picture's file."""
        try:
            with self._system.open_input_stream(path, compression=None) as file:
                return bytes(file.read())
        except FileNotFoundError:
            raise DataError(f"no such picture: {path}") from None

    def written(self, chunk: Chunk, tally: Tally) -> tuple[Any, Any]:
        """Return a chunk's rows as written, an Arrow record batch or None, and its rejected rows.

        Args:
            chunk: Rows whose answers are there, or on their way.
            tally: Counts them.
        """
        import pyarrow as pa

        rows, inputs = chunk.rows, chunk.inputs
        answers = chunk.answers()
        kept, rejects = inputs.kept, list(inputs.rejects)
        if answers is not None and not is_finite(answers.probabilities_NL):
            fine = np.isfinite(answers.probabilities_NL).all(axis=1)
            rejects += [
                Reject(row=rows.first_row + int(row), reason="the network gave NaN")
                for row in kept[~fine]
            ]
            answers, kept = _of_rows(answers, fine), kept[fine]
        tally.num_read += rows.num_rows + len(rows.rejects)
        tally.num_scored += len(kept)
        tally.reject(rejects)
        told = rejects_table(rejects, self._ids(rows, _positions(rejects, rows)))
        if answers is None or not len(kept):
            return None, told
        if tally.seen is None:
            columns = {} if self._maker is None else self._maker.columns
            num_labels = self.version.decision.num_labels
            tally.seen = Observations.for_inputs(num_labels, inputs.arrays, columns)
        tally.seen.count(answers.labels_NL)
        if answers.logits_NL is not None:
            seen = {name: array[chunk.seen] for name, array in inputs.arrays.items()}
            tally.seen.observe(answers.logits_NL, seen)
        ids = self._ids(rows, kept)
        row = pa.array(kept + rows.first_row, pa.int64())
        labels = pa.array(self.version.decision.labels, pa.string())
        held = [*ids.values(), row, *self.options.form.arrays(answers, labels)]
        return pa.RecordBatch.from_arrays(held, schema=self.schema), told

    def _ids(self, rows: Rows, at: Any) -> dict[str, Any]:
        """Return the columns that are taken over, of some rows of a chunk; null where at is."""
        import pyarrow as pa

        is_whole = len(at) == rows.num_rows and isinstance(at, np.ndarray)
        index = pa.array(at, pa.int64())
        found = {}
        for name, kind in self._kinds.items():
            whole = rows.columns[name]
            cells = whole if is_whole else whole.take(index)
            found[name] = cells if cells.type == kind else _as_texts(cells, kind)
        return found


def _positions(rejects: Sequence[Reject], rows: Rows) -> list[int | None]:
    """Return where rejected rows stand in their chunk; None for a line that is no row."""
    return [None if reject.row is None else reject.row - rows.first_row for reject in rejects]


def _as_texts(cells: Any, kind: Any) -> Any:
    """Return a CSV file's bytes as texts, and nothing as nulls."""
    import pyarrow as pa

    if pa.types.is_null(cells.type):
        return pa.nulls(len(cells), kind)
    texts = (None if cell is None else cell.decode(errors="replace") for cell in cells.to_pylist())
    return pa.array(texts, kind)


def _of_rows(answers: Answers, keep: Any) -> Answers:
    return Answers(
        probabilities_NL=answers.probabilities_NL[keep],
        labels_NL=answers.labels_NL[keep],
        logits_NL=answers.logits_NL,
    )


def _of_broken(part: Part, error: DataError) -> Tally:
    """Return the counts of a file that is rejected as a whole."""
    tally = Tally(broken=[str(error)])
    if part.num_rows is not None:
        tally.num_read = tally.num_rejected = part.num_rows
        tally.reasons["the file cannot be read"] = part.num_rows
    return tally
