"""Reports of jobs, limits of workers, and workers that never start."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from thresher.errors import ConfigError, PublishError
from thresher_export import ExportOptions
from thresher_export.jobs import JobOptions, JobReport, Outcome
from thresher_export.jobs.local import LocalEngine, available_bytes
from thresher_export.jobs.report import report_files, write_report
from thresher_export.jobs.schedule import Limits, Schedule
from thresher_export.jobs.worker import Task


def report(*outcomes: Outcome, signal: int | None = None) -> JobReport:
    return JobReport(
        outcomes=outcomes,
        started="2026-01-01T00:00:00+00:00",
        seconds=12.3,
        num_workers=2,
        engine="local",
        signal=signal,
    )


PUBLISHED = Outcome(name="a", version=1, status="published", seconds=1.5)
FAILED = Outcome(
    name="odd|name",
    version=2,
    status="failed",
    cause="refused",
    reason="two\nlines | and a bar",
    log="/logs/b-2.log",
)


@pytest.mark.parametrize(
    ("made", "code"),
    [
        (report(), 0),
        (report(PUBLISHED, Outcome(name="b", version=1, status="skipped")), 0),
        (report(PUBLISHED, FAILED), 1),
        (report(Outcome(name="b", version=1, status="not reached")), 1),
        (report(PUBLISHED, signal=15), 143),
    ],
)
def test_exit_code_says_whether_all_is_well(made: JobReport, code: int) -> None:
    assert made.exit_code == code
    assert made.to_dict()["ok"] == (code == 0)


def test_page_has_a_row_for_each_version_whatever_its_text(tmp_path: Path) -> None:
    page = report(PUBLISHED, FAILED).to_markdown()
    (row,) = [line for line in page.splitlines() if line.startswith(r"| odd\|name/2")]
    cells = [cell.strip() for cell in row.replace(r"\|", "").split("|")[1:-1]]
    assert cells == ["oddname/2", "refused", "0.0", "two<br>lines  and a bar", "/logs/b-2.log"]
    assert "| a/1 | published | 1.5 |" in page


@pytest.mark.parametrize(
    ("name", "files"),
    [("r.json", ["r.json"]), ("r.md", ["r.md"]), ("r", ["r.json", "r.md"]),
     ("v1.2", ["v1.2.json", "v1.2.md"])],
)  # fmt: skip
def test_suffix_chooses_the_form_of_the_report(tmp_path: Path, name: str, files: list[str]) -> None:
    assert [file.name for file in report_files(tmp_path / name)] == files
    write_report(report(PUBLISHED, FAILED), tmp_path / "new" / name)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == files
    if "json" in files[0]:
        read = json.loads((tmp_path / "new" / files[0]).read_text())
        assert [version["name"] for version in read["versions"]] == ["a", "odd|name"]


def test_report_that_cannot_be_written_names_the_place(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PublishError, match=r"report cannot be written to .*file"):
        write_report(report(), tmp_path / "file" / "r.json")


@pytest.mark.parametrize("wrong", [{"num_workers": 0}, {"time_limit_s": 0}, {"memory_limit_mb": 0}])
def test_limits_that_leave_nothing_are_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))} is 0"):
        JobOptions(repository=None, logs=tmp_path, **wrong)


LIMITED = """
import sys
from thresher_export.jobs.worker import limit_memory
limit_memory(200 * 10**6)
small = bytearray(50 * 10**6)
try:
    large = bytearray(400 * 10**6)
except MemoryError:
    sys.exit(7)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA bounds memory on Linux alone")
def test_allocation_beyond_the_limit_fails_inside_the_worker() -> None:
    done = subprocess.run([sys.executable, "-c", LIMITED], check=False)
    assert done.returncode == 7


def test_memory_is_shared_out_among_workers_unless_it_is_told(tmp_path: Path) -> None:
    assert available_bytes() > 0
    assert LocalEngine(tmp_path, num_workers=4).memory_bytes == available_bytes() * 4 // 5 // 4
    assert LocalEngine(tmp_path, num_workers=4, memory_bytes=10**9).memory_bytes == 10**9


def test_workers_that_cannot_start_end_the_job_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "packages" / "onnx_ir").mkdir(parents=True)
    (tmp_path / "packages/onnx_ir/__init__.py").write_text("raise ImportError('a broken install')")
    path = [str(tmp_path / "packages"), *(entry for entry in sys.path if entry)]
    monkeypatch.setenv("PYTHONPATH", ":".join(path))
    task = Task(
        name="m", version=1, repository=None, options=ExportOptions(), log=str(tmp_path / "m.log")
    )
    schedule = Schedule(
        [task],
        LocalEngine(tmp_path / "logs", num_workers=1),
        num_workers=1,
        limits=Limits(),
        emit=lambda *_, **__: None,
    )
    with pytest.raises(PublishError, match=r"3 workers died.*exit code 1.*a broken install"):
        schedule.run()
    assert [outcome.status for outcome in schedule.outcomes] == ["not reached"]
