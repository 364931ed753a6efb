"""Networks around other networks, which take the same inputs by the same names."""

from __future__ import annotations

import inspect
from types import MethodType
from typing import Any

from torch import Tensor, nn

__all__ = ["Wrapper"]


class Wrapper(nn.Module):
    """A network whose `forward` has the parameter names of another one, which it is built around.

    Export, MLflow's signature and Triton's inputs are named after them. Whoever inherits from this
    says in `logits` what is done with the inputs.

    Args:
        wrapped: The network whose parameter names are taken over; kept by whoever inherits.
    """

    def __init__(self, wrapped: nn.Module) -> None:
        super().__init__()
        self._signature = inspect.signature(wrapped.forward)
        self._sign_forward()

    def logits(self, *inputs: Any, **named: Any) -> Tensor:
        """Return logits [N, L] of the wrapped network's inputs."""
        raise NotImplementedError

    def _sign_forward(self) -> None:
        def forward(self: Wrapper, *inputs: Any, **named: Any) -> Tensor:
            return self.logits(*inputs, **named)

        own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        forward.__signature__ = self._signature.replace(  # type: ignore[attr-defined]
            parameters=[own, *self._signature.parameters.values()]
        )
        self.forward = MethodType(forward, self)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without `forward`: neither copy nor pickle can take it along."""
        return {key: value for key, value in self.__dict__.items() if key != "forward"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._sign_forward()
