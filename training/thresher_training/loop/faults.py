"""What can go wrong in a step, told so that somebody can mend it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from thresher.errors import ThresherError, TrainingError
from thresher_training.data import Split
from thresher_training.loop.batches import take
from thresher_training.loop.sampling import Rows
from thresher_training.recipe import OptimizationConfig

__all__ = ["NoMemoryError", "NonFiniteLossError", "explained", "non_finite_loss"]

_NO_MEMORY = ("not enough memory", "can't allocate memory", "out of memory", "std::bad_alloc")
_LOST_PROCESS = (
    *("connection closed by peer", "connection reset by peer", "broken pipe"),
    *("remote process exited", "ncclremoteerror", "timed out waiting"),
    "collective operation timeout",
)


class NoMemoryError(TrainingError):
    """Memory does not suffice; the message says which keys of the recipe help."""


class NonFiniteLossError(TrainingError):
    """The loss is NaN or infinite; carries the rows of that step."""

    def __init__(self, message: str, arrays: Mapping[str, npt.NDArray[Any]] | None = None) -> None:
        super().__init__(message)
        self.arrays = dict(arrays or {})
        """Rows, inputs, targets and logits of the step, by name."""


def non_finite_loss(
    network: nn.Module,
    train: Split,
    rows: Rows,
    config: OptimizationConfig,
    *,
    loss: float,
    epoch: int,
    step: int,
    learning_rate: float,
) -> NonFiniteLossError:
    """Return the error for a loss that is not finite: which input, how large logits, what to do.

    Args:
        network: With the weights of that step, or of one soon after it.
        train: The train split.
        rows: The rows of the step.
        config: The recipe's section.
        loss: NaN or infinite.
        epoch: Counted from 1.
        step: Counted from 1.
        learning_rate: In that step.
    """
    arrays = {name: np.asarray(array[rows]) for name, array in train.inputs.items()}
    told = _broken_inputs(arrays, rows)
    logits_NL = _logits(network, train, rows, config.batch_size)
    if not told:
        largest = float(np.abs(logits_NL).max()) if logits_NL.size else math.nan
        told = (
            f"all inputs are finite and the largest logit is {largest:g}: the learning rate of "
            f"{learning_rate:g} may be too high; lower optimization.learning_rate, set "
            "optimization.max_gradient_norm = 1.0, or look at very large inputs"
        )
        if config.precision == "fp16":
            told += '; fp16 has a small range: optimization.precision = "bf16" has that of fp32'
    return NonFiniteLossError(
        f"the training loss is {loss} in epoch {epoch}, step {step} of the epoch: {told}",
        {
            "rows": rows,
            "targets": np.asarray(train.targets_NL[rows]),
            "logits": logits_NL,
            **{f"inputs/{name}": array for name, array in arrays.items()},
        },
    )


def _broken_inputs(arrays: Mapping[str, npt.NDArray[Any]], rows: Rows) -> str:
    for name, array in arrays.items():
        if array.dtype.kind != "f":
            continue
        broken_N = ~np.isfinite(array.reshape(len(array), -1)).all(axis=1)
        if broken_N.any():
            listed = ", ".join(map(str, sorted(rows[broken_N].tolist())[:5]))
            return (
                f'input "{name}" is not finite in {int(broken_N.sum())} of the step\'s '
                f"{len(rows)} rows (train rows {listed}); mend the data, or leave these rows out"
            )
    return ""


def _logits(
    network: nn.Module, train: Split, rows: Rows, batch_size: int
) -> npt.NDArray[np.float32]:
    """Return the step's logits, float32 [N, L]; empty where the network no longer runs."""
    device = next(network.parameters()).device
    was_training = network.training
    network.eval()  # a batch-norm keeps no trace of this look
    try:
        with torch.no_grad():
            parts = [
                network(
                    **{
                        name: tensor.to(device)
                        for name, tensor in take(
                            train.inputs, rows[start : start + batch_size]
                        ).items()
                    }
                )
                for start in range(0, len(rows), batch_size)
            ]
        return np.asarray(torch.cat(parts).float().cpu().numpy())
    except RuntimeError:
        return np.empty((0, 0), np.float32)
    finally:
        network.train(was_training)


@contextmanager
def explained(
    network: nn.Module, config: OptimizationConfig, where: Callable[[], str]
) -> Iterator[None]:
    """Turn what fails in this block into a `TrainingError` that says where, and what to do.

    Args:
        network: Named in the message.
        config: The recipe's section.
        where: Says what was going on, such as ``"epoch 1, step 3"``.
    """
    try:
        yield
    except ThresherError:
        raise
    except Exception as error:
        text = str(error).strip()
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or _has(text, _NO_MEMORY):
            raise NoMemoryError(_out_of_memory(config, where())) from error
        if _has(text, _LOST_PROCESS):
            raise TrainingError(
                f"{where()}: another process of this run is gone; its own message says why "
                f"({text.splitlines()[0]})"
            ) from error
        if "nccl" in text.lower():
            raise TrainingError(
                f"{where()}: NCCL, which joins the GPUs, fails: {text.splitlines()[-1]} "
                "(NCCL_DEBUG=INFO makes it say more)"
            ) from error
        if "more than 1 value per channel" in text:
            raise TrainingError(
                f"{where()}: a batch-norm in {type(network).__name__} got a single row, which has "
                f"nothing to be normalised by; optimization.batch_size is {config.batch_size}: "
                "give each process at least 2 rows of a batch, and gather more by "
                "optimization.accumulate; or take a LayerNorm or GroupNorm"
            ) from error
        raise TrainingError(
            f"{type(network).__name__} fails in {where()}: {type(error).__name__}: "
            f"{text.splitlines()[0] if text else 'no message'}"
        ) from error


def _has(text: str, marks: tuple[str, ...]) -> bool:
    return any(mark in text.lower() for mark in marks)


def _out_of_memory(config: OptimizationConfig, where: str) -> str:
    if config.batch_size == 1:
        advice = "the batch has one example already: take a smaller network or smaller inputs"
    else:
        factor = next(f for f in range(2, config.batch_size + 1) if config.batch_size % f == 0)
        advice = (
            f"set optimization.batch_size={config.batch_size // factor} and "
            f"optimization.accumulate={factor * config.accumulate}: the same steps, with fewer "
            "examples in memory at a time"
        )
    return f"out of memory in {where}, with batches of {config.batch_size}; {advice}"
