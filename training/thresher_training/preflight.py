"""What must hold before the first epoch, so that no long run ends in an error at its last step.

The network takes the data's inputs by name, gives float32 logits [N, L], and can be exported with
a dynamic batch axis; where the data is trimmed to the longest row of a batch, with a dynamic length
too, unless the network or torch fixes it.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from thresher.errors import TrainingError
from thresher_training.data import Split
from thresher_training.loop import as_tensor

__all__ = ["NUM_TRIAL_ROWS", "check_network", "export_without_noise", "forward_order"]

NUM_TRIAL_ROWS = 3
"""Rows of a trial batch: more than 1, which torch.export would take for a constant."""

_ANY_NUMBER = 2**31
_LOGITS = "the logits"
_NO_DYNAMIC_AXIS = "cannot be exported with a dynamic batch axis, which serving needs"


def check_network(
    network: nn.Module, train: Split, *, trim_by: str | None = None, is_trained: bool = True
) -> dict[str, tuple[int, ...]]:
    """Return the free axes of each input, in the order of ``forward``, if it can be trained.

    Args:
        network: The network; only lazy layers change, which take their shape here.
        train: The train split; a few rows are tried.
        trim_by: The data's input of that name, [N, T]: the network must take fewer columns too.
        is_trained: Whether it needs parameters that can be trained.

    Returns:
        By input: 0, the batch, and 1 where its length may be any once it is exported.

    Raises:
        TrainingError: If ``forward`` has other input names, fails, gives anything but float32
            logits [N, L], or cannot be exported with one dynamic batch axis for all inputs.
    """
    order = forward_order(network, tuple(train.inputs))
    rows = [index % len(train) for index in range(NUM_TRIAL_ROWS)]
    inputs = {name: as_tensor(train.inputs[name][rows]) for name in order}
    was_training = network.training
    network.eval()
    try:
        _check_output(network, inputs, num_labels=train.targets_NL.shape[1])
        if trim_by is not None:
            _check_output(
                *(network, _narrowed(inputs, trim_by)),
                num_labels=train.targets_NL.shape[1],
                more="; the data's trim_by cuts padding off each batch: take any number of columns",
            )
        axes = _check_export(network, inputs, trim_by)
    finally:
        network.train(was_training)
    if is_trained and not any(parameter.requires_grad for parameter in network.parameters()):
        raise TrainingError(f"{_name(network)} has no parameters that can be trained")
    return axes


def forward_order(network: nn.Module, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the inputs' names in the order in which ``forward`` takes them.

    Args:
        network: Its ``forward`` names every input; further parameters may follow with defaults.
        names: The data's input names.

    Raises:
        TrainingError: If names and parameters do not match; names both.
    """
    parameters = list(inspect.signature(network.forward).parameters.values())
    order = [parameter.name for parameter in parameters]
    fixed = all(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters[: len(names)])
    optional = all(
        p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        for p in parameters[len(names) :]
    )
    if set(order[: len(names)]) != set(names) or not fixed or not optional:
        raise TrainingError(
            f"{_name(network)}.forward takes ({', '.join(map(str, parameters))}), the data's "
            f"inputs are {', '.join(names)}; give them the same names"
        )
    return tuple(order[: len(names)])


