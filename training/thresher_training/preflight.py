"""What must hold before the first epoch, so that no long run ends in an error at its last step.

The network takes the data's inputs by name, rows without padding and the largest ids among them,
gives float32 logits [N, L], and can be exported with a dynamic batch axis; where the data is
trimmed to the longest row of a batch, with a dynamic length too, unless the network or torch fixes
it. The program becomes an ONNX model that Triton loads.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from thresher.conversion import try_conversion
from thresher.decision import FloatArray
from thresher.errors import ConversionError, TrainingError
from thresher_training.data import Split
from thresher_training.loop import as_tensor
from thresher_training.refusals import (
    check_kind,
    conversion_advice,
    describe_output,
    explain_export,
    explain_failure,
    unwrapped,
)
from thresher_training.trial_rows import (
    Arrays,
    full_rows,
    longest_that_works,
    rows_of_extremes,
    with_id,
)

__all__ = [
    "NUM_TRIAL_ROWS",
    "Trial",
    "check_conversion",
    "check_network",
    "export_without_noise",
    "forward_order",
    "try_network",
]

NUM_TRIAL_ROWS = 3
"""Rows of a trial batch: more than 1, which torch.export would take for a constant."""

_ANY_NUMBER = 2**31
_LOGITS = "the logits"
_NO_DYNAMIC_AXIS = "cannot be exported with a dynamic batch axis, which serving needs"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trial:
    """A network that takes the data's rows and can be exported."""

    free_axes: dict[str, tuple[int, ...]]
    """By input, in the order of ``forward``: 0, the batch, and 1 where its length may be any."""
    program: torch.export.ExportedProgram
    network: nn.Module
    inputs: Arrays
    """A few rows."""
    logits_NL: FloatArray
    """What the network gives for them."""


def check_network(
    network: nn.Module,
    train: Split,
    *,
    trim_by: str | None = None,
    is_trained: bool = True,
    largest: Mapping[str, int] | None = None,
) -> dict[str, tuple[int, ...]]:
    """Return the free axes of each input, in the order of ``forward``, if it can be trained.

    Where the extra ``export`` is installed, the network is converted to ONNX too.

    Args:
        network: The network; only lazy layers change, which take their shape here.
        train: The train split; a few rows are tried.
        trim_by: The data's input of that name, [N, T]: the network must take fewer columns too.
        is_trained: Whether it needs parameters that can be trained.
        largest: The largest id that an input can hold, where that is known.

    Returns:
        By input: 0, the batch, and 1 where its length may be any once it is exported.

    Raises:
        TrainingError: If ``forward`` has other input names, fails, gives anything but float32
            logits [N, L], or cannot be exported with one dynamic batch axis for all inputs, or no
            ONNX model that Triton loads can be made of it.
    """
    trial = try_network(network, train, trim_by=trim_by, is_trained=is_trained, largest=largest)
    check_conversion(trial)
    return trial.free_axes


def try_network(
    network: nn.Module,
    train: Split,
    *,
    trim_by: str | None = None,
    is_trained: bool = True,
    largest: Mapping[str, int] | None = None,
) -> Trial:
    """Return what `check_network` looks at before the conversion to ONNX; the same arguments."""
    network = unwrapped(network)
    check_kind(network)
    order = forward_order(network, tuple(train.inputs))
    rows = [index % len(train) for index in range(NUM_TRIAL_ROWS)]
    arrays = {name: train.inputs[name][rows] for name in order}
    inputs = {name: as_tensor(array) for name, array in arrays.items()}
    was_training = network.training
    network.eval()
    try:
        num_labels = train.targets_NL.shape[1]
        logits_NL = _check_output(network, inputs, num_labels=num_labels, trim_by=trim_by)
        if trim_by is not None:
            _check_output(
                *(network, _narrowed(inputs, trim_by)),
                num_labels=num_labels,
                more="; the data's trim_by cuts padding off each batch: take any number of columns",
            )
        _check_ids(network, train, arrays, largest or {})
        _check_full_rows(network, arrays, trim_by)
        axes, program = _check_export(network, inputs, trim_by)
    finally:
        network.train(was_training)
    if is_trained and not any(parameter.requires_grad for parameter in network.parameters()):
        raise TrainingError(f"{_name(network)} has no parameters that can be trained")
    return Trial(
        free_axes=axes,
        program=program,
        network=network,
        inputs=arrays,
        logits_NL=logits_NL.float().numpy(),
    )


def check_conversion(trial: Trial) -> str | None:
    """Convert a network to ONNX as an export would; return the missing package if it cannot try.

    Raises:
        TrainingError: If no ONNX model that Triton loads can be made of it.
    """
    try:
        return try_conversion(trial.program, trial.inputs, trial.logits_NL)
    except ConversionError as error:
        raise TrainingError(
            f"{_name(trial.network)} cannot be exported to ONNX, which serving needs: {error}"
            f"{conversion_advice(trial.network)}"
        ) from error


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


