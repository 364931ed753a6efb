"""A registry exported in one job: real workers, a real MLflow store, models that are poisoned."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from support.many import CRASH, EATS, EXITS, HANGS, Registry, empty_store
from thresher import Decision
from thresher.cli import main
from thresher.errors import ConfigError, NotFoundError
from thresher.repository import ModelRepository
from thresher.served_state import served_record
from thresher_export import ExportOptions, export_version
from thresher_export.jobs import JobOptions, is_published, run_job, select_versions
from thresher_export.jobs.select import without_published

pytestmark = pytest.mark.slow

BAD = {"job": "poisoned"}
"""Tag of what the job with poisoned models is about, good ones among them."""

GOOD = ["good-1", "good-2", "good-3"]
POISONED = {
    "bad-crash": ("died", "killed by SIGSEGV"),
    "bad-eats": ("memory", "memory limit is 1,100 MB"),
    "bad-exit": ("died", "exit code 7"),
    "bad-frozen": ("refused", "batch axis is frozen"),
    "bad-parity": ("refused", "parity failed"),
}


@pytest.fixture(scope="module")
def folder(empty_mlflow_db: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working folder of these tests, with a store of models good and bad."""
    folder = tmp_path_factory.mktemp("registry")
    with empty_store(empty_mlflow_db, folder):
        registry = Registry()
        for name in GOOD:
            registry.add(name, tags={**BAD, "team": "weather"}, alias="champion")
        registry.add("a-hang", runs=HANGS)
        registry.add("bad-crash", runs=CRASH, tags=BAD)
        registry.add("bad-eats", runs=EATS, tags=BAD)
        registry.add("bad-exit", runs=EXITS, tags=BAD)
        registry.add("bad-frozen", is_frozen=True, tags=BAD)
        registry.add("bad-parity", logits_are_off=True, tags=BAD)
        for k in (1, 2, 3):
            registry.add("many", alias="champion" if k == 2 else "candidate")
        yield folder


@pytest.fixture(scope="module")
def job(folder: Path) -> tuple[Result, dict[str, Any]]:
    """One job over good and bad models with two workers; its output and its report."""
    done = CliRunner().invoke(
        main,
        [
            *("export", "--all", "--filter", "tags.job = 'poisoned'", "--jobs", "2", "--log-json"),
            *("--memory-limit", "1100", "--report", "job"),
        ],
    )
    assert (folder / "job.json").is_file(), done.output
    return done, json.loads((folder / "job.json").read_text())


