"""What the tests on an NVIDIA GPU need of a machine, and how much of its memory is in use."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import time

from thresher_serving.embedded.runtime_install import runtime_folder
from thresher_serving.embedded.runtime_platform import site_packages

OLDEST_DRIVER = 13000
"""CUDA 13.0, for which ONNX Runtime's GPU package is built."""


def why_no_gpu() -> str:
    """Return why this machine cannot run these tests; empty if it can."""
    if shutil.which("nvidia-smi") is None:
        return "no nvidia-smi"
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no libcuda.so.1"
    version, devices = ctypes.c_int(0), ctypes.c_int(0)
    if driver.cuDriverGetVersion(ctypes.byref(version)) or version.value < OLDEST_DRIVER:
        return f"ONNX Runtime's CUDA provider needs a CUDA 13 driver, got {version.value}"
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(devices)) or not devices.value:
        return "the CUDA driver finds no device"
    return ""


def why_no_tensorrt() -> str:
    """Return why TensorRT cannot be tried: it is looked for where the backend looks for it."""
    runtime = runtime_folder()
    if (site_packages(runtime) / "tensorrt_libs/libnvinfer.so.10").is_file():
        return ""
    try:
        ctypes.CDLL("libnvinfer.so.10")
    except OSError:
        return f"no TensorRT 10; run: {runtime}/bin/python3 -m pip install 'tensorrt-cu13<11'"
    return ""


def memory_used_mib(device: int = 0) -> int:
    """Return how much of a GPU's memory is in use, by all processes, as the driver counts it."""
    done = subprocess.run(
        [
            *("nvidia-smi", f"--id={device}", "--query-gpu=memory.used"),
            "--format=csv,noheader,nounits",
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return int(done.stdout.split()[0])


def memory_falls_to(limit_mib: int, *, within_s: float = 30) -> int:
    """Return the memory in use once it is at most a limit, or what it is when time is up."""
    end = time.monotonic() + within_s
    while (used := memory_used_mib()) > limit_mib and time.monotonic() < end:
        time.sleep(0.5)
    return used
