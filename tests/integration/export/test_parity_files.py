"""What an export leaves of its proof, and `thresher verify` on a user's own rows."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from support.fixtures import LogVersion
from support.weather import DECISION, LABELS, NUM_FEATURES
from thresher.certificate import Certificate
from thresher.cli import main
from thresher.errors import ParityError
from thresher.registry import connect
from thresher.repository import ModelRepository
from thresher_export import export_version

pytestmark = pytest.mark.slow

FEATURES = np.random.default_rng(7).normal(size=(33, NUM_FEATURES)).astype(np.float32)


def verify(store: Path, *arguments: object) -> Result:
    words = ["verify", "weather", "--repository", store / "models", *arguments]
    return CliRunner().invoke(main, [str(word) for word in words])


def nudge_a_weight(path: Path) -> None:
    model = onnx.load(path)
    (tensor,) = [t for t in model.graph.initializer if t.name == "body.4.weight"]
    values = onnx.numpy_helper.to_array(tensor).copy()
    values[0, 0] += np.float32(0.02)
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(model, path)


def test_export_logs_the_page_and_binds_what_was_compared(
    log_version: LogVersion, store: Path
) -> None:
    version = log_version()
    done = export_version(version.uri, repository=ModelRepository(store / "models"))
    client = connect().MlflowClient()
    logged = {file.path for file in client.list_artifacts(version.run_id, "parity/1")}
    assert {"parity/1/parity.json", "parity/1/parity.html"} <= logged
    assert done.folder is not None
    certificate = Certificate.load(done.folder)
    assert certificate == done.certificate
    assert "CPUExecutionProvider" in certificate.providers
    assert certificate.tolerances["probabilities_atol"] == 1e-5
    assert certificate.num_comparisons == len(done.report.checks)
    assert 0 < certificate.band_half_width < 1e-5
    names = [check.name for check in done.report.checks]
    for part in ("random rows", "extreme rows", "each row alone", "at thresholds", "moved onto"):
        assert any(part in name for name in names)


def test_failed_export_leaves_the_rows_that_show_it_and_says_where(
    log_version: LogVersion, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from thresher_export import pipeline

    save = pipeline.save_model

    def spoiled(model: object, path: Path) -> tuple[Path, ...]:
        files = save(model, path)  # type: ignore[arg-type]
        nudge_a_weight(files[0])
        return files

    monkeypatch.setattr(pipeline, "save_model", spoiled)
    version = log_version()
    with pytest.raises(ParityError) as error:
        export_version(version.uri, repository=ModelRepository(store / "models"))
    said = str(error.value)
    assert "The first node that departs from torch: Gemm" in said
    evidence = Path(".thresher/parity/weather-1")
    assert str(evidence) in said
    assert {path.name for path in evidence.iterdir()} == {
        "parity.json",
        "parity.html",
        "parity-worst-rows.npz",
    }
    assert not (store / "models").exists()


@pytest.fixture(scope="module")
def published(
    empty_mlflow_db: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[Path], Path]]:
    """One exported version, logged once; each test gets the store and a repository of its own."""
    from support.weather import log_version

    folder = tmp_path_factory.mktemp("published")
    shutil.copy(empty_mlflow_db, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        mlflow = connect()
        mlflow.set_tracking_uri(None)
        mlflow.create_experiment("tests", artifact_location=(folder / "artifacts").as_uri())
        mlflow.set_experiment("tests")
        version = log_version(folder)
        export_version(version.uri, repository=ModelRepository(folder / "models"))

        def copy(to: Path) -> Path:
            shutil.copytree(folder / "models", to / "models")
            return to

        yield copy


def test_verify_compares_on_a_users_rows(published: Callable[[Path], Path], tmp_path: Path) -> None:
    store = published(tmp_path)
    np.savez(store / "rows.npz", features=FEATURES)
    done = verify(store, "--data", store / "rows.npz", "--json")
    assert done.exit_code == 0, done.output
    content = json.loads(done.stdout)
    assert (content["ok"], content["num_rows"], content["split"]) == (True, 33, "rows.npz")

    targets = {name: [k % 2 for _ in FEATURES] for k, name in enumerate(LABELS)}
    table = pa.table({"features": FEATURES.tolist(), **targets})
    pq.write_table(table, store / "rows.parquet")
    done = verify(store, "--data", store / "rows.parquet")
    assert done.exit_code == 0, done.output
    assert "33 rows x 4 labels of rows.parquet" in done.stdout
    assert "torch = ONNX Runtime, decision by decision." in done.stdout


def test_verify_of_another_model_than_was_proven_fails_on_a_users_rows(
    published: Callable[[Path], Path], tmp_path: Path
) -> None:
    store = published(tmp_path)
    repository = ModelRepository(store / "models")
    nudge_a_weight(repository.model_file("weather", 1))
    np.savez(store / "rows.npz", features=FEATURES, targets=np.zeros((33, DECISION.num_labels)))
    done = verify(store, "--data", store / "rows.npz")
    assert done.exit_code == 1
    assert 'label "sun"' in done.stderr
    assert "Traceback" not in done.output


def test_rows_that_do_not_fit_are_named(published: Callable[[Path], Path], tmp_path: Path) -> None:
    store = published(tmp_path)
    np.savez(store / "rows.npz", feature=FEATURES)
    done = verify(store, "--data", store / "rows.npz")
    assert done.exit_code == 1
    assert 'unknown input "features"; did you mean "feature"?' in done.stderr
