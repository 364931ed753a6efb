"""A network's sizes come from the data."""

import numpy as np
import pytest
import torch

from thresher.artifacts.input_spec import InputSpec
from thresher.errors import ConfigError
from thresher_training import DataSet, NetworkConfig, Recipe, Split
from thresher_training.prepare import make_network

MLP = "thresher_training.networks:mlp"


def data(**inputs):
    split = Split(inputs=inputs, targets_NL=np.array([[0.0, 1.0]] * 4))
    spec = InputSpec(categories={"categories": {"c": ("a", "b")}} if "categories" in inputs else {})
    splits = dict.fromkeys(("train", "validation", "test"), split)
    return DataSet(labels=("a", "b"), splits=splits, source="here", input_spec=spec)


FEATURES = np.ones((4, 7), dtype=np.float32)
IDS = np.array([[2], [3], [0], [1]])


@pytest.mark.parametrize("options", [{}, {"num_features": 7}])
@pytest.mark.parametrize(
    "inputs", [{"features": FEATURES}, {"features": FEATURES, "categories": IDS}]
)
def test_sizes_that_a_recipe_leaves_out_are_those_of_the_data(options, inputs):
    recipe = Recipe(name="r", network=NetworkConfig(factory=MLP, options=options))
    network = make_network(recipe, data(**inputs), [])
    logits = network(**{name: torch.as_tensor(array) for name, array in inputs.items()})
    assert logits.shape == (4, 2)


def test_categories_alone_need_no_number_of_features():
    network = make_network(
        Recipe(name="r", network=NetworkConfig(factory=MLP)), data(categories=IDS), []
    )
    assert network(categories=torch.as_tensor(IDS)).shape == (4, 2)


def test_a_wrong_number_of_features_is_refused_with_the_right_one():
    recipe = Recipe(name="r", network=NetworkConfig(factory=MLP, options={"num_features": 6}))
    with pytest.raises(ConfigError, match="num_features is 6, .* has 7 columns; leave num_feat"):
        make_network(recipe, data(features=FEATURES), [])


def test_a_factory_that_asks_for_no_size_gets_none():
    def factory(*, num_labels, num_features=3):
        return torch.nn.Linear(num_features, num_labels)

    network = make_network(Recipe(name="r"), data(features=FEATURES), [], given=factory)
    assert network.in_features == 3
