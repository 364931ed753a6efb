"""Networks that training or export cannot take, and what to change in them."""

from __future__ import annotations

import inspect
import linecache
import re
import traceback
from typing import Any

import torch
from torch import nn

from thresher.errors import TrainingError

__all__ = [
    "check_kind",
    "conversion_advice",
    "describe_output",
    "explain_export",
    "explain_failure",
    "unwrapped",
]

_WRAPPERS = (
    nn.DataParallel,
    nn.parallel.DistributedDataParallel,
    torch.optim.swa_utils.AveragedModel,
)
_QUANTIZED = ("torch.ao.quantization", "torch.ao.nn", "torchao.quantization")
_LIBRARIES = ("/torch/", "/transformers/", "/onnxscript/", "/thresher_training/preflight.py")


def unwrapped(network: nn.Module) -> nn.Module:
    """Return the network inside `torch.compile`, `DataParallel` and the like.

    Training compiles and spreads it itself, and what is logged must be the network alone.
    """
    while True:
        if isinstance(network, _WRAPPERS):
            network = network.module
        elif isinstance(inner := getattr(network, "_orig_mod", None), nn.Module):
            network = inner  # torch.compile's OptimizedModule
        else:
            return network


def check_kind(network: nn.Module) -> None:
    """Raise TrainingError for a network whose kind alone says that it cannot be exported."""
    name = type(network).__name__
    if isinstance(network, torch.jit.ScriptModule):
        original = getattr(network, "original_name", name)
        raise TrainingError(
            f"the network is TorchScript ({original}, from torch.jit.script or torch.jit.trace), "
            "which torch.export does not take; hand over the nn.Module that it was made from"
        )
    for path, module in network.named_modules():
        kind = type(module)
        if kind.__module__.startswith(_QUANTIZED):
            raise TrainingError(
                f'{name} is prepared for quantization: "{path}" is {kind.__module__}.'
                f"{kind.__qualname__}, "
                "which has no ONNX translation. Hand over the network as it was before "
                "torch.ao.quantization; thresher export --precision int8 quantizes it"
            )


def describe_output(output: object) -> str:
    """Return what a network gave instead of one tensor, and what to return instead."""
    kind = type(output).__name__
    if isinstance(output, dict):  # also the outputs of Hugging Face's models
        keys = [str(key) for key in output]
        chosen = "logits" if "logits" in keys else next(iter(keys), "logits")
        access = f'["{chosen}"]' if kind == "dict" else f".{chosen}"
        return f"a {kind} ({', '.join(keys)}); return its {access} alone from forward"
    if isinstance(output, (tuple, list)):
        return f"a {kind} of {len(output)}; return the logits alone from forward"
    if output is None:
        return "None; does forward end in a return?"
    return f"a {kind}"


def explain_failure(
    network: nn.Module, error: BaseException, *, largest_id: int | None = None
) -> str:
    """Return what to change where ``forward`` itself fails, "" where nothing is known.

    Args:
        network: What failed.
        error: What it raised.
        largest_id: The largest whole number that it was given.
    """
    text = str(error)
    dtypes = {str(p.dtype) for p in network.parameters() if p.is_floating_point()}
    if "same dtype" in text and dtypes - {"torch.float32"}:
        return (
            f". Its weights are {' and '.join(sorted(dtypes))}: call network.float(), or convert "
            "the inputs in forward and the logits back to float32"
        )
    if isinstance(error, IndexError) and largest_id is not None:
        sizes = [
            f'"{path}" has {module.num_embeddings:,}'
            for path, module in network.named_modules()
            if isinstance(module, (nn.Embedding, nn.EmbeddingBag))
            and module.num_embeddings <= largest_id
        ]
        if sizes:
            return (
                f". The largest id is {largest_id:,}, which takes an embedding of "
                f"{largest_id + 1:,} rows: {', '.join(sizes[:4])}"
            )
    return ""


def explain_export(network: nn.Module, error: BaseException) -> str:
    """Return why a network cannot be exported: what stands where, and what to write instead."""
    frames = _frames(error)
    reason = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
    own = [f for f in frames if not any(part in f.filename for part in _LIBRARIES)]
    own = [f for f in own if f.name == "forward"] or own
    place = ""
    if own:
        code = linecache.getline(own[-1].filename, own[-1].lineno or 0).strip()
        place = f' at {own[-1].filename}, line {own[-1].lineno}: "{code}"'
    if any(f.filename.endswith("/rnn.py") for f in frames) and _packs(network):
        return (
            "it packs sequences (pack_padded_sequence), which torch.export does not take. Run the "
            "recurrent layer over the padded rows, and take each row's last step by its mask, or "
            f"the mean over the mask ({reason})"
        )
    text = f"{reason} {error}"
    if "data-dependent" in text or "DataDependent" in text:
        return (
            f"it decides by the values in a tensor{place}: an if, a while, bool(), int() or "
            f"item(), or a shape made of them. Use torch.where or a mask ({reason})"
        )
    if "fake_quantize" in text:
        return (
            f"it quantizes to try out low precision{place}, which has no ONNX translation. Leave "
            "that out; thresher export --precision int8 quantizes the network"
        )
    scripted = [p for p, m in network.named_modules() if isinstance(m, torch.jit.ScriptModule)]
    if scripted:
        return (
            f'"{scripted[0]}" is TorchScript, which torch.export does not take; use the '
            f"nn.Module that it was made from ({reason})"
        )
    if ".numpy()" in text or "numpy" in reason:
        return f"it leaves torch for NumPy{place}; write that step with torch's own operators"
    return f"{reason}{' (' + place.strip() + ')' if place else ''}"


def _packs(network: nn.Module) -> bool:
    """Return whether a module's ``forward`` speaks of packed sequences."""
    for kind in {type(module) for module in network.modules()}:
        if not kind.__module__.startswith("torch."):
            try:
                source = inspect.getsource(kind)
            except (OSError, TypeError):  # typed in at a prompt, or not written in Python
                continue
            if re.search(r"pack_padded_sequence|pack_sequence|PackedSequence", source):
                return True
    return False


def _frames(error: BaseException | None) -> list[traceback.FrameSummary]:
    """Return the calls that led to an error, with those of its causes."""
    frames: list[traceback.FrameSummary] = []
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        frames = [*traceback.extract_tb(error.__traceback__), *frames]
        error = error.__cause__ or error.__context__
    return frames


def conversion_advice(network: nn.Module) -> str:
    """Return what is known to help where the conversion to ONNX fails."""
    for path, module in network.named_modules():
        config: Any = getattr(module, "config", None)
        if getattr(config, "_attn_implementation", None) == "sdpa":
            what = f'"{path}"' if path else "it"
            return (
                f". {what} is a transformers model with sdpa attention: load it with "
                'attn_implementation="eager"'
            )
    parametrized = [p for p, m in network.named_modules() if hasattr(m, "parametrizations")]
    if parametrized:
        return (
            f'. "{parametrized[0]}" is parametrized (torch.nn.utils.parametrizations): '
            "weight_norm and spectral_norm can be converted, orthogonal cannot"
        )
    return ""
