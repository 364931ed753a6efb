"""Checks that train a copy for a few dozen steps: gradients by layer, and one batch to overfit.

Time is this thread's computing time: how busy the machine is with other work changes no finding.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from thresher_training.doctor.case import Case, rows_of, spread_rows
from thresher_training.doctor.diagnosis import Finding, LayerGradient, listed
from thresher_training.loop import as_tensor, seeded

__all__ = ["check_gradients", "check_overfitting", "measure_gradients"]

_GRADIENT_STEPS = 8
_GRADIENT_SECONDS = 8.0
_EXPLODING = 1e3
_VANISHING = 1e-6

_OVERFIT_ROWS, _OVERFIT_ROWS_OF_LARGE = 8, 4
_OVERFIT_STEPS = 150
_OVERFIT_SECONDS = 12.0


def measure_gradients(case: Case) -> tuple[LayerGradient, ...]:
    """Return each layer's largest gradient over the first steps of training a copy.

    Several steps, as a layer behind a gate that starts at 0 has no gradient in the first.
    """
    network = copy.deepcopy(case.network).train(len(case.targets_NL) > 1)
    config = case.prepared.recipe.optimization
    rows = min(len(case.targets_NL), 8 if case.is_large else 32)
    inputs = {name: tensor[:rows] for name, tensor in case.inputs.items()}
    layers = {
        name or "(network)": own
        for name, module in network.named_modules()
        if (own := [p for p in module.parameters(recurse=False) if p.requires_grad])
    }
    norms = dict.fromkeys(layers, 0.0)
    weights = {name: _norm(own) for name, own in layers.items()}
    deadline = time.thread_time() + _GRADIENT_SECONDS
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=0)
    with seeded(case.prepared.recipe.seed), torch.enable_grad():
        for _ in range(_GRADIENT_STEPS):
            optimizer.zero_grad()
            case.prepared.loss(network(**inputs), case.targets_NL[:rows]).backward()  # type: ignore[no-untyped-call]
            for name, own in layers.items():
                norm = _norm([p.grad for p in own if p.grad is not None])
                # max() would let a NaN pass
                norms[name] = norm if math.isnan(norm) else max(norms[name], norm)
            if not all(map(math.isfinite, norms.values())):
                break
            optimizer.step()
            if time.thread_time() > deadline:
                break
    return tuple(
        LayerGradient(layer=name, gradient_norm=norms[name], weight_norm=weights[name])
        for name in layers
    )


def _norm(tensors: list[nn.Parameter] | list[Tensor]) -> float:
    return math.sqrt(sum(float(tensor.detach().double().square().sum()) for tensor in tensors))


def check_gradients(case: Case, gradients: Sequence[LayerGradient]) -> Iterator[Finding]:
    """Yield layers whose gradients are dead, vanish or explode.

    Args:
        case: Its loss says what gradients are in proportion to.
        gradients: What `measure_gradients` gave.
    """
    scale = float(case.prepared.loss(torch.zeros_like(case.targets_NL), case.targets_NL))
    norms = {each.layer: each.gradient_norm for each in gradients}
    broken = [name for name, norm in norms.items() if not math.isfinite(norm)]
    largest = max((norm for norm in norms.values() if math.isfinite(norm)), default=0.0)
    limit = _EXPLODING * max(1.0, scale)
    exploding = broken or [name for name, norm in norms.items() if norm > limit]
    if exploding:
        shown = ", ".join(f"{name} {norms[name]:.3g}" for name in exploding[:4])
        yield Finding(
            level="error" if broken else "warning",
            code="exploding-gradients",
            what="Gradients explode: a step is ruled by a few huge values.",
            evidence=f"gradient norm over the first {_GRADIENT_STEPS} steps, {len(exploding)} of "
            f"{len(norms)} layers: {shown}.",
            fix="Scale the inputs, add norms between layers, clip "
            "(optimization.max_gradient_norm = 1.0), or lower the learning rate.",
        )
    if broken:
        return
    dead = [name for name, norm in norms.items() if norm == 0]
    if dead:
        yield Finding(
            level="error",
            code="dead-gradients",
            what="Layers get no gradient at all: they never learn.",
            evidence=f"gradient exactly 0 in the first {_GRADIENT_STEPS} steps: {listed(dead)}, "
            f"{len(dead)} of {len(norms)} layers with weights.",
            fix="Look for a detach(), a torch.no_grad(), ReLUs that are 0 for every row, or layers "
            "that forward() never uses (leave those out, or set requires_grad to False).",
        )
    faint = [name for name, norm in norms.items() if 0 < norm < _VANISHING * largest]
    if faint:
        shown = ", ".join(f"{name} {norms[name]:.2g}" for name in faint[:4])
        yield Finding(
            level="warning",
            code="vanishing-gradients",
            what="Gradients fade on the way: some layers learn a million times slower than others.",
            evidence=f"{len(faint)} of {len(norms)} layers: {shown}; the largest is {largest:.3g}.",
            fix="ReLU or GELU instead of sigmoid or tanh between layers, norms, residual "
            "connections, or the usual (Kaiming) first weights.",
        )


def check_overfitting(case: Case) -> Iterator[Finding]:
    """Yield a network that cannot learn a handful of rows by heart."""
    rows = _distinct_rows(case)
    if rows is None:
        return
    data, config = case.prepared.data, case.prepared.recipe.optimization
    train = data.splits["train"]
    inputs, targets_NL = rows_of(data, train, rows), as_tensor(train.targets_NL[rows])
    loss = case.prepared.loss
    frequency_L = targets_NL.nan_to_num(0.5).mean(dim=0).clamp(0.02, 0.98)
    blind = float(loss(torch.logit(frequency_L).expand_as(targets_NL), targets_NL))
    perfect = float(loss(torch.logit(targets_NL.nan_to_num(0.5).clamp(1e-4, 1 - 1e-4)), targets_NL))
    room = blind - perfect
    if room <= 1e-3 * abs(blind):
        return
    tried: dict[float, float] = {}
    deadline = time.thread_time() + _OVERFIT_SECONDS
    # a large network has time for one: a recipe's that is meant for thousands of steps is too low
    rates = (1e-3,) if case.is_large else (config.learning_rate, 1e-2, 1e-3, 1e-1)
    for rate in dict.fromkeys(rates):
        tried[rate] = _lowest_loss(case, inputs, targets_NL, rate, perfect + 0.3 * room, deadline)
        if tried[rate] <= perfect + 0.5 * room:
            return
        if time.thread_time() > deadline:
            yield Finding(
                level="note",
                code="check-cut-short",
                what="There was not time enough to see whether the network can learn "
                f"{len(rows)} train rows by heart.",
                evidence=f"loss {tried[rate]:.4g} after {_OVERFIT_SECONDS:g} s at learning rate "
                f"{rate:g}; logits that ignore the inputs reach {blind:.4g}.",
                fix="Nothing is known to be wrong. Try a faster machine, or shorter inputs.",
            )
            return
    shown = ", ".join(f"{value:.4g} at learning rate {rate:g}" for rate, value in tried.items())
    yield Finding(
        level="error",
        code="cannot-overfit",
        what=f"The network cannot learn {len(rows)} train rows by heart: "
        "its logits hardly follow its inputs, or their gradients do not reach the weights.",
        evidence=f"lowest loss within {_OVERFIT_STEPS} steps: {shown}; logits that ignore the "
        f"inputs reach {blind:.4g}, right ones {perfect:.4g}.",
        fix="Look at the other findings first (gradients, a bound at the end, the inputs' scale); "
        "then feed the rows through the network by hand and see where they become alike.",
    )


def _distinct_rows(case: Case) -> npt.NDArray[np.intp] | None:
    """Return a few train rows with inputs that differ and targets that are known, if there are."""
    train = case.prepared.data.splits["train"]
    seen: set[bytes] = set()
    chosen: list[int] = []
    for row in spread_rows(len(train), 256):
        key = b"".join(array[row].tobytes() for array in train.inputs.values())
        if key not in seen and not np.isnan(train.targets_NL[row]).all():
            seen.add(key)
            chosen.append(int(row))
    if len(chosen) < 2:
        return None
    # half of them rows with a positive, where there are: rows of noes alone need no inputs
    on = [row for row in chosen if (train.targets_NL[row] > 0.5).any()]
    size = _OVERFIT_ROWS_OF_LARGE if case.is_large else _OVERFIT_ROWS
    first = on[: size // 2]
    rest = [row for row in chosen if row not in first]
    return np.array(sorted(first + rest[: size - len(first)]))


def _lowest_loss(
    case: Case,
    inputs: dict[str, Tensor],
    targets_NL: Tensor,
    learning_rate: float,
    enough: float,
    deadline: float,
) -> float:
    """Return the lowest loss that a fresh copy reaches on a batch, without dropout."""
    network = copy.deepcopy(case.network).train()
    for module in network.modules():
        if "Dropout" in type(module).__name__:
            module.eval()
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0)
    lowest = math.inf
    with seeded(case.prepared.recipe.seed), torch.enable_grad():
        for _ in range(_OVERFIT_STEPS):
            optimizer.zero_grad()
            value = case.prepared.loss(network(**inputs), targets_NL)
            now = value.item()
            if not math.isfinite(now):
                break
            lowest = min(lowest, now)
            if lowest <= enough or time.thread_time() > deadline:
                break
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return lowest
