"""Which device computes, and in which precision."""

from __future__ import annotations

import torch

from thresher.errors import ConfigError, TrainingError
from thresher_training.recipe import OptimizationConfig

__all__ = ["autocast_dtype", "find_device"]


def find_device(config: OptimizationConfig, *, local_rank: int = 0) -> torch.device:
    """Return the device that a recipe asks for.

    Args:
        config: The recipe's section.
        local_rank: Which of this machine's processes this is: each takes a GPU of its own.

    Raises:
        TrainingError: If it asks for a GPU and there is none, or fewer than processes.
    """
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if config.device == "cpu" or (config.device == "auto" and not num_gpus):
        return torch.device("cpu")
    if not num_gpus:
        raise TrainingError(
            'optimization.device is "cuda", but torch sees no GPU here '
            f'(torch {torch.__version__}); use "auto" or "cpu", or install torch for CUDA'
        )
    if local_rank >= num_gpus:
        raise TrainingError(
            f"process {local_rank} of this machine has no GPU: there are {num_gpus}; "
            f"run torchrun with --nproc-per-node {num_gpus}"
        )
    return torch.device("cuda", local_rank)


def autocast_dtype(config: OptimizationConfig, device: torch.device) -> torch.dtype | None:
    """Return the type in which autocast computes; None for plain float32.

    Raises:
        ConfigError: If it is fp16 on a CPU.
    """
    if config.precision == "fp32":
        return None
    if config.precision == "auto":
        return torch.bfloat16 if _has_bf16(device) else None
    if config.precision == "bf16":
        return torch.bfloat16
    if device.type == "cpu":
        raise ConfigError(
            'optimization.precision is "fp16", which needs a GPU, and this run is on the CPU; '
            'use "bf16", "fp32" or "auto"'
        )
    return torch.float16


def _has_bf16(device: torch.device) -> bool:
    """Tell whether a device multiplies bf16 natively: emulated, it is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    able = torch.cpu.get_capabilities()
    return any(able.get(key, False) for key in ("avx512_bf16", "amx_bf16", "arm_bf16", "bf16"))