@contextmanager
def export_without_noise() -> Iterator[None]:
    """Silence what torch.export says of torch's own code.

    On Python 3.11 a deprecation; of recurrent layers, that they keep their weights in a list.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=r".*isinstance\(treespec, LeafSpec\)", category=FutureWarning
        )
        warnings.filterwarnings("ignore", message=r"The tensor attributes? .*_flat_weights")
        yield


def _narrowed(inputs: Mapping[str, Tensor], trim_by: str) -> dict[str, Tensor]:
    """Return inputs as a batch of shorter rows has them."""
    length = max(1, inputs[trim_by].shape[1] // 2)
    return {
        name: tensor[:, :length].contiguous() if 1 in axes else tensor
        for (name, tensor), axes in zip(
            inputs.items(), _axes_that_vary(inputs, trim_by).values(), strict=True
        )
    }


def _axes_that_vary(
    inputs: Mapping[str, Tensor], trim_by: str | None
) -> dict[str, tuple[int, ...]]:
    """Return the axes of each input that differ from batch to batch: rows, and trimmed columns."""
    lengths = None if trim_by is None else inputs[trim_by].shape[1:]
    return {name: (0, 1) if t.shape[1:] == lengths else (0,) for name, t in inputs.items()}


def _check_output(
    network: nn.Module, inputs: Mapping[str, Tensor], *, num_labels: int, more: str = ""
) -> None:
    try:
        with torch.no_grad():
            logits_NL = network(**inputs)
    except Exception as error:
        shapes = {name: f"{t.dtype} {list(t.shape)}" for name, t in inputs.items()}
        raise TrainingError(
            f"{_name(network)} fails on {shapes}: {type(error).__name__}: {error}{more}"
        ) from error
    got = f"{logits_NL.dtype} {list(logits_NL.shape)}" if isinstance(logits_NL, Tensor) else ""
    if got != f"torch.float32 [{NUM_TRIAL_ROWS}, {num_labels}]":
        raise TrainingError(
            f"{_name(network)} gives {got or type(logits_NL).__name__} for {NUM_TRIAL_ROWS} rows, "
            f"expected logits torch.float32 [{NUM_TRIAL_ROWS}, {num_labels}]: one per label{more}"
        )


def _check_export(
    network: nn.Module, inputs: Mapping[str, Tensor], trim_by: str | None
) -> dict[str, tuple[int, ...]]:
    """Export as MLflow's pt2 logging does; return which axes came out free.

    The batch axis must come out one and free. Lengths need not: torch fixes them where a recurrent
    layer takes them for constants.

    MLflow leaves each axis that the signature calls -1 to torch (``Dim.AUTO``). One ``Dim`` for all
    first axes would tell torch that they are equal, and hide a network that does not say so itself:
    its axes get different names in the logged program, and no ONNX model can be made of it.

    Source: mlflow.pytorch.save_model, MLflow 3.17; torch.export.Dim, torch 2.13.
    """
    varying = _axes_that_vary(inputs, trim_by)
    try:
        program = _exported(network, inputs, varying)
    except Exception as error:
        if trim_by is not None:
            return _check_export(network, inputs, None)
        first_line = str(error).strip().splitlines()[:1]
        raise TrainingError(
            f"{_name(network)} {_NO_DYNAMIC_AXIS}: {type(error).__name__}: {' '.join(first_line)}"
        ) from error
    _check_batch_axis(_name(network), program, tuple(inputs))
    shapes = _shapes(program)
    nodes = dict(zip(inputs, program.graph_signature.user_inputs, strict=True))
    return {
        name: tuple(axis for axis in axes if not str(shapes[nodes[name]][axis]).isdecimal())
        for name, axes in varying.items()
    }


def _exported(
    network: nn.Module, inputs: Mapping[str, Tensor], varying: Mapping[str, tuple[int, ...]]
) -> torch.export.ExportedProgram:
    with export_without_noise():
        return torch.export.export(
            network,
            tuple(inputs.values()),
            dynamic_shapes=[dict.fromkeys(varying[name], torch.export.Dim.AUTO) for name in inputs],
        )


def _shapes(program: torch.export.ExportedProgram) -> dict[str, torch.Size]:
    """Return the shape of each node's result, by the node's name."""
    return {
        node.name: node.meta["val"].shape
        for node in program.graph.nodes
        if isinstance(node.meta.get("val"), Tensor)
    }


def _check_batch_axis(
    network: str, program: torch.export.ExportedProgram, names: tuple[str, ...]
) -> None:
    """Raise TrainingError unless all first axes are one axis, of any length."""
    signature = program.graph_signature
    (output,) = signature.user_outputs
    nodes = {**dict(zip(names, signature.user_inputs, strict=True)), _LOGITS: output}
    shapes = _shapes(program)
    # as text: a symbol that torch has found to be constant is still a SymInt
    axes = {name: str(shapes[node][0]) for name, node in nodes.items()}
    fixed = [name for name, axis in axes.items() if axis.isdecimal()]
    if fixed:
        raise TrainingError(
            f"{network} {_NO_DYNAMIC_AXIS}: {' and '.join(fixed)} came out with the trial batch's "
            f"{axes[fixed[0]]} rows, as a constant. Look in forward for a batch size that stands "
            "as a number, such as reshape(3, -1), or goes through int(); write x.shape[0] or -1"
        )
    if len(set(axes.values())) > 1:
        first = names[0]
        other = next(name for name in axes if axes[name] != axes[first])
        advice = (
            "the logits must have as many rows as the inputs"
            if other == _LOGITS
            else f"say so in forward: if {first}.shape[0] != {other}.shape[0]: raise ValueError()"
        )
        raise TrainingError(
            f"{network} {_NO_DYNAMIC_AXIS}: nothing in it shows that {first} and {other} have the "
            f"same number of rows, expected one batch axis for all inputs and the logits; {advice}"
        )
    for axis, bounds in program.range_constraints.items():
        if str(axis) == axes[_LOGITS] and (bounds.lower > 2 or bounds.upper < _ANY_NUMBER):
            raise TrainingError(
                f"{network} {_NO_DYNAMIC_AXIS}: it came out for {bounds.lower} to {bounds.upper} "
                "rows only, expected any number. Look in forward for a branch or a limit that "
                "depends on x.shape[0]"
            )


def _name(network: nn.Module) -> str:
    return type(network).__name__
