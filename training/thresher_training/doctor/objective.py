"""Checks of the loss by what it does: on real targets, on probes, and on the first logits."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from thresher_training.data import Split
from thresher_training.doctor.case import Case, unchanged_buffers
from thresher_training.doctor.diagnosis import Finding
from thresher_training.doctor.positive_weight import check_weights
from thresher_training.doctor.targets import is_single_label
from thresher_training.loop import as_tensor, seeded
from thresher_training.losses import MultiLabelLoss
from thresher_training.prepare import Loss, Prepared

__all__ = ["check_loss", "check_start"]

_FAR = 8.0
"""How many times the loss that the label frequencies give a network may start with."""


def check_loss(prepared: Prepared) -> Iterator[Finding]:
    """Yield what is wrong with the loss itself, whatever the network."""
    loss, train = prepared.loss, prepared.data.splits["train"]
    failure = _failure(loss, train)
    if failure is not None:
        yield failure
        return
    single = is_single_label(train.targets_NL)
    softmax = prepared.data.num_labels > 1 and _is_relative(loss, prepared.data.num_labels)
    if softmax:
        yield from _softmax_findings(loss, prepared, single=single)
        return
    if single:
        yield _single_label(prepared)
    # Thresher's own losses apply the sigmoid; strong smoothing moves their lowest point
    if not isinstance(loss, MultiLabelLoss):
        wrong = list(_no_sigmoid(loss, prepared.data.num_labels))
        yield from wrong
        if wrong:
            return
    yield from check_weights(prepared)


def _value(loss: Loss, logits_NL: Tensor, targets_NL: Tensor) -> float:
    with torch.no_grad():
        return float(loss(logits_NL, targets_NL))


def _failure(loss: Loss, train: Split) -> Finding | None:
    """Return a loss that cannot take logits with this task's targets."""
    targets_NL = as_tensor(train.targets_NL[: min(len(train), 64)])
    with seeded(0):
        logits_NL = 3 * torch.randn(targets_NL.shape)
    try:
        with torch.no_grad():
            got = loss(logits_NL, targets_NL)
    except Exception as error:  # noqa: BLE001 -- whatever a user's loss raises is the finding
        return _refusal(loss, logits_NL, targets_NL, error)
    name = _name(loss)
    if not isinstance(got, Tensor) or got.numel() != 1:
        shape = list(got.shape) if isinstance(got, Tensor) else type(got).__name__
        return Finding(
            level="error",
            code="loss-fails",
            what=f"The loss {name} gives no single number.",
            evidence=f"it gives {shape} for logits {list(logits_NL.shape)}.",
            fix="Return the mean over the known targets.",
        )
    if math.isfinite(float(got)):
        return None
    unknown = bool(torch.isnan(targets_NL).any())
    return Finding(
        level="error",
        code="loss-not-finite",
        what=f"The loss {name} is {float(got)} on ordinary logits"
        + (": it does not leave unknown (NaN) targets out." if unknown else "."),
        evidence=f"random logits of standard deviation 3, {len(targets_NL)} train rows.",
        fix="Leave NaN targets out (losses named in [loss] do), and compute on logits with "
        "logsigmoid or binary_cross_entropy_with_logits instead of the logarithm of a sigmoid.",
    )


def _refusal(loss: Loss, logits_NL: Tensor, targets_NL: Tensor, error: Exception) -> Finding:
    said = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}" if str(error) else ""
    if "between 0 and 1" in str(error):
        return _wants_probabilities(_name(loss), said)
    whole = torch.nan_to_num(targets_NL).long()
    for what, wanted in (("integer", whole), ("one class number per row", whole.argmax(dim=1))):
        try:
            _value(loss, logits_NL, wanted)
        except Exception:  # noqa: BLE001, S112 -- the first error is the one that is told
            continue
        return Finding(
            level="error",
            code="integer-targets",
            what=f"The loss {_name(loss)} wants {what} targets; multi-label targets are "
            "float32 [N, L], one column for each label.",
            evidence=said,
            fix='Take a loss for multi-label targets, such as [loss] name = "bce".',
        )
    return Finding(
        level="error",
        code="loss-fails",
        what=f"The loss {_name(loss)} fails on logits and targets float32 [N, L].",
        evidence=said,
        fix='See that it takes (logits, targets) in this order and shape, or use name = "bce".',
    )


