"""Parts about training: torch and NumPy are enough for all of them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gpu_check.parts import NotRun, part
from thresher_training.data import Split
from thresher_training.loop import Checkpoints, Interrupted, Stop, fit, predict_logits, seeded
from thresher_training.loop.average import Average
from thresher_training.loop.processes import team_of_processes
from thresher_training.loop.steps import _has_unused
from thresher_training.losses import LOSSES, BceLoss, build_loss
from thresher_training.networks import digits_cnn, mlp
from thresher_training.recipe import LossConfig, OptimizationConfig

STEPS_ATOL = 2e-4
"""How far weights trained in another order of additions may give other logits."""


class Recurrent(nn.Module):
    """An LSTM or GRU over sequences, and a linear layer on its last state."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.cell = kind(4, 16, num_layers=2, batch_first=True, dropout=0.1)  # type: ignore[call-arg]
        self.output = nn.Linear(16, 2)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits [N, 2]."""
        states, _ = self.cell(features)
        logits: Tensor = self.output(states[:, -1])
        return logits


class Encoder(nn.Module):
    """One layer of self-attention over sequences."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, nhead=2, dim_feedforward=32, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.output = nn.Linear(4, 2)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits [N, 2]."""
        logits: Tensor = self.output(self.layers(features).mean(1))
        return logits


def split(seed: int, *, num_rows: int = 600, shape: tuple[int, ...] = (4,)) -> Split:
    """Return rows whose two labels follow from their sums."""
    x = np.random.default_rng(seed).normal(size=(num_rows, *shape)).astype(np.float32)
    score = x.reshape(num_rows, -1, shape[-1]).mean(1)
    return Split(
        inputs={"features": x}, targets_NL=np.stack([score[:, 0] > 0, score[:, 1] > 0.3], axis=1)
    )


def trained(device: str, network: nn.Module | None = None, **options: Any) -> tuple[Any, nn.Module]:
    """Train on the device; return the result and the network, which is on the CPU again."""
    call = {
        k: options.pop(k) for k in ("checkpoints", "resume_from", "stop", "team") if k in options
    }
    shape = options.pop("shape", (4,))
    config = OptimizationConfig(
        **{"epochs": 6, "learning_rate": 5e-2, "device": device, "precision": "fp32", **options}
    )
    if network is None:
        with seeded(0):
            network = mlp(num_labels=2, num_features=4, hidden=[16])
    rows = split(0, shape=shape), split(1, shape=shape)
    result = fit(network, *rows, BceLoss(), config, seed=0, **call)
    return result, network


@part(limit_s=90)
def loop(device: str) -> dict[str, Any]:
    """Training learns in each precision, and the network comes back to the CPU."""
    figures = {}
    for precision in ("fp32", "bf16", *(["fp16"] if device == "cuda" else [])):
        result, network = trained(device, precision=precision, ema_decay=0.9, max_gradient_norm=1.0)
        figures[precision] = result.epochs[-1].validation["macro_f1"]
        assert figures[precision] > 0.85, f"{precision}: macro-F1 {figures[precision]}"
        assert {p.device.type for p in network.parameters()} == {"cpu"}
    return {"macro_f1": figures}


@part()
def resumption(device: str) -> dict[str, Any]:
    """A run that is cut off goes on as if it had not been."""

    class Ending(Stop):
        calls = 0

        @property
        def requested(self) -> bool:
            self.calls += 1
            return self.calls >= 13

    precision = "fp16" if device == "cuda" else "bf16"
    whole, _ = trained(device, precision=precision, ema_decay=0.9)
    with tempfile.TemporaryDirectory() as folder:
        kept = Checkpoints("a", root=Path(folder))
        try:
            trained(device, precision=precision, ema_decay=0.9, checkpoints=kept, stop=Ending())
            raise AssertionError("it was not cut off")
        except Interrupted:
            resumed, _ = trained(
                device,
                precision=precision,
                ema_decay=0.9,
                checkpoints=kept,
                resume_from=kept.load(),
            )
    pairs = zip(resumed.epochs, whole.epochs, strict=True)
    apart = max(abs(one.train_loss - other.train_loss) for one, other in pairs)
    assert apart < 1e-2, f"losses differ by {apart}"
    return {"largest_difference_of_losses": apart, "same_bits": apart == 0}


@part()
def recurrent(device: str) -> dict[str, Any]:
    """LSTM and GRU train, and cuDNN's limits do not stop the trial for unused weights."""
    figures = {}
    for kind in (nn.LSTM, nn.GRU):
        with seeded(0):
            network = Recurrent(kind)
        on_device = network.to(device)
        rows = {"features": torch.from_numpy(split(2, num_rows=3, shape=(5, 4)).inputs["features"])}
        assert not _has_unused(on_device, rows, torch.device(device))
        result, _ = trained(device, network, shape=(5, 4), learning_rate=2e-2, epochs=8)
        figures[kind.__name__] = [result.epochs[0].train_loss, result.epochs[-1].train_loss]
        assert figures[kind.__name__][1] < figures[kind.__name__][0]
    return {"first_and_last_loss": figures}


@part(limit_s=180)
def compiled(device: str) -> dict[str, Any]:
    """A network that torch compiles learns as the plain one does."""
    from importlib.util import find_spec

    if device == "cuda" and find_spec("triton") is None:
        raise NotRun("torch.compile needs the package triton on a GPU")
    result, _ = trained(device, compile=True, epochs=2)
    plain, _ = trained(device, epochs=2)
    apart = abs(plain.epochs[-1].train_loss - result.epochs[-1].train_loss)
    assert apart < 1e-3, f"losses differ by {apart}"
    return {"difference_of_losses": apart}


