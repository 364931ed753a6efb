"""Whether a pt2 archive can be read without running what it holds.

`torch.export.load` unpickles what its safe unpickler refuses, evaluates expressions, calls what the
graph names and runs guards as code. Anybody who can write to the store of a model could run code
where it is exported. This looks through the archive first, and lets pass what torch writes itself.

Source: torch/export/pt2_archive/_package.py, torch/_export/serde/serialize.py, torch 2.13.
"""

from __future__ import annotations

import ast
import io
import json
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from thresher.errors import ConversionError

__all__ = ["check_archive", "is_plain_guard"]

_CODE_FOLDERS = ("/data/aotinductor/", "/data/constants/custom_obj", "/data/constants/opaque_obj")
"""Compiled code, and objects that only a full unpickler reads."""

_TARGET = re.compile(
    r"torch\.ops\.[A-Za-z]\w*\.[A-Za-z_]\w*(\.\w+)?|_operator\.[a-z_]\w*|math\.[a-z]\w*"
    r"|torch\.(sym_|_sym_)\w+"
)
_BITWISE = re.compile(r"__i?(and|or|xor|lshift|rshift)__")
"""Operators that PyTorch names so; other names of the kind lead to Python's insides."""

_CALLS = {"_operator.call", "_operator.methodcaller", "_operator.attrgetter"}
_TEXT = re.compile(r"[\w.+-]*")
_FUNCTIONS = re.compile(r"[A-Z]\w*|floor|ceiling")
_GUARD_METHODS = {"size", "stride", "dim", "numel", "storage_offset", "isnan"}
_GUARD_FUNCTIONS = re.compile(r"[A-Z]\w*|max|min|abs|int|float|bool")
_PLAIN_NODES = (
    ast.Expression,
    ast.Name,
    ast.Constant,
    ast.Call,
    ast.keyword,
    ast.BinOp,
    ast.UnaryOp,
    ast.BoolOp,
    ast.Compare,
    ast.operator,
    ast.unaryop,
    ast.boolop,
    ast.cmpop,
    ast.expr_context,
)


def check_archive(path: Path) -> None:
    """Raise ConversionError where reading an archive could run what it holds.

    Raises:
        ConversionError: If it is no archive, or holds what torch would unpickle, evaluate or call
            beyond tensors and their operators; names the entry.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if len(names) != len(set(names)):
                raise _refused(path, "two entries have one name")
            for name in names:
                if any(folder in f"/{name}" for folder in _CODE_FOLDERS):
                    raise _refused(path, f"{name} holds code, or objects other than tensors")
                if name.endswith(".json"):
                    _check_json(path, name, json.loads(archive.read(name)), archive)
                elif name.endswith(".pt"):
                    _check_pickle(path, name, archive.read(name))
    except (zipfile.BadZipFile, ValueError, OSError) as error:
        raise ConversionError(f"{path}: not a torch program that can be read: {error}") from None


def is_plain_guard(code: str) -> bool:
    """Whether a guard is a comparison of sizes and numbers, such as ``L['x'].size()[0] >= 2``."""
    return _is_plain(
        code,
        functions=_GUARD_FUNCTIONS,
        methods=_GUARD_METHODS,
        more=(ast.Subscript, ast.Attribute),
    )


def _check_json(path: Path, name: str, content: Any, archive: zipfile.ZipFile) -> None:
    for key, value in _entries(content):
        if key == "expr_str" and not _is_plain(str(value), functions=_FUNCTIONS):
            raise _refused(path, f'{name} holds the expression "{value!s:.80}"')
        if key == "target" and isinstance(value, str):
            safe = "__" not in _BITWISE.sub("", value) and value not in _CALLS
            plain = safe and _TARGET.fullmatch(value)
            # without a dot it is no name of a function: an output or an attribute
            if not plain and "." in value and value.split(".")[0] in {"torch", "_operator", "math"}:
                raise _refused(path, f'{name} calls "{value:.80}", which is no operator')
        if key == "use_pickle" and value:
            for entry in archive.namelist():
                if "/data/weights/" in f"/{entry}" or "/data/constants/" in f"/{entry}":
                    _check_pickled_tensor(path, entry, archive)


def _check_pickled_tensor(path: Path, name: str, archive: zipfile.ZipFile) -> None:
    """Look at a tensor that is written by torch.save (a ZIP file of its own); others are bytes."""
    content = archive.read(name)
    if content[:2] == b"PK" or content[:1] == b"\x80":
        _check_pickle(path, name, content)


def _check_pickle(path: Path, name: str, content: bytes) -> None:
    if not content:
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except Exception as error:  # noqa: BLE001 -- whatever a broken pickle leads it to
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise _refused(path, f"{name} is more than tensors ({reason[0]:.120})") from None


def _refused(path: Path, why: str) -> ConversionError:
    return ConversionError(
        f"{path}: reading this archive could run code that it holds: {why}. Log the network again "
        'with mlflow.pytorch.log_model(..., serialization_format="pt2"), with tensors alone as '
        "weights, constants and example"
    )


def _entries(content: Any) -> Iterator[tuple[str, Any]]:
    """Yield every key with its value, at any depth."""
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield from value.items()
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _is_plain(
    code: str,
    *,
    functions: re.Pattern[str],
    methods: set[str] | frozenset[str] = frozenset(),
    more: tuple[type[ast.AST], ...] = (),
) -> bool:
    """Whether an expression is made of numbers, names and calls of known functions alone."""
    try:
        tree = ast.parse(code.strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    for node in ast.walk(tree):
        if not isinstance(node, (*_PLAIN_NODES, *more)):
            return False
        if isinstance(node, ast.Name) and node.id.startswith("__"):
            return False
        text = node.value if isinstance(node, ast.Constant) else 0
        if isinstance(text, str) and ("__" in text or not _TEXT.fullmatch(text)):
            return False
        if isinstance(node, ast.Attribute) and node.attr not in methods:
            return False
        if isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else ""
            if not isinstance(node.func, ast.Attribute) and not functions.fullmatch(name):
                return False
    return True
