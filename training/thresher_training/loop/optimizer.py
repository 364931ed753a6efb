"""AdamW, with weight decay only where it means something."""

from __future__ import annotations

import torch
from torch import nn

from thresher_training.recipe import OptimizationConfig

__all__ = ["make_optimizer", "parameter_groups"]

_UNDECAYED = (nn.Embedding, nn.EmbeddingBag, nn.modules.batchnorm._NormBase)  # noqa: SLF001


def make_optimizer(network: nn.Module, config: OptimizationConfig) -> torch.optim.AdamW:
    """Return AdamW on the network's parameters that can be trained.

    Source: Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019; PyTorch 2.13.
    """
    return torch.optim.AdamW(
        parameter_groups(network, config.weight_decay),
        lr=config.learning_rate,
        fused=True,  # one pass over all state: the same formula, and the fastest form of it
    )


def parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Return two groups of parameters: with decay, and without.

    Biases, norms and embeddings get none: decay keeps a layer's map from growing steep, and these
    are offsets, scales, and rows that a batch may not have touched at all.
    """
    undecayed = {
        id(parameter)
        for module in network.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if isinstance(module, _UNDECAYED) or parameter.ndim < 2 or name == "bias"
    }
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = (
        {"params": [p for p in trained if id(p) not in undecayed], "weight_decay": weight_decay},
        {"params": [p for p in trained if id(p) in undecayed], "weight_decay": 0.0},
    )
    return [group for group in groups if group["params"]]
