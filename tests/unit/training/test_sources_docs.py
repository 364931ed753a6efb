"""docs/data.md: its recipes name sources and options that exist."""

import inspect
import re
import tomllib
from pathlib import Path

import pytest

from thresher_training import sources
from thresher_training.imports import import_callable

PAGE = Path(__file__).parents[3] / "docs" / "data.md"
BLOCKS = re.findall(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_recipes_name_what_exists(block):
    recipe = tomllib.loads(block)
    for section, key in (("data", "source"), ("network", "factory")):
        if key in recipe.get(section, {}):
            called = import_callable(recipe[section][key], key=key, folders=[])
            options = recipe[section]["options"]
            inspect.signature(called).bind_partial(**options)
    assert set(recipe.get("data", {}).get("options", {})) or "network" in recipe


def test_every_source_is_on_the_page():
    text = PAGE.read_text(encoding="utf-8")
    named = set(re.findall(r"thresher_training\.sources:(\w+)", text))
    assert named == set(sources.__all__) - {"Augmentation", "hashed_ngrams"}