@part()
def accumulation(device: str) -> dict[str, Any]:
    """Five small batches to a step give what one large batch gives."""
    rows = split(1).inputs
    _, whole = trained(device, batch_size=80, max_gradient_norm=1.0)
    _, cut = trained(device, batch_size=16, accumulate=5, max_gradient_norm=1.0)
    apart = float(np.abs(predict_logits(whole, rows) - predict_logits(cut, rows)).max())
    assert apart < STEPS_ATOL, f"logits differ by {apart}"
    return {"largest_difference_of_logits": apart}


@part()
def average(device: str) -> dict[str, Any]:
    """The average of the weights is updated without waiting for the GPU."""
    network = mlp(num_labels=2, num_features=4, hidden=[64, 64], scaling="standard").to(device)
    kept = Average(network, 0.9)
    kept.update(network)
    if device == "cuda":
        torch.cuda.set_sync_debug_mode("error")  # a wait raises
    try:
        for _ in range(20):
            kept.update(network)
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    for mean, now in zip(kept.module.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(mean, now)
    return {"checked_for_waits": device == "cuda"}


@part()
def losses(device: str) -> dict[str, Any]:
    """Each loss has the value and the gradients that it has on the CPU."""
    rng = np.random.default_rng(0)
    targets = (rng.random((64, 5)) < 0.3).astype(np.float32)
    targets[::7, 2] = np.nan
    logits = torch.from_numpy(rng.normal(0, 3, (64, 5)).astype(np.float32))
    worst = {}
    for name in LOSSES:
        loss = build_loss(LossConfig(name=name), targets)
        found = []
        for place in ("cpu", device):
            z = logits.to(place).detach().requires_grad_()
            value = loss.to(place)(z, torch.from_numpy(targets).to(place))
            value.backward()
            assert z.grad is not None
            found.append((value.detach().cpu(), z.grad.cpu()))
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
        worst[name] = float((found[0][1] - found[1][1]).abs().max())
    return {"largest_difference_of_gradients": worst}


@part()
def logits(device: str) -> dict[str, Any]:
    """Evaluation gives the CPU's logits in full precision, whatever training allowed."""
    with seeded(0):
        networks = {
            "mlp": (mlp(num_labels=2, num_features=4, hidden=[512, 512]), (4,)),
            "lstm": (Recurrent(nn.LSTM), (9, 4)),
            "encoder": (Encoder(), (9, 4)),
            "cnn": (digits_cnn(num_labels=2), None),
        }
    matmul, worst = torch.get_float32_matmul_precision(), {}
    torch.set_float32_matmul_precision("high")
    try:
        for name, (network, shape) in networks.items():
            if shape is None:
                rows = {
                    "image": np.random.default_rng(0)
                    .integers(0, 255, (300, 1, 48, 48))
                    .astype(np.uint8)
                }
            else:
                rows = dict(split(3, num_rows=300, shape=shape).inputs)
            on_cpu = predict_logits(network.cpu(), rows)
            on_device = predict_logits(network.to(device), rows)
            scale = max(1.0, float(np.abs(on_cpu).max()))
            worst[name] = float(np.abs(on_cpu - on_device).max()) / scale
            assert worst[name] < 5e-5, f"{name}: {worst[name]} of the largest logit"
    finally:
        torch.set_float32_matmul_precision(matmul)
    return {"largest_difference_of_logits": worst}


@part()
def nccl_of_one(device: str) -> dict[str, Any]:
    """NCCL starts and adds, in one process: what two processes need besides a second GPU."""
    if device == "cpu":
        raise NotRun("NCCL joins GPUs")
    import torch.distributed as dist

    dist.init_process_group(
        "cpu:gloo,cuda:nccl", init_method=f"tcp://127.0.0.1:{_free_port()}", rank=0, world_size=1
    )
    try:
        total = torch.ones(1000, device=device)
        dist.all_reduce(total)
        assert float(total.sum()) == 1000
        network = nn.parallel.DistributedDataParallel(nn.Linear(4, 2).to(device), device_ids=[0])
        network(torch.ones(3, 4, device=device)).sum().backward()
        assert all(p.grad is not None for p in network.parameters())
    finally:
        dist.destroy_process_group()
    return {"version": ".".join(map(str, torch.cuda.nccl.version()))}


@part(limit_s=120)
def two_processes(device: str) -> dict[str, Any]:
    """Two processes train what one trains: by NCCL on two GPUs, by gloo on the CPU."""
    if device == "cuda" and torch.cuda.device_count() < 2:
        raise NotRun(f"needs two GPUs, {torch.cuda.device_count()} is here")
    with tempfile.TemporaryDirectory() as folder:
        port = str(_free_port())
        started = [
            subprocess.Popen(
                [sys.executable, "-m", "gpu_check.training", device, folder],
                env={
                    **os.environ,
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": port,
                    "WORLD_SIZE": "2",
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                },
            )
            for rank in range(2)
        ]
        codes = [process.wait() for process in started]
        assert codes == [0, 0], f"exit codes {codes}"
        found = np.load(Path(folder) / "0.npy")
    _, alone = trained(device, batch_size=80)
    apart = float(np.abs(found - predict_logits(alone, split(1).inputs)).max())
    assert apart < STEPS_ATOL, f"logits differ by {apart}"
    return {"largest_difference_of_logits": apart}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":  # one of two processes
    with team_of_processes() as team:
        _, own = trained(sys.argv[1], batch_size=80, team=team)
        np.save(Path(sys.argv[2]) / f"{team.rank}.npy", predict_logits(own, split(1).inputs))
