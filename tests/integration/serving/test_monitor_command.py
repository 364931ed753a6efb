"""`thresher monitor`, from training's store through export and `thresher score` to a verdict."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from support.weather import LABELS, NUM_FEATURES, log_version
from thresher.cli import main
from thresher.observations import BASELINE_FILE
from thresher.registry import connect, resolve

COLUMNS = tuple(f"features[{at}]" for at in range(NUM_FEATURES))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def made(empty_mlflow_db: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with "weather", its published version 1, and two jobs that it scored.

    ``same`` holds rows as in validation, in ``moved`` feature 2 is larger.
    """
    root = tmp_path_factory.mktemp("monitor")
    shutil.copy(empty_mlflow_db, root / "mlflow.db")
    rng = np.random.default_rng(3)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow.db'}")
        mlflow = connect()
        mlflow.set_tracking_uri(None)
        mlflow.create_experiment("tests", artifact_location=(root / "artifacts").as_uri())
        mlflow.set_experiment("tests")
        log_version(root, num_rows=1_000)
        for name, shift in (("same", 0.0), ("moved", 0.7)):
            x = rng.normal(size=(3_000, NUM_FEATURES)).astype(np.float32)
            x[:, 2] += np.float32(shift)
            np.savez(root / f"{name}.npz", features=x)
            done = run("score", "weather@candidate", "--input", f"{name}.npz", "--output", name)
            assert done.exit_code == 0, done.output
    return root


