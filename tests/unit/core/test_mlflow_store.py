"""MLflow's store: made once by several processes, and one line where it cannot be used."""

import shutil
import sqlite3
import subprocess
import sys
import time

import pytest

from thresher.errors import StoreError
from thresher.mlflow_store import connect, explain_failure, open_store

OPEN = """
import sys, time
import mlflow.store.model_registry.sqlalchemy_store, mlflow.store.tracking.sqlalchemy_store
from thresher.registry import resolve
from thresher.mlflow_store import open_store
print("ready", flush=True)
sys.stdin.readline()
open_store().MlflowClient().search_experiments()
"""


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    connect().set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    yield tmp_path / "mlflow.db"
    connect().set_tracking_uri(None)


def test_several_processes_make_one_store_in_a_fresh_folder(tmp_path):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN],
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:  # none of them has begun
        process.stdin.write("go\n")
        process.stdin.flush()
    ends = [(process.communicate(timeout=300)[1], process.returncode) for process in processes]
    assert [code for _, code in ends] == [0] * 4, ends


def truncate(path):
    path.write_bytes(path.read_bytes()[:100_000])


def overwrite(path):
    path.write_bytes(b"no database at all" * 5000)


def rename_schema(path):
    with sqlite3.connect(path) as file:
        file.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")


def into_a_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (truncate, "the database is damaged"),
        (overwrite, "the database is damaged"),
        (rename_schema, "another version of MLflow"),
        (into_a_folder, "is a folder"),
    ],
)
def test_a_store_that_cannot_be_used_is_one_line_at_once(
    elsewhere, empty_mlflow_db, spoil, words, capfd
):
    shutil.copy(empty_mlflow_db, elsewhere)
    spoil(elsewhere)
    started = time.monotonic()
    with pytest.raises(StoreError, match=words) as caught:
        open_store()
    assert time.monotonic() - started < 20  # MLflow alone would try for two minutes
    assert "\n" not in str(caught.value)
    assert str(elsewhere) in str(caught.value)
    assert capfd.readouterr().err == ""


def test_a_folder_that_takes_no_file_is_named(elsewhere):
    connect().set_tracking_uri("sqlite:////proc/mlflow.db")
    with pytest.raises(StoreError, match="mlflow.db") as caught:
        open_store()
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_one_line_and_other_errors_stay_what_they_are():
    full = OSError(28, "No space left on device", "/data/x.npz")
    assert "there is no room to write" in explain_failure(full)
    assert "/data/x.npz" in explain_failure(full)
    assert explain_failure(KeyError("x")) is None
    assert explain_failure(FileNotFoundError(2, "No such file", "x")) is None


def test_a_password_of_the_store_is_not_shown():
    error = connect().MlflowException("postgresql://ann:secret@db/x: connection refused")
    assert "secret" not in explain_failure(error)
