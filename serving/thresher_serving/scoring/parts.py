"""The parts of a job's input: files of one kind, large Parquet files cut at their row groups."""

from __future__ import annotations

import dataclasses
import fnmatch
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import PurePosixPath
from typing import Any, Literal

from thresher.errors import DataError, NotFoundError
from thresher_serving.scoring.places import Place

__all__ = ["Form", "Part", "digest_of", "find_parts"]

Form = Literal["parquet", "arrow", "csv", "npz", "pictures"]

_SUFFIXES: dict[str, Form] = {
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
    **dict.fromkeys((".arrow", ".feather", ".ipc"), "arrow"),
    **dict.fromkeys((".csv", ".tsv", ".csv.gz", ".tsv.gz"), "csv"),
    ".npz": "npz",
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"), "pictures"),
}
_PART_ROWS = 1 << 20
_PICTURES = 4_096
_READERS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What is read in one go and makes one output file."""

    form: Form
    path: str
    """On its file system; of pictures the folder."""
    name: str
    """Of its output, relative to the output folder."""
    num_bytes: int
    num_rows: int | None = None
    """None where only reading tells."""
    first_row: int = 0
    """In its file."""
    row_groups: tuple[int, ...] | None = None
    """Of a Parquet file that was cut; None for a whole file."""
    files: tuple[str, ...] = ()
    """Of pictures: their names in the folder."""
    modified: str = ""
    """When the file was last written, as its file system says."""
    schema: Any = None
    """Arrow schema; None where the format has none, or the file cannot be read."""
    partition: tuple[tuple[str, str], ...] = ()
    """``key=value`` in the folders' names, which are columns too."""

    @property
    def folder(self) -> str:
        """Where the pictures lie, or those that the file names."""
        return self.path if self.form == "pictures" else str(PurePosixPath(self.path).parent)


def find_parts(place: Place) -> list[Part]:
    """Return the parts of what a path, folder or glob names, in the order of their names.

    Raises:
        NotFoundError: If there is nothing.
        DataError: If files of several kinds lie there.
    """
    found = [(info, form) for info in _listed(place) if (form := _form(info.path)) is not None]
    if not found:
        raise NotFoundError(
            f"{place}: no file to score; expected {', '.join(_SUFFIXES)}, a folder or glob of them"
        )
    forms = sorted({form for _, form in found})
    if len(forms) > 1:
        raise DataError(
            f"{place} holds files of several kinds ({', '.join(forms)}); name those to score by a "
            'glob, such as "data/*.parquet"'
        )
    found.sort(key=lambda each: each[0].path)
    if forms == ["pictures"]:
        return list(_pictures(place, [info for info, _ in found]))
    with ThreadPoolExecutor(_READERS) as pool:
        parts = pool.map(lambda each: _file_parts(place, *each), found)
        return list(_sharing_schemas(part for of_file in parts for part in of_file))


def _sharing_schemas(parts: Iterable[Part]) -> Iterator[Part]:
    """Yield parts that hold one schema together where theirs are equal: files may be many."""
    known: Any = None
    for part in parts:
        if part.schema is None or known is None or not part.schema.equals(known):
            known = part.schema if part.schema is not None else known
            yield part
        else:
            yield dataclasses.replace(part, schema=known)


def digest_of(parts: Sequence[Part]) -> str:
    """Return what identifies an input: the SHA-256 of names, sizes and cuts."""
    told = [[p.path, p.name, p.num_bytes, p.modified, p.row_groups, p.files] for p in parts]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _form(path: str) -> Form | None:
    suffixes = "".join(PurePosixPath(path).suffixes[-2:]).lower()
    return _SUFFIXES.get(suffixes) or _SUFFIXES.get(PurePosixPath(path).suffix.lower())


