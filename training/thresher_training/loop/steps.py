"""One step: the gradients of its batches, then AdamW; and all the state that steps change."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from thresher_training.loop.average import Average
from thresher_training.loop.batches import Batch
from thresher_training.loop.optimizer import make_optimizer
from thresher_training.loop.precision import autocast_dtype
from thresher_training.loop.processes import Team
from thresher_training.loop.schedule import make_schedule
from thresher_training.recipe import OptimizationConfig

__all__ = ["Stepper"]

Loss = Callable[[Tensor, Tensor], Tensor]


class Stepper:
    """Takes steps, and can save and restore all that they change but the random generators.

    Args:
        network: On the device; changed in place.
        loss: Of float32 logits and targets, both [N, L]; the mean over known targets.
        config: The recipe's section.
        num_steps: All steps of all epochs, for the schedule.
        device: Where it computes.
        team: This process among those that train together.
        example: A few rows of the inputs, on the CPU.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Loss,
        config: OptimizationConfig,
        *,
        num_steps: int,
        device: torch.device,
        team: Team,
        example: Mapping[str, Tensor],
    ) -> None:
        self._network, self._loss, self._config = network, loss, config
        self._team, self._device = team, device
        # the wrappers share the network's parameters; it stays what is evaluated and exported
        wrapped = network
        if team.world_size > 1:
            has_unused = _has_unused(network, example, device)
            wrapped = team.wrap(network, device, has_unused=has_unused)
        self._forward = _compiled(wrapped) if config.compile else wrapped
        self._wrapped = wrapped
        self._dtype = autocast_dtype(config, device)
        self._scaler = torch.amp.GradScaler(device.type, enabled=self._dtype == torch.float16)
        self._optimizer = make_optimizer(network, config)
        self._schedule = make_schedule(self._optimizer, config, num_steps)
        self._average = None if config.ema_decay is None else Average(network, config.ema_decay)
        self._parameters = [p for p in network.parameters() if p.requires_grad]

    @property
    def evaluated(self) -> nn.Module:
        """The network whose weights count: the average's where there is one."""
        return self._network if self._average is None else self._average.module

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        return float(self._schedule.get_last_lr()[0])

    def gradients(self, batches: Iterator[Batch], num_batches: int) -> Tensor:
        """Return this process's part of the step's loss, and leave the step's gradients.

        Each batch's mean loss counts by its share of the step's known targets. So the gradients
        are those of one large batch, however it is cut: in time by accumulation, in space over
        processes, and with unknown targets anywhere.
        """
        self._optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self._device)
        for at in range(num_batches):
            batch = next(batches)
            with self._exchanged(last=at == num_batches - 1):
                with torch.autocast(
                    self._device.type, self._dtype, enabled=self._dtype is not None
                ):
                    logits_NL = self._forward(**batch.inputs)
                # in float32: a loss is a sum of many small terms
                loss = self._loss(logits_NL.float(), batch.targets_NL)
                part = loss if batch.share == 1 else loss * batch.share
                # the wrapper takes the mean over processes, and the shares already add up to 1
                whole = part if self._team.world_size == 1 else part * self._team.world_size
                self._scaler.scale(whole).backward()  # type: ignore[no-untyped-call]
            total += part.detach()
        return total

    def update(self) -> Tensor:
        """Change the weights by their gradients; return the gradients' norm before clipping."""
        self._scaler.unscale_(self._optimizer)
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if self._config.max_gradient_norm is not None:
            nn.utils.clip_grads_with_norm_(self._parameters, self._config.max_gradient_norm, norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._schedule.step()
        if self._average is not None:
            self._average.update(self._network)
        return norm

    def _exchanged(self, *, last: bool) -> AbstractContextManager[None]:
        """Exchange gradients between processes in the last batch of a step only."""
        if self._team.world_size == 1 or last:
            return nullcontext()
        assert isinstance(self._wrapped, nn.parallel.DistributedDataParallel)
        exchange: AbstractContextManager[None] = self._wrapped.no_sync()
        return exchange

    def state(self) -> dict[str, Any]:
        """Return all that steps change."""
        return {
            "network": self._network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "scaler": self._scaler.state_dict(),
            "average": None if self._average is None else self._average.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Become what `state` described."""
        self._network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self._scaler.load_state_dict(state["scaler"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])


def _has_unused(network: nn.Module, example: Mapping[str, Tensor], device: torch.device) -> bool:
    """Tell whether some parameters get no gradient, by a trial that leaves no trace.

    It is in evaluation mode, in which cuDNN's LSTM and GRU have no backward pass; torch's own do.
    """
    network.eval()
    was_enabled = torch.backends.cudnn.enabled
    torch.backends.cudnn.enabled = False
    try:
        network(**{name: tensor.to(device) for name, tensor in example.items()}).sum().backward()
    finally:
        torch.backends.cudnn.enabled = was_enabled
    unused = any(p.requires_grad and p.grad is None for p in network.parameters())
    network.zero_grad(set_to_none=True)
    return unused


def _compiled(network: nn.Module) -> Callable[..., Tensor]:
    with warnings.catch_warnings():
        # torch's compiler itself runs into what torch has deprecated
        warnings.filterwarnings("ignore", message=r".*torch\.jit", category=DeprecationWarning)
        compiled: Callable[..., Tensor] = torch.compile(network)
    return compiled
