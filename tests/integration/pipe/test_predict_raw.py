"""A raw row asked about on a real server gets the answer that scoring and training give it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from support.scoring import read_parts
from thresher.cli import main
from thresher.registry import resolve
from thresher.repository import ModelRepository
from thresher_export import export_version
from thresher_serving import Client, find_runtime, start_server
from thresher_training import DataConfig, NetworkConfig, OptimizationConfig, Recipe, train

LABELS = ["storm", "dry"]


def rows(num_rows: int, seed: int) -> pd.DataFrame:
    """Return rows with numbers, gaps, whole numbers and categories, all of which matter."""
    rng = np.random.default_rng(seed)
    wind, rain = rng.normal(size=(2, num_rows))
    sky = rng.choice(["blue", "grey", "dark sky"], num_rows)
    frame = pd.DataFrame(
        {
            "id": np.arange(num_rows) + 2**60,
            "rain": np.where(rng.random(num_rows) < 0.1, np.nan, rain),
            "sky": sky,
            "zone": rng.integers(1, 4, num_rows),
            "wind": wind.astype(np.float32),
        }
    )
    frame["storm"] = ((wind > 0.5) & (sky != "blue")).astype(np.int8)
    frame["dry"] = (np.nan_to_num(rain) < 0).astype(np.int8)
    return frame


@pytest.fixture
def served(store: Path) -> Iterator[str]:
    """The address of a server that has the model."""
    rows(900, 0).to_parquet(store / "train.parquet")
    options = {
        "path": str(store / "train.parquet"),
        "ignore": ["id"],
        "label_columns": LABELS,
        "categories": ["sky", "zone"],
        "fill_missing": "median",
        "cache": str(store / "cache"),
    }
    recipe = Recipe(
        name="weather",
        data=DataConfig(source="thresher_training.sources:parquet", options=options),
        network=NetworkConfig(factory="thresher_training.networks:mlp", options={"hidden": [16]}),
        optimization=OptimizationConfig(epochs=6, learning_rate=2e-2),
    )
    train(recipe)
    export_version("models:/weather/1", repository=ModelRepository(store / "model_repository"))
    server = start_server(
        store / "model_repository",
        runtime=find_runtime(),
        grpc_port=0,
        http_port=0,
        metrics_port=0,
    )
    try:
        yield server.grpc_url
    finally:
        server.stop()


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_rows_of_every_kind_get_the_same_answer(served: str, store: Path) -> None:
    frame = rows(60, 1)
    frame.loc[3, "sky"] = "green"  # training saw none
    frame.loc[4, "sky"] = None
    columns = frame.drop(columns=LABELS)[["zone", "wind", "id", "sky", "rain"]]
    columns.to_csv(store / "rows.csv", index=False)
    columns.to_parquet(store / "rows.parquet")
    score = ["score", "weather/1", "--input", "rows.csv", "--output", "scored", "--columns", "id"]
    done = CliRunner().invoke(main, score)
    assert done.exit_code == 0, done.output
    scored = read_parts(store / "scored")
    assert [int(cell) for cell in scored["id"].to_pylist()] == frame["id"].tolist()

    with Client(served) as client:
        expected = client.predict("weather", store / "rows.csv")
        for given in (
            store / "rows.parquet",
            columns,
            pq.read_table(store / "rows.parquet"),
            columns.astype(object).where(columns.notna(), None).to_dict("records"),
        ):
            answer = client.predict("weather", given)
            np.testing.assert_array_equal(answer.probabilities, expected.probabilities)
            np.testing.assert_array_equal(answer.labels, expected.labels)
    named = [{name for name, _, _ in expected.named(row)} for row in range(60)]
    assert [set(names) for names in scored["labels"].to_pylist()] == named
    truth = [{name for name in LABELS if frame.loc[row, name]} for row in range(60)]
    assert sum(a == b for a, b in zip(named, truth, strict=True)) > 45

    arguments = ["predict", "weather", "rows.csv", "--server", served, "--json"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    examples = json.loads(done.stdout)["examples"]
    assert [{label["label"] for label in each["labels"]} for each in examples] == named
    assert examples[59]["file"] == "rows.csv, row 59"


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_what_training_read_is_what_the_spec_makes_of_the_same_file(store: Path) -> None:
    from thresher.artifacts.input_spec import InputSpec
    from thresher_serving import ModelMetadata, TensorMetadata
    from thresher_serving.client.examples import ExampleReader
    from thresher_training.sources import parquet

    frame = rows(400, 2)
    frame.to_parquet(store / "train.parquet")
    options = {"label_columns": LABELS, "categories": ["sky"], "ignore": ["id"]}
    data = parquet(
        str(store / "train.parquet"),
        fill_missing="mean",
        cache=str(store / "cache"),
        **options,
    )
    assert data.input_spec is not None
    spec = InputSpec.from_json(data.input_spec.to_json())
    train_split = data.splits["train"]
    kinds = {np.dtype(np.float32): "FP32", np.dtype(np.int64): "INT64"}
    model = ModelMetadata(
        name="weather",
        version=1,
        versions=(1,),
        max_batch_size=8,
        inputs={
            name: TensorMetadata(name=name, datatype=kinds[a.dtype], shape=a.shape[1:])
            for name, a in train_split.inputs.items()
        },
        outputs={},
        decision=None,
        input_spec=spec,
    )
    made = ExampleReader().arrays(model, frame)
    for name, array in train_split.inputs.items():
        rows_of_train = {row.tobytes() for row in np.ascontiguousarray(array)}
        rows_of_file = {row.tobytes() for row in np.ascontiguousarray(made[name])}
        assert rows_of_train <= rows_of_file, name


def test_a_registered_version_has_the_spec_that_is_served(served: str) -> None:
    from thresher.artifacts.input_spec import InputSpec

    logged = InputSpec.load(resolve("models:/weather/1").artifact("assets/inputs.json").parent)
    with Client(served) as client:
        assert client.metadata("weather").input_spec == logged
