"""What a recipe names, brought together: data, network and loss, to be trained or examined."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from thresher.errors import ConfigError
from thresher_training.data import DataSet
from thresher_training.imports import call_with_options, import_callable
from thresher_training.loop import seeded
from thresher_training.losses import build_loss
from thresher_training.recipe import Recipe
from thresher_training.refusals import unwrapped

__all__ = ["Loss", "Prepared", "check_names", "load_data", "make_network", "prepare"]

Loss = Callable[[Tensor, Tensor], Tensor]
"""From logits and targets, both [N, L], to a scalar."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prepared:
    """A recipe with the objects that it names."""

    recipe: Recipe
    data: DataSet
    network: nn.Module
    """With its first weights, which the recipe's seed gives."""

    loss: Loss


def prepare(
    recipe: Recipe,
    *,
    recipe_folder: Path | None = None,
    data: DataSet | None = None,
    network: Callable[..., Any] | nn.Module | None = None,
    loss: Loss | None = None,
) -> Prepared:
    """Return a recipe with its data, network and loss.

    Args:
        recipe: What to train.
        recipe_folder: Searched first for the modules that the recipe names, then the working
            folder.
        data: Instead of what ``[data]`` names.
        network: A factory or a finished network, instead of what ``[network]`` names.
        loss: Instead of what ``[loss]`` names.

    Raises:
        ConfigError: If the recipe names what does not exist or does not fit.
        DataError: If the data are not what multi-label training needs.
    """
    folders = [Path.cwd()] if recipe_folder is None else [recipe_folder, Path.cwd()]
    found = load_data(recipe, folders) if data is None else data
    train = found.splits["train"]
    return Prepared(
        recipe=recipe,
        data=found,
        network=make_network(recipe, found, folders, given=network),
        loss=loss or build_loss(recipe.loss, train.targets_NL, found.labels, folders),
    )


def load_data(recipe: Recipe, folders: list[Path]) -> DataSet:
    """Return what the recipe's data source gives.

    Raises:
        ConfigError: If the recipe names no source, or it gives something else.
    """
    source = _find_source(recipe, folders)
    assert recipe.data is not None  # no source is found without
    data = call_with_options(source, recipe.data.options, key="data")
    if not isinstance(data, DataSet):
        raise ConfigError(f"{recipe.data.source} gave {_kind(data)}, expected a DataSet")
    return data


def check_names(
    recipe: Recipe, folders: list[Path], *, needs_data: bool = True, needs_network: bool = True
) -> None:
    """Refuse a recipe that names what does not exist, before anything is loaded or logged.

    Args:
        recipe: What to train.
        folders: Searched for the modules that it names.
        needs_data: Whether the recipe must name the data.
        needs_network: Whether the recipe must name the network's factory.

    Raises:
        ConfigError: If a section, a module or a name in it is missing.
    """
    if needs_data:
        _find_source(recipe, folders)
    if needs_network:
        _find_factory(recipe, folders)


def make_network(
    recipe: Recipe,
    data: DataSet,
    folders: list[Path],
    *,
    given: Callable[..., Any] | nn.Module | None = None,
) -> nn.Module:
    """Return the recipe's network with its first weights.

    Args:
        recipe: Names the factory, and what is put on top of it.
        data: Tells the number of labels and their frequencies.
        folders: Searched for the factory's module.
        given: A factory or a finished network instead.

    Raises:
        ConfigError: If the recipe names no factory, or it gives something else.
    """
    config = recipe.network
    with seeded(recipe.seed):
        if isinstance(given, nn.Module):
            network: Any = given
        else:
            factory = given or _find_factory(recipe, folders)
            network = call_with_options(
                factory, **_options(factory, config.options, data), key="network"
            )
            if not isinstance(network, nn.Module):
                name = config.factory or getattr(factory, "__name__", "the factory")
                raise ConfigError(f"{name} gave {_kind(network)}, expected a torch.nn.Module")
        network = unwrapped(network)
        if config.prior_bias:
            from thresher_training.prior import set_prior_bias

            set_prior_bias(network, data.splits["train"].targets_NL)
        if config.correlation is not None:
            from thresher_training.correlation import with_correlation

            network = with_correlation(network, config.correlation, data.num_labels)
    assert isinstance(network, nn.Module)
    return network


def _options(
    factory: Callable[..., Any], options: Mapping[str, Any], data: DataSet
) -> dict[str, Any]:
    """Return a factory's options, and what the data know of those that it asks for.

    Raises:
        ConfigError: If the options hold another number of features than the data.
    """
    given: dict[str, Any] = {"num_labels": data.num_labels}
    try:
        asked = inspect.signature(factory).parameters
    except ValueError:
        asked = {}  # type: ignore[assignment]
    train, spec = data.splits["train"].inputs, data.input_spec
    features = train.get("features")
    if "num_features" in asked and asked["num_features"].default is inspect.Parameter.empty:
        known = None
        if features is not None and features.ndim == 2:
            known = features.shape[1]
        elif features is None and "categories" in train:
            known = 0
        wanted = options.get("num_features", known)
        if known is not None and wanted != known:
            raise ConfigError(
                f"[network.options] num_features is {wanted!r}, the data's input features has "
                f"{known} columns; leave num_features out, the data know it"
            )
        if known is not None:
            given["num_features"] = known
            options = {key: value for key, value in options.items() if key != "num_features"}
    if "category_sizes" in asked and "category_sizes" not in options and spec is not None:
        given["category_sizes"] = spec.category_sizes
    return {"options": options, **given}


def _find_source(recipe: Recipe, folders: list[Path]) -> Callable[..., Any]:
    if recipe.data is None:
        raise ConfigError(
            "the recipe has no section [data]; add one, or hand a DataSet to train(recipe, data=)"
        )
    return import_callable(recipe.data.source, key="data.source", folders=folders)


def _find_factory(recipe: Recipe, folders: list[Path]) -> Callable[..., Any]:
    if not recipe.network.factory:
        raise ConfigError(
            "the recipe's [network] has no factory; add one, or hand a network to "
            "train(recipe, network=)"
        )
    return import_callable(recipe.network.factory, key="network.factory", folders=folders)


def _kind(value: object) -> str:
    return f"a {type(value).__name__}"
