"""The rows of some parts, read, scored, written and counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from thresher.artifacts.input_spec import InputSpec
from thresher.errors import DataError
from thresher.observations import Observations
from thresher.tables.address import Address
from thresher.tables.csv_files import CsvOptions
from thresher.tables.inputs import InputMaker, Inputs
from thresher.tables.numbers import is_finite, missing_of, number_array
from thresher.tables.parts import Part
from thresher.tables.reading import column_types, read_rows
from thresher.tables.rows import ColumnsError, Reject, Rows
from thresher_serving.scoring.engines import Answers, Engine
from thresher_serving.scoring.folder import OutputFolder, PartWriter
from thresher_serving.scoring.model import ScoredVersion
from thresher_serving.scoring.outputs import OutputForm, rejects_table
from thresher_serving.scoring.pipeline import Chunk, chunk_rows, scored
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
    csv: CsvOptions = field(default_factory=CsvOptions)
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
        address: Where the files are; None for tables in memory.
    """

    def __init__(
        self, version: ScoredVersion, options: ScoringOptions, address: Address | None = None
    ) -> None:
        self.version, self.options, self._address = version, options, address
        self._kinds: dict[str, Any] = {}
        self._maker: InputMaker | None = None

    def check(self, parts: Iterable[Part]) -> None:
        """Look at the columns of every file, before a row of any is read.

        Raises:
            DataError: If a column is missing, of the wrong kind, or another one in another file.
        """
        for part in parts:
            try:
                found = column_types(part, self._system, self.options.csv)
            except ColumnsError:
                raise
            except DataError:
                continue  # a broken file is rejected as a whole, in its turn
            if found:
                self.take(found, where=part.path, is_csv=part.form == "csv")

    def take(self, columns: Mapping[str, Any], *, where: str, is_csv: bool = False) -> None:
        """Settle by the first file what the others have to hold, or refuse one that does not.

        Args:
            columns: A file's Arrow types by name; None for Python objects in memory.
            where: Its path.
            is_csv: Whether bytes are texts that are not decoded yet.

        Raises:
            DataError: If a column is missing, of the wrong kind, or another one than before.
        """
        import pyarrow as pa

        taken_over = {}
        for column in self.options.form.columns:
            if column not in columns:
                raise DataError(
                    f'{where}: no column "{column}" to take over; the columns are '
                    f"{', '.join([*columns][:20])}"
                )
            kind = columns[column]
            taken_over[column] = pa.string() if is_csv and pa.types.is_binary(kind) else kind
        if self._maker is None:
            self._maker = InputMaker(
                self.version.input_spec or InputSpec(exact=False),
                self.version.model.inputs,
                columns,
                title=self.version.title,
                folder=self.version.file.parent,
                features=self.options.features,
                text_column=self.options.text_column,
                read_file=None if self._address is None else self._read_file,
            )
            self._kinds = taken_over
        self._maker.check(columns, where)
        for column, kind in taken_over.items():
            before = self._kinds[column]
            if pa.types.is_null(before):  # a column without a value fits whatever others hold
                self._kinds[column] = kind
            elif kind != before and not pa.types.is_null(kind):
                raise DataError(
                    f'{where}: column "{column}" is {kind}, in the files before it is {before}'
                )

    @property
    def schema(self) -> Any:
        """The Arrow schema of scored rows."""
        return self.options.form.schema(self.version, self._kinds)

    def inputs(self, rows: Rows, *, folder: str = "") -> Inputs:
        """Return the inputs of a chunk; the folder holds the pictures that its cells name."""
        assert self._maker is not None
        return self._maker.make(rows, folder=folder)

    @property
    def _system(self) -> Any:
        assert self._address is not None
        return self._address.system

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
            ServerError: If no server answers; what is written stays.
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
            column_types(part, self._system, self.options.csv)
            return
        wanted = tuple(dict.fromkeys([*self._maker.needed, *self._kinds]))
        size = chunk_rows(engine, self.version)
        csv = self.options.csv
        for rows in read_rows(part, self._system, wanted, chunk_rows=size, csv=csv):
            inputs = self.inputs(rows, folder=part.folder)
            row = rows.first_row - part.first_row
            yield Chunk(part=part, rows=rows, inputs=inputs, row=row)

    def _read_file(self, path: str) -> bytes:
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
        ids = {name: self._id_cells(name, rows) for name in self._kinds}
        wrong: dict[int, tuple[str, str | None]] = {
            at: (reason, None) for at, reason in chunk.refused.items()
        }
        if answers is not None:
            for at in _not_finite(answers.probabilities_NL):
                wrong.setdefault(at, ("the network gave NaN", None))
        for name, (_, refused_ids) in ids.items():
            found = np.flatnonzero(np.isin(kept, list(refused_ids))).tolist()
            wrong |= {at: (refused_ids[int(kept[at])], name) for at in found}
        if wrong:
            for at in sorted(wrong):
                reason, column = wrong[at]
                row = rows.position(int(kept[at]))
                rejects.append(Reject(row=row, reason=reason, column=column))
            fine = np.setdiff1d(np.arange(len(kept)), np.array([*wrong]))
            answers = None if answers is None else _of_rows(answers, fine)
            kept = kept[fine]
        rejects.sort(key=lambda reject: -1 if reject.row is None else reject.row)
        tally.num_read += rows.num_rows + len(rows.rejects)
        tally.num_scored += len(kept)
        tally.reject(rejects)
        cells = {name: held for name, (held, _) in ids.items()}
        refused = rejects_table(rejects, _taken(cells, _among(rejects, rows)))
        if answers is None or not len(kept):
            return None, refused
        if tally.seen is None:
            columns = {} if self._maker is None else self._maker.columns
            num_labels = self.version.decision.num_labels
            tally.seen = Observations.for_inputs(num_labels, inputs.arrays, columns)
        tally.seen.count(answers.labels_NL)
        if answers.logits_NL is not None:
            seen = {name: array[chunk.seen] for name, array in inputs.arrays.items()}
            tally.seen.observe(answers.logits_NL, seen)
        if len(kept) < rows.num_rows:
            cells = _taken(cells, kept)
        row = pa.array(rows.positions(kept), pa.int64())
        labels = pa.array(self.version.decision.labels, pa.string())
        held = [*cells.values(), row, *self.options.form.arrays(answers, labels)]
        return pa.RecordBatch.from_arrays(held, schema=self.schema), refused

    def _id_cells(self, name: str, rows: Rows) -> tuple[Any, dict[int, str]]:
        """Return a column that is taken over, in its kind, and by row why it cannot be."""
        import pyarrow as pa

        cells, kind = rows.columns[name], self._kinds[name]
        if not hasattr(cells, "type"):
            return pa.array(cells, kind), {}
        if cells.type == kind:
            return cells, {}
        if pa.types.is_floating(kind):  # an ARFF file's numbers, of which one is none or too long
            refused: dict[int, str] = {}

            def refuse(row: int, reason: str, _column: str | None) -> None:
                refused[row] = f"{reason}; an ARFF attribute of strings keeps ids as they are"

            numbers = number_array(cells, name, np.dtype(np.float64), refuse, fill=0)
            return pa.array(numbers, kind, mask=missing_of(cells)), refused
        try:
            return cells.cast(kind), {}  # a CSV file's bytes, or nothing but nulls
        except pa.ArrowInvalid:
            held = cells.to_pylist()
            texts = [None if cell is None else cell.decode(errors="replace") for cell in held]
            wrong = {
                row: "not UTF-8"
                for row, (cell, text) in enumerate(zip(held, texts, strict=True))
                if text is not None and cell != text.encode()
            }
            return pa.array(texts, kind), wrong


def _not_finite(probabilities_NL: Any) -> list[int]:
    """Return the rows that hold NaN."""
    if is_finite(probabilities_NL):
        return []
    found: list[int] = np.flatnonzero(~np.isfinite(probabilities_NL).all(axis=1)).tolist()
    return found


def _among(rejects: Sequence[Reject], rows: Rows) -> list[int | None]:
    """Return which of a chunk's rows are rejected; None for one that is in no column."""
    positions = rows.positions(np.arange(rows.num_rows))
    found: list[int | None] = []
    for reject in rejects:
        at = (
            int(np.searchsorted(positions, reject.row))
            if reject.row is not None
            else len(positions)
        )
        is_held = at < len(positions) and positions[at] == reject.row
        found.append(at if is_held else None)
    return found


def _taken(columns: Mapping[str, Any], at: Any) -> dict[str, Any]:
    """Return some rows of Arrow columns, null where a position is None."""
    import pyarrow as pa

    index = pa.array(at, pa.int64())
    return {name: cells.take(index) for name, cells in columns.items()}


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
