"""`thresher tune` and `thresher diff` on a registered version, with a real MLflow store."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from sklearn.metrics import f1_score, precision_score

from support import weather
from support.fixtures import LogVersion
from thresher import Decision
from thresher.cli import main
from thresher.registry import connect, resolve

URI = "models:/weather@candidate"


def thresher(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, catch_exceptions=False)


def fails(*arguments: str) -> str:
    """Run a command that must fail as a user's mistake does; nothing may be registered by it."""
    client = connect().MlflowClient()
    before = [v.version for v in client.search_model_versions("name='weather'")]
    outcome = thresher(*arguments)
    assert outcome.exit_code == 1, outcome.output
    assert [v.version for v in client.search_model_versions("name='weather'")] == before
    return outcome.stderr


def tuned(*arguments: str) -> dict[str, object]:
    outcome = thresher("tune", URI, *arguments, "--json")
    assert outcome.exit_code == 0, outcome.output
    content: dict[str, object] = json.loads(outcome.stdout)
    return content


def test_new_version_shares_the_weights_and_differs_in_its_decision(
    log_version: LogVersion,
) -> None:
    first = log_version()
    content = tuned("--min-positives", "1")
    assert content["uri"] == "models:/weather/2"
    assert content["tuned_from"] == "models:/weather/1"
    second = resolve(URI)
    assert second.version == 2
    assert second.source == first.source
    assert second.run_id != first.run_id
    assert second.decision() != first.decision()
    rows, again = first.evaluation("validation"), second.evaluation("validation")
    np.testing.assert_array_equal(rows.logits_NL, again.logits_NL)
    p, y = second.decision().apply(rows.logits_NL)
    for k, row in enumerate(content["labels"]):  # type: ignore[arg-type, var-annotated]
        assert row["value"] == pytest.approx(f1_score(rows.targets_NL[:, k], y[:, k]))
        for t in np.unique(p[:, k]):
            assert f1_score(rows.targets_NL[:, k], p[:, k] >= t) <= row["value"] + 1e-12


def test_tuned_version_can_be_tuned_and_exported_again(log_version: LogVersion) -> None:
    log_version()
    tuned("--min-positives", "1")
    tuned("--objective", "f2", "--min-positives", "1")
    third = resolve("models:/weather/3")
    assert third.evaluation("test").targets_NL.shape == (150, 4)
    assert thresher("export", "models:/weather/3").exit_code == 0
    assert thresher("verify", "weather/3").exit_code == 0


def test_objective_and_set_thresholds_are_kept_to(log_version: LogVersion) -> None:
    log_version()
    content = tuned("--objective", "f1", "--set", "fog=0.75", "--set", "rain=f0.5")
    decision = resolve(URI).decision()
    assert decision.thresholds[2] == np.float32(0.75)
    labels = {row["label"]: row for row in content["labels"]}  # type: ignore[attr-defined]
    assert labels["fog"]["origin"] == "fixed"
    assert labels["rain"]["objective"] == "f0.5"


def test_recall_at_precision_reaches_the_precision(log_version: LogVersion) -> None:
    log_version()
    tuned("--objective", "recall@precision>=0.2", "--min-positives", "1")
    rows = resolve(URI).evaluation("validation")
    _, y = resolve(URI).decision().apply(rows.logits_NL)
    for k in range(4):
        if y[:, k].any():
            assert precision_score(rows.targets_NL[:, k], y[:, k]) >= 0.2


def test_objective_that_cannot_be_met_says_what_can(log_version: LogVersion) -> None:
    log_version()
    said = fails("tune", URI, "--objective", "recall@precision>=0.99", "--min-positives", "1")
    # which labels cannot meet it depends on the last bits of what was trained
    assert re.search(r'"\w+": recall@precision>=0.99 cannot be met; the best precision is', said)


def test_run_holds_what_people_look_at(log_version: LogVersion, store: Path) -> None:
    log_version()
    content = tuned("--calibrate", "platt", "--intervals", "--html", "explorer.html")
    version = resolve(URI)
    for name in ("labels.csv", "explorer.html", "decision.toml", "plots/thresholds.png"):
        assert version.artifact(name).stat().st_size > 100, name
    assert (store / "explorer.html").read_bytes() == version.artifact("explorer.html").read_bytes()
    assert version.decision().is_calibrated
    row = content["labels"][0]  # type: ignore[index]
    assert row["value_interval"][0] <= row["value_interval"][1]
    assert row["optimism"] is not None
    assert version.tags["thresher.tuned_from"] == "models:/weather/1"


def test_scores_from_a_file_are_tuned_on_instead(log_version: LogVersion) -> None:
    log_version()
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(400, 4)).astype(np.float32)
    np.savez("scores.npz", logits=logits, targets=(logits > 1).astype(np.float32))
    content = tuned("--scores", "scores.npz")
    rows = content["labels"]
    assert [row["value"] for row in rows] == [1.0] * 4  # type: ignore[index, attr-defined]


