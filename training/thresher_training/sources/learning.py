"""Which columns make which input, and what the train rows say of them: the input spec."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from thresher.artifacts.input_spec import InputSpec
from thresher.errors import ConfigError, DataError, unknown_name
from thresher.tables.categories import distinct_categories, holds_categories
from thresher.tables.inputs import matched_columns
from thresher.tables.numbers import (
    is_list,
    is_number,
    is_text,
    missing_of,
    number_array,
    plain_cells,
)
from thresher.tables.rows import RejectRow, Rows
from thresher_training.sources.options import Fill, SourceOptions
from thresher_training.sources.tables import Table

__all__ = ["InputShape", "TableInputs", "TrainRows"]

Array = npt.NDArray[Any]

CATEGORIES, FEATURES = "categories", "features"
_MEDIAN_BYTES = 1 << 26


@dataclass(frozen=True, slots=True, kw_only=True)
class InputShape:
    """An input's axes without the rows, and its kind."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class TrainRows:
    """The rows of a table that belong to the train split.

    Args:
        table: The table.
        is_train_N: Which of its rows.
    """

    def __init__(self, table: Table, is_train_N: Array) -> None:
        self.table, self._is_train_N = table, is_train_N

    def columns(self, names: Sequence[str]) -> Iterator[tuple[dict[str, Any], RejectRow]]:
        """Yield some columns of these rows chunk by chunk, with what takes wrong cells."""
        import pyarrow as pa

        first = 0
        for part, rows in self.table.rows(names):
            mask = self._is_train_N[first : first + rows.num_rows]
            first += rows.num_rows
            if mask.all():
                yield {name: rows.columns[name] for name in names}, self.table.refuse(part, rows)
            elif mask.any():
                chosen = {name: rows.columns[name].filter(pa.array(mask)) for name in names}
                kept = Rows(
                    columns=chosen,
                    num_rows=int(mask.sum()),
                    first_row=rows.first_row,
                    # rows left out count like rows that cannot be read: positions stay right
                    skipped=rows.positions(np.flatnonzero(mask))
                    - rows.first_row
                    - np.arange(int(mask.sum())),
                )
                yield chosen, self.table.refuse(part, kept)


