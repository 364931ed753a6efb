"""A loss and its weights in one word, such as ``focal+weight=effective_number``."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

from thresher.errors import ConfigError, unknown_name
from thresher_training.recipe import LossConfig, Weighting

__all__ = ["parse_loss"]

_DEFAULTS: dict[str, Weighting] = {
    "pos_weight": "neg_over_pos",
    "weight": "effective_number",
}


def parse_loss(text: str, base: LossConfig) -> LossConfig:
    """Return the section ``[loss]`` that a word stands for.

    The form is ``NAME[+pos_weight[=WEIGHTING]][+weight[=WEIGHTING]]``. Without a weighting a
    positive weighs ``neg_over_pos`` and a label by ``effective_number``; without ``+`` nothing is
    weighted, whatever the recipe says. Caps and label smoothing are the recipe's, and the loss's
    options too where it is the recipe's loss.

    Args:
        text: The word.
        base: The recipe's section.

    Raises:
        ConfigError: If the word has another form.

    Example:
        >>> parse_loss("bce+pos_weight", LossConfig(name="focal")).pos_weight
        'neg_over_pos'
    """
    name, *parts = text.strip().split("+")
    if not name:
        raise ConfigError(f'"{text}" names no loss; expected such as bce or bce+pos_weight')
    chosen: dict[str, Weighting] = {}
    for part in parts:
        key, equals, weighting = part.partition("=")
        if key not in _DEFAULTS:
            raise ConfigError(f'"{text}": {unknown_name("weight", key, _DEFAULTS)}')
        if key in chosen:
            raise ConfigError(f'"{text}" has {key} twice')
        if equals and weighting not in get_args(Weighting):
            raise ConfigError(
                f'"{text}": {unknown_name("weighting", weighting, get_args(Weighting))}'
            )
        chosen[key] = weighting if equals else _DEFAULTS[key]  # type: ignore[assignment]
    return replace(
        base,
        name=name,
        options=base.options if name == base.name else {},
        pos_weight=chosen.get("pos_weight", "none"),
        weight=chosen.get("weight", "none"),
    )