def _listed(place: Place) -> list[Any]:
    """Return Arrow's information of each file that the place means; hidden ones are left out."""
    from pyarrow import fs

    selected: list[Any] = (
        place.system.get_file_info(
            fs.FileSelector(place.root, recursive=True, allow_not_found=True)
        )
        if place.is_many
        else [place.system.get_file_info(place.root)]
    )
    files = [info for info in selected if info.type == fs.FileType.File]
    if place.pattern is not None:
        return [info for info in files if _matches(info.path, place.pattern)]

    def is_seen(info: Any) -> bool:
        inside = PurePosixPath(info.path).relative_to(PurePosixPath(place.root))
        return not any(part.startswith((".", "_")) for part in inside.parts)

    return [info for info in files if not place.is_many or is_seen(info)]


def _matches(path: str, pattern: str) -> bool:
    """Return whether a path fits a glob; only ``**`` crosses folders."""
    crosses = "**" in pattern
    return fnmatch.fnmatchcase(path, pattern) and (crosses or path.count("/") == pattern.count("/"))


def _file_parts(place: Place, info: Any, form: Form) -> list[Part]:
    """Return the parts of one file; one that cannot be opened is a part without a schema."""
    inside = PurePosixPath(info.path).relative_to(PurePosixPath(place.parent))
    name = str(inside if form == "parquet" else f"{inside}.parquet")
    if form == "parquet":
        name = str(inside.with_suffix(".parquet"))
    known = [folder.partition("=") for folder in inside.parts[:-1]]
    partition = tuple((key, value) for key, equals, value in known if equals)
    whole = Part(
        form=form,
        path=info.path,
        name=name,
        num_bytes=info.size or 0,
        modified=str(info.mtime_ns),
        partition=partition,
    )
    import pyarrow as pa

    try:
        if form == "parquet":
            return _cut(place, whole)
        if form == "arrow":
            with place.system.open_input_file(info.path) as file, pa.ipc.open_file(file) as opened:
                return [dataclasses.replace(whole, schema=opened.schema)]
    except (pa.ArrowException, OSError):
        pass  # it is rejected as a whole when its turn comes
    return [whole]


def _cut(place: Place, whole: Part) -> list[Part]:
    """Return a Parquet file's parts, each of about a million rows at most."""
    import pyarrow.parquet as pq

    with place.system.open_input_file(whole.path) as file:
        opened = pq.ParquetFile(file)
        schema, metadata = opened.schema_arrow, opened.metadata
    if metadata.num_rows <= _PART_ROWS or metadata.num_row_groups == 1:
        return [dataclasses.replace(whole, schema=schema, num_rows=metadata.num_rows)]
    sizes = [metadata.row_group(at).num_rows for at in range(metadata.num_row_groups)]
    cuts: list[list[int]] = [[]]
    for at, size in enumerate(sizes):
        if cuts[-1] and sum(sizes[i] for i in cuts[-1]) + size > _PART_ROWS:
            cuts.append([])
        cuts[-1].append(at)
    parts = []
    for number, groups in enumerate(cuts):
        stem = PurePosixPath(whole.name).with_suffix("")
        rows = sum(sizes[at] for at in groups)
        parts.append(
            dataclasses.replace(
                whole,
                name=f"{stem}.part-{number:04d}.parquet",
                schema=schema,
                num_rows=rows,
                num_bytes=whole.num_bytes * rows // metadata.num_rows,
                first_row=sum(sizes[: groups[0]]),
                row_groups=tuple(groups),
            )
        )
    return parts


def _pictures(place: Place, infos: Sequence[Any]) -> Iterable[Part]:
    """Yield the pictures of each folder, some thousands at a time."""
    for folder, group in groupby(infos, key=lambda info: str(PurePosixPath(info.path).parent)):
        held = list(group)
        inside = PurePosixPath(folder).relative_to(PurePosixPath(place.parent))
        name = "pictures" if str(inside) == "." else str(inside)
        for number, start in enumerate(range(0, len(held), _PICTURES)):
            some = held[start : start + _PICTURES]
            yield Part(
                form="pictures",
                path=folder,
                name=f"{name}.part-{number:04d}.parquet",
                num_bytes=sum(info.size or 0 for info in some),
                modified=str(max(info.mtime_ns or 0 for info in some)),
                num_rows=len(some),
                first_row=start,
                files=tuple(PurePosixPath(info.path).name for info in some),
            )
