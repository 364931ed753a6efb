"""From a table that a network was trained on to other tables, which it scores as it was trained."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from support.scoring import read_parts
from thresher.artifacts.input_spec import InputSpec
from thresher.cli import main
from thresher.registry import resolve
from thresher.repository import ModelRepository
from thresher_export import export_version
from thresher_training import DataConfig, NetworkConfig, OptimizationConfig, Recipe, train


def rows(num_rows: int, seed: int) -> pa.Table:
    """Return rows of which two columns decide the labels, each in its own direction."""
    rng = np.random.default_rng(seed)
    wind, sun, cloud = rng.normal(size=(3, num_rows)).astype(np.float32)
    return pa.table(
        {
            "id": np.arange(num_rows),
            "wind": wind,
            "cloud": cloud,
            "sun": sun,
            "storm": (wind > 0.5).astype(np.int8),
            "dry": (sun > cloud).astype(np.int8),
        }
    )


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_columns_find_their_inputs_whatever_their_order(store: Path) -> None:
    pq.write_table(rows(600, 0), store / "train.parquet")
    options = {
        "path": str(store / "train.parquet"),
        "ignore": ["id"],
        "label_columns": ["storm", "dry"],
        "fill_missing": 0.0,
        "cache": str(store / "cache"),
    }
    recipe = Recipe(
        name="weather",
        data=DataConfig(source="thresher_training.sources:parquet", options=options),
        network=NetworkConfig(
            factory="thresher_training.networks:mlp",
            options={"num_features": 3, "hidden": [16]},
        ),
        optimization=OptimizationConfig(epochs=12, learning_rate=2e-2),
    )
    train(recipe)
    version = resolve("models:/weather/1")
    how = InputSpec.load(version.artifact("assets/inputs.json").parent)
    assert how == InputSpec(columns={"features": ("wind", "cloud", "sun")}, fill_missing=0.0)
    export_version("models:/weather/1", repository=ModelRepository(store / "models"))

    other = rows(300, 1)
    shuffled = other.select(["sun", "dry", "wind", "id", "storm", "cloud"]).to_pydict()
    shuffled["wind"][5] = None  # 0 stands for it, as in training
    pq.write_table(pa.table(shuffled), store / "other.parquet")
    arguments = ["score", "weather@candidate", "--repository", str(store / "models")]
    arguments += ["--input", str(store / "other.parquet"), "--output", str(store / "out")]
    done = CliRunner().invoke(main, [*arguments, "--columns", "id", "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["rows"] == {"read": 300, "scored": 300, "rejected": 0}
    found = read_parts(store / "out")
    storms = np.array(["storm" in labels for labels in found["labels"].to_pylist()])
    truth = other["storm"].to_numpy().astype(bool)
    assert found["id"].to_pylist() == other["id"].to_pylist()
    assert np.delete(storms == truth, 5).mean() > 0.9
    assert not storms[5]
    report = json.loads((store / "out/_report.json").read_text())
    assert all(0 < label["validation_rate"] < 1 for label in report["labels"])
