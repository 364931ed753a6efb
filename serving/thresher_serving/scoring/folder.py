"""The output folder: parts that appear whole, and the notes by which a job goes on after a kill.

    DIR/a/b.parquet          the rows of the input's a/b.parquet that were scored
    DIR/_rejects/a/b.parquet those that were not, each with its reason
    DIR/_job/job.json        what is scored, how, by which version: written first
    DIR/_job/a/b.parquet.json, .npz   a part's counts: written last; without them it is not done
    DIR/_job/a/c.parquet.broken.json  of a file that could not be read, which is tried again
    DIR/_report.json, _report.html, _observations.npz   written when all parts are done

Names that begin with ``_`` are left out by Spark, Arrow and others that read folders.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import filelock

from thresher.durable import fault_point
from thresher.errors import DataError, PublishError
from thresher.observations import Observations
from thresher.tables.address import Address
from thresher_serving.scoring.tally import Tally

__all__ = ["OBSERVATIONS_FILE", "REPORT_FILE", "REPORT_PAGE", "OutputFolder", "PartWriter"]

REPORT_FILE = "_report.json"
REPORT_PAGE = "_report.html"
OBSERVATIONS_FILE = "_observations.npz"

_JOB = "_job"
_JOB_FILE = f"{_JOB}/job.json"
_NOTE = ".json"
_BROKEN = ".broken.json"
_REJECTS = "_rejects"
_GROUP_ROWS = 1 << 17
_GROUP_BYTES = 1 << 25


@dataclass(frozen=True, slots=True)
class OutputFolder:
    """Where a job writes, on any file system."""

    address: Address

    def begin(self, job: Mapping[str, Any]) -> bool:
        """Take the folder for a job; return whether it is one that goes on.

        Args:
            job: What is scored, how, and by which version.

        Raises:
            DataError: If the folder holds something else, or another job.
            PublishError: If it cannot be written.
        """
        from pyarrow import fs

        known = self.read(_JOB_FILE)
        if known is None:
            held = self.address.system.get_file_info(
                fs.FileSelector(self.address.root, allow_not_found=True)
            )
            names = {PurePosixPath(info.path).name for info in held}
            if names - {_JOB}:  # alone it is what a job left that died as it began
                told = ", ".join(sorted(names)[:3])
                raise DataError(
                    f"{self.address} holds something else ({told}); expected a folder that is "
                    "empty, or that this very job has begun to write"
                )
            self.write(_JOB_FILE, json.dumps(job, indent=1, ensure_ascii=False).encode())
            return False
        try:
            before = json.loads(known)
        except ValueError as error:
            raise DataError(f"{self.address}/{_JOB_FILE} cannot be read: {error}") from None
        changed = [
            f"{key} was {_short(before.get(key))}, is {_short(value)}"
            for key, value in job.items()
            if before.get(key) != value
        ]
        if changed:
            raise DataError(
                f"{self.address} was begun by another job: {'; '.join(changed)}. Name another "
                "--output, or remove this one"
            )
        return True

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep a second job of this machine out of the folder.

        Raises:
            PublishError: If there is one, or the folder cannot be made.
        """
        if not self.address.is_local:
            yield
            return
        folder = Path(self.address.root)
        lock = filelock.FileLock(folder.with_name(f".{folder.name}.lock"))
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(blocking=False)
        except filelock.Timeout:
            raise PublishError(f"{folder}: another job writes here; wait for its end") from None
        except OSError as error:
            raise PublishError(f"{error.filename or folder}: {error.strerror}") from None
        try:
            yield
        finally:
            lock.release()
            with contextlib.suppress(OSError):
                Path(lock.lock_file).unlink()

    def done(self) -> set[str]:
        """Return the names of the parts that are done; forget the broken ones, to try them again.

        Raises:
            PublishError: If the folder cannot be written.
        """
        from pyarrow import fs

        root = self.address.beneath(_JOB)
        selector = fs.FileSelector(root, recursive=True, allow_not_found=True)
        found = {
            str(PurePosixPath(info.path).relative_to(PurePosixPath(root)))
            for info in self.address.system.get_file_info(selector)
        }
        broken = {name.removesuffix(_BROKEN) for name in found if name.endswith(_BROKEN)}
        for name in sorted(broken):
            with self._named_errors(name):
                for file in (f"{_REJECTS}/{name}", f"{_JOB}/{name}{_BROKEN}"):
                    with contextlib.suppress(FileNotFoundError):
                        self.address.system.delete_file(self.address.beneath(file))
        return {name.removesuffix(_NOTE) for name in found if name.endswith(f".parquet{_NOTE}")}

    def tally(self, name: str) -> Tally:
        """Return the counts of a part that is done.

        Raises:
            DataError: If its notes are not there.
        """
        counts = self.read(f"{_JOB}/{name}{_NOTE}") or self.read(f"{_JOB}/{name}{_BROKEN}")
        if counts is None:
            raise DataError(f"{self.address}/{_JOB}/{name}{_NOTE} is gone; run the job again")
        seen = self.read(f"{_JOB}/{name}.npz")
        where = f"{self.address}/{_JOB}/{name}.npz"
        observed = None if seen is None else Observations.from_bytes(seen, where=where)
        return Tally.from_json(counts.decode(), observed)

    def finish(self, name: str, tally: Tally) -> None:
        """Note that a part is done: its files are there."""
        if tally.seen is not None:
            self.write(f"{_JOB}/{name}.npz", tally.seen.to_bytes())
        fault_point("part-written")
        note = _BROKEN if tally.broken else _NOTE
        self.write(f"{_JOB}/{name}{note}", tally.to_json().encode())
        fault_point("part-noted")

    def read(self, name: str) -> bytes | None:
        """Return a file's content, None where there is none."""
        try:
            path = self.address.beneath(name)
            with self.address.system.open_input_stream(path, compression=None) as stream:
                return bytes(stream.read())
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all."""
        with self._named_errors(name), self.stream(name) as stream:
            stream.write(content)

    @contextlib.contextmanager
    def stream(self, name: str) -> Iterator[Any]:
        """Yield a stream into a file that appears when all is written."""
        path = self.address.beneath(name)
        if not self.address.is_local:  # an object appears whole, when its stream is closed
            with self.address.system.open_output_stream(path, compression=None) as stream:
                yield stream
            return
        beside = Path(path).with_name(f".{PurePosixPath(path).name}.writing")
        beside.parent.mkdir(parents=True, exist_ok=True)
        try:
            with beside.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            fault_point("part-staged")
            beside.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                beside.unlink()
            raise

    @contextlib.contextmanager
    def _named_errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise PublishError(
                f"{self.address}/{name} cannot be written: {error.strerror or error}. What is done "
                "stays; run the same command again to go on"
            ) from None


class PartWriter:
    """Writes one part: its rows, and its rejected ones where there are any.

    Args:
        folder: Where.
        name: The part's name.
        schema: Of the rows.
    """

    def __init__(self, folder: OutputFolder, name: str, schema: Any) -> None:
        self._folder, self._name, self._schema = folder, name, schema
        self._files = contextlib.ExitStack()
        self._rows: Any = None
        self._rejects: Any = None
        self._held: list[Any] = []

    def write(self, batch: Any) -> None:
        """Write scored rows, an Arrow record batch; many batches make a row group."""
        self._held.append(batch)
        rows = sum(held.num_rows for held in self._held)
        if rows >= _GROUP_ROWS or sum(held.nbytes for held in self._held) >= _GROUP_BYTES:
            self._write_group()

    def _write_group(self) -> None:
        import pyarrow as pa

        with self._errors():
            if self._rows is None:
                self._rows = self._open(self._name, self._schema)
            if self._held:
                table = pa.Table.from_batches(self._held, self._schema)
                self._rows.write_table(table, row_group_size=max(1, table.num_rows))
        self._held.clear()

    def reject(self, table: Any) -> None:
        """Write rejected rows."""
        if not table.num_rows:
            return
        with self._errors():
            if self._rejects is None:
                self._rejects = self._open(f"{_REJECTS}/{self._name}", table.schema)
            self._rejects.write_table(table)

    def close(self) -> None:
        """Let the files appear; a part without rows is a file without rows."""
        self._write_group()
        with self._errors():
            self._files.close()

    def drop(self) -> None:
        """Forget what was written, also where the disk is full."""
        import pyarrow as pa

        error = _DroppedError()
        with contextlib.suppress(_DroppedError, OSError, pa.ArrowException):
            if not self._files.__exit__(_DroppedError, error, None):
                raise error

    def _open(self, name: str, schema: Any) -> Any:
        import pyarrow.parquet as pq

        stream = self._files.enter_context(self._folder.stream(name))
        return self._files.enter_context(
            pq.ParquetWriter(
                stream,
                schema,
                compression="snappy",
                use_dictionary=_dictionary_columns(schema),
                write_statistics=["row"] if "row" in schema.names else False,
            )
        )

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        with self._folder._named_errors(self._name):  # noqa: SLF001 - one thing in two classes
            yield


class _DroppedError(Exception):
    """Ends the streams of a part that is not to appear."""


def _dictionary_columns(schema: Any) -> Any:
    """Return the columns that a dictionary makes smaller: names of labels; ids hardly repeat."""
    names = [name for name in ("labels", "top_labels", "reason", "column") if name in schema.names]
    return [f"{n}.list.element" if n.endswith("labels") else n for n in names] or False


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
