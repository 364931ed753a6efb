"""Writes down which kernels each Triton release's ONNX Runtime has on a CPU.

    python scripts/onnx_kernels.py FOLDER

FOLDER holds one folder for each version, named after it, made by
``pip install --no-deps --target FOLDER/1.19.2 onnxruntime==1.19.2``. The result,
``export/thresher_export/onnx_kernels.json``, is read by `thresher_export.kernels`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parents[1] / "export/thresher_export/onnx_kernels.json"
OLDEST_OPSET = 18
OPEN_END = 2**31 - 1
TYPES = {
    *("bool", "string", "float16", "float", "double"),
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
}

# runs with one version of ONNX Runtime on its path, so each version needs a process of its own
LIST_KERNELS = """
import json, sys
sys.path.insert(0, sys.argv[1])
from onnxruntime.capi import onnxruntime_pybind11_state as state
print(json.dumps([
    [k.op_name, *k.version_range, {key: sorted(types) for key, types in k.type_constraints.items()}]
    for k in state.get_all_opkernel_def()
    if k.provider == "CPUExecutionProvider" and k.domain in ("", "ai.onnx")
]))
"""


def kernels(folder: Path) -> set[tuple[str, int, int, str]]:
    """Return operator, first and last opset and types (as JSON) of each kernel in a version."""
    command = [sys.executable, "-c", LIST_KERNELS, str(folder)]
    listed = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    found = set()
    for name, first, last, constraints in listed:
        if last < OLDEST_OPSET:  # of an operator that has changed since
            continue
        types = {key: tensors for key, of in constraints.items() if (tensors := _tensors(of))}
        found.add((name, first, last, json.dumps(types, sort_keys=True)))
    return found


def _tensors(types: list[str]) -> list[str]:
    """Return the types of tensors; sequences and the exotic ones are left out."""
    return sorted({name for t in types if (name := t[7:-1]) in TYPES and t.startswith("tensor(")})


def main() -> None:
    """Write the table: by operator, each kernel with the oldest version that has it."""
    versions = sorted(
        (folder for folder in Path(sys.argv[1]).iterdir() if folder.name[0].isdigit()),
        key=lambda folder: [int(part) for part in folder.name.split(".")],
    )
    table: dict[str, dict[tuple[int, int, str], str]] = {}
    for folder in versions:
        for name, first, last, types in sorted(kernels(folder)):
            of_operator = table.setdefault(name, {})
            if not _has(of_operator, first, last, json.loads(types)):
                of_operator[first, last, types] = folder.name
    lines = [
        f"  {json.dumps(name)}: {json.dumps(_rows(table[name]), separators=(',', ':'))}"
        for name in sorted(table)
        if _rows(table[name])
    ]
    RESULT.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def _has(known: dict[tuple[int, int, str], str], first: int, last: int, types: Any) -> bool:
    """Return whether a version before had that kernel too, for these opsets and types."""
    return any(
        a == first and b in {last, OPEN_END} and _covers(json.loads(has), types)
        for a, b, has in known
    )


def _covers(has: dict[str, list[str]], types: dict[str, list[str]]) -> bool:
    return set(has) == set(types) and all(set(types[key]) <= set(has[key]) for key in types)


def _rows(kernels: dict[tuple[int, int, str], str]) -> list[list[Any]]:
    """Return first and last opset, version and types; rows that differ in one type are merged."""
    rows: list[list[Any]] = []
    for (first, last, types), since in kernels.items():
        new = [first, None if last == OPEN_END else last, since, json.loads(types)]
        for row in rows:
            apart = [key for key in new[3] if row[3].get(key) != new[3][key]]
            if row[:3] == new[:3] and set(row[3]) == set(new[3]) and len(apart) <= 1:
                for key in apart:
                    row[3][key] = sorted({*row[3][key], *new[3][key]})
                break
        else:
            rows.append(new)
    return rows


if __name__ == "__main__":
    main()
