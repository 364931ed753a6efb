"""CSV and TSV files: cells stay bytes, so that one wrong cell or line costs one row."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from thresher_serving.scoring.parts import Part
from thresher_serving.scoring.rows import Reject, check_names, named_columns

__all__ = ["CsvForm", "csv_chunks", "open_csv"]

_BLOCK_BYTES = 1 << 22


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvForm:
    """How CSV and TSV files are written."""

    delimiter: str | None = None
    """A tab in ``.tsv`` and a comma elsewhere where left out."""
    columns: tuple[str, ...] | None = None
    """The columns' names, for files without a header line."""
    quoting: bool = True
    """Whether a cell in double quotes may hold delimiters; false takes quotes as text."""


def csv_chunks(
    part: Part, system: Any, columns: list[str], chunk_rows: int, *, csv: CsvForm
) -> Iterator[tuple[dict[str, Any], int, Sequence[Reject]]]:
    """Yield columns, number of rows, and lines that are no rows."""
    import pyarrow as pa

    bad: list[Any] = []
    if not part.num_bytes:
        return

    def rejected() -> list[Reject]:
        found = [
            Reject(
                row=None,
                line=line.number,
                reason=f"{line.actual_columns} cells, expected {line.expected_columns}",
            )
            for line in bad
        ]
        bad.clear()
        return found

    with open_csv(part, system, columns, csv, bad) as reader:
        for whole in reader:
            for start in range(0, max(1, whole.num_rows), chunk_rows):
                batch = whole.slice(start, chunk_rows)
                yield named_columns(batch, columns, part.path), batch.num_rows, rejected()
        if bad:  # the last lines of the file
            empty = {name: pa.array([], pa.binary()) for name in columns}
            yield empty, 0, rejected()


@contextlib.contextmanager
def open_csv(
    part: Part,
    system: Any,
    columns: list[str] | None,
    csv: CsvForm,
    bad: list[Any],
) -> Iterator[Any]:
    """Yield a reader whose cells are bytes, so that one wrong cell costs one row."""
    import pyarrow as pa
    import pyarrow.csv as pacsv

    is_tsv = ".tsv" in PurePosixPath(part.path).suffixes

    def skip(row: Any) -> str:
        bad.append(row)
        return "skip"

    parse = pacsv.ParseOptions(
        delimiter=csv.delimiter or ("\t" if is_tsv else ","),
        quote_char='"' if csv.quoting else False,
        newlines_in_values=csv.quoting,
        invalid_row_handler=skip,
    )
    read = pacsv.ReadOptions(block_size=_BLOCK_BYTES, use_threads=False, column_names=csv.columns)

    def convert(held: Sequence[str], wanted: Sequence[str]) -> Any:
        return pacsv.ConvertOptions(
            check_utf8=False,
            column_types=dict.fromkeys(held, pa.binary()),
            include_columns=list(wanted),
            strings_can_be_null=False,
            quoted_strings_can_be_null=False,
        )

    with system.open_input_stream(part.path) as source:
        head = pacsv.open_csv(
            source, read_options=read, parse_options=parse, convert_options=convert([], [])
        )
        held = head.schema.names
        head.close()
    bad.clear()
    check_names(columns or (), held, part.path)
    with (
        system.open_input_stream(part.path) as source,
        pacsv.open_csv(
            source,
            read_options=read,
            parse_options=parse,
            convert_options=convert(held, held if columns is None else columns),
        ) as reader,
    ):
        yield reader
