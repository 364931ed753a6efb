"""Runs every part that can run, each in a process of its own, and writes what came of it."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

RESULT = "gpu-check.json"
BUDGET_S = 570
_STARTING_S = 3.0
_MODULES = {
    "torch": ("torch",),
    "numpy": ("numpy",),
    "onnx": ("onnx",),
    "onnx_ir": ("onnx-ir",),
    "onnxscript": ("onnxscript",),
    "onnxruntime": ("onnxruntime-gpu", "onnxruntime"),
    "triton": ("triton",),
    "tensorrt": ("tensorrt", "tensorrt-cu13"),
    "tritonclient": ("tritonclient",),
    "mlflow": ("mlflow",),
}

# asked in a process of its own: importing a broken package must not end the check
ASK_TORCH = """
import json, torch
gpu = torch.cuda.is_available()
print(json.dumps({
    "cuda": torch.version.cuda, "sees_gpu": gpu, "num_gpus": torch.cuda.device_count(),
    "gpus": [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())],
    "cudnn": torch.backends.cudnn.version() if gpu else None,
    "nccl": ".".join(map(str, torch.cuda.nccl.version())) if gpu else None,
}))
"""
ASK_ONNX_RUNTIME = """
import json, onnxruntime
print(json.dumps({"lists": onnxruntime.get_available_providers()}))
"""


def main() -> None:
    """Read the arguments and run; a part in a child process is called with ``--part``."""
    parser = argparse.ArgumentParser(prog="gpu-check.sh")
    parser.add_argument("parts", nargs="*", metavar="PART", help="these alone")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--budget", type=float, default=BUDGET_S, help="seconds in all")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        _run_here(given.part, given.device)
        return
    out = Path(os.environ.get("OUT") or ".gpu-check") / RESULT
    out.parent.mkdir(parents=True, exist_ok=True)
    _check(given.parts, given.device, time.monotonic() + given.budget, out)


def _check(wanted: list[str], device: str, end: float, out: Path) -> None:
    machine = _machine()
    result: dict[str, Any] = {"device": device, "machine": machine, "parts": []}
    _write(result, out)
    try:
        from gpu_check import inference, training  # noqa: F401 -- they register their parts
        from gpu_check.parts import PARTS
    except Exception as error:  # noqa: BLE001 -- whatever is missing is the finding
        result["parts"] = [
            _entry(
                "all", "not run", f"the parts cannot be imported: {type(error).__name__}: {error}"
            )
        ]
        _write(result, out)
        return
    for name in wanted:
        if name not in PARTS:
            result["parts"].append(
                _entry(name, "not run", f"there is no such part; there are {', '.join(PARTS)}")
            )
    for name, part in PARTS.items():
        if wanted and name not in wanted:
            continue
        left = end - time.monotonic()
        if device == "cuda" and not machine["torch"].get("sees_gpu"):
            entry = _entry(name, "not run", machine["torch"].get("error") or "torch sees no GPU")
        elif part.missing:
            entry = _entry(name, "not run", f"not installed: {', '.join(part.missing)}")
        elif left < _STARTING_S:
            entry = _entry(name, "not run", "the time is used up")
        else:
            entry = _run(name, device, min(left, part.limit_s))
        entry["does"] = part.run.__doc__
        result["parts"].append(entry)
        _write(result, out)
        print(f"{name:20} {entry['status']:8} {entry['reason']}".rstrip(), file=sys.stderr)
    print(out)


def _run(name: str, device: str, limit_s: float) -> dict[str, Any]:
    """Run a part in a process group of its own, which may crash or hang."""
    begun = time.monotonic()
    command = [sys.executable, "-m", "gpu_check", "--part", name, "--device", device]
    started = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        output, log = started.communicate(timeout=limit_s)
        entry: dict[str, Any] = json.loads((output.strip().splitlines() or [""])[-1])
    except subprocess.TimeoutExpired:
        os.killpg(started.pid, signal.SIGKILL)  # what it started too
        started.communicate()
        entry = _entry(name, "failed", f"it took more than {limit_s:.0f} s and was ended")
    except ValueError:
        entry = _entry(name, "failed", f"it ended with exit code {started.returncode}")
        entry["log"] = log[-2000:]
    entry["seconds"] = round(time.monotonic() - begun, 1)
    return entry


def _run_here(name: str, device: str) -> None:
    from gpu_check import inference, training  # noqa: F401 -- they register their parts
    from gpu_check.parts import PARTS, NotRun

    try:
        entry = _entry(name, "passed", "")
        entry["figures"] = PARTS[name].run(device)
    except NotRun as error:
        entry = _entry(name, "not run", str(error))
    except BaseException as error:  # noqa: BLE001 -- a part may raise anything; it is the finding
        entry = _entry(name, "failed", f"{type(error).__name__}: {error}")
        entry["log"] = traceback.format_exc()[-2000:]
    print(json.dumps(entry))


def _entry(name: str, status: str, reason: str) -> dict[str, Any]:
    return {"name": name, "status": status, "reason": reason}


def _machine() -> dict[str, Any]:
    versions = {}
    for module, packages in _MODULES.items():
        found = [v for v in map(_version, packages) if v]
        versions[module] = found[0] if found and _is_there(module) else None
    smi = shutil.which("nvidia-smi")
    server = shutil.which("tritonserver") or "/opt/tritonserver/bin/tritonserver"
    return {
        "python": platform.python_version(),
        "num_cpus": os.cpu_count(),
        "packages": versions,
        "driver": _output([smi, "--query-gpu=name,driver_version", "--format=csv,noheader"])
        if smi
        else None,
        "torch": _asked(ASK_TORCH),
        "onnxruntime": _asked(ASK_ONNX_RUNTIME),
        "tritonserver": server if Path(server).is_file() else None,
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False


def _asked(code: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    try:
        found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        return {"error": (done.stderr.strip().splitlines() or ["it says nothing"])[-1]}
    return found


def _output(command: list[str]) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return (done.stdout or done.stderr).strip().splitlines()


def _write(result: dict[str, Any], out: Path) -> None:
    """Write the result so that a reader never sees half of it."""
    new = out.with_name(f".{out.name}")
    new.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    new.replace(out)


if __name__ == "__main__":
    main()
