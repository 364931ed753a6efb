"""Logits in evaluation mode, and the figures of a validation split."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from thresher.decision import FloatArray
from thresher.errors import TrainingError
from thresher_training.data import Split
from thresher_training.loop.batches import Inputs, as_tensor, to_device, trimmed
from thresher_training.loop.processes import ALONE, Team
from thresher_training.loop.sampling import row_lengths, slices
from thresher_training.metrics import epoch_figures

__all__ = ["predict_logits", "validation_figures"]

_BATCH = 256

Loss = Callable[[Tensor, Tensor], Tensor]


def predict_logits(
    network: nn.Module,
    inputs: Inputs,
    *,
    trim_by: str | None = None,
    team: Team = ALONE,
    between: Callable[[], None] = lambda: None,
) -> FloatArray:
    """Return float32 [N, L]: the network's logits in evaluation mode, in full precision.

    What is served computes in float32, so thresholds and metrics are of float32 logits, however
    training computed. Of memory-mapped inputs only the rows in use are read.

    Args:
        network: Takes the inputs by name; left in the mode and on the device that it is on.
        inputs: Arrays [N, ...] by name.
        trim_by: An input [N, T], 0 where a row is padding: rows of similar length go through the
            network together, without the columns that none of them needs.
        team: Each process takes its part of the rows, and each gets them all.
        between: Called between batches.
    """
    tensors = {name: as_tensor(array) for name, array in inputs.items()}
    num_rows = len(next(iter(tensors.values())))
    order = np.arange(num_rows)
    if trim_by is not None and num_rows:
        order = np.argsort(row_lengths(inputs[trim_by]), kind="stable")
    own = torch.from_numpy(np.array_split(order, team.world_size)[team.rank])
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    was_training = network.training
    network.eval()
    parts = []
    try:
        with torch.inference_mode(), _full_precision():
            for part in slices(len(own), _BATCH) or [slice(0)]:
                between()
                batch = {name: array.index_select(0, own[part]) for name, array in tensors.items()}
                if trim_by is not None and len(own):
                    batch = trimmed(batch, trim_by)
                on_device = {name: to_device(tensor, device) for name, tensor in batch.items()}
                parts.append(network(**on_device).detach().cpu())
    finally:
        network.train(was_training)
    gathered_NL = team.gather_rows(torch.cat(parts).numpy(), num_rows)
    if trim_by is None:
        return gathered_NL
    logits_NL = np.empty_like(gathered_NL)
    logits_NL[order] = gathered_NL
    return logits_NL


@contextmanager
def _full_precision() -> Iterator[None]:
    """Keep TensorFloat-32 and bfloat16, which are far from what is served, out of float32.

    torch has two sets of flags for that, and some of its code raises where they disagree. Both are
    set here and put back; the older ones where they can be read, which is where they were used.
    """
    backends: Any = torch.backends  # its types know the older flags alone
    cuda, cudnn, mkldnn = backends.cuda, backends.cudnn, backends.mkldnn
    flags = [cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv, mkldnn.rnn]
    before = [flag.fp32_precision for flag in flags]
    matmul = convolutions = None
    with suppress(RuntimeError):
        matmul = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
    with suppress(RuntimeError):
        convolutions = cudnn.allow_tf32
        cudnn.allow_tf32 = False
    for flag in flags:
        flag.fp32_precision = "ieee"
    try:
        yield
    finally:
        if matmul is not None:
            torch.set_float32_matmul_precision(matmul)
        if convolutions is not None:
            cudnn.allow_tf32 = convolutions
        for flag, precision in zip(flags, before, strict=True):
            flag.fp32_precision = precision


def validation_figures(
    logits_NL: FloatArray, split: Split, loss: Loss, device: torch.device, *, epoch: int
) -> tuple[float, dict[str, float]]:
    """Return the loss and the figures at 0.5 of a split.

    Args:
        logits_NL: float32 [N, L] of its rows.
        split: The validation split.
        loss: Of logits and targets, both [N, L], on the device.
        device: Where the loss computes.
        epoch: Counted from 1, for the error.

    Raises:
        TrainingError: If a logit is not finite.
    """
    broken_N = ~np.isfinite(logits_NL).all(axis=1)
    if broken_N.any():
        raise TrainingError(
            f"the network's logits are not finite for {int(broken_N.sum())} of {len(split)} "
            f"validation rows (first: row {int(np.argmax(broken_N))}) after epoch {epoch}"
        )
    with torch.inference_mode():
        value = loss(
            torch.from_numpy(logits_NL).to(device), as_tensor(split.targets_NL).to(device)
        ).item()
    return value, epoch_figures(split.targets_NL, logits_NL)