def _wants_probabilities(name: str, evidence: str) -> Finding:
    return Finding(
        level="error",
        code="loss-without-sigmoid",
        what=f"The loss {name} applies no sigmoid, but a network for Thresher returns logits.",
        evidence=evidence,
        fix='Use [loss] name = "bce" (nn.BCEWithLogitsLoss), which has the sigmoid inside and is '
        "numerically safe; do not put a sigmoid into the network.",
    )


def _is_relative(loss: Loss, num_labels: int) -> bool:
    """Return whether a constant added to a row's logits leaves the loss as it is (a softmax)."""
    with seeded(0):
        logits_NL = 2 * torch.randn(8, num_labels)
        targets_NL = nn.functional.one_hot(torch.arange(8) % num_labels, num_labels).float()
    try:
        base, moved = _value(loss, logits_NL, targets_NL), _value(loss, logits_NL + 3, targets_NL)
    except Exception:  # noqa: BLE001 -- a loss that refuses a probe is no softmax
        return False
    return abs(base - moved) <= 1e-4 * max(abs(base), 1e-3) and abs(base) > 1e-6


def _softmax_findings(loss: Loss, prepared: Prepared, *, single: bool) -> Iterator[Finding]:
    cardinality = float(np.nansum(prepared.data.splits["train"].targets_NL, axis=1).mean())
    evidence = (
        f"adding 3 to all logits of a row leaves the loss as it is; train rows have "
        f"{cardinality:.2f} labels on average."
    )
    if single:
        yield Finding(
            level="note",
            code="single-label",
            what=f"Every row has exactly one label, and {_name(loss)} fits that; Thresher's "
            "probabilities are sigmoids all the same, with a threshold for each label.",
            evidence=evidence,
            fix="Nothing, if yes/no for each label is what you want; for one answer per row, take "
            "the largest logit.",
        )
    elif _is_cross_entropy(loss, prepared.data.num_labels):
        yield Finding(
            level="error",
            code="cross-entropy",
            what=f"{_name(loss)} is cross-entropy over a softmax, and rows have several labels: "
            "labels that are on together push each other down.",
            evidence=evidence,
            fix='Use [loss] name = "bce": a yes/no of its own for each label.',
        )
    else:
        yield Finding(
            level="warning",
            code="relative-loss",
            what=f"{_name(loss)} only sees differences between a row's logits (a ranking loss, or "
            "a softmax inside): nothing teaches where 'yes' begins.",
            evidence=evidence,
            fix='Use [loss] name = "bce", or calibrate (decision.calibration = "platt") and tune '
            "thresholds with care.",
        )


def _is_cross_entropy(loss: Loss, num_labels: int) -> bool:
    """Return whether it is PyTorch's, or equals it (up to a factor) where one label is on."""
    if isinstance(loss, nn.Module) and any(
        isinstance(module, (nn.CrossEntropyLoss, nn.NLLLoss)) for module in loss.modules()
    ):
        return True
    ratios = []
    with seeded(1):
        for k in range(6):
            logits_NL = 2 * torch.randn(1, num_labels)
            target = torch.tensor([k % num_labels])
            own = _value(loss, logits_NL, nn.functional.one_hot(target, num_labels).float())
            ratios.append(own / float(nn.functional.cross_entropy(logits_NL, target)))
    return max(ratios) - min(ratios) < 1e-3 * abs(float(np.mean(ratios)))


def _single_label(prepared: Prepared) -> Finding:
    rows = len(prepared.data.splits["train"])
    return Finding(
        level="warning",
        code="single-label",
        what="Every train row has exactly one label (one-hot targets): this is single-label data, "
        "and the loss treats labels as if any number could be on.",
        evidence=f"{rows:,} of {rows:,} train rows add up to 1 over "
        f"{prepared.data.num_labels} labels.",
        fix="Use cross-entropy (nn.CrossEntropyLoss as [loss] name, by import path) if a row "
        "always has exactly one label; keep this loss if rows with none or several will come.",
    )


