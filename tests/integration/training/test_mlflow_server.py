"""Training against an MLflow server with PostgreSQL and S3-style storage."""

import boto3
import numpy as np
import pytest
from moto.server import ThreadedMotoServer

from support.mlflow_server import MlflowServer
from support.postgresql import MISSING, postgresql
from thresher.registry import connect, resolve
from thresher_training import (
    DataSet,
    NetworkConfig,
    OptimizationConfig,
    Recipe,
    Split,
    compare,
    train,
)

_KEYS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server whose store is PostgreSQL and whose files are in a bucket."""
    storage = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    storage.start()
    host, port = storage.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    bucket = boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
        region_name="us-east-1",
    )
    bucket.create_bucket(Bucket="mlflow")
    monkeypatch.chdir(tmp_path)
    for name in (*_KEYS, "MLFLOW_S3_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)  # the server has them, training needs none
    try:
        with (
            postgresql() as store,
            MlflowServer(
                tmp_path,
                store=store,
                artifacts="s3://mlflow/artifacts",
                environment={**_KEYS, "MLFLOW_S3_ENDPOINT_URL": endpoint},
            ) as running,
        ):
            monkeypatch.setenv("MLFLOW_TRACKING_URI", running.uri)
            connect().set_tracking_uri(None)
            yield bucket
    finally:
        storage.stop()


def weather(num_rows=200):
    rng = np.random.default_rng(0)

    def split():
        features = rng.normal(size=(num_rows, 4)).astype(np.float32)
        return Split(
            inputs={"features": features}, targets_NL=(features[:, :3] > 0.3).astype(np.float32)
        )

    return DataSet(
        labels=("rain", "fog", "wind"),
        splits={name: split() for name in ("train", "validation", "test")},
        source="drawn at random",
    )


RECIPE = Recipe(
    name="weather",
    network=NetworkConfig(
        factory="thresher_training.networks:mlp", options={"num_features": 4, "hidden": [8]}
    ),
    optimization=OptimizationConfig(epochs=2, learning_rate=1e-2),
)


@pytest.mark.skipif(bool(MISSING), reason=MISSING)
def test_a_version_trained_against_postgresql_and_s3_carries_everything(server):
    data = weather()
    model = train(RECIPE, data=data)
    version = resolve("models:/weather@candidate")
    assert version.version == model.version == 1
    assert version.decision().labels == data.labels
    test = version.evaluation("test")
    np.testing.assert_array_equal(test.targets_NL, data.splits["test"].targets_NL)
    assert (version.model_folder() / "data" / "model.pt2").is_file()
    assert version.artifact("thresholds/side_by_side.html").read_text().startswith("<!doctype html")
    client = connect().MlflowClient()
    assert [m.step for m in client.get_metric_history(model.run_id, "train/loss")] == [1, 2]
    assert client.get_run(model.run_id).info.status == "FINISHED"
    kept = server.list_objects_v2(Bucket="mlflow", Prefix="artifacts/")["Contents"]
    assert any(found["Key"].endswith("/decision.json") for found in kept)

    compared = compare(RECIPE, ["bce", "focal"], data=data)
    children = client.search_runs(
        [client.get_run(compared.run_id).info.experiment_id],
        f"tags.mlflow.parentRunId = '{compared.run_id}'",
    )
    assert {run.info.run_name for run in children} == {"bce, seed 0", "focal, seed 0"}
    files = {file.path for file in client.list_artifacts(compared.run_id)}
    assert {"comparison.csv", "comparison.md", "comparison.png"} <= files
