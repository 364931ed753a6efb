"""How much of a bare PyTorch loop's speed training keeps.

`fit`, with everything that a run has (checkpoints, gradient norms, schedule, parameter groups,
unknown targets), against the shortest loop that trains the same network on the same data with the
same batch size; one after the other, several times, in the same run::

    python benchmarks/training.py --quick     fewer rows and repeats
    python benchmarks/training.py
    python benchmarks/training.py --against COMMIT   in pairs with an older commit: reading, epochs

Times are of whole epochs, the checkpoint after each included, validation left out on both sides
(one batch of it is in `fit`'s time). Bibtex and goemotions are the real ones where `THRESHER_DATA`
or ``../shared/data`` has them, else random numbers of their size. Prints a table and writes
``benchmarks/results/training.json``; exits with 1 if a limit is passed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from against import LEAST, compare, worktree
from real_data import DATA, ROOT, data_folder, load
from torch import Tensor, nn

from thresher.config import load_toml
from thresher.errors import ThresherError
from thresher_training import OptimizationConfig, Recipe, Split
from thresher_training.digits import digit_strips
from thresher_training.loop import Checkpoints, as_tensor, fit, seeded
from thresher_training.losses import BceLoss
from thresher_training.networks import digits_cnn, mlp
from thresher_training.prepare import load_data

RESULTS = ROOT / "benchmarks" / "results" / "training.json"
MOST_TIME = 1.10
"""`fit` may take this times as long as the bare loop."""

MOST_WAITING = 0.05
"""The network may wait for data in this share of the time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A network and what it is trained on."""

    name: str
    train: Split
    network: Callable[[], nn.Module]
    batch_size: int


class Encoder(nn.Module):
    """A small encoder of token ids: embeddings, one transformer layer, their mean."""

    def __init__(self, vocabulary: int, num_labels: int, width: int = 64) -> None:
        super().__init__()
        self.table = nn.Embedding(vocabulary, width, padding_idx=0)
        self.layer = nn.TransformerEncoderLayer(
            width, nhead=4, dim_feedforward=128, batch_first=True
        )
        self.last = nn.Linear(width, num_labels)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return logits [N, L]."""
        hidden = self.layer(self.table(input_ids), src_key_padding_mask=attention_mask == 0)
        weight = attention_mask.unsqueeze(-1).to(hidden.dtype)
        logits: Tensor = self.last((hidden * weight).sum(dim=1) / weight.sum(dim=1))
        return logits


def digits(quick: bool) -> Case:
    data = digit_strips(num_train=2000 if quick else 8000, num_validation=64, num_test=64)
    return Case(
        name="digits, convolutions",
        train=data.splits["train"],
        network=lambda: digits_cnn(num_labels=10),
        batch_size=64,
    )


def bibtex(quick: bool) -> Case:
    rng = np.random.default_rng(0)
    if (data_folder() / "mulan" / "bibtex").is_dir():
        name = "bibtex, multilayer perceptron"
        loaded = load("bibtex")
        x, y = loaded.train_inputs, loaded.train_targets_NL
        x = (x.toarray() if hasattr(x, "toarray") else x).astype(np.float32)
    else:
        name = "random, of bibtex's size"
        x = (rng.random((4880, 1836)) < 0.037).astype(np.float32)
        y = rng.random((4880, 159)) < 0.015
    rows = slice(0, 2000 if quick else None)
    return Case(
        name=name,
        train=Split(inputs={"features": x[rows]}, targets_NL=np.asarray(y, np.float32)[rows]),
        network=lambda: mlp(
            num_labels=y.shape[1], num_features=x.shape[1], hidden=(512,), dropout=0.3
        ),
        batch_size=64,
    )


def tokens(quick: bool) -> Case:
    """Token ids: goemotions' where the files and the tokenizer are at hand, else random ones."""
    num_rows = 2000 if quick else 12_000
    try:
        recipe = load_toml(ROOT / "training" / "recipes" / "goemotions-light.toml", Recipe)
        train = load_data(recipe, [ROOT]).splits["train"]
        name, vocabulary = "goemotions, small encoder", 30_522
        width = 32  # no text is cut off each batch here: the bare loop does not do that either
        inputs = {key: array[:num_rows, :width] for key, array in train.inputs.items()}
        targets_NL = train.targets_NL[:num_rows]
    except ThresherError as error:
        print(f"random token ids instead of goemotions: {error}", file=sys.stderr)
        rng = np.random.default_rng(0)
        name, vocabulary, width = "random token ids, small encoder", 8000, 32
        lengths = np.clip(rng.normal(14, 7, num_rows).astype(int), 2, width)
        mask = (np.arange(width) < lengths[:, None]).astype(np.int64)
        ids = rng.integers(1, vocabulary, (num_rows, width)) * mask
        inputs = {"input_ids": ids, "attention_mask": mask}
        targets_NL = (rng.random((num_rows, 28)) < 0.04).astype(np.float32)
    return Case(
        name=name,
        train=Split(inputs=inputs, targets_NL=targets_NL),
        network=lambda: Encoder(vocabulary, 28),
        batch_size=64,
    )


