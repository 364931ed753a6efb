"""Checks of the network: what it ends in, what its first layer sees, and how it evaluates."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from thresher_training.doctor.case import Case, unchanged_buffers
from thresher_training.doctor.diagnosis import Finding, listed
from thresher_training.loop import seeded

__all__ = ["check_evaluation", "check_label_names", "check_outputs", "check_scale"]

_LOGITS_FIX = (
    "Take it out: the network returns logits; the loss applies the sigmoid in training, "
    "and Thresher applies it when it serves."
)
_ENDS = {
    "Sigmoid": ("double-sigmoid", "a sigmoid"),
    "Hardsigmoid": ("double-sigmoid", "a hard sigmoid"),
    "LogSigmoid": ("double-sigmoid", "a log-sigmoid"),
    "Softmax": ("softmax-in-network", "a softmax"),
    "LogSoftmax": ("softmax-in-network", "a log-softmax"),
    "Tanh": ("bounded-outputs", "a tanh"),
    "Relu": ("bounded-outputs", "a ReLU"),
    "Softplus": ("bounded-outputs", "a softplus"),
}
_RESHAPING = re.compile(
    r"(Unsafe)?View|Reshape(Alias)?|Squeeze|Unsqueeze|Clone|Alias|ToCopy|T|Transpose|Permute|"
    r"Slice|Select|Expand"
)
_OPERATION = re.compile(r"(\w+?)Backward\d*")
_STRESS = (1.0, 30.0, -30.0)

_LARGE, _SMALL = 1e3, 1e-4
_OUTLIER, _OUTLIER_AT_LEAST = 300.0, 30.0


def check_outputs(case: Case) -> Iterator[Finding]:
    """Yield a sigmoid, softmax or other bound at the network's end.

    The last operation is read from autograd's graph, so that it does not matter whether it is a
    module or a function. Where it tells nothing, the range of the outputs does: a bound that stays
    when all weights are made 30 times larger, and negative, is no accident.
    """
    case.network.eval()
    with torch.enable_grad(), unchanged_buffers(case.network):
        logits_NL = case.network(**case.inputs)
    end = _last_operation(logits_NL)
    logits_NL = logits_NL.detach()
    low, high = float(logits_NL.min()), float(logits_NL.max())
    seen = f"outputs of {len(logits_NL)} train rows lie between {low:.4g} and {high:.4g}"
    if _sums_to_one(logits_NL):
        seen += ", and each row adds up to 1"
    if end in _ENDS:
        code, name = _ENDS[end]
        yield _bounded(code, f"The network ends in {name}, where logits are expected.", seen)
        return
    if low < 0 < high:
        return
    stressed = torch.cat([_under_stress(case, factor) for factor in _STRESS])
    stressed = stressed[torch.isfinite(stressed).all(dim=1)]
    if not len(stressed) or float(stressed.max() - stressed.min()) < 1e-6:
        return
    low, high = float(stressed.min()), float(stressed.max())
    if low >= 0 and high <= 1 + 1e-5:
        softmax = logits_NL.shape[1] > 1 and _sums_to_one(stressed)
        code = "softmax-in-network" if softmax else "double-sigmoid"
        what = "add up to 1 in each row" if softmax else "stay between 0 and 1"
        yield _bounded(code, f"The network's outputs {what}, where logits are expected.", seen)
    elif low >= 0 or high <= 0:
        side = "negative" if low >= 0 else "positive"
        yield _bounded("bounded-outputs", f"The network's outputs are never {side}.", seen)


def _bounded(code: str, what: str, seen: str) -> Finding:
    consequence = {
        "double-sigmoid": "With another sigmoid on top, a probability is never below 0.5 nor "
        "above 0.73, and gradients are a quarter of what they should be, or less.",
        "softmax-in-network": "Labels compete for one unit of probability, so that two cannot "
        "both be certain; and the sigmoid on top leaves 0.5 to 0.73.",
        "bounded-outputs": "The sigmoid on top of such values reaches only a part of 0 to 1.",
    }[code]
    return Finding(
        level="error", code=code, what=f"{what} {consequence}", evidence=f"{seen}.", fix=_LOGITS_FIX
    )


def _last_operation(logits_NL: Tensor) -> str:
    """Return the name of the last operation that is more than a change of shape or type."""
    node = logits_NL.grad_fn
    while node is not None:
        found = _OPERATION.fullmatch(node.name())
        name = found[1] if found else ""
        if not _RESHAPING.fullmatch(name) or not node.next_functions:
            return name
        node = node.next_functions[0][0]
    return ""


def _sums_to_one(values_NL: Tensor) -> bool:
    return bool(((values_NL.sum(dim=1) - 1).abs() < 1e-4).all())


def _under_stress(case: Case, factor: float) -> Tensor:
    """Return the outputs of a copy whose weights are all ``factor`` times as large."""
    network = copy.deepcopy(case.network).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(factor)
        logits: Tensor = network(**case.inputs)
    return logits


def check_scale(case: Case) -> Iterator[Finding]:
    """Yield wildly scaled features, as the network's first layer with weights sees them.

    Norms work as in training: what a network standardises itself is measured afterwards.
    """
    found = _first_layer(case)
    if found is None:
        return
    layer, values = found
    # in a table each column has a scale of its own; in a picture or a sequence all values have one
    columns = values if values.dim() == 2 else values.reshape(-1, 1)
    rms = columns.square().mean(dim=0).sqrt()
    rms = rms[rms > 0]
    if not len(rms):
        return
    largest, median = float(rms.max()), float(rms.median())
    if largest > _OUTLIER_AT_LEAST and largest > _OUTLIER * median:
        problem = "far larger in some columns than in others"
    elif largest > _LARGE:
        problem = "huge"
    elif largest < _SMALL:
        problem = "tiny"
    else:
        return
    yield Finding(
        level="warning",
        code="feature-scale",
        what=f"The values that the network's first layer sees are {problem}: "
        "training is slow or unstable.",
        evidence=f"layer {layer}: root mean square of a column from {float(rms.min()):.3g} "
        f"(median {median:.3g}) to {largest:.3g}; largest value {float(values.abs().max()):.3g}.",
        fix="Scale each column to mean 0 and standard deviation 1 with figures of the train "
        "split, inside the network (buffers, or a BatchNorm as its first layer), so that "
        "serving does the same.",
    )


def _first_layer(case: Case) -> tuple[str, Tensor] | None:
    """Return the first layer with weights after any norm, and what it sees as training starts.

    None if it is no Linear or Conv.
    """
    seen: list[tuple[str, nn.Module, Tensor]] = []
    handles = []

    def watch(name: str, module: nn.Module) -> None:
        def note_down(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            if inputs and isinstance(inputs[0], Tensor):
                seen.append((name or "(network)", module, inputs[0].detach().clone()))

        handles.append(module.register_forward_pre_hook(note_down))

    for name, module in case.network.named_modules():
        has_weights = next(module.parameters(recurse=False), None) is not None
        if has_weights and "Norm" not in type(module).__name__:
            watch(name, module)
    try:
        with torch.no_grad(), unchanged_buffers(case.network), seeded(0):
            _train_without_dropout(case)
            case.network(**case.inputs)
    finally:
        for handle in handles:
            handle.remove()
    if not seen:
        return None
    name, module, values = seen[0]
    kind = type(module).__name__
    if not ("Linear" in kind or "Conv" in kind) or not values.is_floating_point():
        return None
    return (f"{name} ({kind})", values) if values.dim() > 1 else None


def _train_without_dropout(case: Case) -> None:
    # in evaluation mode a batch-norm would take its first running figures, mean 0 and variance 1,
    # and change nothing; it needs two rows
    case.network.train(len(case.targets_NL) > 1)
    for module in case.network.modules():
        if "Dropout" in type(module).__name__:
            module.eval()


def check_evaluation(case: Case) -> Iterator[Finding]:
    """Yield what still behaves as in training after ``network.eval()``."""
    network = case.network
    with unchanged_buffers(network), torch.no_grad(), seeded(0):
        network.eval()
        training = [
            name or "(network)"
            for name, module in network.named_modules()
            if module.training and re.search("Dropout|Norm", type(module).__name__)
        ]
        before = {name: buffer.clone() for name, buffer in network.named_buffers()}
        first, second = network(**case.inputs), network(**case.inputs)
        changed = [n for n, b in network.named_buffers() if not torch.equal(b, before[n])]
        half = max(1, len(first) // 2)
        alone = network(**{name: tensor[:half] for name, tensor in case.inputs.items()})
    spread = float(first.std()) if first.numel() > 1 else 0.0
    left = f"; modules left in train mode: {listed(training)}" if training else ""
    differs = float((first - second).abs().max())
    if differs > 1e-4 * max(1.0, spread):
        yield Finding(
            level="error",
            code="random-at-evaluation",
            what="The network gives other logits each time, in evaluation mode too: "
            "dropout is left on.",
            evidence=f"two passes over the same {len(first)} rows differ by up to {differs:.3g} "
            f"(standard deviation of the logits {spread:.3g}){left}.",
            fix="Use nn.Dropout, or F.dropout(x, p, training=self.training); an own train() or "
            "eval() must call the one it overrides and return self.",
        )
        return
    depends = float((first[:half] - alone).abs().max())
    if changed or depends > 1e-3 * max(1.0, spread):
        evidence = f"a row's logits change by up to {depends:.3g} with the rows beside it"
        if changed:
            evidence += f"; an evaluation pass changed {listed(changed)}"
        yield Finding(
            level="error",
            code="batch-norm-at-evaluation",
            what="In evaluation mode a row's logits still depend on the other rows of its batch: "
            "batch-norm is left in train mode.",
            evidence=f"{evidence}{left}.",
            fix="Use nn.BatchNorm with its running statistics, or F.batch_norm(..., "
            "training=self.training); an own train() or eval() must call the one it overrides.",
        )


def check_label_names(case: Case) -> Iterator[Finding]:
    """Yield labels that the network knows by other names, or in another order, than the data."""
    labels = case.prepared.data.labels
    for where, names in _declared_names(case.network):
        if names == labels:
            return
        if set(names) == set(labels):
            at = next(k for k, (a, b) in enumerate(zip(names, labels, strict=True)) if a != b)
            yield Finding(
                level="error",
                code="label-order",
                what="The network names the same labels as the data, in another order: "
                "each logit would be trained, or read, as another label's.",
                evidence=f'{where}: output {at} is "{names[at]}", the data\'s column {at} is '
                f'"{labels[at]}".',
                fix="Give the data source the network's order of labels, or set the network's "
                "names from the data's.",
            )
            return
        if where.startswith("(network)"):
            missing = [name for name in labels if name not in names]
            yield Finding(
                level="warning",
                code="label-names",
                what="The network names other labels than the data.",
                evidence=f"{where}: {len(names)} labels, {listed(list(names))}; the data have "
                f"{len(labels)}, of which the network does not know {listed(missing)}.",
                fix="If the network was trained on another task, give it a new last layer; else "
                "make the names agree.",
            )
            return


def _declared_names(network: nn.Module) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield where a module names its outputs, and the names; default names tell nothing."""
    for path, module in network.named_modules():
        for where, holder, key in (
            ("config.id2label", getattr(module, "config", None), "id2label"),
            *((key, module, key) for key in ("id2label", "labels", "label_names")),
        ):
            names = _as_names(getattr(holder, key, None))
            if names and not all(re.fullmatch(r"LABEL_\d+", name) for name in names):
                yield f"{path or '(network)'} {where}", names


def _as_names(found: object) -> tuple[str, ...]:
    """Return names in the order of the outputs, of a list or of a table by output number."""
    if isinstance(found, dict) and all(str(key).isdecimal() for key in found):
        return tuple(str(found[key]) for key in sorted(found, key=int))
    if isinstance(found, (list, tuple)) and all(isinstance(name, str) for name in found):
        return tuple(found)
    return ()
