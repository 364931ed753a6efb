"""Recipes: the shipped ones load, and a wrong one names its key and the nearest right one."""

from pathlib import Path

import pytest

from thresher.config import load_toml, to_toml
from thresher.errors import ConfigError
from thresher_training import DataConfig, NetworkConfig, OptimizationConfig, Recipe

RECIPES = Path(__file__).parents[3] / "training" / "recipes"

MINIMAL = """
name = "tiny"
[data]
source = "mine:data"
[network]
factory = "mine:network"
"""


def load(tmp_path, text):
    path = tmp_path / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return load_toml(path, Recipe)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_a_shipped_recipe_loads_and_survives_being_written_out(path, tmp_path):
    recipe = load_toml(path, Recipe)
    assert load(tmp_path, to_toml(recipe)) == recipe


def test_a_minimal_recipe_takes_defaults(tmp_path):
    recipe = load(tmp_path, MINIMAL)
    assert recipe.alias == "candidate"
    assert recipe.loss.pos_weight == "none"
    assert recipe.examples is None


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (
            "[optimization]\nepoch = 3",
            'unknown key "optimization.epoch"; did you mean "optimization.epochs"',
        ),
        ('[loss]\nnam = "bce"', 'unknown key "loss.nam"; did you mean "loss.name"'),
        (
            "[optimization]\nepochs = -1",
            r"\[optimization\] epochs is -1, expected a number at least 0",
        ),
        ("[optimization]\nlearning_rate = nan", "learning_rate is nan"),
        ("[optimization]\nlearning_rate = 0.0", "learning_rate is 0.0, expected a number above 0"),
        ("[optimization]\nwarmup_fraction = 1.5", "at least 0 and at most 1"),
        ("[optimization]\nearly_stopping_patience = 0", "early_stopping_patience is 0"),
        ("[loss]\npos_weight_cap = 0.5", "pos_weight_cap is 0.5"),
        ("[decision]\nmin_positives = 0", "min_positives is 0"),
        ("[examples]\ncount = 0", "count is 0"),
        ('[examples]\nfolder = ""', "expected the name of a folder"),
    ],
)
def test_a_wrong_value_is_named(tmp_path, extra, message):
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, MINIMAL + extra)


@pytest.mark.parametrize("name", [".hidden", "", "a b", "a/b", "ü"])
def test_a_name_that_no_registry_or_folder_takes_is_refused(name):
    with pytest.raises(ConfigError, match="name is"):
        Recipe(name=name, data=DataConfig(source="a:b"), network=NetworkConfig(factory="a:b"))


def test_python_recipes_are_checked_alike():
    with pytest.raises(ConfigError, match="batch_size is 0"):
        OptimizationConfig(batch_size=0)
