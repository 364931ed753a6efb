"""The program that is exported is the one that was registered."""

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from support.fixtures import LogVersion
from support.weather import DECISION, Weather
from thresher import Decision
from thresher.cli import main
from thresher.errors import ParityError
from thresher.registry import (
    DECISION_DIGEST,
    DECISION_FILE,
    ModelVersion,
    connect,
    register_decision,
    resolve,
)
from thresher.repository import ModelRepository
from thresher_export import export_version
from thresher_export.parity import ParityReport

DIGEST = "thresher.model_sha256"


def poisoned(version: ModelVersion) -> None:
    """Put another network in the place of the one that was registered."""
    program = version.model_folder() / "data" / "model.pt2"
    other = Weather().eval()
    with torch.no_grad():
        other.body[4].bias.add_(0.5)
    axes = ({0: torch.export.Dim("batch")},)
    torch.export.save(
        torch.export.export(other, (torch.zeros(3, 6),), dynamic_shapes=axes), program
    )


def retuned(version: ModelVersion, folder: Path) -> ModelVersion:
    decision = Decision(labels=DECISION.labels, thresholds=[0.2, 0.3, 0.61, 0.42])
    decision.save(folder / DECISION_FILE)
    with connect().start_run() as run:
        connect().log_artifact(str(folder / DECISION_FILE))
    return register_decision(version, run_id=run.info.run_id, alias="candidate", tags={})


def test_a_program_that_was_changed_after_registration_is_refused(
    log_version: LogVersion, store: Path
) -> None:
    version = log_version()
    assert len(version.tags[DIGEST]) == 64
    poisoned(version)
    with pytest.raises(ParityError, match="other bytes than the one that was registered"):
        export_version(version.uri, repository=ModelRepository(store / "models"))
    with pytest.raises(ParityError, match="other bytes"):
        version.check_program()


def test_a_tuned_version_is_bound_to_the_same_program(log_version: LogVersion, store: Path) -> None:
    version = log_version()
    tuned = retuned(version, store)
    assert tuned.tags[DIGEST] == version.tags[DIGEST]
    poisoned(version)
    with pytest.raises(ParityError, match="other bytes"):
        export_version(tuned.uri, repository=ModelRepository(store / "models"))


def test_a_version_without_a_digest_is_exported_with_one_warning(
    log_version: LogVersion, store: Path
) -> None:
    version = log_version()
    client = connect().MlflowClient()
    client.delete_model_version_tag(version.name, str(version.version), DIGEST)
    lines: list[str] = []
    export_version(version.uri, repository=ModelRepository(store / "models"), progress=lines.append)
    assert len([line for line in lines if "without a digest of its weights" in line]) == 1
    assert retuned(resolve(version.uri), store).program_sha256 is None


def test_a_decision_that_was_changed_after_registration_is_refused(
    log_version: LogVersion, store: Path
) -> None:
    """As somebody edits thresholds in the run's artifacts, once before and once after an export."""
    version = tagged(log_version())
    models = ["--repository", str(store / "models")]
    published, changed = tagged(log_version()), store / DECISION_FILE
    export_version(published.uri, repository=ModelRepository(store / "models"))
    Decision(labels=DECISION.labels, thresholds=[0.5, 0.3, 0.62, 0.42]).save(changed)
    for each in (version, published):
        connect().MlflowClient().log_artifact(each.run_id, str(changed))
    for command in (
        ["export", version.uri, *models],
        ["verify", published.uri, *models],
        ["tune", version.uri, "--objective", "micro_f1"],
        ["diff", version.uri, published.uri],
    ):
        done = CliRunner().invoke(main, command)
        assert done.exit_code == 1, command
        assert "is not the decision that was registered" in done.output, command
    assert ModelRepository(store / "models").versions("weather") == [2]


def test_a_version_without_a_digest_of_its_decision_is_exported_with_one_warning(
    log_version: LogVersion, store: Path
) -> None:
    lines: list[str] = []
    repository = ModelRepository(store / "models")
    export_version(log_version().uri, repository=repository, progress=lines.append)
    assert len([line for line in lines if "without a digest of its decision" in line]) == 1
    lines.clear()
    export_version(tagged(log_version()).uri, repository=repository, progress=lines.append)
    assert not [line for line in lines if "digest of its decision" in line]


def tagged(version: ModelVersion) -> ModelVersion:
    """Give a version the tag that training gives it."""
    client = connect().MlflowClient()
    digest = version.decision().digest
    client.set_model_version_tag(version.name, str(version.version), DECISION_DIGEST, digest)
    return resolve(version.uri)


def batches(report: ParityReport) -> set[str]:
    return {check.name for check in report.checks if ", batch " in check.name}


def test_new_thresholds_run_each_row_once_and_their_head_as_always(
    log_version: LogVersion, store: Path
) -> None:
    version = log_version()
    repository = ModelRepository(store / "models")
    first = export_version(version.uri, repository=repository)
    second = export_version(retuned(version, store).uri, repository=repository)
    assert second.reused == 1
    assert len(batches(first.report)) > len(batches(second.report)) == 2
    assert first.report.departure is not None
    assert second.report.departure is None
    heads = [
        {check.name for check in done.report.checks if check.rows == "head"}
        for done in (first, second)
    ]
    assert heads[0] == heads[1]
    assert any("proven in all of them, byte for byte" in note for note in second.report.notes)
