"""The learning-rate range test: a copy is trained while the learning rate rises step by step.

Source: L. N. Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017, section 3.3;
the smoothing and the early end are S. Gugger's, as in fastai's ``lr_find``.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from thresher_training.doctor.case import Case, rows_of
from thresher_training.doctor.diagnosis import Finding, RangeTest
from thresher_training.loop import as_tensor, seeded

__all__ = ["check_learning_rate", "measure_range"]

_LOWEST, _HIGHEST = 1e-7, 10.0
_STEPS, _FEWEST_STEPS = 120, 24
_SECONDS, _MOST_SECONDS = 8.0, 16.0
_TRIAL_STEPS, _TRIAL_SECONDS = 40, 4.0
_SMOOTHING = 0.85
_FEWEST_ROWS, _MOST_ROWS = 32, 256  # of a batch: in tiny ones the noise hides the course
_ROWS_OF_LARGE = 8
_FEWEST_TO_JUDGE = 8
_LEAST_FALL = 0.02
_VISIBLE = 0.1
"""The share of the whole fall from which on the loss falls visibly."""

_TOO_LOW = 30.0
"""So many times lower than the first learning rate with a visible fall is too low."""


def measure_range(case: Case) -> RangeTest:
    """Return how the loss goes on train batches while the learning rate rises from 1e-7 to 10."""
    rates: list[float] = []
    losses: list[float] = []
    runaway: float | None = None
    num_steps, average = _STEPS, 0.0
    steps = _training(case)
    started = time.thread_time()
    while len(rates) < num_steps and time.thread_time() - started < _MOST_SECONDS:
        rate = _LOWEST * (_HIGHEST / _LOWEST) ** (len(rates) / (num_steps - 1))
        average = _SMOOTHING * average + (1 - _SMOOTHING) * steps(rate)
        smooth = average / (1 - _SMOOTHING ** (len(rates) + 1))
        if not math.isfinite(smooth) or (losses and smooth > 2 * max(losses[0], min(losses))):
            runaway = rate
            break
        rates.append(rate)
        losses.append(smooth)
        if len(rates) == 2:  # the first step pays for warming up
            per_step = (time.thread_time() - started) / 2
            num_steps = int(np.clip(_SECONDS / per_step, _FEWEST_STEPS, _STEPS))
    low, high = _useful(rates, losses)
    return RangeTest(
        recipe_rate=case.prepared.recipe.optimization.learning_rate,
        learning_rates=tuple(rates),
        losses=tuple(losses),
        low=low,
        high=high,
        runaway=runaway,
        finished=runaway is not None or len(rates) == num_steps,
    )


def _training(case: Case) -> Callable[[float], float]:
    """Return a function that makes one step of a fresh copy at a learning rate, gives its loss."""
    prepared = case.prepared
    train, config = prepared.data.splits["train"], prepared.recipe.optimization
    network = copy.deepcopy(case.network).train(len(train) > 1)
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, weight_decay=config.weight_decay)
    rng = np.random.default_rng(prepared.recipe.seed)
    size = min(max(config.batch_size, _FEWEST_ROWS), _MOST_ROWS, len(train))
    if case.is_large:
        size = min(size, _ROWS_OF_LARGE)

    def step(rate: float) -> float:
        for group in optimizer.param_groups:
            group["lr"] = rate
        rows = np.sort(rng.choice(len(train), size=size, replace=False))
        with torch.enable_grad():
            logits_NL = network(**rows_of(prepared.data, train, rows))
            loss = prepared.loss(logits_NL, as_tensor(train.targets_NL[rows]))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return float(loss.item())

    return step


def _trial(case: Case, rate: float) -> float:
    """Return where the loss is after a few dozen steps at one learning rate."""
    step = _training(case)
    losses: list[float] = []
    deadline = time.thread_time() + _TRIAL_SECONDS
    with seeded(case.prepared.recipe.seed):
        while len(losses) < _TRIAL_STEPS and time.thread_time() < deadline:
            losses.append(step(rate * min(1.0, (len(losses) + 1) / 10)))
            if not math.isfinite(losses[-1]):
                return math.inf
    return float(np.mean(losses[-max(1, len(losses) // 4) :]))


def _useful(rates: list[float], losses: list[float]) -> tuple[float | None, float | None]:
    """Return from where the loss falls visibly, and where it is lowest; None where it is noise."""
    if len(losses) < _FEWEST_TO_JUDGE:
        return None, None
    first, noise = _beginning(losses)
    quarter = len(losses) // 4
    lowest = quarter + int(np.argmin(losses[quarter:]))
    fall = first - losses[lowest]
    if fall < max(3 * noise, _LEAST_FALL * abs(first)):
        return None, None
    # from the lowest point back: what the loss did before the descent is noise of the batches
    still = first - max(_VISIBLE * fall, 2 * noise)
    before = [k for k in range(lowest) if losses[k] > still]
    return rates[before[-1] + 1 if before else 0], rates[lowest]


def _beginning(losses: Sequence[float]) -> tuple[float, float]:
    """Return mean and spread of the first quarter, where the learning rate does nothing yet."""
    quarter = losses[len(losses) // 16 : len(losses) // 4]
    return float(np.mean(quarter)), float(np.std(quarter))


def check_learning_rate(case: Case, test: RangeTest) -> Iterator[Finding]:
    """Yield a learning rate far from where the loss falls.

    A range test passes quickly over each learning rate, and so flatters high ones: a recipe's that
    lies in the upper part is tried for a few dozen steps, beside one in the lower part.
    """
    if len(test.losses) < _FEWEST_TO_JUDGE:
        return
    course = f"loss {test.losses[0]:.4g} at the start, lowest {min(test.losses):.4g}"
    if test.low is None or test.high is None:
        first, noise = _beginning(test.losses)
        if 3 * noise > _LEAST_FALL * abs(first) or not test.finished:
            return  # batches differ too much to tell, or there was no time
        yield Finding(
            level="warning",
            code="loss-does-not-fall",
            what="At no learning rate from 1e-07 to 10 does the loss fall visibly.",
            evidence=f"{course}, in {len(test.losses)} steps.",
            fix="The learning rate is not the problem: look at the other findings.",
        )
        return
    rate, good = test.recipe_rate, min(3 * test.low, math.sqrt(test.low * test.high))
    seen = (
        f"the recipe has {rate:g}; in the range test the loss falls from {test.low:.1g} on and is "
        f"lowest at {test.high:.1g}"
        + (f", it runs away at {test.runaway:.1g}" if test.runaway else "")
        + f" ({course})"
    )
    fix = f"Set optimization.learning_rate near {good:.0e}, and try three times more and less."
    # where there are few steps, each must do more before a fall is visible
    if rate * _TOO_LOW * _STEPS / len(test.losses) < test.low:
        yield Finding(
            level="warning",
            code="learning-rate-low",
            what="The learning rate is so low that next to nothing is learned in an epoch.",
            evidence=f"{seen}.",
            fix=fix,
        )
    elif rate > good:
        own, reference = _trial(case, rate), _trial(case, good)
        if own - reference > 0.5 * max(test.losses[0] - reference, 0.0):
            yield Finding(
                level="warning",
                code="learning-rate-high",
                what="The learning rate is so high that training is unstable.",
                evidence=f"{seen}; after a short trial at {rate:g} the loss is {own:.4g}, at "
                f"{good:.1g} it is {reference:.4g}.",
                fix=fix,
            )
