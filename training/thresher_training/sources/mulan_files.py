"""Mulan data sets: ARFF files, dense or sparse, whose labels an XML file names.

Source: the format at https://mulan.sourceforge.net/format.html.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from thresher.errors import DataError, unknown_name
from thresher_training.data import DataSet, SplitName
from thresher_training.sources.cache import CACHE, cached, load_splits
from thresher_training.sources.files import expand, find_one
from thresher_training.sources.splitting import Block, Part, Shares, write_splits

__all__ = ["mulan"]


def mulan(
    path: str,
    *,
    name: str | None = None,
    validation_fraction: float = 0.2,
    test_fraction: float = 0.2,
    seed: int = 0,
    cache: str = CACHE,
) -> DataSet:
    """Return a Mulan data set, input ``"features"``, float32 [N, D].

    The folder holds ``NAME.xml`` with the labels and either ``NAME-train.arff`` and
    ``NAME-test.arff`` (the official split, which is kept) or ``NAME.arff``. What has no file of
    its own is taken from the train rows by iterative stratification. Features come as they are:
    scaling belongs inside the network.

    Args:
        path: The folder; ``~``, ``$VAR`` and ``${VAR:-default}`` are filled in.
        name: NAME; the folder's own name where left out.
        validation_fraction: The share of the train rows that becomes validation.
        test_fraction: The share of the rows that becomes test, where there is no test file.
        seed: Seed of the stratification.
        cache: Folder of what is kept between runs.

    Raises:
        DataError: If a file is missing or broken (names the line), or the XML names a label that
            is no column.
    """
    folder = expand(path)
    title = name or folder.resolve().name
    labels_file = find_one(folder / f"{title}.xml")
    files: dict[SplitName, Path] = {}
    if (folder / f"{title}.arff").is_file():
        files["train"] = folder / f"{title}.arff"
    else:
        files["train"] = find_one(folder / f"{title}-train.arff")
        files["test"] = find_one(folder / f"{title}-test.arff")
    shares = Shares(validation=validation_fraction, test=test_fraction, seed=seed)

    def build(into: Path) -> None:
        labels = _label_names(labels_file)
        parts: dict[SplitName, Part] = {}
        for split, file in files.items():
            columns, table = _read_arff(file)
            parts[split] = _part(columns, table, labels, file=file, labels_file=labels_file)
        write_splits(into, labels, parts, shares)

    place = cached(
        cache,
        files=[labels_file, *files.values()],
        options={"source": "mulan", "shares": shares},
        build=build,
    )
    labels, splits = load_splits(place)
    return DataSet(
        labels=labels,
        splits=splits,
        source=f"Mulan {title}: {', '.join(f.name for f in files.values())}, "
        f"{validation_fraction:g} of train held out for validation, seed {seed}",
    )


def _label_names(path: Path) -> tuple[str, ...]:
    try:
        tree = ElementTree.parse(path)  # noqa: S314  # a file of the data set itself
    except ElementTree.ParseError as error:
        raise DataError(f"{path} is not XML: {error}") from error
    names = tuple(
        _unescaped(element.attrib["name"])
        for element in tree.iter()
        if element.tag.rpartition("}")[2] == "label" and "name" in element.attrib
    )
    if not names:
        raise DataError(f'{path} names no label, expected <label name="..."> elements')
    return names


def _read_arff(path: Path) -> tuple[list[str], npt.NDArray[np.float32]]:
    """Return column names and rows, float32 [N, columns]; a missing value is NaN."""
    import arff  # type: ignore[import-untyped]

    kind = arff.LOD if _is_sparse(path) else arff.DENSE
    try:
        with path.open(encoding="utf-8-sig") as lines:
            content = arff.load(lines, encode_nominal=True, return_type=kind)
    except arff.ArffException as error:
        raise DataError(f"{path}, line {error.line}: {error}") from error
    except (UnicodeDecodeError, ValueError, KeyError) as error:
        raise DataError(f"{path} cannot be read as ARFF: {error}") from error
    rows, kinds = content["data"], [kind for _, kind in content["attributes"]]
    columns = [_unescaped(column) for column, _ in content["attributes"]]
    if "STRING" in kinds:
        column = columns[kinds.index("STRING")]
        raise DataError(f'{path}: the attribute "{column}" is STRING, expected numbers')
    table = np.zeros((len(rows), len(columns)), dtype=np.float32)
    for at, row in enumerate(rows):
        if isinstance(row, dict):
            table[at, list(row)] = [np.nan if v is None else v for v in row.values()]
        else:
            table[at] = [np.nan if v is None else v for v in row]
    for at, values in enumerate(kinds):
        if isinstance(values, list):  # the table holds positions in this list
            table[:, at] = _numbers(table[:, at], values, path=path, column=columns[at])
    return columns, table


def _is_sparse(path: Path) -> bool:
    """Return whether the first row is sparse: ``{column value, ...}``."""
    with path.open(encoding="utf-8-sig", errors="replace") as lines:
        in_data = False
        for line in lines:
            row = line.strip()
            if in_data and row and not row.startswith("%"):
                return row.startswith("{")
            in_data = in_data or row.lower().startswith("@data")
    return False


def _numbers(
    positions: npt.NDArray[np.float32], values: list[str], *, path: Path, column: str
) -> npt.NDArray[np.float32]:
    """Return the numbers that the positions in a nominal attribute's list of values stand for."""
    try:
        numbers = np.array([float(value) for value in values], dtype=np.float32)
    except ValueError as error:
        raise DataError(
            f'{path}: the attribute "{column}" has the values {", ".join(values[:5])}, expected '
            "numbers; write each value as a column of 0 and 1"
        ) from error
    known = ~np.isnan(positions)
    found = np.full_like(positions, np.nan)
    found[known] = numbers[positions[known].astype(np.int64)]
    return found


def _part(
    columns: list[str],
    table: npt.NDArray[np.float32],
    labels: tuple[str, ...],
    *,
    file: Path,
    labels_file: Path,
) -> Part:
    place = {column: at for at, column in enumerate(columns)}
    for label in labels:
        if label not in place:
            raise DataError(f"{labels_file}: {file.name}: {unknown_name('label', label, columns)}")
    is_label = np.isin(np.arange(len(columns)), [place[label] for label in labels])
    features = table[:, ~is_label]

    def blocks() -> Iterator[Block]:
        yield Block(inputs={"features": features})

    return Part(targets_NL=table[:, [place[label] for label in labels]], blocks=blocks)


def _unescaped(name: str) -> str:
    # Mulan writes some names with backslashes, such as dise\~no in delicious
    return re.sub(r"\\(.)", r"\1", name)