class TableInputs:
    """Which columns make which input.

    Args:
        options: Name them.
        table: The train table.
        taken: The columns of labels and groups.

    Raises:
        ConfigError: If a column is used twice, or none is left.
        DataError: If a column does not exist, or holds neither numbers nor categories.
    """

    def __init__(self, options: SourceOptions, table: Table, taken: Sequence[str]) -> None:
        self.options, self.table = options, table
        given = {
            k: (v,) if isinstance(v, str) else tuple(v) for k, v in (options.inputs or {}).items()
        }
        for name, made in ((FEATURES, options.features), (CATEGORIES, options.categories)):
            if made and name in given:
                raise ConfigError(f'inputs holds "{name}", which the option {name} makes already')
        self.by_input = {name: self._matched(of) for name, of in given.items()}
        ignored = self._matched(options.ignore)
        self.categories = self._matched(options.categories) or tuple(
            name for name in self._nominal() if name not in {*taken, *ignored}
        )
        if options.features is not None and FEATURES not in given:
            self.by_input[FEATURES] = self._matched(options.features)
        elif FEATURES not in given:
            used = {*taken, *ignored, *self.categories, *chain(*self.by_input.values())}
            rest = tuple(name for name in table.columns if name not in used)
            if rest:
                self.by_input[FEATURES] = rest
        self._check(taken)

    def _matched(self, patterns: Sequence[str]) -> tuple[str, ...]:
        columns = list(self.table.columns)
        # the columns of a partition, and row numbers, only where they are named in full
        columns += [name for name in patterns if name in self.table.kinds and name not in columns]
        try:
            return matched_columns(patterns, columns)
        except DataError as error:
            raise DataError(f"{self.table.parts[0].path}: {error}") from None

    def _nominal(self) -> Iterator[str]:
        """Yield the nominal attributes of an ARFF file whose values are no numbers."""
        import pyarrow as pa

        if self.table.form == "arff" and not self.options.categories:
            explicit = set(self.options.features or ())
            for name, kind in self.table.kinds.items():
                if pa.types.is_dictionary(kind) and name not in explicit:
                    yield name

    def _check(self, taken: Sequence[str]) -> None:
        where = self.table.parts[0].path
        numbers = [*chain(*self.by_input.values())]
        for name in (*numbers, *self.categories):
            if name in taken:
                raise ConfigError(f'the column "{name}" is an input and a label or group column')
        both = [name for name in self.categories if name in numbers]
        if both:
            raise ConfigError(f'the column "{both[0]}" is a category and holds numbers of an input')
        if not numbers and not self.categories:
            raise ConfigError(f"{where} has no column that is left for an input")
        for name in self.categories:
            if not holds_categories(self.table.kinds[name]):
                raise DataError(
                    f'{where}: column "{name}" is {self.table.kinds[name]}, expected texts, '
                    f'numbers or dates; ignore = ["{name}"] leaves it out'
                )
        for name in numbers:
            kind = self.table.kinds[name]
            while is_list(kind):
                kind = kind.value_type
            if not (is_text(kind) or is_number(kind)):
                raise DataError(
                    f'{where}: column "{name}" is {self.table.kinds[name]}, expected numbers; '
                    f'ignore = ["{name}"] leaves it out'
                )

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read."""
        return tuple(dict.fromkeys([*chain(*self.by_input.values()), *self.categories]))

    def learn(self, rows: TrainRows, scratch: Path) -> tuple[InputSpec, dict[str, InputShape]]:
        """Return the spec, and shape and kind of each input.

        Args:
            rows: The train rows.
            scratch: A file for what need not fit into memory.

        Raises:
            DataError: If a cell is wrong; names the line.
        """
        lists = self._list_shapes(rows)
        scalars = list(dict.fromkeys(c for c in chain(*self.by_input.values()) if c not in lists))
        asked = self._fills(scalars, lists)
        figures = _Figures(
            columns=scalars if self.options.flag_missing else [],
            means=[name for name, fill in asked.items() if fill == "mean"],
            medians=[name for name, fill in asked.items() if fill == "median"],
            scratch=scratch,
        )
        kinds = {name: _Kind(of[0]) for name, of in self.by_input.items() if self._is_text(name)}
        seen: dict[str, set[str]] = {name: set() for name in self.categories}
        needed = dict.fromkeys([*seen, *figures.needed, *(k.column for k in kinds.values())])
        for cells, reject in rows.columns(list(needed)) if needed else ():
            for name, values in seen.items():
                values.update(distinct_categories(cells[name], name, reject))
            for kind in kinds.values():
                kind.add(cells[kind.column])
            figures.add(cells, reject)
        fills: dict[str, Any] = asked | figures.fills()
        widths = self._widths(lists)
        flagged: dict[str, tuple[str, ...]] = {}
        shapes = {}
        for name, of in self.by_input.items():
            dtype = kinds[name].dtype if name in kinds else self._dtype(name)
            if len(of) == 1 and (of[0] in lists or dtype.kind in "iu"):
                shape = lists.get(of[0], ())
            else:
                flags = tuple(column for column in of if column in figures.missing)
                flagged |= {name: flags} if flags else {}
                shape = (sum(widths.get(column, 1) for column in of) + len(flags),)
            shapes[name] = InputShape(shape=shape, dtype=dtype)
            if dtype.kind in "iu":  # a mean need not be a whole number
                fills |= {column: round(fills[column]) for column in of if column in figures.learnt}
        categories = {}
        if seen:
            categories[CATEGORIES] = {name: tuple(sorted(values)) for name, values in seen.items()}
            shapes[CATEGORIES] = InputShape(shape=(len(seen),), dtype=np.dtype(np.int64))
        fill = self.options.fill_missing
        spec = InputSpec(
            columns=dict(self.by_input),
            widths=widths,
            fill_missing=fill if isinstance(fill, (int, float)) else None,
            fills=fills,
            flagged=flagged,
            categories=categories,
        )
        return spec, shapes

    def _widths(self, lists: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
        """Return the width of each column of lists that is not an input by itself."""
        found = {}
        for name, of in self.by_input.items():
            for column in of:
                if column in lists and (len(of) > 1 or name == FEATURES):
                    if len(lists[column]) > 1:
                        raise DataError(
                            f'{self.table.parts[0].path}: column "{column}" holds arrays '
                            f'{list(lists[column])}, and the input "{name}" is flat; make it an '
                            f'input of its own: inputs = {{ "{column}" = "{column}" }}'
                        )
                    if len(of) > 1:
                        found[column] = lists[column][0]
        return found

    def _list_shapes(self, rows: TrainRows) -> dict[str, tuple[int, ...]]:
        """Return the axes of columns of lists or tensors; by the first row if types lack them."""
        import pyarrow as pa

        found: dict[str, tuple[int, ...]] = {}
        unknown = []
        for name in dict.fromkeys(chain(*self.by_input.values())):
            kind = self.table.kinds[name]
            if isinstance(kind, pa.FixedShapeTensorType):
                order = kind.permutation or range(len(kind.shape))
                found[name] = tuple(kind.shape[axis] for axis in order)
            elif is_list(kind):
                unknown.append(name)
        for cells, _ in rows.columns(unknown) if unknown else ():
            for name in unknown:
                if name not in found and (row := _first(cells[name])) is not None:
                    found[name] = _axes(row)
            if all(name in found for name in unknown):
                break
        for name in unknown:
            if 0 in found.setdefault(name, (0,)):
                raise DataError(
                    f'{self.table.parts[0].path}: column "{name}" holds empty lists, expected '
                    "numbers"
                )
        return found

    def _is_text(self, name: str) -> bool:
        """Return whether only its cells show an input's kind."""
        of = self.by_input[name]
        return name != FEATURES and len(of) == 1 and is_text(self.table.kinds[of[0]])

    def _dtype(self, name: str) -> np.dtype[Any]:
        """Return the kind of an input: float32, or whole numbers where it is one such column."""
        import pyarrow as pa

        of, float32 = self.by_input[name], np.dtype(np.float32)
        if name == FEATURES or len(of) > 1:
            return float32
        kind = self.table.kinds[of[0]]
        if isinstance(kind, pa.FixedShapeTensorType):
            kind = kind.value_type
        while is_list(kind) or pa.types.is_dictionary(kind):
            kind = kind.value_type
        if pa.types.is_boolean(kind):
            return np.dtype(np.uint8)
        if pa.types.is_decimal(kind) and kind.scale <= 0:
            return np.dtype(np.int64)
        return np.dtype(kind.to_pandas_dtype()) if pa.types.is_integer(kind) else float32

    def _fills(self, scalars: Sequence[str], lists: Collection[str]) -> dict[str, Fill]:
        """Return what stands in for missing numbers, by column, where it is not one number for all.

        Raises:
            ConfigError: If it is neither a number nor "mean" or "median", or for no input.
        """
        given = self.options.fill_missing
        if given is None or type(given) in (int, float):
            return {}
        by_pattern = given if isinstance(given, Mapping) else dict.fromkeys(scalars, given)
        if not isinstance(given, Mapping):
            _check_fill(given)
        found: dict[str, Fill] = {}
        for pattern, fill in by_pattern.items():
            _check_fill(fill)
            held = [*scalars, *(lists if not isinstance(fill, str) else ())]
            columns = [column for column in self._matched([pattern]) if column in held]
            if not columns:
                raise ConfigError(f'fill_missing: "{pattern}" names no column of single numbers')
            # a name counts more than a pattern, wherever it stands
            found |= {c: fill for c in columns if c == pattern or c not in by_pattern}
        return found


