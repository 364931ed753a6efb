"""MLflow's store: made by one process at a time, and what is wrong with it said in one line."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from thresher.errors import StoreError

__all__ = [
    "cannot_mend_itself",
    "connect",
    "explain_failure",
    "metric_name",
    "open_store",
    "shown_store",
]

_SQL = ("sqlite", "postgresql", "mysql", "mssql")
_WAIT_S = 300.0
"""So long another process may take to make the tables; it takes seconds."""

_PACKAGES = {"mlflow", "sqlalchemy", "alembic", "sqlite3"}
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES}

_DAMAGED = (
    "the database is damaged; put a copy of it back, or move the file away and a new, empty store "
    "is made"
)
_FULL = "there is no room to write; free some (disk, quota, or the limit of `ulimit -f`)"
_FORBIDDEN = "it cannot be opened or written; look at the permissions of the file and its folder"
_OTHER_VERSION = (
    "the database was written by another version of MLflow than the one installed here "
    "({version}). If that was a newer one, install it; if an older one, make a copy of the "
    "database and run: mlflow db upgrade {uri}"
)
_FAULTS = {
    r"file is not a database|malformed|file is encrypted": _DAMAGED,
    r"no such table|no such column|has no column": _DAMAGED,
    r"disk is full|disk i/o error|no space left|quota exceeded|file too large": _FULL,
    r"readonly database|read-only file system|permission denied|unable to open": _FORBIDDEN,
    r"can't locate revision|out-of-date database schema": _OTHER_VERSION,
}
"""What databases and systems say, and what it means: waiting mends none of these."""

_LONGEST_NAME = 200
"""Characters of a label in a name; MLflow takes 250 in all."""

_opened: set[tuple[str, Path]] = set()


def connect() -> Any:
    """Return the ``mlflow`` module, quiet: no usage telemetry, no bars, no chatter."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # a bar for each file that is fetched; `thresher export` tells its steps itself
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # the address of a run on a server, in the midst of what --json prints
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    import mlflow

    for name in ("alembic", "mlflow.store.db.utils", "mlflow.tracking.fluent"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").addFilter(_without_traceback)
    return mlflow


def _without_traceback(record: logging.LogRecord) -> bool:
    """Drop what MLflow prints of an error that it also raises."""
    return not record.exc_info


def shown_store() -> str:
    """Return where MLflow's store is, without a user's name and password."""
    return _without_password(str(connect().get_tracking_uri()))


def open_store() -> Any:
    """Return the ``mlflow`` module once its store can be read.

    A store that does not exist yet is made here, under a lock: several processes that make one at
    once break each other's tables (MLflow 3.17).

    Raises:
        StoreError: If the store cannot be opened; says why in one line.
    """
    mlflow = connect()
    for uri, probe in (
        (str(mlflow.get_tracking_uri()), "search_experiments"),
        (str(mlflow.get_registry_uri()), "search_registered_models"),
    ):
        place = (uri, Path.cwd())  # the address of a file may be relative
        if place in _opened or not uri.startswith(_SQL):
            continue
        try:
            with _alone(uri):
                getattr(mlflow.MlflowClient(), probe)(max_results=1)
        except StoreError:
            raise
        except OSError as error:
            raise StoreError(f"MLflow at {shown_store()} cannot be opened: {error}") from error
        except Exception as error:
            said = explain_failure(error)
            if said is None:
                raise
            raise StoreError(said) from error
        _opened.add(place)
    return mlflow


def metric_name(folder: str, label: str) -> str:
    """Return a name that MLflow takes, and that no other label has.

    Example:
        >>> metric_name("rate", "rain")
        'rate/rain'
        >>> metric_name("rate", "r&b"), metric_name("rate", "r@b")
        ('rate/r_b 34fdfbd2', 'rate/r_b 8644e26d')
    """
    cleaned = re.sub(r"[^\w. :/-]|^[./]|/(?=[./]|$)", "_", label)[:_LONGEST_NAME]
    if cleaned != label:
        cleaned += f" {hashlib.sha256(label.encode(errors='replace')).hexdigest()[:8]}"
    return f"{folder}/{cleaned}"


def explain_failure(error: BaseException) -> str | None:
    """Return one line on a failure of MLflow, its database or the disk; None for other errors."""
    chain = list(_chain(error))
    from_mlflow = any(_package(each) in _PACKAGES for each in chain)
    from_disk = any(isinstance(each, OSError) and each.errno in _DISK for each in chain)
    if not from_mlflow and not from_disk:
        return None
    first_line = _without_password((str(error).strip().splitlines() or [type(error).__name__])[0])
    first_line = first_line.partition(". Take a backup")[0].strip(". ")
    where = f"MLflow at {shown_store()}: " if from_mlflow else ""
    advice = _advice(chain)
    return f"{where}{first_line}" + (f": {advice}" if advice else "")


def cannot_mend_itself(error: BaseException) -> bool:
    """Tell a store that is damaged, full or not writable from one that is only out of reach."""
    return _advice(list(_chain(error))) is not None


def _advice(chain: list[BaseException]) -> str | None:
    said = " ".join(map(str, chain)).lower()
    for pattern, advice in _FAULTS.items():
        if re.search(pattern, said):
            return advice.format(version=connect().__version__, uri=shown_store())
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__


def _package(error: BaseException) -> str:
    return type(error).__module__.partition(".")[0]


def _without_password(text: str) -> str:
    return re.sub(r"//[^/@\s]*@", "//", text)


@contextmanager
def _alone(uri: str) -> Iterator[None]:
    """Let one process at a time into the block; fail at once where a file is no database.

    MLflow would try such a file again for two minutes.
    """
    path = _database_file(uri)
    if path is None:
        digest = hashlib.sha256(uri.encode()).hexdigest()[:16]
        lock_path = Path(tempfile.gettempdir()) / f"thresher-store-{os.getuid()}-{digest}.lock"
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock_path = path.with_name(f".{path.name}.lock")
    lock = FileLock(lock_path, timeout=_WAIT_S)
    try:
        lock_path.touch()  # FileLock would go on trying where no file can be made
        lock.acquire()
    except OSError:  # a folder that only shows a finished store needs none
        if path is not None and not path.is_file():
            raise
    try:
        if path is not None and path.is_dir():
            raise StoreError(f"MLflow at {shown_store()}: {path} is a folder, expected a file")
        if path is not None and path.is_file():
            with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as file:
                file.execute("SELECT name FROM sqlite_master").fetchall()
        yield
    finally:
        lock.release()


def _database_file(uri: str) -> Path | None:
    """Return the file of an SQLite store; None for servers and for databases in memory."""
    from sqlalchemy.engine import make_url

    url = make_url(uri)
    if url.get_backend_name() != "sqlite" or url.database in {None, "", ":memory:"}:
        return None
    return Path(str(url.database))
