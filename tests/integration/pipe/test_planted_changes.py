"""Each change planted in a published model is refused by whatever loads, scores or shows it.

The list is generated from the files and keys that are there. `pytest -v -s` on this file prints it.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from click.testing import CliRunner

from support.mlflow_server import free_port
from support.planted_changes import HARMLESS_KEYS, Planted, harmless_changes, planted_changes
from support.planted_scenarios import (
    SCENARIOS,
    as_of_an_earlier_release,
    forge,
    move_a_threshold,
)
from support.weather import log_version
from thresher.certificate import CERTIFICATE_FILE, Certificate, file_digest
from thresher.cli import main
from thresher.errors import NotFoundError, ParityError, ServerError, ThresherError
from thresher.registry import (
    certificates_in,
    connect,
    register_certificate,
    registered_tags,
)
from thresher.repository import ModelRepository
from thresher_export import ExportOptions, TritonOptions, export_version
from thresher_export.verify import verify_version
from thresher_serving.rollout import RolloutOptions, StatusReader
from thresher_serving.rollout.checks import Checks
from thresher_serving.scoring import ScoredVersion

pytest.importorskip("tokenizers", reason="pip install tokenizers")

from support.token_versions import log_token_version

MODELS = ("weather", "large", "emotions", "emotions.text")


@pytest.fixture(scope="module")
def published(empty_mlflow_db: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A repository that `export` made: two versions, weights in a file, a model that takes texts.

    The registry that they come from stays in reach.
    """
    from thresher_export import onnx_file

    folder = tmp_path_factory.mktemp("planted")
    shutil.copy(empty_mlflow_db, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        mlflow = connect()
        mlflow.set_tracking_uri(None)
        mlflow.create_experiment("tests", artifact_location=(folder / "artifacts").as_uri())
        mlflow.set_experiment("tests")
        repository = ModelRepository(folder / "exported")
        for _ in range(2):
            export_version(log_version(folder).uri, repository=repository)
        with pytest.MonkeyPatch.context() as small:
            small.setattr(onnx_file, "EMBEDDED_BYTES", 500)
            small.setattr(onnx_file, "_SMALL_TENSOR_BYTES", 100)
            export_version(log_version(folder, name="large").uri, repository=repository)
        assert (repository.root / "large/1/model.onnx.data").is_file()
        texts = ExportOptions(triton=TritonOptions(max_batch_size=4, text=True))
        export_version(log_token_version(folder).uri, repository=repository, options=texts)
        assert repository.names() == sorted(MODELS)
        yield repository.root


@pytest.fixture
def root(published: Path, tmp_path: Path) -> Path:
    """A copy of the repository, to change."""
    return shutil.copytree(published, tmp_path / "models")


@contextlib.contextmanager
def planted(change: Planted, published: Path, root: Path) -> Iterator[None]:
    """Apply a change to the copy, and undo it."""
    change.apply(root)
    try:
        yield
    finally:
        shutil.rmtree(root / change.name)
        shutil.copytree(published / change.name, root / change.name)


Asker = Callable[[Path, str, int], None]
"""Raises ParityError or NotFoundError where a command would refuse the version."""


def ask_itself(root: Path, name: str, version: int) -> None:
    ModelRepository(root).check_proven(name, version)


def ask_serve(root: Path, name: str, version: int) -> None:
    _command("serve", root)


def ask_restart(root: Path, name: str, version: int) -> None:
    """A server that ended asks again before it loads anything."""
    repository = ModelRepository(root)
    for each in repository.names():
        repository.check_served(each)


def ask_rollout(root: Path, name: str, version: int) -> None:
    nobody = mock.Mock()
    checks = Checks(ModelRepository(root), name, nobody, nobody, RolloutOptions(), lambda _: None)
    checks.on_disk(version, None)


def ask_score(root: Path, name: str, version: int) -> None:
    ScoredVersion.published(ModelRepository(root), name, version)


def ask_status(root: Path, name: str, version: int) -> None:
    reader = StatusReader("127.0.0.1:8001", repository=ModelRepository(root))
    proof = reader._proof(name, version)
    if proof != "ok":
        raise ParityError(f"status says {proof}")


def ask_repository_verify(root: Path, name: str, version: int) -> None:
    _command("repository", "verify", name, root=root)


def ask_verify(root: Path, name: str, version: int) -> None:
    class AskedForRowsError(Exception):
        pass

    def rows(*_: Any, **__: Any) -> Any:
        raise AskedForRowsError

    with mock.patch("thresher_export.verify.resolve", rows), contextlib.suppress(AskedForRowsError):
        verify_version(name, version, ModelRepository(root))


def _command(*arguments: Any, root: Path | None = None) -> None:
    if root is None:
        *arguments, root = arguments  # type: ignore[assignment]
    started = ServerError("nothing was refused")
    with mock.patch("thresher_serving.find_runtime", side_effect=started):
        done = CliRunner().invoke(main, [*arguments, "--repository", str(root)])
    assert isinstance(done.exception, (SystemExit, type(None))), done.exception
    if done.exit_code and "nothing was refused" not in done.output:
        raise ParityError(done.output)


ASKERS: dict[str, Asker] = {
    "check_proven": ask_itself,
    "restart": ask_restart,
    "rollout": ask_rollout,
    "score": ask_score,
    "status": ask_status,
    "verify": ask_verify,
    "serve": ask_serve,
    "repository verify": ask_repository_verify,
}
LOADED_ONLY = {"serve", "restart"}
"""These ask about the versions that the version policy names, and no others."""


def refuses(ask: Asker, root: Path, change: Planted) -> str | None:
    """Return why a change is refused, None where it is not."""
    try:
        ask(root, change.name, change.version)
    except ThresherError as error:
        return str(error)
    return None


def is_mended(change: Planted) -> bool:
    """Whether `serve` undoes a change before it looks: a companion serves what its model does."""
    return change.name == "emotions.text" and "version_policy" in change.title


@pytest.mark.parametrize("asker", ASKERS)
@pytest.mark.parametrize("name", MODELS)
def test_every_planted_change_is_refused(
    published: Path, root: Path, name: str, asker: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ask = ASKERS[asker]
    served = ModelRepository(published).served_versions(name)
    changes = [
        change
        for change in planted_changes(published, name)
        if asker not in LOADED_ONLY or change.version in served
    ]
    if asker == "serve":  # the command itself, on every eighth: `restart` asks the same of all
        changes = [change for change in changes[::8] if not is_mended(change)]
    assert len(changes) > 15
    assert ask(root, name, served[0]) is None, "it passes as it is"
    passed = []
    for change in changes:
        with planted(change, published, root):
            why = refuses(ask, root, change)
        if why is None:
            passed.append(change.title)
    with capsys.disabled():
        print(f"\n{asker}, {name}: {len(changes)} changes, {len(changes) - len(passed)} refused")
        if asker == "check_proven":
            print("".join(f"  {change.title}\n" for change in changes), end="")
    assert not passed


@pytest.mark.parametrize("name", MODELS)
def test_what_only_says_how_fast_it_runs_is_accepted(
    published: Path, root: Path, name: str
) -> None:
    refused = []
    for change in (changes := harmless_changes(published, name)):
        with planted(change, published, root):
            if (why := refuses(ask_itself, root, change)) is not None:
                refused.append(f"{change.title}: {why}")
    assert not refused
    tried = " ".join(change.title for change in changes)
    for key in ("instance_group", "dynamic_batching", "optimization.priority", "other text"):
        assert key in tried
    assert all(HARMLESS_KEYS.values())


@pytest.mark.parametrize("asker", ASKERS)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_a_version_that_would_answer_otherwise_is_refused(
    root: Path, scenario: Callable[[Path], None], asker: str
) -> None:
    scenario(root)
    # of two versions that the policy names, the changed one
    version = 1 if scenario.__name__ == "two_versions" else 2
    with pytest.raises((ParityError, NotFoundError)):
        ASKERS[asker](root, "weather", version)


@pytest.mark.parametrize("engine", ["onnxruntime", "triton", "ray"])
def test_score_refuses_with_every_engine_and_verify_before_any_row(
    root: Path, tmp_path: Path, engine: str
) -> None:
    move_a_threshold(root / "weather/2/model.onnx")
    arguments = ["score", "weather/2", "--input", "x.csv", "--output", str(tmp_path / "out")]
    done = CliRunner().invoke(main, [*arguments, "--engine", engine, "--repository", str(root)])
    assert (done.exit_code, "model.onnx has other bytes" in done.output) == (1, True), done.output
    done = CliRunner().invoke(main, ["verify", "weather/2", "--repository", str(root)])
    assert (done.exit_code, "model.onnx has other bytes" in done.output) == (1, True), done.output


def test_a_certificate_that_was_never_issued_is_found_where_mlflow_is_in_reach(root: Path) -> None:
    move_a_threshold(root / "weather/2/model.onnx")
    forge(root, "weather", 2)
    ModelRepository(root).check_proven("weather", 2)  # it all fits, and no registry is asked
    for asker in ("serve", "repository verify"):
        with pytest.raises(ParityError, match="none of those that MLflow holds"):
            ASKERS[asker](root, "weather", 2)
    digest = file_digest(root / "weather/2" / CERTIFICATE_FILE)
    register_certificate("weather", 2, digest)  # as an export to another repository would
    ask_repository_verify(root, "weather", 2)


def forget_certificates(name: str) -> None:
    """Let MLflow know of no certificate yet, as of a version that an earlier release exported."""
    client = connect().MlflowClient()
    tags = registered_tags(name, 1) or {}
    for key in [key for key, value in tags.items() if value in certificates_in(tags)]:
        client.delete_model_version_tag(name, "1", key)


def test_an_older_release_s_repository_is_accepted_and_renewed(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = ("emotions", "emotions.text")
    as_of_an_earlier_release(root, *names)
    for name in names:
        with pytest.raises(ParityError, match="none of those that MLflow holds"):
            ask_repository_verify(root, name, 1)
    forget_certificates("emotions")
    for name in names * 2:
        ask_itself(root, name, 1)
    warned = [record.getMessage() for record in caplog.records]
    assert [text.rpartition(" ")[2] for text in warned] == [f"{name}/1" for name in names]
    arguments = ["repository", "recertify", "--repository", str(root)]
    done = CliRunner().invoke(main, [*arguments, "emotions/1"])
    assert done.exit_code == 0, done.output
    caplog.clear()
    for name in names:
        assert f"Renewed the certificate of {name}/1" in done.output
        assert Certificate.load(root / name / "1").binds_configuration
        ask_repository_verify(root, name, 1)
    assert not caplog.records
    again = CliRunner().invoke(main, [*arguments, "emotions"])
    assert "The certificate of emotions/1 binds everything already" in again.output


def test_nothing_is_renewed_where_the_registry_does_not_answer(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_of_an_earlier_release(root, "emotions", "emotions.text")
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    arguments = ["repository", "recertify", "--repository", str(root), "emotions/1"]
    done = CliRunner().invoke(main, arguments)
    assert (done.exit_code, "run it again where MLflow is" in done.output) == (1, True), done.output
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


def test_an_export_renews_a_certificate_of_an_earlier_release(root: Path) -> None:
    as_of_an_earlier_release(root, "weather")
    before = file_digest(root / "weather/1/model.onnx")
    beside = ExportOptions(serve=False)
    export_version("models:/weather/1", repository=ModelRepository(root), options=beside)
    assert Certificate.load(root / "weather/1").binds_configuration
    assert file_digest(root / "weather/1/model.onnx") == before
    assert ModelRepository(root).served_versions("weather") == [2]
    ask_repository_verify(root, "weather", 1)
