"""The run in a real store: what goes in, how it ends, what a refused or killed one leaves."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import tomllib

import mlflow
import numpy as np
import pytest

from thresher.config import from_mapping
from thresher.errors import ConfigError, NotFoundError, TrainingError
from thresher.mlflow_store import metric_name
from thresher_training import DataSet, DecisionConfig, LossConfig, Recipe, Split
from thresher_training.environment import describe_environment, installed_packages
from thresher_training.loop import EpochMetrics
from thresher_training.outbox import UNSENT_FOLDER, Outbox, send_left
from thresher_training.tracking import (
    log_data,
    log_description,
    log_epoch,
    log_figures,
    log_recipe,
    log_report,
    patiently,
    tracked_run,
)


def epoch(number, **validation):
    return EpochMetrics(
        epoch=number,
        train_loss=1 / number,
        validation_loss=2 / number,
        validation=validation,
        learning_rate=1e-3,
        gradient_norm=float("inf") if number == 2 else 1.5,
        rows_per_s=1000.0,
        data_wait_fraction=0.25,
        seconds=0.1,
    )


def steps(run_id, metric):
    return [m.step for m in mlflow.MlflowClient().get_metric_history(run_id, metric)]


def test_an_epochs_figures_are_all_there_and_what_is_no_number_is_left_out(store):
    with tracked_run("t") as run_id:
        for number in (1, 2):
            log_epoch(epoch(number, macro_f1=0.5, coverage=float("nan")))
        log_figures({"test/macro_f1": 0.75})
    run = mlflow.get_run(run_id)
    assert run.info.status == "FINISHED"
    own = {k: v for k, v in run.data.metrics.items() if not k.startswith("system/")}
    assert own == {
        "train/loss": 0.5,
        "train/learning_rate": 1e-3,
        "train/gradient_norm": 1.5,
        "train/rows_per_s": 1000.0,
        "train/data_wait_fraction": 0.25,
        "train/seconds": 0.1,
        "validation/loss": 1.0,
        "validation/macro_f1": 0.5,
        "test/macro_f1": 0.75,
    }
    assert steps(run_id, "train/loss") == [1, 2]
    assert steps(run_id, "train/gradient_norm") == [1]


def test_even_a_short_run_has_system_metrics_and_they_can_be_turned_off(store, monkeypatch):
    with tracked_run("t") as run_id:
        time.sleep(0.3)
    assert mlflow.get_run(run_id).data.metrics["system/system_memory_usage_percentage"] > 0
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
    with tracked_run("t") as run_id:
        pass
    assert not mlflow.get_run(run_id).data.metrics


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (ValueError("a bad row"), "FAILED", "ValueError: a bad row"),
        (KeyboardInterrupt(), "KILLED", "interrupted"),
    ],
)
def test_an_error_ends_the_run_with_all_that_was_logged(store, error, status, told):
    with pytest.raises(type(error)), tracked_run("t") as run_id:
        for number in range(1, 6):
            log_epoch(epoch(number))
        raise error
    run = mlflow.get_run(run_id)
    assert run.info.status == status
    assert run.data.tags["thresher.failure"] == told
    assert steps(run_id, "train/loss") == [1, 2, 3, 4, 5]
    assert mlflow.active_run() is None
    assert not list(UNSENT_FOLDER.iterdir())


def test_sigterm_ends_the_run_as_killed(store):
    script = textwrap.dedent(
        """
        import time
        from thresher_training.tracking import log_figures, tracked_run

        with tracked_run("t") as run_id:
            log_figures({"a": 1.0})
            print(run_id, flush=True)
            time.sleep(60)
        """
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    run_id = process.stdout.readline().strip()
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    run = mlflow.get_run(run_id)
    assert run.info.status == "KILLED"
    assert run.data.metrics["a"] == 1.0


def test_a_resumed_run_goes_on_and_has_no_epoch_twice(store):
    with pytest.raises(ValueError, match="stop"), tracked_run("t") as run_id:
        log_recipe(Recipe(name="t", loss=LossConfig(name="focal")))
        log_epoch(epoch(1))
        log_epoch(epoch(2))
        raise ValueError("stop")
    with tracked_run("t", resume=run_id) as resumed:
        log_recipe(Recipe(name="t", loss=LossConfig(name="focal")))
        log_epoch(epoch(2))
        log_epoch(epoch(3))
    assert resumed == run_id
    assert steps(run_id, "train/loss") == [1, 2, 3]
    assert mlflow.get_run(run_id).info.status == "FINISHED"


def test_a_run_that_does_not_exist_cannot_be_resumed(store):
    with pytest.raises(NotFoundError, match="has no run"), tracked_run("t", resume="0" * 32):
        pass
    assert mlflow.active_run() is None


def test_a_run_is_logged_to_by_one_process(store):
    with tracked_run("t") as run_id:
        with pytest.raises(ConfigError, match="another process"):
            with tracked_run("t", resume=run_id):
                pass
        log_figures({"a": 1.0})
    assert mlflow.get_run(run_id).info.status == "FINISHED"


def test_children_have_their_own_figures(store):
    with tracked_run("t") as parent:
        with pytest.raises(ValueError, match="x"), tracked_run("t") as child:
            log_figures({"a": 2.0})
            raise ValueError("x")
        log_figures({"a": 1.0})
    assert mlflow.get_run(child).data.tags["mlflow.parentRunId"] == parent
    assert mlflow.get_run(child).data.metrics["a"] == 2.0
    assert mlflow.get_run(child).info.status == "FAILED"
    assert mlflow.get_run(parent).data.metrics["a"] == 1.0
    assert mlflow.get_run(parent).info.status == "FINISHED"


def test_configuration_environment_and_data_are_in_the_run(store):
    rng = np.random.default_rng(0)
    split = Split(
        inputs={"x": rng.normal(size=(8, 2)).astype(np.float32)},
        targets_NL=np.float32([[1, 0], [0, 1]] * 4),
    )
    data = DataSet(
        labels=("rain", "fog"),
        splits=dict.fromkeys(("train", "validation", "test"), split),
        source="drawn at random",
    )
    with tracked_run("t") as run_id:
        log_recipe(Recipe(name="weather", seed=3))
        log_data(data)
        log_description("**two** labels")
    run = mlflow.get_run(run_id)
    assert run.info.run_name == "weather, bce, seed 3"
    assert run.data.params["optimization.epochs"] == "10"
    assert run.data.tags["mlflow.note.content"] == "**two** labels"
    assert run.data.tags["mlflow.source.name"] == "thresher"
    assert {given.dataset.name for given in run.inputs.dataset_inputs} == set(data.splits)
    files = {item.path for item in mlflow.MlflowClient().list_artifacts(run_id)}
    assert files == {"recipe.toml", "environment.json", "data"}


def test_the_environment_tells_versions_and_no_places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = describe_environment()
    assert found["packages"]["numpy"] == np.__version__
    assert found["git"] is None
    text = json.dumps(found)
    assert os.uname().nodename not in text
    assert str(tmp_path) not in text
    assert sys.prefix not in text
    assert list(installed_packages()) == sorted(installed_packages(), key=str.lower)


def test_the_environment_tells_the_working_folders_commit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command in ("init -q", "-c user.name=a -c user.email=a@b commit -q --allow-empty -m x"):
        subprocess.run(["git", *command.split()], check=True)
    told = describe_environment()["git"]
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert told == {"commit": head.stdout.strip(), "has_changes": False}


def test_what_a_process_left_is_sent_in_order_and_another_stores_is_left_alone(store):
    run_id = mlflow.MlflowClient().create_run("0").info.run_id
    folder = UNSENT_FOLDER / run_id
    outbox = Outbox(run_id, folder)
    digest = (folder / "store").read_text()
    assert send_left(UNSENT_FOLDER) == {}  # a process is at it
    outbox.close(0)
    folder.mkdir()
    (folder / "store").write_text(digest)
    for number, value in enumerate((1.0, 2.0), start=1):
        entry = {"metrics": {"a": value}, "step": number, "time_ms": number, "is_epoch": False}
        (folder / f"{number:06d}.json").write_text(json.dumps(entry))
    other = UNSENT_FOLDER / "other"
    other.mkdir()
    (other / "store").write_text("another")
    assert send_left(UNSENT_FOLDER) == {run_id: True}
    assert steps(run_id, "a") == [1, 2]
    assert not folder.exists()
    assert other.exists()


def test_a_run_that_ends_as_usual_has_left_nothing(store, monkeypatch):
    """Another process looks at its folder just before, and just after, it is done."""
    run_id = mlflow.MlflowClient().create_run("0").info.run_id
    folder = UNSENT_FOLDER / run_id
    outbox = Outbox(run_id, folder)
    outbox.put_metrics({"a": 1.0})
    seen = []
    rmtree = shutil.rmtree

    def look(path, **options):
        monkeypatch.setattr(shutil, "rmtree", rmtree)
        seen.append(send_left(UNSENT_FOLDER))  # all has arrived, the folder is still there
        rmtree(path, **options)

    monkeypatch.setattr(shutil, "rmtree", look)
    assert outbox.close(10)
    assert seen == [{}]
    assert not folder.exists()


def test_an_empty_folder_of_a_killed_process_is_removed_without_a_word(store):
    run_id = mlflow.MlflowClient().create_run("0").info.run_id
    folder = UNSENT_FOLDER / run_id
    outbox = Outbox(run_id, folder)
    digest = (folder / "store").read_text()
    outbox.close(10)
    folder.mkdir()
    (folder / "store").write_text(digest)
    assert send_left(UNSENT_FOLDER) == {}
    assert not folder.exists()


def test_a_folder_that_goes_away_meanwhile_is_no_fault(store, monkeypatch):
    run_id = mlflow.MlflowClient().create_run("0").info.run_id
    outbox = Outbox(run_id, UNSENT_FOLDER / run_id)
    listed = list(UNSENT_FOLDER.iterdir())
    outbox.close(10)
    monkeypatch.setattr(type(UNSENT_FOLDER), "glob", lambda *_: iter(listed))
    monkeypatch.setattr(type(UNSENT_FOLDER), "is_dir", lambda _: True)
    assert send_left(UNSENT_FOLDER) == {}
    assert not (UNSENT_FOLDER / run_id).exists()


def test_a_report_is_there_when_logging_it_returns(store, tmp_path):
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "a.txt").write_text("a")
    with tracked_run("t") as run_id:
        log_report(tmp_path / "report")
        assert [f.path for f in mlflow.MlflowClient().list_artifacts(run_id)] == ["a.txt"]


def test_patience_is_for_a_store_out_of_reach_alone(store, monkeypatch):
    monkeypatch.setenv("THRESHER_MLFLOW_WAIT_S", "1")
    calls = []

    def away():
        calls.append(1)
        raise mlflow.MlflowException("API request failed with exception: refused")

    with pytest.raises(TrainingError, match="out of reach for 1 s"):
        patiently(away)
    assert len(calls) == 2
    with pytest.raises(mlflow.MlflowException):
        patiently(lambda: mlflow.get_run("0" * 32))
    monkeypatch.setenv("THRESHER_MLFLOW_WAIT_S", "soon")
    with pytest.raises(ConfigError, match="soon"):
        patiently(away)


STRANGE = (
    *("r&b", "r@b", "r+b", "r b", "r,b", "r:b", "r/b", "../b", "r'b", 'r"b', "r=b", "r.b", "[b]"),
    *("Käse", "雪", "😀", "%41", "A", " A", "a\x7f", 300 * "x", 300 * "x" + "y"),
)


def test_labels_of_any_name_are_logged_and_none_is_taken_for_another(store):
    given = {label: 1.0 + at for at, label in enumerate(STRANGE)}
    decision = DecisionConfig(objectives=dict.fromkeys(STRANGE, "f2"))
    loss = LossConfig(pos_weight="given", given=given)
    recipe = Recipe(name="t", loss=loss, decision=decision)
    with tracked_run("t") as run_id:
        log_recipe(recipe)
    params = mlflow.get_run(run_id).data.params
    assert json.loads(params["loss.given"]) == given
    assert json.loads(params["decision.objectives"]) == decision.objectives
    kept = mlflow.artifacts.load_text(f"runs:/{run_id}/recipe.toml")
    assert from_mapping(tomllib.loads(kept), Recipe, where="kept") == recipe


def test_labels_of_plain_names_have_parameters_of_their_own(store):
    loss = LossConfig(pos_weight="given", given={"rain": 2.0, "snow-2": 3.0})
    with tracked_run("t") as run_id:
        log_recipe(Recipe(name="t", loss=loss))
    params = mlflow.get_run(run_id).data.params
    assert (params["loss.given.rain"], params["loss.given.snow-2"]) == ("2.0", "3.0")


def test_metrics_of_labels_have_names_that_mlflow_takes(store):
    names = {label: metric_name("rate", label) for label in STRANGE}
    assert len(set(names.values())) == len(STRANGE)
    assert names["r b"] == "rate/r b"
    run_id = mlflow.MlflowClient().create_run("0").info.run_id
    for at, name in enumerate(names.values()):
        mlflow.MlflowClient().log_metric(run_id, name, at)
    assert len(mlflow.get_run(run_id).data.metrics) == len(STRANGE)


def test_an_experiment_is_shown_as_model_training_whoever_made_it(store):
    mlflow.create_experiment("by hand")
    for name in ("by hand", "new"):
        with tracked_run(name):
            pass
        tags = mlflow.get_experiment_by_name(name).tags
        assert tags["mlflow.experimentKind"] == "custom_model_development"
