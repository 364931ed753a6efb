"""A scoring job that is killed at any moment ends, run again, as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from support.scoring import COLUMNS, table, weather_version, write_parts
from thresher.durable import FAULT_POINT

POINTS = ("part-staged", "part-written", "part-noted")


def command(root: Path, given: Path, output: Path) -> list[str]:
    """Return the command line of a job."""
    return [
        *(sys.executable, "-m", "thresher", "score", "weather/1"),
        *("--repository", str(root), "--input", str(given), "--output", str(output)),
        *("--features", ",".join(COLUMNS), "--columns", "id", "--max-reject-rate", "0.5"),
    ]


def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run it to its end, whatever that is."""
    return subprocess.run(command, check=False, capture_output=True, text=True, **options)


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files by name; of the report what does not tell of the run."""
    found = {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    report = json.loads(found.pop("_report.json"))
    del report["run"], report["output"]
    found["_report.json"] = json.dumps(report).encode()
    found.pop("_report.html", None)
    return found


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, bytes]]:
    """Return repository, input, and what an undisturbed run makes of it."""
    folder = tmp_path_factory.mktemp("job")
    weather_version(folder / "models")
    write_parts(folder / "in", 12, 4000)
    broken = folder / "in" / "part-007.parquet"
    broken.write_bytes(broken.read_bytes()[:5000])
    rows = table(500).to_pydict()
    rows["wind"][::7] = [None] * len(rows["wind"][::7])
    pq.write_table(pa.table(rows), folder / "in/z.parquet")
    done = run(command(folder / "models", folder / "in", folder / "whole"))
    assert done.returncode == 1  # a file that cannot be read
    assert "1 of the files cannot be read" in done.stderr
    return folder / "models", folder / "in", contents(folder / "whole")


@pytest.mark.parametrize("point", POINTS)
def test_a_job_that_dies_at_a_step_goes_on(
    job: tuple[Path, Path, dict[str, bytes]], tmp_path: Path, point: str
) -> None:
    root, given, whole = job
    died = run(command(root, given, tmp_path / "out"), env={**os.environ, FAULT_POINT: point})
    assert died.returncode == -signal.SIGKILL
    again = run(command(root, given, tmp_path / "out"))
    assert ("13 parts to score" in again.stderr) == (point != "part-noted")
    assert contents(tmp_path / "out") == whole


@pytest.mark.slow
def test_twenty_kills_at_random_moments_leave_the_same_output(
    job: tuple[Path, Path, dict[str, bytes]], tmp_path: Path
) -> None:
    root, given, whole = job
    rng = random.Random(0)
    begin = time.monotonic()
    run(command(root, given, tmp_path / "timed"))
    length = time.monotonic() - begin
    kills = 0
    for _ in range(20):
        process = subprocess.Popen(
            command(root, given, tmp_path / "out"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            process.wait(rng.uniform(0.4, 1.0) * length)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
    assert kills >= 5
    run(command(root, given, tmp_path / "out"))
    assert contents(tmp_path / "out") == whole


def test_ctrl_c_leaves_a_job_that_goes_on(
    job: tuple[Path, Path, dict[str, bytes]], tmp_path: Path
) -> None:
    root, given, whole = job
    process = subprocess.Popen(
        command(root, given, tmp_path / "out"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 60
    while not [*(tmp_path / "out").glob("_job/*.parquet.json")] and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    run(command(root, given, tmp_path / "out"))
    assert contents(tmp_path / "out") == whole


def test_a_full_disk_ends_a_job_which_then_goes_on(
    job: tuple[Path, Path, dict[str, bytes]], tmp_path: Path
) -> None:
    root, given, whole = job
    largest = max(len(content) for content in whole.values())

    def limited() -> None:  # a file may grow to this size, as on a disk that is full then
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest // 2, resource.RLIM_INFINITY))

    full = run(command(root, given, tmp_path / "out"), preexec_fn=limited)
    assert full.returncode == 1
    assert "cannot be written" in full.stderr
    assert "run the same command again to go on" in full.stderr
    assert "Traceback" not in full.stderr
    assert not [*(tmp_path / "out").rglob(".*.writing")]
    run(command(root, given, tmp_path / "out"))
    assert contents(tmp_path / "out") == whole
