"""A light network for texts: the first layers of a pretrained encoder, tuned in minutes on a CPU.

Most of what short texts need lies in the word embeddings and the lowest layers, and these cost a
fraction of the whole encoder, in training as in serving.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from thresher.errors import ConfigError
from thresher_training.huggingface import encoder

__all__ = ["shallow_encoder"]


def shallow_encoder(
    *,
    num_labels: int,
    folder: str,
    num_layers: int = 2,
    train_embeddings: bool = False,
    pooling: str = "mean",
    dropout: float = 0.1,
) -> nn.Module:
    """Return the first layers of a pretrained encoder with a linear layer for the logits.

    ``forward(input_ids, attention_mask)``, int64 [N, T], gives the logits, float32 [N, L]. The
    layers that are left out take no part in anything: they are neither trained nor exported.

    Args:
        num_labels: The data's labels, L.
        folder: What ``save_pretrained`` wrote; ``python:PACKAGE/folder`` lies inside an installed
            package.
        num_layers: How many transformer layers are kept, from the embeddings up.
        train_embeddings: Whether what is outside the layers, the embeddings, is tuned too: most of
            the weights, and what the pretrained model knows about rare words.
        pooling: ``"mean"`` over the tokens that the mask shows, or the ``"first"`` token.
        dropout: The share of the pooled features that is left out in training.

    Raises:
        ConfigError: If an option is out of range, or the model has no list of layers.
        NotFoundError: If the folder is missing or holds no such model.
        MissingExtraError: If the package transformers is not installed.

    Source: H. Sajjad et al., "On the effect of dropping layers of pre-trained transformer models",
    Computer Speech & Language 77, 2023 (arXiv 2004.03844): the top layers matter least for
    classification.
    """
    network = encoder(num_labels=num_labels, folder=folder, pooling=pooling, dropout=dropout)
    model: Any = network.model
    whole = model.config.num_hidden_layers
    if not 1 <= num_layers <= whole:
        raise ConfigError(f"num_layers is {num_layers!r}, expected from 1 to {whole}")
    layers = _layers(model, whole, folder)
    del layers[num_layers:]
    model.config.num_hidden_layers = num_layers
    if not train_embeddings:
        model.requires_grad_(requires_grad=False)
        layers.requires_grad_(requires_grad=True)
    return network


def _layers(model: nn.Module, num_layers: int, folder: str) -> nn.ModuleList:
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == num_layers:
            return module
    raise ConfigError(
        f"{folder}: {type(model).__name__} has no list of its {num_layers} layers; its first ones "
        "cannot be kept alone. Use thresher_training.huggingface:encoder"
    )
