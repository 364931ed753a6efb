"""docs/mlflow.md: what it says a run holds is in a run."""

import re
from pathlib import Path

import numpy as np
from torch import nn

from thresher.registry import connect
from thresher_training import DataSet, OptimizationConfig, Recipe, Split, train

PAGE = (Path(__file__).parents[3] / "docs" / "mlflow.md").read_text(encoding="utf-8")


class Network(nn.Linear):
    def forward(self, features):
        return super().forward(features)


def weather():
    rng = np.random.default_rng(0)

    def split():
        features = rng.normal(size=(80, 4)).astype(np.float32)
        return Split(
            inputs={"features": features}, targets_NL=(features[:, :3] > 0.3).astype(np.float32)
        )

    return DataSet(
        labels=("rain", "fog", "wind"),
        splits={name: split() for name in ("train", "validation", "test")},
        source="drawn at random",
    )


def named_in(section: str) -> set[str]:
    """Return what the table of a section names in its code marks."""
    (text,) = re.findall(rf"\n## {section}\n(.*?)\n## ", PAGE, flags=re.DOTALL)
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    return set(re.findall(r"`([^`]+)`", "\n".join(rows)))


def artifacts(client, run_id, path=None):
    for found in client.list_artifacts(run_id, path):
        if found.is_dir:
            yield from artifacts(client, run_id, found.path)
        else:
            yield found.path


def test_a_run_holds_what_the_page_names(store: Path) -> None:
    recipe = Recipe(name="weather", optimization=OptimizationConfig(epochs=2))
    done = train(recipe, data=weather(), network=Network(4, 3))
    client = connect().MlflowClient()
    logged = set(client.get_run(done.run_id).data.metrics)
    named = {name for name in named_in("Figures") if not name.endswith("/")}
    assert {name for name in named if not name.startswith("system/")} - logged == set()
    held = set(artifacts(client, done.run_id))
    files = {name for name in named_in("Files") if not name.endswith("/") and "." in name}
    assert files - held == set()
    version = client.get_model_version(done.name, str(done.version))
    tags = re.findall(r"Its tags are `([^`]+)` and `([^`]+)`", PAGE)[0]
    assert set(tags) <= set(version.tags)