def bare(case: Case, epochs: int) -> float:
    """Return the seconds that the shortest loop takes."""
    with seeded(0):
        network = case.network()
        inputs = {name: as_tensor(array) for name, array in case.train.inputs.items()}
        targets = as_tensor(case.train.targets_NL)
        started = time.perf_counter()
        network.train()
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
        loss_of = nn.BCEWithLogitsLoss()
        for _ in range(epochs):
            total = 0.0
            order = torch.randperm(len(targets))
            for rows in order.split(case.batch_size):
                logits = network(**{name: tensor[rows] for name, tensor in inputs.items()})
                loss = loss_of(logits, targets[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.item()
        return time.perf_counter() - started


def ours(case: Case, epochs: int) -> tuple[float, float]:
    """Return the seconds that `fit` takes, and the share of them in which it waits for data."""
    with seeded(0):
        network = case.network()
    few = Split(
        inputs={name: array[:64] for name, array in case.train.inputs.items()},
        targets_NL=np.round(case.train.targets_NL[:64]),
    )
    config = OptimizationConfig(epochs=epochs, batch_size=case.batch_size, device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        result = fit(
            *(network, case.train, few, BceLoss(), config),
            seed=0,
            checkpoints=Checkpoints("benchmark", root=Path(folder)),
        )
        seconds = time.perf_counter() - started
    waits = [epoch.data_wait_fraction for epoch in result.epochs]
    return seconds, statistics.median(waits)


def measure(case: Case, *, epochs: int, repeats: int) -> dict[str, Any]:
    """Return a case's figures; the two take turns, so that both meet the same machine."""
    bare(case, 1)
    ours(case, 1)
    pairs = [(bare(case, epochs), *ours(case, epochs)) for _ in range(repeats)]
    rows = len(case.train) * epochs
    bare_s, ours_s = (statistics.median(pair[at] for pair in pairs) for at in (0, 1))
    return {
        "case": case.name,
        "rows": len(case.train),
        "batch_size": case.batch_size,
        "epochs": epochs,
        "repeats": repeats,
        "bare_rows_per_s": round(rows / bare_s),
        "fit_rows_per_s": round(rows / ours_s),
        "times_as_long": round(statistics.median(o / b for b, o, _ in pairs), 3),
        "waiting_for_data": round(statistics.median(pair[2] for pair in pairs), 4),
    }


def show(cases: list[dict[str, Any]]) -> None:
    """Print all cases as a table."""
    print(f"{'case':32}{'bare rows/s':>13}{'fit rows/s':>12}{'times as long':>15}{'waiting':>9}")
    for case in cases:
        print(
            f"{case['case']:32}{case['bare_rows_per_s']:>13,}{case['fit_rows_per_s']:>12,}"
            f"{case['times_as_long']:>15.3f}{case['waiting_for_data']:>9.1%}"
        )
    print(f"{'limit':32}{'':>13}{'':>12}{MOST_TIME:>15.3f}{MOST_WAITING:>9.1%}")


READ = """
import sys, tempfile, time
from thresher_training import sources
path = sys.argv[1]
read = sources.parquet if path.endswith(".parquet") else sources.delimited
begin = time.perf_counter()
with tempfile.TemporaryDirectory() as cache:
    data = read(path, label_columns=["y*"], ignore=["id"], cache=cache)
    assert data.splits["train"].inputs["features"].shape[1] == 50
print(time.perf_counter() - begin)
"""

EPOCHS = """
import training
case = training.digits(True)
training.ours(case, 1)
print(training.ours(case, 4)[0])
"""


def measure_against(commit: str, pairs: int) -> list[dict[str, float | str]]:
    """Return how fast tables are read and epochs pass, in pairs with an older commit."""
    import pyarrow as pa
    import pyarrow.csv as pacsv
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    columns = {"id": np.arange(200_000)}
    columns |= {f"x{at}": rng.normal(size=200_000).astype(np.float32) for at in range(50)}
    columns |= {f"y{at}": (rng.random(200_000) < 0.1).astype(np.int8) for at in range(10)}
    table = pa.table(columns)
    with tempfile.TemporaryDirectory() as temporary, worktree(commit) as before:
        files = {name: Path(temporary) / f"rows.{name}" for name in ("parquet", "csv")}
        pq.write_table(table, files["parquet"])
        pacsv.write_csv(table, files["csv"])
        found = [
            compare(f"reading {name}, 200,000 x 50", before, READ, str(path), pairs=pairs)
            for name, path in files.items()
        ]
        return [*found, compare("4 epochs of digits", before, EPOCHS, pairs=pairs)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rows and repeats")
    parser.add_argument("--threads", type=int, help="threads of torch; its own choice if left out")
    parser.add_argument("--output", type=Path, default=RESULTS, help="where the JSON goes")
    parser.add_argument("--against", metavar="COMMIT", help="pairs with an older commit alone")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    os.environ[DATA] = str(data_folder().resolve())
    if arguments.against:
        slower = [c for c in measure_against(arguments.against, 5) if float(c["ratio"]) < LEAST]
        sys.exit(f"slower than before: {slower}" if slower else None)
    cases = []
    for make in (digits, bibtex, tokens):
        case = make(arguments.quick)
        cases.append(measure(case, epochs=2, repeats=3 if arguments.quick else 7))
    show(cases)
    machine = {
        "cpu_cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    content = {"machine": machine, "quick": arguments.quick, "cases": cases}
    arguments.output.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    passed = [
        case["case"]
        for case in cases
        if case["times_as_long"] > MOST_TIME or case["waiting_for_data"] > MOST_WAITING
    ]
    if passed:
        sys.exit(f"beyond the limit: {', '.join(passed)}")


if __name__ == "__main__":
    main()
