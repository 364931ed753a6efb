import shutil
import signal
from functools import partial
from pathlib import Path

import pytest

from support.fixtures import LogVersion
from thresher.registry import connect

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # as a shell starts what it runs in the background; processes inherit it, and tests press Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def empty_mlflow_db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with its tables and nothing else: they take seconds to make."""
    path = tmp_path_factory.mktemp("mlflow") / "empty.db"
    mlflow = connect()
    mlflow.MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def store(empty_mlflow_db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty MLflow store in a folder of its own, which is the working folder."""
    shutil.copy(empty_mlflow_db, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    mlflow = connect()
    mlflow.set_tracking_uri(None)  # what an earlier test set gives way to the environment
    mlflow.create_experiment("tests", artifact_location=(tmp_path / "artifacts").as_uri())
    mlflow.set_experiment("tests")
    return tmp_path


@pytest.fixture
def log_version(store: Path) -> LogVersion:
    """Log and register the weather network; see `support.weather.log_version`."""
    from support import weather

    return partial(weather.log_version, store)