@pytest.fixture
def store(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it that is the working folder, but for the artifacts."""
    for name in ("mlflow.db", "model_repository", "same", "moved"):
        copy = shutil.copytree if (made / name).is_dir() else shutil.copy
        copy(made / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    connect().set_tracking_uri(None)
    return tmp_path


def newest_run(version: str = "models:/weather/1") -> Any:
    """Return the run that the version says was the last to watch it."""
    return connect().MlflowClient().get_run(resolve(version).tags["thresher.monitor_run"])


def num_runs() -> int:
    client = connect().MlflowClient()
    experiments = [each.experiment_id for each in client.search_experiments()]
    return len(client.search_runs(experiments, "tags.`thresher.drift` LIKE '%'"))


def test_rows_as_in_validation_raise_nothing(store: Path) -> None:
    done = run("monitor", "--output", "same")
    assert done.exit_code == 0, done.output
    assert "nothing moved, of 15 things tested at 0.01" in done.output
    assert (store / ".thresher/drift/weather-1/drift.html").is_file()
    assert newest_run().data.tags["thresher.drift"] == "none"


def test_a_covariate_shift_is_named_and_logged_with_the_version(store: Path) -> None:
    done = run("monitor", "--output", "same", "--output", "moved", "--report", "watched")
    assert done.exit_code == 3, done.output
    assert "same: 3,000 rows of weather/1: nothing moved" in done.output
    first = next(line for line in done.output.splitlines() if line.startswith("│"))
    assert "features[2]" in first

    logged = newest_run()
    version = resolve("models:/weather/1")
    assert logged.data.tags["thresher.model"] == "weather"
    assert logged.data.tags["thresher.version"] == "1"
    assert logged.data.tags["thresher.drift"] == "found"
    assert [f"models:/{each.model_id}" for each in logged.inputs.model_inputs] == [version.source]
    trained = connect().MlflowClient().get_run(version.run_id)
    assert logged.info.experiment_id == trained.info.experiment_id
    history = connect().MlflowClient().get_metric_history(logged.info.run_id, "drift/found")
    assert [(each.step, each.value) for each in history] == [(0, 0.0), (1, 1.0)]
    assert {f"rate/{label}" for label in LABELS} <= set(logged.data.metrics)
    files = connect().MlflowClient().list_artifacts(logged.info.run_id, "drift")
    assert {Path(each.path).name for each in files} == {
        path.name for path in (store / "watched").iterdir()
    }
    assert {"drift.json", "drift.html", "rates-2.png"} <= {Path(each.path).name for each in files}


def test_windows_can_be_taken_as_one_and_told_as_json(store: Path) -> None:
    done = CliRunner().invoke(
        main, ["monitor", "same/_report.json", "moved", "--merge", "--no-log", "--json"]
    )
    assert done.exit_code == 3, done.output
    told = json.loads(done.stdout)
    assert told["run_id"] is None
    assert [window["rows"]["scored"] for window in told["windows"]] == [6_000]
    assert {f["name"] for f in told["windows"][0]["findings"] if f["kind"] == "feature"} == {
        *COLUMNS
    }
    assert num_runs() == 0


def test_both_baselines_lead_to_the_same_findings(store: Path) -> None:
    args = ["monitor", "moved", "--no-log", "--json"]
    logged = json.loads(CliRunner().invoke(main, args).stdout)["windows"][0]
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI")
        (store / "mlflow.db").rename(store / "away.db")
        done = CliRunner().invoke(main, args)
    assert "Validation is read from model_repository (no MLFLOW_TRACKING_URI" in done.stderr
    published = json.loads(done.stdout)["windows"][0]
    assert published["baseline"]["name"] != logged["baseline"]["name"]
    assert published["findings"] == logged["findings"]


def test_the_verdict_stays_where_mlflow_is_out_of_reach(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    done = run("monitor", "moved")
    assert done.exit_code == 3, done.output
    assert "the registry does not answer" in done.output
    assert "WARNING: nothing is logged" in done.output

    (store / "model_repository/weather/1" / BASELINE_FILE).unlink()
    done = run("monitor", "moved")
    assert done.exit_code == 1
    assert "nothing to compare with. MLflow:" in done.output
    assert "Set MLFLOW_TRACKING_URI" in done.output


def test_without_mlflow_it_says_that_it_is_not_installed(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    done = run("monitor", "--output", store / "same")
    assert done.exit_code == 0, done.output
    assert "WARNING: nothing is logged to MLflow: mlflow is not installed here" in done.output
    assert "does not know" not in done.output


def test_a_store_that_takes_no_run_costs_a_warning(store: Path) -> None:
    """The version's experiment was deleted: nothing can be logged there."""
    client = connect().MlflowClient()
    experiment = client.get_run(resolve("models:/weather/1").run_id).info.experiment_id
    client.delete_experiment(experiment)
    done = run("monitor", "moved")
    assert done.exit_code == 3, done.output
    assert "WARNING: not logged to MLflow" in done.output


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 2}, r"moved is of weather/2, same of weather/1"),
        ({"labels": [{"label": f"other {at}"} for at in range(4)]}, "others .other 0, other 1"),
        ({"rows": {"scored": 2_999, "rejected": 0}}, "are not of one job"),
    ],
)
def test_windows_that_do_not_fit_are_refused(
    store: Path, change: dict[str, Any], said: str
) -> None:
    path = store / "moved/_report.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    done = run("monitor", "same", "moved")
    assert done.exit_code == 1
    assert re.search(said, done.output)
    assert "Traceback" not in done.output


def test_labels_that_the_version_does_not_have_are_refused(store: Path) -> None:
    path = store / "moved/_report.json"
    told = json.loads(path.read_text())
    told["labels"].reverse()
    path.write_text(json.dumps(told))
    done = run("monitor", "moved")
    assert done.exit_code == 1
    assert "or in another order; expected the labels of weather/1" in done.output


def test_wrong_usage_is_told_apart_from_drift(store: Path) -> None:
    assert run("monitor").exit_code == 2
    assert run("monitor", "same", "--alpha", "1").exit_code == 2
    done = run("monitor", "same", "--output", "same")
    assert (done.exit_code, "a window is named twice" in done.output) == (1, True)


def test_the_page_s_python_runs(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[3] / "docs/monitoring.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    code = code.replace('"digits", 3', '"weather", 1').replace("scored/2026-03-01", "moved")
    exec(compile(code, "docs/monitoring.md", "exec"), {})
    assert "feature features[2]" in capsys.readouterr().out
    assert (store / "drift/drift.html").is_file()
