"""ONNX models in files: weights of large models lie in a file beside, read and written as a stream.

Requires: nothing but onnx_ir; no torch, no MLflow.
Does: keeps small weights and the head's inside ``model.onnx`` and, above `EMBEDDED_BYTES`, the
large ones in ``model.onnx.data``. A body of any size is then a small file that is read at once, and
its weights are neither read nor copied when only the head changes.

Source: ONNX external data, `onnx/docs/ExternalData.md`, 1.19; protobuf's limit is 2 GB a message.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx
import onnx_ir as ir

from thresher.errors import ConversionError, NotFoundError
from thresher_export.head import HEAD_PREFIX
from thresher_export.sparse import make_dense

__all__ = ["DATA_SUFFIX", "EMBEDDED_BYTES", "data_files", "load_model", "save_model", "write_model"]

EMBEDDED_BYTES = 32 * 2**20
"""Weights above this together lie outside the file; below, one file is easier to carry about."""

DATA_SUFFIX = ".data"

_SMALL_TENSOR_BYTES = 1024


def load_model(path: Path) -> ir.Model:
    """Return a model whose outside weights stay on disk until they are needed.

    Weights in attributes are read at once.

    Raises:
        NotFoundError: If the file, or a file of weights that it names, does not exist.
        ConversionError: If it is not an ONNX model, or names weights that are cut short or lie
            outside its folder.
    """
    if not path.is_file():
        raise NotFoundError(f"{path}: no such file; expected an ONNX model")
    try:
        proto = onnx.load(path, load_external_data=False)
        make_dense(proto)
        model = ir.from_proto(proto)
    except ConversionError as error:
        raise ConversionError(f"{path}: {error}") from None
    except Exception as error:  # noqa: BLE001 -- protobuf and onnx_ir raise whatever they meet
        raise ConversionError(f"{path}: not an ONNX model: {error}") from None
    if not model.graph.outputs:
        raise ConversionError(f"{path}: not an ONNX model: it has no outputs")
    for tensor in _external(model):
        tensor.base_dir = path.parent
        _check_place(tensor, path)
    _read_attributes(model)
    return model


def _check_place(tensor: ir.ExternalTensor, path: Path) -> None:
    """Raise unless a weight lies, whole, where its model may say that it does."""
    location = Path(tensor.location)
    # the name is looked at, not what it leads to: a hub's cache is made of links
    if location.is_absolute() or ".." in location.parts:
        raise ConversionError(
            f"{path} keeps weights in {location}, outside its own folder; expected them beside it"
        )
    file = Path(tensor.path)
    if not file.is_file():
        raise NotFoundError(f"{file}: no such file; {path.name} keeps its weights there: copy both")
    num_bytes, start = file.stat().st_size, tensor.offset or 0
    if start < 0 or num_bytes < start + tensor.nbytes:
        raise ConversionError(
            f'{file} is cut short: it has {num_bytes:,} bytes, and "{tensor.name}" needs those '
            f"from {start:,} to {start + tensor.nbytes:,}. Copy or download it again"
        )
    if tensor.length is not None and tensor.length != tensor.nbytes:
        raise ConversionError(
            f'{path}: "{tensor.name}" has {tensor.length:,} bytes in {file.name}, expected '
            f"{tensor.nbytes:,} by its shape. Convert the model again"
        )


def _read_attributes(model: ir.Model) -> None:
    """Take weights that lie outside into the attributes (such as Constant's value) that hold them.

    What writes outside weights looks at initializers alone: others would go on naming a file of
    the model that was read.
    """
    for node in _all_nodes(model):
        for key, attribute in list(node.attributes.items()):
            if any(isinstance(tensor, ir.ExternalTensor) for tensor in _tensors_of(attribute)):
                read = [
                    ir.tensor(_of_any_link(tensor).numpy(), name=tensor.name)
                    if isinstance(tensor, ir.ExternalTensor)
                    else tensor
                    for tensor in _tensors_of(attribute)
                ]
                is_one = attribute.type == ir.AttributeType.TENSOR
                node.attributes[key] = (
                    ir.AttrTensor(key, read[0]) if is_one else ir.AttrTensors(key, read)
                )


def _all_nodes(model: ir.Model) -> Iterator[ir.Node]:
    """Yield every node, those of subgraphs and of functions too."""
    yield from model.graph.all_nodes()
    for function in model.functions.values():
        yield from function.all_nodes()


def _tensors_of(attribute: ir.Attr) -> Sequence[ir.TensorProtocol]:
    """Return the tensors that an attribute holds."""
    if attribute.is_ref():
        return ()
    if attribute.type == ir.AttributeType.TENSOR:
        return (attribute.as_tensor(),)
    return attribute.as_tensors() if attribute.type == ir.AttributeType.TENSORS else ()


def _external(model: ir.Model) -> Iterator[ir.ExternalTensor]:
    """Yield all weights outside the file, wherever the model names them."""
    yield from (tensor for _, tensor in _outside(model))
    for node in _all_nodes(model):
        for attribute in node.attributes.values():
            for tensor in _tensors_of(attribute):
                if isinstance(tensor, ir.ExternalTensor):
                    yield tensor


def data_files(model: ir.Model) -> list[Path]:
    """Return the files in which a model that was loaded keeps weights, sorted."""
    return sorted({Path(tensor.path) for _, tensor in _outside(model)})


def save_model(model: ir.Model, path: Path, *, link: bool = True) -> tuple[Path, ...]:
    """Write a model and return the files that it consists of, ``path`` first.

    Weights that lie in one file on the same file system already are hard-linked: a model that
    differs in its head alone costs neither space nor time.

    Args:
        model: Left as it was.
        path: The file to write; large weights go to the same name with `DATA_SUFFIX`. Neither
            exists.
        link: Hard-link weights where that can be; False writes a file with one name, which is
            all that some tools of ONNX read.
    """
    data = path.with_name(path.name + DATA_SUFFIX)
    if link and _link(model, data):
        proto = ir.to_proto(model)
        for initializer in proto.graph.initializer:
            for entry in initializer.external_data:
                if entry.key == "location":
                    entry.value = data.name
        path.write_bytes(proto.SerializeToString(deterministic=True))
        return path, data
    for value, tensor in list(_outside(model)):
        value.const_value = _of_any_link(tensor)
    if _num_bytes(model) <= EMBEDDED_BYTES:
        for value, tensor in list(_outside(model)):
            value.const_value = ir.tensor(tensor.numpy(), name=value.name)
        path.write_bytes(ir.to_proto(model).SerializeToString(deterministic=True))
        return (path,)
    ir.save(model, path, external_data=data.name, size_threshold_bytes=_SMALL_TENSOR_BYTES)
    _take_in_the_head(path)
    return path, data


def _take_in_the_head(path: Path) -> None:
    """Move the head's weights, however many labels there are, from beside a model into its file."""
    model = ir.load(path)
    for value, tensor in list(_outside(model)):
        if str(value.name).startswith(HEAD_PREFIX):
            value.const_value = ir.tensor(tensor.numpy(), name=value.name)
    path.write_bytes(ir.to_proto(model).SerializeToString(deterministic=True))


def write_model(model: ir.Model, path: Path) -> tuple[Path, ...]:
    """Write a model over what may be there, whole or not at all; return its files.

    Raises:
        ConversionError: If the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as staging:
            made = save_model(model, Path(staging) / path.name)
            for file in reversed(made):  # weights first: a model never names what is not there
                file.replace(path.with_name(file.name))
    except OSError as error:
        raise ConversionError(f"{path} cannot be written: {error.strerror or error}") from None
    return tuple(path.with_name(file.name) for file in made)


def _outside(model: ir.Model) -> Iterator[tuple[ir.Value, ir.ExternalTensor]]:
    for graph in model.graphs():
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                yield value, value.const_value


def _of_any_link(tensor: ir.ExternalTensor) -> ir.ExternalTensor:
    """Return a tensor that is read whatever links its file has: versions share their weights so.

    With a base folder onnx_ir takes links for an attack; `load_model` has seen to it that the
    model names a file in its own folder.
    """
    return ir.ExternalTensor(
        Path(tensor.path).absolute(),
        tensor.offset,
        tensor.length,
        tensor.dtype,
        shape=ir.Shape(tensor.shape.numpy()),
        name=str(tensor.name),
    )


def _num_bytes(model: ir.Model) -> int:
    values = [value for graph in model.graphs() for value in graph.initializers.values()]
    return sum(value.const_value.nbytes for value in values if value.const_value is not None)


def _link(model: ir.Model, data: Path) -> bool:
    """Hard-link the one file that holds all large weights; False where they do not lie so."""
    outside = sum(tensor.nbytes for _, tensor in _outside(model))
    files = data_files(model)
    own = {id(value) for value in model.graph.initializers.values()}
    if any(id(value) not in own for value, _ in _outside(model)):
        return False  # of a subgraph: they are written again
    if len(files) != 1 or outside <= EMBEDDED_BYTES or _num_bytes(model) - outside > EMBEDDED_BYTES:
        return False
    try:
        os.link(files[0].resolve(), data)  # a link's own file, not another link
    except OSError:
        return False
    return True
