"""Labels that go together: a head that refines each label's logit by the logits of all labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from thresher_training.recipe import CorrelationConfig
from thresher_training.wrapping import Wrapper

__all__ = ["CorrelationHead", "with_correlation"]


class CorrelationHead(nn.Module):
    """Adds to each logit what the probabilities of all labels say: ``z + W2 elu(W1 sigmoid(z))``.

    W2 starts at 0: the head starts as the identity, and learns only what helps.

    Args:
        num_labels: The number of logits, L.
        hidden: Width of the layer between all labels and all labels.
        dropout: The share of hidden units that is left out in training.

    Source: G. Xun et al., "Correlation networks for extreme multi-label text classification",
    KDD 2020, equation 1 (W2 starting at 0 is ours).
    """

    def __init__(self, num_labels: int, *, hidden: int = 32, dropout: float = 0.0) -> None:
        super().__init__()
        self.read = nn.Linear(num_labels, hidden)
        self.activation = nn.ELU()
        self.dropout = nn.Dropout(dropout)
        self.write = nn.Linear(hidden, num_labels)
        nn.init.zeros_(self.write.weight)
        nn.init.zeros_(self.write.bias)

    def forward(self, logits_NL: Tensor) -> Tensor:
        """Return refined logits [N, L].

        Args:
            logits_NL: float32 [N, L].
        """
        hidden_NH = self.activation(self.read(torch.sigmoid(logits_NL)))
        refined_NL: Tensor = logits_NL + self.write(self.dropout(hidden_NH))
        return refined_NL


def with_correlation(network: nn.Module, config: CorrelationConfig, num_labels: int) -> nn.Module:
    """Return the network with a `CorrelationHead` on its logits; ``forward`` takes the same inputs.

    Args:
        network: Takes inputs by name, gives float32 logits [N, L]; becomes a part of what is
            returned, as ``network``.
        config: The recipe's section.
        num_labels: L.
    """
    head = CorrelationHead(num_labels, hidden=config.hidden, dropout=config.dropout)
    return _Refined(network, head)


class _Refined(Wrapper):
    """A network, then the head."""

    def __init__(self, network: nn.Module, head: CorrelationHead) -> None:
        super().__init__(network)
        self.network = network
        self.correlation = head

    def logits(self, *inputs: Any, **named: Any) -> Tensor:
        """Return refined logits [N, L] of the network's inputs."""
        refined: Tensor = self.correlation(self.network(*inputs, **named))
        return refined