def test_diff_counts_flips_on_the_same_rows(log_version: LogVersion) -> None:
    first = log_version()
    tuned("--set", "sun=0.9", "--set", "rain=0.3", "--set", "fog=0.61", "--set", "wind=0.42")
    outcome = thresher("diff", "models:/weather/1", "models:/weather/2", "--json")
    labels = {row["label"]: row for row in json.loads(outcome.stdout)["labels"]}
    rows = first.evaluation("test")
    # the tuned version has no calibration: compare against the two decisions as they are
    before = first.decision().apply(rows.logits_NL)[1]
    after = resolve("models:/weather/2").decision().apply(rows.logits_NL)[1]
    for k, name in enumerate(weather.LABELS):
        row = labels[name]
        assert row["to_yes"] == int((~before[:, k] & after[:, k]).sum())
        assert row["to_no"] == int((before[:, k] & ~after[:, k]).sum())
        f1 = [f1_score(rows.targets_NL[:, k], y[:, k]) for y in (before, after)]
        assert row["f1"] == pytest.approx(f1)
        assert row["interval"][0] <= row["change"] <= row["interval"][1]
    shown = thresher("diff", "models:/weather/1", "models:/weather/2").stdout
    assert "Decisions that differ: " in shown


def test_diff_of_a_version_with_itself_is_nothing(log_version: LogVersion) -> None:
    log_version()
    assert "Decisions that differ: 0" in thresher("diff", URI, "models:/weather/1").stdout


def test_bad_input_registers_nothing(log_version: LogVersion) -> None:
    log_version()
    log_version(name="other", decision=Decision(labels=list("abcd"), thresholds=[0.5] * 4))
    assert 'did you mean "fog"' in fails("tune", URI, "--set", "fogg=0.3")
    assert 'did you mean "f1"' in fails("tune", URI, "--objective", "f1_")
    assert "expected LABEL=0.7" in fails("tune", URI, "--set", "fog")
    assert "fixed" in fails("tune", URI, "--set", "fog=1.5")
    assert "no such file" in fails("tune", URI, "--scores", "nowhere.npz")
    assert 'did you mean "weather"' in fails("tune", "models:/wether@candidate")
    assert "labels" in fails("diff", URI, "models:/other/1")
    targets = np.zeros((3, 4))
    targets[1, 2] = 2
    np.savez("bad.npz", logits=np.full((3, 4), -1.0), targets=targets)
    assert "fog" in fails("tune", URI, "--scores", "bad.npz")
    logits = np.full((3, 4), -1.0)
    logits[2, 1] = np.nan
    np.savez("nan.npz", logits=logits, targets=np.zeros((3, 4)))
    assert "rain" in fails("tune", URI, "--scores", "nan.npz")


def test_tuning_starts_from_the_settings_of_the_version(log_version: LogVersion) -> None:
    log_version()
    first = tuned(
        *("--objective", "mcc", "--calibrate", "platt", "--shrink", "--min-positives", "3"),
        *("--set", "fog=0.4", "--set", "rain=f2", "--band", "1e-6"),
    )
    second = tuned("--objective", "micro_f1", "--set", "rain=f0.5")
    expected = dict(first["settings"])  # type: ignore[call-overload]
    expected |= {"objective": "micro_f1", "objectives": {"fog": "fixed=0.4", "rain": "f0.5"}}
    assert second["settings"] == expected
    assert second["changes"] == ["objective: mcc -> micro_f1", 'objectives."rain": f2 -> f0.5']
    decisions = [resolve(f"models:/weather/{version}").decision() for version in (2, 3)]
    np.testing.assert_array_equal(decisions[0].scale, decisions[1].scale)
    assert decisions[1].thresholds[2] == np.float32(0.4)
    figures = [content["metrics"] for content in (first, second)]
    at_half = [
        {name: value for name, value in found.items() if "at_0.5" in name}  # type: ignore[attr-defined]
        for found in figures
    ]
    assert at_half[0] == at_half[1]
    assert at_half[0]


def test_a_trained_version_is_tuned_by_its_recipe_and_changes_are_printed(
    log_version: LogVersion,
) -> None:
    version = log_version()
    recipe = """
        name = "weather"
        [decision]
        calibration = "temperature"
        min_positives = 7
        [decision.objectives]
        fog = "fixed=0.25"
    """
    connect().MlflowClient().log_text(version.run_id, recipe, "recipe.toml")
    outcome = thresher("tune", URI, "--no-shrink", "--calibrate", "none", "--set", "fog=0.3")
    assert outcome.exit_code == 0, outcome.output
    lines = outcome.stdout.splitlines()
    at = lines.index("Settings: those of models:/weather/1, but")
    assert lines[at + 1 : at + 3] == [
        "  calibration: temperature -> none",
        '  objectives."fog": fixed=0.25 -> fixed=0.3',
    ]
    assert "min_positives" not in outcome.stdout
    assert "chosen for" in outcome.stdout


def test_settings_that_are_not_recorded_or_not_understood_are_told(
    log_version: LogVersion,
) -> None:
    version = log_version()
    outcome = thresher("tune", URI)
    assert "does not record its settings" in outcome.stderr
    assert "calibration: as in decision.json -> none" in outcome.stdout
    connect().MlflowClient().log_text(version.run_id, "[decision\n", "recipe.toml")
    assert "recipe.toml: not valid TOML" in fails("tune", "models:/weather/1")


def test_a_tuned_version_has_a_description_and_tags_on_mlflow(log_version: LogVersion) -> None:
    log_version()
    tuned("--objective", "f2", "--set", "fog=0.4")
    client = connect().MlflowClient()
    page = client.get_model_version("weather", "2")
    for text in ("Tuned from models:/weather/1", "objective: f1 -> f2", "`fog` fixed=0.4", "| "):
        assert text in page.description
    assert {"thresher.version", "thresher.decision_sha256", "thresher.tuned_from"} <= set(page.tags)
    run = client.get_run(page.run_id)
    assert "objective: f1 -> f2" in run.data.tags["mlflow.note.content"]
    assert run.data.params["objectives"] == '{"fog": "fixed=0.4"}'
    assert run.data.params["objective"] == "f2"