def _no_sigmoid(loss: Loss, num_labels: int) -> Iterator[Finding]:
    """Yield a loss whose lowest point for "no" is no negative logit, such as MSE on 0 and 1."""
    grid = torch.linspace(-8, 8, 65)
    lowest = {}
    for target in (0.0, 1.0):
        targets_NL = torch.full((4, num_labels), target)
        try:
            values = [_value(loss, torch.full((4, num_labels), float(z)), targets_NL) for z in grid]
        except Exception as error:  # noqa: BLE001 -- whatever a user's loss raises is the finding
            said = str(error).strip().splitlines()[:1]
            if "between 0 and 1" in str(error):
                evidence = f"on logits of -8 it fails: {' '.join(said)}"
                yield _wants_probabilities(_name(loss), evidence)
            return
        lowest[target] = float(grid[int(np.argmin(values))])
    if lowest[0.0] > -0.5 and lowest[1.0] > lowest[0.0]:
        yield _wants_probabilities(
            _name(loss),
            f"for target 0 the loss is lowest at logit {lowest[0.0]:g}, for target 1 at "
            f"{lowest[1.0]:g}; a sigmoid of these is {_sigmoid(lowest[0.0]):.2f} and "
            f"{_sigmoid(lowest[1.0]):.2f}.",
        )


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def check_start(case: Case) -> Iterator[Finding]:
    """Yield a first loss far above what a network would have that knows only the frequencies."""
    loss, network = case.prepared.loss, case.network
    with unchanged_buffers(network), torch.no_grad(), seeded(case.prepared.recipe.seed):
        network.train(len(case.targets_NL) > 1)  # as training starts; batch-norm needs two rows
        logits_NL = network(**case.inputs)
    constant_L = _log_odds(case)
    start = _value(loss, logits_NL, case.targets_NL)
    prior = _value(loss, constant_L.expand_as(logits_NL), case.targets_NL)
    even = _value(loss, torch.zeros_like(logits_NL), case.targets_NL)
    figures = (
        f"loss at the start {start:.4g}; {prior:.4g} for logits that are each label's log odds "
        f"in train, {even:.4g} for logits of 0 (logits now: mean {float(logits_NL.mean()):.3g}, "
        f"standard deviation {float(logits_NL.std()):.3g})"
    )
    if not math.isfinite(start):
        yield Finding(
            level="error",
            code="loss-not-finite",
            what=f"The loss is {start} before the first step.",
            evidence=f"{figures}.",
            fix="Look at the scale of the inputs and of the first weights.",
        )
        return
    best = min(prior, even)
    if start <= _FAR * best or best <= 0:
        return
    if start <= 1.5 * even:
        yield Finding(
            level="note",
            code="loss-at-start",
            what="Labels are rare, and the network starts as if each were on in half of the rows: "
            "the first epochs go into learning the frequencies.",
            evidence=f"{figures}.",
            fix="Set network.prior_bias = true: the last layer's bias starts at the log odds.",
        )
    else:
        yield Finding(
            level="warning",
            code="loss-at-start",
            what="The network starts with a loss far above what the label frequencies alone give: "
            "its first logits are far off, and very sure.",
            evidence=f"{figures}.",
            fix="Set network.prior_bias = true, scale the inputs, and look at how the last layer "
            "is initialised.",
        )


def _log_odds(case: Case) -> Tensor:
    """Return each label's log odds in the train split, float32 [L]; never infinite."""
    targets = case.prepared.data.splits["train"].targets_NL
    known_L = np.isfinite(targets).sum(axis=0)
    frequency_L = (np.nansum(targets, axis=0) + 0.5) / (known_L + 1)
    return torch.from_numpy(np.log(frequency_L / (1 - frequency_L)).astype(np.float32))


def _name(loss: Loss) -> str:
    own = getattr(loss, "function", loss)  # a plain function that a recipe names is wrapped
    name = getattr(own, "__name__", None)
    return name if isinstance(name, str) else type(own).__name__
