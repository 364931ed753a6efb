"""A row for which a model gives NaN is that row's error for every caller, never a silent No."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from mlflow.exceptions import MlflowException
from onnx import TensorProto

from support.networks import publish_network
from support.triton import Triton, triton
from thresher.errors import NotANumberError
from thresher_serving import AsyncClient, Client, Runtime
from thresher_serving.mlflow_deployments import TritonDeploymentClient
from thresher_serving.scoring import ScoredVersion, TritonEngine, score

X = np.float32([[1, 2], [4, -1], [9, 0], [-3, -3], [1, 1], [0, 0], [2, 2], [-1, 5], [1, 4]])
NAN_ROWS = (1, 3, 7)
"""Of several requests; the logits are the square roots."""


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> ScoredVersion:
    root = tmp_path_factory.mktemp("roots") / "models"
    return publish_network(root, [("Sqrt", ["x"], ["logits"])], {"x": (TensorProto.FLOAT, [2])})


@pytest.fixture(scope="module")
def server(
    version: ScoredVersion, runtime: Runtime, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Triton]:
    log = tmp_path_factory.mktemp("log") / "log"
    root = version.file.parents[2]
    with triton(runtime, root, ["net"], log=log) as running:
        yield running


def check(error: NotANumberError) -> None:
    assert error.rows == NAN_ROWS
    assert "NaN for 3 of 9 rows: row 1, 3, 7." in str(error)
    fine = np.setdiff1d(np.arange(len(X)), NAN_ROWS)
    np.testing.assert_allclose(
        error.prediction.probabilities[fine], 1 / (1 + np.exp(-np.sqrt(X[fine]))), atol=1e-6
    )
    assert error.prediction.labels[fine].all()


@pytest.mark.parametrize("outputs", [("probabilities", "labels"), ("probabilities",)])
def test_both_clients_raise_with_the_rows_and_the_answer(
    server: Triton, outputs: tuple[str, ...]
) -> None:
    with Client(server.grpc_url) as client:
        with pytest.raises(NotANumberError) as error:
            client.predict("net", X, outputs=outputs)
        check(error.value)
        got = client.predict("net", X, outputs=outputs, allow_nonfinite=True)
        assert np.isnan(got.probabilities).any(axis=1).nonzero()[0].tolist() == [*NAN_ROWS]
        assert not got.labels[np.isnan(got.probabilities)].any()

    async def asked() -> None:
        async with AsyncClient(server.grpc_url) as awaiting:
            await awaiting.predict("net", X, outputs=outputs)

    with pytest.raises(NotANumberError) as error:
        asyncio.run(asked())
    check(error.value)


def test_a_deployment_names_the_rows(server: Triton) -> None:
    client = TritonDeploymentClient(f"triton:{server.grpc_url}")
    with pytest.raises(MlflowException, match=r"NaN for 3 of 9 rows: row 1, 3, 7\."):
        client.predict("net", {"x": [*X]})
    fine = np.delete(X, NAN_ROWS, axis=0)
    answer = client.predict("net", {"x": [*fine]}).to_json()
    assert "NaN" not in answer


def test_scoring_through_a_server_rejects_the_rows(
    server: Triton, version: ScoredVersion, tmp_path: Path
) -> None:
    engine = TritonEngine(version, server.grpc_url)
    try:
        rows = pa.table({"id": [f"r{at}" for at in range(len(X))], "x": X.tolist()})
        found = score(version, rows, engine)
    finally:
        engine.close()
    assert found.rejects["row"].to_pylist() == [*NAN_ROWS]
    assert set(found.rejects["reason"].to_pylist()) == {"the network gave NaN"}
    assert found.table.num_rows == len(X) - 3
