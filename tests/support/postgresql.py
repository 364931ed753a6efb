"""A PostgreSQL cluster of its own in a temporary folder, on a free port of 127.0.0.1."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from support.mlflow_server import free_port

__all__ = ["MISSING", "postgresql"]


def _programs() -> Path | None:
    """Return the folder of initdb and pg_ctl; Debian keeps them off PATH."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return versions[-1].parent if versions else None


def _command_prefix() -> list[str] | None:
    """Return what runs a command as somebody who may run PostgreSQL, which root may not."""
    if os.getuid() != 0:
        return []
    with contextlib.suppress(KeyError):
        pwd.getpwnam("postgres")
        if shutil.which("runuser"):
            return ["runuser", "-u", "postgres", "--"]
    return None


_PROGRAMS, _PREFIX = _programs(), _command_prefix()

MISSING = (
    ""
    if _PROGRAMS is not None and _PREFIX is not None
    else "no PostgreSQL server: run scripts/install-postgresql.sh"
)


@contextlib.contextmanager
def postgresql() -> Iterator[str]:
    """Start a cluster and give the address of its empty database ``mlflow``; removed at the end."""
    assert _PROGRAMS is not None
    assert _PREFIX is not None
    folder = Path(tempfile.mkdtemp(prefix="thresher-postgresql-"))
    port = free_port()

    def run(program: str, *arguments: str) -> None:
        command = [*_PREFIX, str(_PROGRAMS / program), *arguments]
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}"

    try:
        if _PREFIX:
            shutil.chown(folder, "postgres", "postgres")
        data = str(folder / "data")
        run("initdb", "-D", data, "-U", "mlflow", "-A", "trust", "--no-sync", "-E", "UTF8")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -k {folder} -F"
        run("pg_ctl", "-D", data, "-l", str(folder / "log"), "-w", "-o", options, "start")
        try:
            run("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "mlflow", "mlflow")
            yield f"postgresql+psycopg2://mlflow@127.0.0.1:{port}/mlflow"
        finally:
            run("pg_ctl", "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
