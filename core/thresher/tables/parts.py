"""The files that an address means, as parts: what is read in one go, large Parquet files cut."""

from __future__ import annotations

import dataclasses
import fnmatch
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import unquote

from thresher.errors import DataError, NotFoundError
from thresher.tables.address import Address
from thresher.tables.cells import shown
from thresher.tables.csv_files import CSV_SUFFIXES

__all__ = [
    "PICTURE_SUFFIXES",
    "Form",
    "Part",
    "digest_of",
    "file_at",
    "find_parts",
    "form_of",
    "missing_file",
]

Form = Literal["parquet", "arrow", "csv", "npz", "npy", "arff", "pictures"]

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")

_SUFFIXES: dict[str, Form] = {
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
    **dict.fromkeys((".arrow", ".feather", ".ipc"), "arrow"),
    **dict.fromkeys(CSV_SUFFIXES, "csv"),
    ".npz": "npz",
    ".npy": "npy",
    ".arff": "arff",
    **dict.fromkeys(PICTURE_SUFFIXES, "pictures"),
}
_COMPRESSED = (".gz", ".bz2", ".zst", ".lz4")
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
_PART_ROWS = 1 << 20
_PICTURES = 4_096
_READERS = 16
_LONGEST_NAME = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What is read in one go and makes one output file."""

    form: Form
    path: str
    """On its file system; of pictures, and of a folder of arrays, the folder."""
    name: str
    """Of its output, relative to the output folder."""
    num_bytes: int
    num_rows: int | None = None
    """None where only reading shows it."""
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
    partition: tuple[tuple[str, str | None], ...] = ()
    """``key=value`` in the folders' names, which are columns too; None where Hive has no value."""

    @property
    def folder(self) -> str:
        """Where the pictures are, or those that the file names."""
        return self.path if self.form == "pictures" else str(PurePosixPath(self.path).parent)


def form_of(path: str) -> Form | None:
    """Return a file's format by its name's ending, None for other files."""
    pure = PurePosixPath(path.lower())
    if pure.suffix in _COMPRESSED:
        form = _SUFFIXES.get(PurePosixPath(pure.stem).suffix)
        return form if form == "csv" else None
    return _SUFFIXES.get(pure.suffix)


def file_at(name: str) -> bool:
    """Return whether a file of a name is there; any text may be asked about."""
    # Path.is_file raises OSError for a text that is too long for a name
    return os.path.isfile(name)  # noqa: PTH113


def missing_file(name: str, expected: str) -> NotFoundError:
    """Return the error for what is no file: a folder, or nothing."""
    what = "a folder" if os.path.isdir(name) else "no such file"  # noqa: PTH112
    return NotFoundError(
        f"{name if len(name) < _LONGEST_NAME else shown(name)}: {what}; expected {expected}"
    )