@contextlib.contextmanager
def export_without_noise() -> Iterator[None]:
    """Silence what torch.export says of torch's own code.

    On Python 3.11 a deprecation; of recurrent layers, that they keep their weights in a list.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=r".*isinstance\(treespec, LeafSpec\)", category=FutureWarning
        )
        warnings.filterwarnings(
            "ignore", message=r"The tensor attributes? .*(_flat_weights|assigned during export)"
        )
        # of weights that are views, such as transposed ones, which come out right
        warnings.filterwarnings("ignore", message="No complete tensor found in the group")
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
    network: nn.Module,
    inputs: Mapping[str, Tensor],
    *,
    num_labels: int,
    trim_by: str | None = None,
    more: str = "",
) -> Tensor:
    try:
        output: object = _run(network, inputs)
    except Exception as error:
        arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
        _check_length(network, arrays, trim_by, error)
        shapes = {name: f"{t.dtype} {list(t.shape)}" for name, t in inputs.items()}
        raise TrainingError(
            f"{_name(network)} fails on {shapes}: {type(error).__name__}: {error}"
            f"{explain_failure(network, error)}{more}"
        ) from error
    if not isinstance(output, Tensor):
        raise TrainingError(f"{_name(network)} gives {describe_output(output)}{more}")
    got = f"{output.dtype} {list(output.shape)}"
    if got != f"torch.float32 [{NUM_TRIAL_ROWS}, {num_labels}]":
        raise TrainingError(
            f"{_name(network)} gives {got} for {NUM_TRIAL_ROWS} rows, "
            f"expected logits torch.float32 [{NUM_TRIAL_ROWS}, {num_labels}]: one per label{more}"
        )
    return output


def _run(network: nn.Module, inputs: Mapping[str, Tensor]) -> object:
    with torch.no_grad():
        # a copy: a network that changes its inputs in place must not change the data
        return network(**{name: tensor.clone() for name, tensor in inputs.items()})


def _check_ids(
    network: nn.Module, train: Split, arrays: Arrays, largest: Mapping[str, int]
) -> None:
    """Raise where the network fails on the data's extreme numbers, or a vocabulary's last id."""
    tried = [("the rows with the least and the largest numbers", rows_of_extremes(train))]
    tried += [
        (f"the id {last:,} in {name}, the largest that its texts can have", changed)
        for name, last in largest.items()
        if name in arrays and (changed := with_id(arrays, name, last))
    ]
    for what, rows in tried:
        if rows is None:
            continue
        try:
            _run(network, {name: as_tensor(rows[name]) for name in arrays})
        except Exception as error:
            ids = max(int(rows[n].max()) for n in arrays if rows[n].dtype.kind in "iu")
            raise TrainingError(
                f"{_name(network)} fails on {what}: {type(error).__name__}: {error}"
                f"{explain_failure(network, error, largest_id=ids)}"
            ) from error


def _check_full_rows(network: nn.Module, arrays: Arrays, trim_by: str | None) -> None:
    """Raise where the network fails on rows of tokens with no padding."""
    rows = full_rows(arrays, trim_by)
    if rows is None:
        return
    try:
        _run(network, {name: as_tensor(array) for name, array in rows.items()})
    except Exception as error:
        _check_length(network, arrays, trim_by, error)
        raise TrainingError(
            f"{_name(network)} fails on rows without padding: {type(error).__name__}: {error}"
            f"{explain_failure(network, error)}"
        ) from error


def _check_length(
    network: nn.Module, arrays: Arrays, trim_by: str | None, error: Exception
) -> None:
    """Raise TrainingError with the longest row that a network takes, if it takes shorter ones."""
    rows = full_rows(arrays, trim_by)
    if rows is None:
        return
    changed = [name for name, array in rows.items() if array is not arrays[name]]
    shape = rows[changed[0]].shape

    def works(length: int) -> bool:
        some = {n: a[:, :length] if a.shape[:2] == shape else a for n, a in rows.items()}
        try:
            _run(network, {name: as_tensor(array) for name, array in some.items()})
        except Exception:  # noqa: BLE001 -- whatever the network raises, it does not take them
            return False
        return True

    longest = longest_that_works(works, shape[1])
    if longest:
        raise TrainingError(
            f"{_name(network)} takes at most {longest} tokens, the rows of {changed[0]} have "
            f"{shape[1]}: set max_length = {longest} in [data.options] ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else ''})"
        ) from error


def _check_export(
    network: nn.Module, inputs: Mapping[str, Tensor], trim_by: str | None
) -> tuple[dict[str, tuple[int, ...]], torch.export.ExportedProgram]:
    """Export as MLflow's pt2 logging does; return which axes came out free, and the program.

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
        raise TrainingError(
            f"{_name(network)} cannot be exported, which serving needs: "
            f"{explain_export(network, error)}"
        ) from error
    _check_batch_axis(_name(network), program, tuple(inputs))
    shapes = _shapes(program)
    nodes = dict(zip(inputs, program.graph_signature.user_inputs, strict=True))
    free = {
        name: tuple(axis for axis in axes if not str(shapes[nodes[name]][axis]).isdecimal())
        for name, axes in varying.items()
    }
    return free, program


def _exported(
    network: nn.Module, inputs: Mapping[str, Tensor], varying: Mapping[str, tuple[int, ...]]
) -> torch.export.ExportedProgram:
    # torch logs and prints graphs for what it refuses, which is raised in one line here
    shapes = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    level = shapes.level
    shapes.setLevel(logging.ERROR)
    try:
        with export_without_noise(), contextlib.redirect_stderr(io.StringIO()):
            return torch.export.export(
                network,
                tuple(inputs.values()),
                dynamic_shapes=[
                    dict.fromkeys(varying[name], torch.export.Dim.AUTO) for name in inputs
                ],
            )
    finally:
        shapes.setLevel(level)


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
