"""Where training is and what it has found: what a checkpoint holds besides weights and seeds."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor, nn

from thresher_training.loop.result import EpochMetrics, goodness, says_nothing
from thresher_training.recipe import BestBy

__all__ = ["Place", "Tally"]


@dataclass(slots=True)
class Tally:
    """What an epoch has added up so far."""

    loss: float = 0.0
    """Each step's mean loss times its known targets."""

    known: int = 0
    """Known targets."""

    rows: int = 0
    norm: float = 0.0
    num_norms: int = 0
    train_s: float = 0.0
    wait_s: float = 0.0


@dataclass(slots=True)
class Place:
    """How far training is, its history, and the best weights so far."""

    epoch: int = 1
    step: int = 0
    """Steps done in this epoch; all of them while it is evaluated."""

    tally: Tally = field(default_factory=Tally)
    history: list[EpochMetrics] = field(default_factory=list)
    best_epoch: int = 0
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    finished: bool = False

    def close_epoch(
        self,
        found: EpochMetrics,
        network: nn.Module,
        *,
        best_by: BestBy,
        num_epochs: int,
        patience: int | None,
    ) -> None:
        """Take an epoch's figures; keep its weights if it is the best; go on to the next or end.

        Args:
            found: The epoch's figures.
            network: Has the weights that gave them.
            best_by: What makes an epoch better.
            num_epochs: How many there are, at most.
            patience: Epochs without a better one after which it ends.
        """
        best = self.history[self.best_epoch - 1] if self.history else None
        self.history.append(found)
        is_better = best is None or goodness(found, best_by) > goodness(best, best_by)
        if is_better or says_nothing(found):
            self.best_epoch = found.epoch
            self.best_weights = {
                name: tensor.detach().to("cpu", copy=True)
                for name, tensor in network.state_dict().items()
            }
        waited = found.epoch - self.best_epoch
        self.finished = found.epoch >= num_epochs or (patience is not None and waited >= patience)
        self.epoch, self.step, self.tally = found.epoch + 1, 0, Tally()

    def state(self) -> dict[str, Any]:
        """Return everything as plain values and tensors."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "tally": asdict(self.tally),
            "history": [asdict(epoch) for epoch in self.history],
            "best_epoch": self.best_epoch,
            "best_weights": self.best_weights,
            "finished": self.finished,
        }

    @classmethod
    def restored(cls, state: dict[str, Any]) -> Place:
        """Return what `state` described."""
        return cls(
            **{
                **state,
                "tally": Tally(**state["tally"]),
                "history": [EpochMetrics(**epoch) for epoch in state["history"]],
            }
        )
