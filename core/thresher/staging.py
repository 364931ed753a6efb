"""Folders beside the model repository in which versions are made before they are moved into it.

Each is its maker's alone, by a lock that the system lets go of when the maker dies: what dead
makers left is told by that, and the next one clears it away. Locks of models, which publishers hold
while they change one, lie there too.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import filelock

from thresher.durable import fault_point
from thresher.errors import PublishError

__all__ = ["Staging"]

_OWNER_LOCK = "owner.lock"
_REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""What a disk says that is full, or that takes nothing."""


class Staging:
    """The folder that holds staging folders and locks.

    Args:
        root: On the repository's file system; made when it is needed.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def lock(self, name: str) -> filelock.BaseFileLock:
        """Return the lock that who changes a model holds."""
        return filelock.FileLock(self._root / f"{name}.lock")

    @contextlib.contextmanager
    def folder(self, name: str) -> Iterator[Path]:
        """Yield an empty folder; it is gone afterwards, and what dead makers left is too.

        Raises:
            PublishError: If the disk refuses, also while the folder is used.
        """
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(self._root / _OWNER_LOCK):
                _remove(self._left_behind())
                own = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self._root))
                lock = filelock.FileLock(own / _OWNER_LOCK)
                lock.acquire()
            (own / "version").mkdir()
        except OSError as error:
            raise PublishError(
                f"{error.filename or self._root}: {error.strerror}; nothing was published"
            ) from None
        fault_point("staging-made")
        try:
            yield own / "version"
        except OSError as error:
            if error.errno not in _REFUSALS:
                raise
            raise PublishError(
                f"{error.filename or own}: {error.strerror}; nothing was published"
            ) from None
        finally:
            lock.release()
            shutil.rmtree(own, ignore_errors=True)

    def left_behind(self) -> list[Path]:
        """Return the folders whose maker is gone."""
        if not self._root.is_dir():
            return []
        with filelock.FileLock(self._root / _OWNER_LOCK):
            return self._left_behind()

    def clear_left_behind(self) -> list[Path]:
        """Remove the folders whose maker is gone; return them."""
        if not self._root.is_dir():
            return []
        with filelock.FileLock(self._root / _OWNER_LOCK):
            folders = self._left_behind()
            _remove(folders)
        return folders

    def _left_behind(self) -> list[Path]:
        found = []
        for folder in sorted(self._root.iterdir()):
            if not folder.is_dir():
                continue
            lock = filelock.FileLock(folder / _OWNER_LOCK)
            with contextlib.suppress(filelock.Timeout):
                lock.acquire(blocking=False)
                lock.release()
                found.append(folder)
        return found


def _remove(folders: Iterable[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