def find_parts(
    address: Address, *, forms: Sequence[Form] | None = None, form: Form | None = None
) -> list[Part]:
    """Return the parts of what a path, folder or glob names, in the order of their names.

    Args:
        address: Where.
        forms: The formats that are looked for; all where left out. Other files are passed over.
        form: The format of a single file, whatever its name.

    Raises:
        NotFoundError: If there is nothing.
        DataError: If there are files of several kinds.
    """
    wanted = tuple(forms) if forms is not None else tuple(dict.fromkeys(_SUFFIXES.values()))
    found = [
        (info, kind)
        for info in _listed(address)
        if (kind := form or form_of(info.path)) is not None and kind in wanted
    ]
    if not found:
        suffixes = [suffix for suffix, kind in _SUFFIXES.items() if kind in wanted]
        raise NotFoundError(
            f"{address}: no file to read; expected {', '.join(suffixes)}, a folder or glob of them"
        )
    kinds = sorted({kind for _, kind in found})
    if len(kinds) > 1:
        raise DataError(
            f"{address} holds files of several kinds ({', '.join(kinds)}); name those to read by a "
            'glob, such as "data/*.parquet"'
        )
    found.sort(key=lambda each: each[0].path)
    if kinds == ["pictures"]:
        return list(_pictures(address, [info for info, _ in found]))
    with ThreadPoolExecutor(_READERS) as pool:
        parts = pool.map(lambda each: _file_parts(address, *each), found)
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
    listed = [[p.path, p.name, p.num_bytes, p.modified, p.row_groups, p.files] for p in parts]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def _listed(address: Address) -> list[Any]:
    """Return Arrow's information of each file that is meant; hidden ones are left out."""
    from pyarrow import fs

    if not address.is_many:
        selected = [address.system.get_file_info(address.root)]
    elif address.is_local:
        selected = address.system.get_file_info(_walked(address.root))
    else:
        selector = fs.FileSelector(address.root, recursive=True, allow_not_found=True)
        selected = address.system.get_file_info(selector)
    files = [info for info in selected if info.type == fs.FileType.File]
    if address.pattern is not None:
        return [info for info in files if _matches(info.path, address.pattern)]

    def is_seen(info: Any) -> bool:
        inside = PurePosixPath(info.path).relative_to(PurePosixPath(address.root))
        is_hidden = any(part.startswith((".", "_")) for part in inside.parts)
        # next to data, a .txt file is more often a README than a table; by name it is read
        return not is_hidden and inside.suffix.lower() != ".txt"

    return [info for info in files if not address.is_many or is_seen(info)]


def _walked(root: str) -> list[str]:
    """Return the files below a local folder; each folder once, however many links lead to it."""
    found: list[str] = []
    seen: set[tuple[int, int]] = set()
    # sorted, and real folders before links: a loop must not decide which name a file goes by
    for folder, folders, names in os.walk(root, followlinks=True):
        stat = Path(folder).stat()
        if (stat.st_dev, stat.st_ino) in seen:
            folders.clear()
            continue
        seen.add((stat.st_dev, stat.st_ino))
        folders.sort(key=lambda name: (Path(folder, name).is_symlink(), name))
        found += [f"{folder}/{name}" for name in names]
    return sorted(found)


def _matches(path: str, pattern: str) -> bool:
    """Return whether a path fits a glob; only ``**`` crosses folders."""
    crosses = "**" in pattern
    return fnmatch.fnmatchcase(path, pattern) and (crosses or path.count("/") == pattern.count("/"))


def _file_parts(address: Address, info: Any, form: Form) -> list[Part]:
    """Return the parts of one file; one that cannot be opened is a part without a schema."""
    import pyarrow as pa

    inside = PurePosixPath(info.path).relative_to(PurePosixPath(address.parent))
    known = [folder.partition("=") for folder in inside.parts[:-1]]
    whole = Part(
        form=form,
        path=info.path,
        name=str(inside.with_suffix(".parquet") if form == "parquet" else f"{inside}.parquet"),
        num_bytes=info.size or 0,
        modified=str(info.mtime_ns),
        partition=tuple(
            (unquote(key), None if value == _NO_VALUE else unquote(value))
            for key, equals, value in known
            if equals
        ),
    )
    try:
        if form == "parquet":
            return _cut(address, whole)
        if form == "arrow":
            with (
                address.system.open_input_file(info.path) as file,
                pa.ipc.open_file(file) as opened,
            ):
                return [dataclasses.replace(whole, schema=opened.schema)]
    except (pa.ArrowException, OSError):
        pass  # the reader of the part says why not
    return [whole]


def _cut(address: Address, whole: Part) -> list[Part]:
    """Return a Parquet file's parts, each of about a million rows at most."""
    import pyarrow.parquet as pq

    with address.system.open_input_file(whole.path) as file:
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


def _pictures(address: Address, infos: Sequence[Any]) -> Iterable[Part]:
    """Yield the pictures of each folder, some thousands at a time."""
    for folder, group in groupby(infos, key=lambda info: str(PurePosixPath(info.path).parent)):
        held = list(group)
        inside = PurePosixPath(folder).relative_to(PurePosixPath(address.parent))
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
