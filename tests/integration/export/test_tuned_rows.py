"""Decisions hold on the rows that thresholds were chosen on, or the version is not exported."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from click.testing import CliRunner, Result

from support import weather
from support.fixtures import LogVersion
from thresher import Decision
from thresher.cli import main
from thresher.config import to_toml
from thresher.errors import ConfigError
from thresher.evaluation import EvaluationSplit
from thresher.registry import DECISION_FILE, SETTINGS_FILE, connect, register_decision, resolve
from thresher.repository import ModelRepository
from thresher_export import export_version
from thresher_export.converted import converted_logits
from thresher_training.decisions import tune_decision
from thresher_training.recipe import DecisionConfig

LABEL = 1


def thresher(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, catch_exceptions=False)


@pytest.fixture
def repository(store: Path) -> ModelRepository:
    return ModelRepository(store / "model_repository")


@pytest.fixture
def flipping(log_version: LogVersion, tmp_path: Path):
    """Register a version with a threshold between torch's and ONNX Runtime's score of some row.

    Returns a function of the settings that are recorded with it (None records none).
    """
    first = log_version(num_rows=1500)

    def registered(decision: Decision, config: DecisionConfig | None, tags: dict[str, str]):
        mlflow = connect()
        folder = tmp_path / "decided"
        folder.mkdir(exist_ok=True)
        decision.save(folder / DECISION_FILE)
        if config is not None:
            (folder / SETTINGS_FILE).write_text(to_toml(config))
        with mlflow.start_run() as run:
            mlflow.log_artifacts(str(folder))
        return register_decision(first, run_id=run.info.run_id, alias="candidate", tags=tags)

    rows = first.evaluation("validation")
    plain = Decision(labels=weather.LABELS, thresholds=[0.5] * 4)
    p = plain.probabilities(rows.logits_NL)
    # with ONNX Runtime's own sigmoid, whose last bits depend on the processor
    scratch = ModelRepository(tmp_path / "scratch")
    done = export_version(registered(plain, None, {}).uri, repository=scratch)
    session = ort.InferenceSession(scratch.model_file(first.name, done.version.version))
    (q,) = session.run(["probabilities"], dict(rows.inputs))
    # the row that differs most: another batch size may move a last bit
    row = int(np.abs(p[:, LABEL] - q[:, LABEL]).argmax())
    ours, theirs = p[row, LABEL], q[row, LABEL]
    assert ours != theirs
    thresholds = tune_decision(
        weather.LABELS, rows.logits_NL, rows.targets_NL, DecisionConfig(min_positives=1)
    ).decision.thresholds.copy()
    thresholds[LABEL] = ours if ours > theirs else np.nextafter(ours, theirs)
    decision = Decision(labels=weather.LABELS, thresholds=thresholds)

    def register(config: DecisionConfig | None, tags: dict[str, str] | None = None):
        (tmp_path / "decided" / SETTINGS_FILE).unlink(missing_ok=True)
        return registered(decision, config, tags or {})

    return register, row


def test_a_tuned_threshold_that_flips_a_row_is_refused_with_the_command_that_mends_it(
    flipping, repository: ModelRepository
) -> None:
    register, row = flipping
    version = register(DecisionConfig(min_positives=1))
    outcome = thresher("export", version.uri)
    assert outcome.exit_code == 1
    said = " ".join(outcome.stderr.split())
    label = weather.LABELS[LABEL]
    assert f'"{label}" at ' in said
    assert re.search(rf"rows? ({row}|{row}, .*)\)", said)
    assert "othing was published" in said
    assert not repository.model_file(version.name, version.version).exists()
    (advised,) = re.findall(r"thresher (tune \S+ --band \S+?);", said)
    assert thresher(*shlex.split(advised)).exit_code == 0
    assert thresher("export", "models:/weather@candidate").exit_code == 0
    assert 0 < DecisionConfig(**settings_of_newest()).band <= 2e-5


def test_a_band_that_was_taken_already_is_not_advised_again(
    flipping, repository: ModelRepository
) -> None:
    register, _ = flipping
    said = thresher("export", register(DecisionConfig(min_positives=1)).uri).stderr
    (band,) = re.findall(r"--band (\S+?);", " ".join(said.split()))
    outcome = thresher("export", register(DecisionConfig(min_positives=1, band=float(band))).uri)
    said = " ".join(outcome.stderr.split())
    assert outcome.exit_code == 1
    assert f"They were chosen with --band {band} already" in said
    assert "Choose the thresholds again" not in said


def settings_of_newest() -> dict[str, object]:
    return dict(resolve("models:/weather@candidate").decision_settings())


@pytest.mark.parametrize("config", ["fixed for the label", "fixed for all", "none recorded"])
def test_a_threshold_set_by_hand_is_listed_and_published(
    flipping, repository: ModelRepository, config: str
) -> None:
    register, row = flipping
    label = weather.LABELS[LABEL]
    recorded = {
        "fixed for the label": DecisionConfig(objectives={label: "fixed=0.5"}),
        "fixed for all": DecisionConfig(objective="fixed = 0.5"),
        "none recorded": None,
    }[config]
    version = register(recorded)
    done = export_version(version.uri, repository=repository)
    (remark,) = done.report.remarks
    assert f'"{label}"' in remark
    assert str(row) in remark
    assert remark in done.report.notes
    if recorded is None:
        content = json.loads(thresher("export", version.uri, "--no-publish", "--json").stdout)
        assert content["remarks"] == [remark]


def test_thresholds_tuned_on_other_rows_are_listed(flipping, repository: ModelRepository) -> None:
    register, _ = flipping
    version = register(DecisionConfig(), {"thresher.tuned_on": "served.npz"})
    assert export_version(version.uri, repository=None).report.remarks


class Coarse(torch.nn.Module):
    """Computes in bf16, all but the last sum: scores crowd on a coarse grid."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.hidden = torch.nn.Linear(weather.NUM_FEATURES, 32).bfloat16()
        self.last = torch.nn.Linear(32, len(weather.LABELS)).bfloat16()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.hidden(features.bfloat16()))).float()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_thresholds_are_tuned_on_the_converted_models_own_scores(
    log_version: LogVersion, repository: ModelRepository, precision: str
) -> None:
    log_version(network=Coarse(), num_rows=1500)
    command = ("tune", "models:/weather/1", "--precision", precision, "--min-positives", "1")
    outcome = thresher(*command, "--json")
    assert outcome.exit_code == 0, outcome.output
    version = resolve("models:/weather/2")
    assert version.tags["thresher.tuned_on"] == f"validation, scored by ONNX Runtime in {precision}"
    scores = converted_logits(version, precision=precision)
    targets = version.evaluation("validation").targets_NL
    expected = tune_decision(weather.LABELS, scores, targets, DecisionConfig(min_positives=1))
    assert version.decision() == expected.decision
    assert np.abs(
        version.decision().probabilities(scores) - version.decision().thresholds
    ).min() > (4e-6)
    assert thresher("export", version.uri, "--precision", precision).exit_code == 0


def test_a_cross_fitted_version_is_not_tuned_on_rows_that_it_has_seen(
    log_version: LogVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = log_version()
    rows = version.evaluation("validation")
    seen = EvaluationSplit(
        inputs=rows.inputs,
        targets_NL=rows.targets_NL,
        logits_NL=rows.logits_NL,
        held_out_logits_NL=rows.logits_NL,
    )
    monkeypatch.setattr(type(version), "evaluation", lambda *_: seen)
    with pytest.raises(ConfigError, match="--scores"):
        converted_logits(version, precision="fp16")