def versions_of(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {outcome["name"]: outcome for outcome in report["versions"]}


def test_poisoned_models_cost_only_themselves(
    folder: Path, job: tuple[Result, dict[str, Any]]
) -> None:
    done, report = job
    assert done.exit_code == 1, done.output
    found = versions_of(report)
    assert set(found) == {*GOOD, *POISONED}
    repository = ModelRepository(folder / "model_repository")
    assert repository.names() == GOOD
    for name in GOOD:
        assert found[name]["status"] == "published", found[name]
        repository.check_proven(name, 1)
    for name, (cause, words) in POISONED.items():
        assert (found[name]["status"], found[name]["cause"]) == ("failed", cause), found[name]
        assert words in found[name]["reason"]
        assert Path(found[name]["log"]).is_file()
    assert report["workers_replaced"] == 3
    assert [p.name for p in (folder / ".model_repository.staging").iterdir() if p.is_dir()] == []


def test_version_that_hangs_is_ended_at_the_time_limit(folder: Path) -> None:
    done = CliRunner().invoke(
        main,
        [
            *("export", "--all", "--filter", "name = 'a-hang'", "--repository", "timed"),
            *("--time-limit", "2", "--json"),
        ],
    )
    assert done.exit_code == 1
    (outcome,) = json.loads(done.stdout)["versions"]
    assert (outcome["status"], outcome["cause"]) == ("failed", "time")
    assert outcome["reason"] == "not done after 2 s, the time limit"
    assert not (folder / "timed").exists()
    assert not [path for path in (folder / ".timed.staging").iterdir() if path.is_dir()]


def test_report_is_also_a_page_that_names_reason_and_log(
    folder: Path, job: tuple[Result, dict[str, Any]]
) -> None:
    page = (folder / "job.md").read_text()
    for name, (cause, words) in POISONED.items():
        (row,) = [line for line in page.splitlines() if line.startswith(f"| {name}/1 |")]
        assert f"| {cause} |" in row
        assert words in row
        assert f"{name}-1.log" in row


def test_events_are_json_lines_on_standard_error(job: tuple[Result, dict[str, Any]]) -> None:
    events = [json.loads(line) for line in job[0].stderr.splitlines() if line.startswith("{")]
    kinds = [event["event"] for event in events]
    assert (kinds[0], kinds[-1]) == ("job_selected", "job_finished")
    assert kinds.count("version_started") == kinds.count("version_finished") == 8
    assert kinds.count("worker_replaced") == 3


def test_crash_in_c_leaves_its_stack_in_the_log(job: tuple[Result, dict[str, Any]]) -> None:
    crashed = versions_of(job[1])["bad-crash"]
    assert "Fatal Python error: Segmentation fault" in crashed["reason"]
    assert "convert.py" in Path(crashed["log"]).read_text()


SKIP = """
import sys
from thresher.cli import main
try:
    main(["export", "--all", "--filter", "tags.team = 'weather'", "--json"])
finally:
    assert "torch" not in sys.modules
"""


def test_what_is_published_is_skipped_without_torch(
    folder: Path, job: tuple[Result, dict[str, Any]]
) -> None:
    before = {p: p.stat().st_mtime_ns for p in (folder / "model_repository").rglob("*")}
    done = subprocess.run(
        [sys.executable, "-c", SKIP], check=False, capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["counts"] == {"skipped": 3}
    assert {p: p.stat().st_mtime_ns for p in (folder / "model_repository").rglob("*")} == before


@pytest.mark.parametrize("file", ["model.onnx", "parity.json"])
def test_published_version_whose_bytes_changed_is_not_skipped(
    folder: Path, job: tuple[Result, dict[str, Any]], tmp_path: Path, file: str
) -> None:
    shutil.copytree(folder / "model_repository", tmp_path / "models")
    repository = ModelRepository(tmp_path / "models")
    (version,) = select_versions(filter_string="name = 'good-1'")
    assert is_published(version, repository, ExportOptions())
    assert not is_published(version, repository, ExportOptions(precision="fp16"))
    assert not is_published(version, repository, ExportOptions(settings={"max_batch_size": 8}))
    with (tmp_path / "models/good-1/1" / file).open("ab") as opened:
        opened.write(b" ")
    assert not is_published(version, repository, ExportOptions())


def selected(**wanted: Any) -> list[tuple[str, int]]:
    return [(version.name, version.version) for version in select_versions(**wanted)]


def test_newest_versions_are_selected_or_what_filter_and_alias_say(folder: Path) -> None:
    assert ("many", 3) in selected()
    assert len(selected()) == len(GOOD) + len(POISONED) + 2
    assert selected(filter_string="name = 'many'") == [("many", 1), ("many", 2), ("many", 3)]
    assert selected(alias="champion") == [*((name, 1) for name in GOOD), ("many", 2)]
    assert selected(alias="champion", filter_string="name LIKE 'm%'") == [("many", 2)]
    assert selected(filter_string="tags.team = 'weather'") == [(name, 1) for name in GOOD]


@pytest.mark.parametrize(
    ("wanted", "error", "words"),
    [
        ({"alias": "champoin"}, NotFoundError, 'did you mean "champion"'),
        ({"filter_string": "nme ~ 3"}, ConfigError, "name LIKE"),
        ({"filter_string": "name = 'none'"}, NotFoundError, "nothing to export: of 0 versions"),
    ],
)
def test_selecting_nothing_is_an_error_that_says_why(
    folder: Path, wanted: dict[str, str], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        select_versions(**wanted)


def test_registry_that_is_out_of_reach_is_one_clear_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    done = CliRunner().invoke(main, ["export", "--all", "--repository", "elsewhere"])
    assert done.exit_code == 1
    assert "the registry at http://127.0.0.1:9 cannot be read" in done.output
    assert "Traceback" not in done.output
    assert not (folder / "elsewhere").exists()


def test_of_several_versions_the_highest_serves_in_the_end(folder: Path, tmp_path: Path) -> None:
    repository = ModelRepository(tmp_path / "models")
    one, two, three = select_versions(filter_string="name = 'many'")

    def left(*versions: Any) -> list[int]:
        return [v.version for v in without_published(versions, repository, ExportOptions())]

    assert left(one, two, three) == [1, 2, 3]
    export_version(two.uri, repository=repository)
    assert left(two) == []
    assert left(one, two) == [1, 2], "the lower one would serve otherwise"
    export_version(one.uri, repository=repository)  # and here the job was killed
    assert left(one, two) == [2], "and does now"
    assert left(one) == []
    assert left(two) == [], "a version that somebody rolled back from stays so"
    served_record(repository.root, "many").write_text('{"serving": 1}')
    assert left(one, two) == [], "a rollback put the lower one into service"


def test_a_rollback_during_a_job_stays(folder: Path, tmp_path: Path) -> None:
    repository = ModelRepository(tmp_path / "models")
    for version in select_versions(filter_string="name = 'many'")[:2]:
        export_version(version.uri, repository=repository)
    assert repository.served_versions("many") == [2]

    def roll_back(event: str, **_: Any) -> None:
        if event == "version_started":
            repository.serve_versions("many", [1])

    wanted = JobOptions(
        repository=repository.root, logs=tmp_path / "logs", filter_string="name = 'many'"
    )
    report = run_job(wanted, roll_back)
    assert repository.versions("many") == [1, 2, 3]
    assert repository.served_versions("many") == [1]
    (done,) = (o for o in report.outcomes if o.status != "skipped")
    assert (done.version, done.status) == (3, "published")
    assert done.reason.startswith(
        "many/3 is published and does not serve: version 1 was put into service while the export"
    )
    assert "thresher rollout many/3" in done.reason
    assert done.reason in report.to_markdown()


def started_job(folder: Path, models: str, *options: str) -> tuple[subprocess.Popen[str], int]:
    """Start a job that hangs in its one version; return it and its worker."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "thresher", "export", "--all", "--filter", "name = 'a-hang'"),
            *("--log-json", "--repository", models, *options),
        ],
        cwd=folder,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("{") and (event := json.loads(line))["event"] == "version_started":
            return process, event["worker"]
    raise AssertionError(process.wait())


def is_gone(pid: int, timeout_s: float = 10) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


def wait_for_staging(folder: Path, models: str) -> Path:
    """Wait until the worker has a staging folder, which it never leaves by itself."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = list((folder / f".{models}.staging").glob("a-hang-*"))
        if found:
            return found[0]
        time.sleep(0.05)
    raise AssertionError("the worker never began")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_children_clears_staging_and_leaves_a_report(
    folder: Path, number: signal.Signals
) -> None:
    models = f"ended-by-{number.name}"
    process, worker = started_job(folder, models, "--report", f"{models}.json")
    staging = wait_for_staging(folder, models)
    process.send_signal(number)
    assert process.wait(timeout=20) == 128 + number
    process.stderr.close()
    assert is_gone(worker)
    assert not staging.exists()
    report = json.loads((folder / f"{models}.json").read_text())
    assert report["signal"] == number
    assert [outcome["status"] for outcome in report["versions"]] == ["stopped"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
def test_job_that_is_killed_takes_its_workers_with_it(folder: Path) -> None:
    process, worker = started_job(folder, "killed")
    staging = wait_for_staging(folder, "killed")
    process.kill()
    process.wait(timeout=20)
    process.stderr.close()
    assert is_gone(worker)
    assert staging.exists()
    repository = ModelRepository(folder / "killed")
    with repository.staging("a-hang"):
        assert not staging.exists(), "the next publisher clears it away"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 40 kB, which root may mount."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", str(disk)]
    done = subprocess.run(command, check=False, capture_output=True)
    if done.returncode:
        pytest.skip(f"cannot mount a small disk here: {done.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize(
    ("state", "words"),
    [("full", "No space left on device"), ("read-only", "Read-only file system")],
)
def test_disk_that_refuses_is_one_clear_error_and_nothing_is_published(
    folder: Path, small_disk: Path, state: str, words: str
) -> None:
    models = small_disk / "models"
    if state == "full":
        (small_disk / "filler").write_bytes(b"x" * 2**15)
    else:
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for what in (["models:/good-1/1"], ["--all", "--filter", "name = 'good-1'"]):
        done = CliRunner().invoke(main, ["export", *what, "--repository", str(models)])
        assert done.exit_code == 1
        assert words in done.output
        assert "nothing was published" in done.output
        assert "Traceback" not in done.output
    assert not models.exists()
    assert [p for p in small_disk.rglob("*") if p.is_dir() and p.name != ".models.staging"] == []
    assert not [p for p in small_disk.rglob("*.onnx*") if p.is_file()]


def test_ray_that_is_not_installed_is_named(folder: Path) -> None:
    try:
        import ray  # noqa: F401
    except ModuleNotFoundError:
        done = CliRunner().invoke(
            main, ["export", "--all", "--engine", "ray", "--repository", "elsewhere"]
        )
        assert done.exit_code == 1
        assert "pip install 'thresher[ray]'" in done.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--all", "models:/a/1"], "not both"),
        ([], "name a model URI"),
        (["models:/a/1", "--jobs", "2"], "--jobs goes with --all"),
    ],
)
def test_options_that_do_not_go_together_are_a_usage_error(
    arguments: list[str], words: str
) -> None:
    done = CliRunner().invoke(main, ["export", *arguments])
    assert done.exit_code == 2
    assert words in done.output


def test_new_thresholds_alone_are_exported_again(folder: Path, tmp_path: Path) -> None:
    """Two versions of the same weights: the tag of the decision tells them apart."""
    (version,) = select_versions(filter_string="name = 'good-2'")
    repository = ModelRepository(tmp_path / "models")
    export_version(version.uri, repository=repository)
    other = Decision(labels=version.decision().labels, thresholds=[0.1, 0.2, 0.3, 0.4])
    tagged = {**version.tags, "thresher.decision_sha256": other.digest}
    assert is_published(version, repository, ExportOptions())
    from dataclasses import replace

    assert not is_published(replace(version, tags=tagged), repository, ExportOptions())
    assert is_published(replace(version, tags={}), repository, ExportOptions()), "it is fetched"
