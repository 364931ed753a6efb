"""The published file as a model of MLflow's onnx flavor says what scoring says."""

from __future__ import annotations

from pathlib import Path

import mlflow
import numpy as np
import onnx
import pytest
from mlflow.models import infer_signature

from support.scoring import COLUMNS, OPTIONS, engine_of, names_of, table, weather_version
from thresher_serving.scoring import score


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_pyfunc_gives_the_same_probabilities_and_labels(store: Path) -> None:
    version = weather_version(store / "models")
    rows = table(500)
    features = np.stack([rows[name].to_numpy() for name in COLUMNS], axis=1)
    mlflow.onnx.log_model(
        onnx.load(version.file),
        name="model",
        registered_model_name="weather-onnx",
        signature=infer_signature({"features": features}),
        pip_requirements=["onnxruntime"],
        onnx_execution_providers=["CPUExecutionProvider"],
    )
    model = mlflow.pyfunc.load_model("models:/weather-onnx/1")
    answered = model.predict({"features": features})
    found = score(version, rows, engine_of(version), OPTIONS).table
    np.testing.assert_array_equal(
        answered["probabilities"], np.stack(found["probabilities"].to_numpy())
    )
    assert names_of(answered["labels"]) == found["labels"].to_pylist()
    assert np.array_equal(
        answered["labels"], answered["probabilities"] >= version.decision.thresholds
    )
