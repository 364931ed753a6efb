"""A model of tokens is published together with what takes its texts."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner

from thresher import Decision
from thresher.certificate import Certificate, file_digest
from thresher.cli import main
from thresher.errors import ConfigError, ParityError, PublishError
from thresher.inventory import list_versions
from thresher.registry import DECISION_FILE, ModelVersion, connect, register_decision
from thresher.repository import ModelRepository
from thresher_export import ExportOptions, TritonOptions, export_version
from thresher_export.text_service import check_is_no_companion

pytest.importorskip("tokenizers", reason="pip install tokenizers")

from support.text_models import LABELS, publish_text_model, write_tokenizer
from support.token_versions import DECISION, LENGTH, log_token_version

TEXT = ExportOptions(triton=TritonOptions(max_batch_size=4, text=True))
LogTokens = Callable[..., ModelVersion]


@pytest.fixture
def log_tokens(store: Path) -> LogTokens:
    """Log and register a network of tokens as training does."""
    return partial(log_token_version, store)


def test_texts_are_published_with_the_model_and_stay_with_its_later_versions(
    log_tokens: LogTokens, store: Path
) -> None:
    version = log_tokens()
    repository = ModelRepository(store / "models")
    options = ["--text", "--max-batch-size", "4", "--repository", "models", "--json"]
    done = CliRunner().invoke(main, ["export", "models:/emotions@candidate", *options])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["text_model"] == "emotions.text"
    assert repository.companions("emotions") == ["emotions.text"]
    folder = store / "models/emotions.text/1"
    assert {path.name for path in folder.iterdir()} == {
        "certificate.json",
        "tokenizer.json",
        "tokens.json",
    }
    logged = file_digest(version.artifact("assets/tokenizer.json"))
    assert Certificate.load(folder).files["tokenizer.json"] == logged
    assert json.loads((folder / "tokens.json").read_text()) == {
        "model": "emotions",
        "max_length": LENGTH,
        "length": LENGTH,
        "inputs": {"input_ids": "int64", "attention_mask": "int64"},
    }
    assert repository.decision("emotions.text", 1) == DECISION
    assert repository.read_config("emotions.text").max_batch_size == 4

    # a version with thresholds of its own; its run has no tokenizer, the one that trained it does
    tuned = Decision(labels=LABELS, thresholds=[0.25, 0.5])
    tuned.save(store / DECISION_FILE)
    with connect().start_run() as run:
        connect().log_artifact(str(store / DECISION_FILE))
    second = register_decision(version, run_id=run.info.run_id, alias="candidate", tags={})
    quick = TritonOptions(max_batch_size=4)
    export_version(
        second.uri, repository=repository, options=ExportOptions(serve=False, triton=quick)
    )
    assert repository.versions("emotions.text") == [1, 2]
    assert repository.served_versions("emotions.text") == [1]
    assert repository.decision("emotions.text", 2) == tuned
    again = export_version(second.uri, repository=repository, options=ExportOptions(triton=quick))
    assert (again.is_new, again.text_name) == (True, "emotions.text")
    assert repository.served_versions("emotions.text") == [2]
    proofs = {(v.model, v.version, v.proof) for v in list_versions(repository, read_bytes=True)}
    assert proofs == {(n, v, "proven") for n in ("emotions", "emotions.text") for v in (1, 2)}


def test_a_version_without_a_tokenizer_is_refused_before_anything_is_done(
    log_tokens: LogTokens, store: Path
) -> None:
    repository = ModelRepository(store / "models")
    version = log_tokens(with_tokenizer=False)
    expected = r"cannot take texts.*assets/tokenizer\.json.*without text"
    with pytest.raises(ConfigError, match=expected):
        export_version(version.uri, repository=repository, options=TEXT)
    assert repository.names() == []


def test_a_changed_tokenizer_is_not_what_was_proven_and_no_version_gets_another(
    tmp_path: Path,
) -> None:
    repository = ModelRepository(tmp_path / "models")
    publish_text_model(repository.root, 1)
    publish_text_model(repository.root, 1)  # the same again is no conflict
    write_tokenizer(repository.root / "emotions.text/1/tokenizer.json", version=3)
    repository.check_proven("emotions", 1)
    with pytest.raises(ParityError, match=r"tokenizer\.json has other bytes"):
        repository.check_proven("emotions.text", 1)
    done = CliRunner().invoke(main, ["serve", "--repository", str(repository.root)])
    assert done.exit_code == 1
    assert "tokenizer.json has other bytes" in done.output
    with pytest.raises(PublishError, match=r"emotions\.text/1 is published with another content"):
        publish_text_model(repository.root, 1)


def test_what_takes_texts_follows_the_model_and_serve_mends_what_a_dead_export_left(
    tmp_path: Path,
) -> None:
    repository = ModelRepository(tmp_path / "models")
    publish_text_model(repository.root, 1)
    publish_text_model(repository.root, 2, serve=True)
    assert repository.served_versions("emotions.text") == [2]
    repository.serve_versions("emotions", [1])
    assert repository.served_versions("emotions.text") == [1]
    repository.serve_versions("emotions", [1, 2])
    assert repository.served_versions("emotions.text") == [1, 2]
    repository.serve_versions("emotions.text", [1])
    # this server cannot be started, which serve finds out after it has looked at the repository
    none = str(tmp_path / "none")
    done = CliRunner().invoke(
        main, ["serve", "--tritonserver", none, "--repository", str(repository.root)]
    )
    assert "no tritonserver that can be run" in done.output
    assert repository.served_versions("emotions.text") == [1, 2]
    publish_text_model(repository.root, 3, serve=True, with_text=False)
    assert repository.align_companions("emotions") == []  # it has no such version


def test_no_other_models_name_is_taken(tmp_path: Path) -> None:
    repository = ModelRepository(tmp_path / "models")
    publish_text_model(repository.root, 1)
    check_is_no_companion(repository, "emotions")
    check_is_no_companion(repository, "feelings.text")
    with pytest.raises(PublishError, match=r"emotions\.text is what emotions is asked by"):
        check_is_no_companion(repository, "emotions.text")
    publish_text_model(repository.root, 1, name="other.text", with_text=False)
    assert repository.companions("other") == []
    with pytest.raises(PublishError, match=r"other\.text is another model"):
        publish_text_model(repository.root, 1, name="other")
