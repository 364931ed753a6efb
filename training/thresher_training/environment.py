"""What a training ran on and with: for whoever has to run it again."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch

from thresher import __version__

__all__ = ["describe_environment", "installed_packages"]


def describe_environment() -> dict[str, Any]:
    """Return versions, machine and source commit; no paths, user or host names.

    ``git`` is the commit of the working folder, and whether there were changes on top of it; null
    outside a repository.
    """
    return {
        "thresher": __version__,
        "python": platform.python_version(),
        "python_implementation": platform.python_implementation(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cpu_cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(at) for at in range(torch.cuda.device_count())],
        "cuda": torch.version.cuda,
        "git": _git(),
        "packages": installed_packages(),
    }


def installed_packages() -> dict[str, str]:
    """Return each installed package's version by name, in alphabetical order."""
    found = {d.metadata["Name"]: d.version for d in distributions() if d.metadata["Name"]}
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def _cpu_name() -> str:
    """Return the processor's name; Linux tells it in a file, others through `platform`."""
    file = Path("/proc/cpuinfo")
    if sys.platform == "linux" and file.is_file():
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git() -> dict[str, Any] | None:
    def ask(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *arguments], capture_output=True, text=True, timeout=10, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = ask("rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "has_changes": bool(ask("status", "--porcelain", "-uno"))}
