"""A training run whose MLflow server goes away, comes back, or does not."""

import json
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from support.mlflow_server import MlflowServer
from thresher.errors import TrainingError
from thresher.registry import connect
from thresher_training.loop import EpochMetrics
from thresher_training.outbox import UNSENT_FOLDER
from thresher_training.tracking import log_epoch, log_figures, log_report, tracked_run


@pytest.fixture
def server(empty_mlflow_db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "mlflow.db").write_bytes(empty_mlflow_db.read_bytes())
    monkeypatch.chdir(tmp_path)
    with MlflowServer(
        tmp_path, store=f"sqlite:///{tmp_path / 'mlflow.db'}", artifacts=str(tmp_path / "kept")
    ) as running:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", running.uri)
        connect().set_tracking_uri(None)
        yield running


def epoch(number: int) -> EpochMetrics:
    return EpochMetrics(
        epoch=number,
        train_loss=1 / number,
        validation_loss=2 / number,
        validation={"macro_f1": number / 100, "coverage": float("nan")},
        learning_rate=1e-3,
        gradient_norm=1.0,
        rows_per_s=1000.0,
        data_wait_fraction=0.0,
        seconds=0.1,
    )


def history(run_id: str, metric: str) -> list[tuple[int, float]]:
    found = connect().MlflowClient().get_metric_history(run_id, metric)
    return sorted((point.step, point.value) for point in found)


def test_epochs_logged_while_the_server_is_away_are_there_once_when_it_is_back(server, tmp_path):
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "table.csv").write_text("label\nrain\n")
    slowest_s = 0.0
    with tracked_run("outage") as run_id:
        for number in range(1, 31):
            if number == 10:
                server.kill()
            if number == 20:
                server.start()
            started = time.monotonic()
            log_epoch(epoch(number))
            slowest_s = max(slowest_s, time.monotonic() - started)
            time.sleep(0.05)
        log_figures({"test/macro_f1": 0.5})
        log_report(tmp_path / "report")
    assert slowest_s < 0.5
    assert history(run_id, "train/loss") == [(n, 1 / n) for n in range(1, 31)]
    assert history(run_id, "validation/macro_f1") == [(n, n / 100) for n in range(1, 31)]
    client = connect().MlflowClient()
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["test/macro_f1"] == 0.5
    assert "validation/coverage" not in run.data.metrics
    assert [file.path for file in client.list_artifacts(run_id)] == ["table.csv"]
    assert not (UNSENT_FOLDER / run_id).exists()


@pytest.mark.slow
def test_a_server_that_stays_away_fails_the_training_and_the_next_one_sends_the_rest(
    server, tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv("THRESHER_MLFLOW_WAIT_S", "2")
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "table.csv").write_text("label\nrain\n")
    with pytest.raises(TrainingError, match=r"THRESHER_MLFLOW|next `thresher train`"):
        with tracked_run("outage") as run_id:
            log_epoch(epoch(1))
            time.sleep(1)
            server.kill()
            log_epoch(epoch(2))
            log_report(tmp_path / "report")
    kept = [json.loads(path.read_text()) for path in (UNSENT_FOLDER / run_id).glob("*.json")]
    assert any(entry.get("step") == 2 and entry.get("is_epoch") for entry in kept)
    server.start()
    with tracked_run("outage"):
        pass
    assert f"sent to MLflow what run {run_id} could not send" in caplog.text
    client = connect().MlflowClient()
    assert history(run_id, "train/loss") == [(1, 1.0), (2, 0.5)]
    assert [file.path for file in client.list_artifacts(run_id)] == ["table.csv"]
    run = client.get_run(run_id)
    assert run.info.status == "FAILED"
    assert "did not take the run's artifacts" in run.data.tags["thresher.failure"]
    assert not list(UNSENT_FOLDER.iterdir())


def test_a_killed_process_loses_nothing_that_it_logged(server, tmp_path):
    script = textwrap.dedent(
        """
        import os, signal, sys
        from test_mlflow_outage import epoch
        from thresher_training.tracking import log_epoch, tracked_run

        with tracked_run("outage", resume=sys.argv[2] if sys.argv[2:] else None) as run_id:
            print(run_id, flush=True)
            if sys.argv[1] == "kill":
                os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "1"
                for number in (1, 2, 3):
                    log_epoch(epoch(number))
                os.kill(os.getpid(), signal.SIGKILL)
            for number in (3, 4):
                log_epoch(epoch(number))
        """
    )
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = {folders!r}\n{script}"]
    first = subprocess.run([*command, "kill"], capture_output=True, text=True, check=False)
    run_id = first.stdout.strip()
    assert first.returncode == -9, first.stderr
    assert list((UNSENT_FOLDER / run_id).glob("*.json"))
    assert connect().MlflowClient().get_run(run_id).info.status == "RUNNING"
    resumed = subprocess.run(
        [*command, "finish", run_id], capture_output=True, text=True, check=False
    )
    assert resumed.returncode == 0, resumed.stderr
    assert history(run_id, "train/loss") == [(n, 1 / n) for n in (1, 2, 3, 4)]
    assert connect().MlflowClient().get_run(run_id).info.status == "FINISHED"
