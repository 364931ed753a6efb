"""Writes that survive a power cut: what is said to be written is on the disk."""

from __future__ import annotations

import os
import signal
from pathlib import Path

__all__ = [
    "FAULT_POINT",
    "fault_point",
    "replace_durably",
    "sync_files",
    "sync_folder",
    "write_durably",
]


FAULT_POINT = "THRESHER_FAULT_POINT"
"""Environment variable: the step after which the process is to die, for tests of crashes."""


def fault_point(name: str) -> None:
    """Kill this process, as a power cut would, if `FAULT_POINT` names this step."""
    if os.environ.get(FAULT_POINT) == name:
        os.kill(os.getpid(), signal.SIGKILL)


def write_durably(path: Path, content: bytes) -> None:
    """Write a file and wait until it is on the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace_durably(path: Path, content: bytes) -> None:
    """Write a file over another, so that at any moment the old or the new one is whole."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    write_durably(beside, content)
    beside.replace(path)
    sync_folder(path.parent)


def sync_files(folder: Path) -> None:
    """Put a folder's files on the disk, with the time of now: Triton reloads what is newer."""
    for path in folder.iterdir():
        os.utime(path)
        _sync(path)
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Put a folder's list of names on the disk."""
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
