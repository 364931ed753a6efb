"""Settings found by measuring on a real Triton, and written into the repository."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from support.publisher import publication
from thresher import Decision
from thresher.certificate import CERTIFICATE_FILE
from thresher.cli import main
from thresher.errors import DataError
from thresher.evaluation import EvaluationSplit
from thresher.golden import GOLDEN_FILE
from thresher.repository import MODEL_FILE, ModelRepository
from thresher_serving import Runtime
from thresher_serving.tuning import Objective, tune_serving

LABELS = ("sun", "rain", "fog")


@pytest.fixture
def repository(tmp_path: Path) -> ModelRepository:
    """A model that gives its inputs as logits, with golden rows."""
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    what = publication("weather", 1, LABELS)
    repository = ModelRepository(tmp_path / "models")
    logits = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    with repository.staging("weather") as staged:
        (staged / MODEL_FILE).write_bytes(what.model)
        (staged / CERTIFICATE_FILE).write_text("{}")
        rows = EvaluationSplit(
            inputs={"features": logits}, targets_NL=np.zeros_like(logits), logits_NL=logits
        )
        rows.save(staged / GOLDEN_FILE)
        config = text_format.Parse(what.config, model_config_pb2.ModelConfig())
        decision = Decision.from_json(what.decision, where="test")
        repository.publish("weather", 1, staged, config, decision)
    return repository


@pytest.mark.slow
def test_best_settings_are_written_and_loaded(
    repository: ModelRepository, runtime: Runtime
) -> None:
    tuned = tune_serving(
        repository,
        "weather",
        Objective(percentile="p99", limit_ms=10_000),
        runtime=runtime,
        batch_size=4,
        num_clients=4,
        seconds=0.3,
    )
    assert tuned.is_met
    assert len(tuned.tried) >= 5
    assert all(load.rows_per_s > 0 and not load.num_failed for _, load in tuned.tried)
    assert tuned.after.rows_per_s == max(load.rows_per_s for _, load in tuned.tried)
    config = repository.read_config("weather")
    assert config.max_batch_size == tuned.best.max_batch_size
    assert config.instance_group[0].count == tuned.best.instance_count
    assert repository.decision("weather", 1).labels == LABELS
    repository.serve_versions("weather", [1])  # its own configuration has them too
    assert repository.read_config("weather") == config


@pytest.mark.slow
def test_limit_that_nothing_keeps_to_changes_nothing(
    repository: ModelRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = repository.read_config("weather")
    monkeypatch.chdir(repository.root.parent)
    done = CliRunner().invoke(
        main,
        [
            *("tune-serving", "weather", "--repository", str(repository.root)),
            *("--slo", "p99=1us", "--clients", "2", "--seconds", "0.5"),
        ],
    )
    assert done.exit_code == 1, done.output
    assert "Nothing that was tried keeps to p99 <= 0.001 ms" in done.output
    assert repository.read_config("weather") == before


def test_model_without_golden_rows_is_named(repository: ModelRepository, runtime: Runtime) -> None:
    (repository.root / "weather" / "1" / GOLDEN_FILE).unlink()
    with pytest.raises(DataError, match="weather/1 has no golden rows"):
        tune_serving(
            repository, "weather", Objective(percentile="p99", limit_ms=1), runtime=runtime
        )
