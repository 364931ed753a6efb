"""Own modules by import path: found beside the recipe, and errors that say what there is."""

import sys

import pytest

from thresher.errors import ConfigError, DataError
from thresher_training.imports import call_with_options, import_callable


@pytest.fixture
def own_module(tmp_path, request):
    """A module beside the recipe, with a name of its own for each test."""
    name = f"own_{request.node.name.split('[')[0]}"
    (tmp_path / f"{name}.py").write_text(
        "import os\nVALUE = 3\ndef source(*, rows, seed=0):\n    return rows + seed\n"
        "class Box:\n    @staticmethod\n    def inner():\n        return 1\n",
        encoding="utf-8",
    )
    yield name
    sys.modules.pop(name, None)


def load(path, tmp_path):
    return import_callable(path, key="data.source", folders=[tmp_path])


def test_a_module_beside_the_recipe_is_found_and_the_path_left_as_it_was(own_module, tmp_path):
    before = list(sys.path)
    assert load(f"{own_module}:source", tmp_path)(rows=2) == 2
    assert load(f"{own_module}:Box.inner", tmp_path)() == 1
    assert sys.path == before


@pytest.mark.parametrize("path", ["module", "a:b:c", ":b", "a:", "a b:c", "a/b.py:c"])
def test_another_form_is_refused(path, tmp_path):
    with pytest.raises(ConfigError, match=r'expected an import path "package.module:callable"'):
        load(path, tmp_path)


def test_a_missing_module_names_the_nearest(own_module, tmp_path):
    with pytest.raises(
        ConfigError, match=f'unknown module "{own_module}s"; did you mean "{own_module}"'
    ):
        load(f"{own_module}s:source", tmp_path)


def test_a_missing_submodule_names_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match=r'did you mean "thresher_training\.digits"'):
        load("thresher_training.digit:digit_strips", tmp_path)


def test_a_missing_attribute_names_the_nearest(own_module, tmp_path):
    with pytest.raises(ConfigError, match='unknown attribute "sources"; did you mean "source"'):
        load(f"{own_module}:sources", tmp_path)


def test_an_attribute_that_cannot_be_called_is_refused(own_module, tmp_path):
    with pytest.raises(ConfigError, match="is a int, expected a callable"):
        load(f"{own_module}:VALUE", tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import no_such_package_xyz", "needs no_such_package_xyz, which is not installed"),
        ("1 / 0", "fails when imported: ZeroDivisionError"),
        ("def", "fails when imported: SyntaxError"),
    ],
)
def test_a_module_that_fails_says_why(text, message, tmp_path):
    (tmp_path / "broken_module_abc.py").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load("broken_module_abc:f", tmp_path)


def source(*, rows, seed=0):
    if rows < 0:
        raise DataError("rows below 0")
    return 1 // rows + seed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": 1, "sed": 2}, 'unknown option "sed"; did you mean "seed"'),
        ({}, r'\[data.options\] source needs "rows", which is missing'),
        ({"rows": 0}, r"\[data\] source failed: ZeroDivisionError"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        call_with_options(source, options, key="data")


def test_an_error_of_ours_passes_through():
    with pytest.raises(DataError, match="rows below 0"):
        call_with_options(source, {"rows": -1}, key="data")


def test_what_thresher_gives_cannot_be_an_option():
    with pytest.raises(ConfigError, match="num_labels is given by Thresher"):
        call_with_options(lambda **kw: kw, {"num_labels": 3}, key="network", num_labels=2)


def test_a_factory_that_does_not_take_num_labels_is_refused():
    with pytest.raises(ConfigError, match='source takes no "num_labels"'):
        call_with_options(source, {"rows": 1}, key="network", num_labels=2)


@pytest.mark.parametrize(
    ("path", "key", "valid"),
    [
        ("thresher_training.networks:nlp", "network.factory", ["mlp", "digits_cnn"]),
        ("thresher_training.networks:digits", "network.factory", ["digits_cnn", "mlp"]),
        ("thresher_training.digits:strips", "data.source", ["digit_strips", "split_scans"]),
        ("thresher_training.huggingface:encode", "network.factory", ["encoder"]),
    ],
)
def test_a_wrong_name_is_answered_with_what_the_module_offers(path, key, valid):
    with pytest.raises(ConfigError) as caught:
        import_callable(path, key=key, folders=[])
    told = str(caught.value).partition("Valid: ")[2].split(", ")
    assert told[: len(valid)] == valid
    assert not {"nn", "annotations", "ConfigError", "torch", "Tensor", "DataError"} & set(told)


def test_own_functions_and_networks_are_offered_and_nothing_that_is_imported(tmp_path):
    (tmp_path / "own_nets.py").write_text(
        "import torch\nfrom torch import nn\nfrom pathlib import Path\n"
        "class Net(nn.Module): pass\n"
        "class Settings: pass\n"
        "def small(num_labels): return Net()\n"
        "def _hidden(): pass\n"
    )
    with pytest.raises(ConfigError) as caught:
        import_callable("own_nets:smal", key="network.factory", folders=[tmp_path])
    assert str(caught.value).endswith('did you mean "small"? Valid: small, Net')