def _check_fill(fill: object) -> None:
    if type(fill) in (int, float) or fill in ("mean", "median"):
        return
    said = f'{fill!r}, expected a number, "mean" or "median"'
    if isinstance(fill, str):
        said = unknown_name("way", fill, ("mean", "median"))
    raise ConfigError(f"fill_missing: {said}")


def _axes(row: Any) -> tuple[int, ...]:
    """Return the axes of lists of lists, by the first of each."""
    if not isinstance(row, list):
        return ()
    return (len(row), *(_axes(row[0]) if row else ()))


def _first(cells: Any) -> Any:
    """Return the first list of a column, None where all are missing."""
    return next((cell.as_py() for cell in cells if cell.is_valid), None)


@dataclass(slots=True)
class _Kind:
    """Finds out whether a column's texts are whole numbers, and of which kind."""

    column: str
    is_whole: bool = True
    is_flag: bool = True
    fits: list[np.dtype[Any]] = field(
        default_factory=lambda: [np.dtype(np.int64), np.dtype(np.uint64)]
    )

    def add(self, cells: Any) -> None:
        """Look at some more cells."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if not self.is_whole and not self.is_flag:
            return
        texts = plain_cells(cells, "", lambda *_: None)
        texts = pc.utf8_trim_whitespace(texts.filter(pa.array(~missing_of(texts))))
        if not len(texts):
            return

        def are_all(pattern: str) -> bool:
            return bool(pc.all(pc.match_substring_regex(texts, pattern)).as_py())

        self.is_flag = self.is_flag and are_all("^(?i:true|false)$")
        self.is_whole = self.is_whole and are_all("^[+-]?[0-9]+$")
        if not self.is_whole:
            return
        unsigned = pc.utf8_ltrim(texts, "+")
        for dtype in list(self.fits):
            try:
                pc.cast(unsigned, pa.from_numpy_dtype(dtype))
            except pa.ArrowInvalid:
                self.fits.remove(dtype)

    @property
    def dtype(self) -> np.dtype[Any]:
        """int64, uint64 or float32; uint8 for true and false."""
        if self.is_flag and not self.is_whole:
            return np.dtype(np.uint8)
        return self.fits[0] if self.is_whole and self.fits else np.dtype(np.float32)


class _Figures:
    """Means and medians of columns, and which lack a number.

    Args:
        columns: Those of which is noted whether a number is missing.
        means: Those whose mean is asked.
        medians: Those whose median is asked.
        scratch: A file that takes the numbers of the latter.
    """

    def __init__(
        self, *, columns: list[str], means: list[str], medians: list[str], scratch: Path
    ) -> None:
        self.missing: set[str] = set()
        self.learnt = (*means, *medians)
        self.needed = list(dict.fromkeys([*columns, *means, *medians]))
        self._columns, self._means, self._medians = columns, means, medians
        self._sum = dict.fromkeys(means, 0.0)
        self._count = dict.fromkeys(means, 0)
        self._scratch = scratch

    def add(self, cells: Mapping[str, Any], reject: RejectRow) -> None:
        """Take some more rows."""
        values = {}
        for name in self.needed:
            gaps = missing_of(plain_cells(cells[name], name, reject))
            if gaps.any() and name in self._columns:
                self.missing.add(name)
            if name in self._means or name in self._medians:
                found = number_array(
                    cells[name], name, np.dtype(np.float64), reject, fill=0, exact=False
                )
                values[name] = np.where(gaps, np.nan, found)
        for name in self._means:
            self._sum[name] += float(np.nansum(values[name]))
            self._count[name] += int((~np.isnan(values[name])).sum())
        if self._medians:
            with self._scratch.open("ab") as file:
                file.write(np.stack([values[name] for name in self._medians], axis=1).tobytes())

    def fills(self) -> dict[str, float]:
        """Return mean or median of each column that one is asked of.

        Raises:
            DataError: If it has no number at all.
        """
        found = {n: self._sum[n] / self._count[n] for n in self._means if self._count[n]}
        width = len(self._medians)
        if width and self._scratch.exists():
            table = np.memmap(self._scratch, dtype=np.float64, mode="r").reshape(-1, width)
            step = max(1, _MEDIAN_BYTES // (8 * len(table)))
            for start in range(0, width, step):
                block = np.array(table[:, start : start + step])
                for name, values in zip(self._medians[start : start + step], block.T, strict=True):
                    present = values[~np.isnan(values)]
                    if len(present):
                        found[name] = float(np.median(present))
        for name in self.learnt:
            if name not in found:
                raise DataError(
                    f'column "{name}" holds no number in the train rows, so that it has no mean '
                    f'and no median; ignore = ["{name}"] leaves it out'
                )
        return found
