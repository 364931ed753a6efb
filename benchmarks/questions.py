"""Questions that are asked about losses again and again, each answered by something run.

    python benchmarks/questions.py NAME    # one of: digits, losses, correlation, soft_margin, ...
    python benchmarks/questions.py --all   # all, about an hour on one core
    python benchmarks/questions.py --all --quick   # 2 seeds and yeast alone; writes nothing

Writes benchmarks/results/questions.json, and the tables in docs/questions.md between their markers.
The data's folder is named by the environment variable THRESHER_DATA.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bare_training import (
    Fitted,
    Task,
    calibration_scores,
    fitted,
    logits_of,
    mean_average_precision,
    mlp,
    scores,
    task,
)
from questions_digits import digits
from questions_report import QUESTIONS, write_tables
from torch import nn

from thresher_training import LossConfig
from thresher_training.correlation import with_correlation
from thresher_training.losses import BceLoss, build_loss
from thresher_training.recipe import CorrelationConfig
from thresher_training.sampler import label_aware_weights
from thresher_training.weights import label_weights

RESULTS = Path(__file__).parent / "results" / "questions.json"
EPOCHS = {"yeast": 40, "bibtex": 20}
RATES = {"yeast": (1e-3, 5e-3), "bibtex": (3e-3, 1e-2)}
"""Both are tried for every setting and seed; the better by validation mAP is reported."""

HIDDEN = 256

LOSSES = {
    "bce": LossConfig(),
    "bce + pos_weight": LossConfig(pos_weight="neg_over_pos"),
    "bce + pos_weight, cap 5": LossConfig(pos_weight="neg_over_pos", pos_weight_cap=5.0),
    "focal": LossConfig(name="focal"),
    "asymmetric": LossConfig(name="asymmetric"),
    "class_balanced": LossConfig(name="class_balanced"),
    "distribution_balanced": LossConfig(name="distribution_balanced"),
}

Runs = list[dict[str, Any]]


def losses(*, quick: bool) -> Runs:
    """Which loss for imbalanced labels, and what does it do to calibration?"""
    found = []
    for name in ("yeast",) if quick else ("yeast", "bibtex"):
        for seed in range(2 if quick else 5):
            data = task(name, seed=seed)
            targets_NL = data.train.targets_NL
            settings = [(what, config, None) for what, config in LOSSES.items()]
            settings.append(
                ("bce + label-aware sampler", LossConfig(), label_aware_weights(targets_NL))
            )
            for what, config, draw in settings:
                start = time.perf_counter()
                loss = build_loss(config, targets_NL, data.labels)
                found_by = _fit(data, name, loss, seed, draw=draw)
                validation_NL, test_NL = (
                    logits_of(found_by.network, r) for r in (data.validation, data.test)
                )
                _, pos_weight_L = label_weights(config, targets_NL, data.labels)
                shift_L = None if pos_weight_L is None else np.log(pos_weight_L.numpy())
                found.append(
                    {
                        "set": name,
                        "what": what,
                        "seed": seed,
                        **scores(data, validation_NL, test_NL),
                        **calibration_scores(data, validation_NL, test_NL, shift_L),
                        "kept epoch": found_by.epoch,
                        "learning rate": found_by.learning_rate,
                        "seconds": time.perf_counter() - start,
                    }
                )
                _say(found[-1])
    return found


def correlation(*, quick: bool) -> Runs:
    """Does a correlation head help?"""
    found = []
    for name in ("yeast",) if quick else ("yeast", "bibtex"):
        for seed in range(2 if quick else 10 if name == "yeast" else 5):
            data = task(name, seed=seed)
            for hidden, base in ((HIDDEN, "network"), (0, "linear")):
                for head in (None, CorrelationConfig(hidden=64)):
                    network = _fit(data, name, BceLoss(), seed, head=head, hidden=hidden).network
                    found.append(
                        {
                            "set": name,
                            "what": f"{base} + head" if head else base,
                            "seed": seed,
                            **scores(
                                data, *(logits_of(network, r) for r in (data.validation, data.test))
                            ),
                        }
                    )
                    _say(found[-1])
    return found


def soft_margin(*, quick: bool) -> Runs:
    """Is MultiLabelSoftMarginLoss something else than BCE?"""
    found = []
    for seed in range(2 if quick else 5):
        data = task("yeast", seed=seed)
        generator = torch.Generator().manual_seed(seed)
        logits = (5 * torch.randn(512, 14, generator=generator)).requires_grad_()
        targets = torch.randint(0, 2, (512, 14), generator=generator).float()
        pair = nn.MultiLabelSoftMarginLoss(), nn.BCEWithLogitsLoss()
        values = [loss(logits, targets) for loss in pair]
        gradients = [torch.autograd.grad(value, logits)[0] for value in values]
        trained = [logits_of(_fit(data, "yeast", loss, seed).network, data.test) for loss in pair]
        found.append(
            {
                "set": "yeast",
                "what": "largest difference",
                "seed": seed,
                "loss": abs((values[0] - values[1]).item()),
                "gradient": (gradients[0] - gradients[1]).abs().max().item(),
                "test logits after training": float(np.abs(trained[0] - trained[1]).max()),
                "decisions that differ": int(((trained[0] >= 0) != (trained[1] >= 0)).sum()),
            }
        )
    return found


def double_sigmoid(*, quick: bool) -> Runs:
    """What does a sigmoid inside the network do to training?"""
    found = []
    for seed in range(2 if quick else 5):
        data = task("yeast", seed=seed)
        for what in ("logits", "sigmoid inside", "sigmoid inside, 3 times the epochs"):
            network = _fit(
                data,
                "yeast",
                BceLoss(),
                seed,
                epochs=EPOCHS["yeast"] * (3 if "3 times" in what else 1),
                last=nn.Identity() if what == "logits" else nn.Sigmoid(),
            ).network
            outputs = {
                k: logits_of(network, getattr(data, k)) for k in ("train", "validation", "test")
            }
            targets = torch.from_numpy(data.train.targets_NL)
            found.append(
                {
                    "set": "yeast",
                    "what": what,
                    "seed": seed,
                    "train loss": BceLoss()(torch.from_numpy(outputs["train"]), targets).item(),
                    "lowest probability": float(1 / (1 + np.exp(-outputs["test"].min()))),
                    "highest probability": float(1 / (1 + np.exp(-outputs["test"].max()))),
                    "labels said per row": float((outputs["test"] >= 0).sum(axis=1).mean()),
                    **scores(data, outputs["validation"], outputs["test"]),
                    **calibration_scores(data, outputs["validation"], outputs["test"]),
                }
            )
            _say(found[-1])
    return found


EXPERIMENTS = {
    "digits": digits,
    "losses": losses,
    "correlation": correlation,
    "soft_margin": soft_margin,
    "double_sigmoid": double_sigmoid,
}


def _fit(
    data: Task,
    name: str,
    loss: nn.Module,
    seed: int,
    *,
    head=None,
    hidden=HIDDEN,
    epochs=0,
    last=None,
    draw=None,
) -> Fitted:
    """Return the better of the learning rates."""
    num_labels = len(data.labels)

    def make() -> nn.Module:
        network = mlp(data.train.features.shape[1], num_labels, hidden, last=last)
        return with_correlation(network, head, num_labels) if head else network

    tried = [
        fitted(
            make,
            loss,
            data.train,
            lambda n: mean_average_precision(
                logits_of(n, data.validation), data.validation.targets_NL
            ),
            seed=seed,
            epochs=epochs or EPOCHS[name],
            learning_rate=rate,
            draw=draw,
        )
        for rate in RATES[name]
    ]
    return max(tried, key=lambda each: each.goodness)


def _say(run: dict[str, Any]) -> None:
    print(
        json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in run.items()}),
        file=sys.stderr,
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("name", nargs="?", choices=list(EXPERIMENTS))
    parser.add_argument("--all", action="store_true", help="every question")
    parser.add_argument("--quick", action="store_true", help="2 seeds, yeast alone; writes nothing")
    asked = parser.parse_args()
    if not asked.all and not asked.name:
        parser.error("name a question, or give --all")
    torch.set_num_threads(1)
    kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    for name in EXPERIMENTS if asked.all else [asked.name]:
        start = time.perf_counter()
        runs = EXPERIMENTS[name](quick=asked.quick)
        kept[name] = {"runs": runs, "seconds": round(time.perf_counter() - start)}
        for question in QUESTIONS:
            if question.runs == name:
                print(f"\n{question.table(runs)}", flush=True)
        if not asked.quick:
            RESULTS.parent.mkdir(exist_ok=True)
            RESULTS.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
            write_tables(kept)


if __name__ == "__main__":
    main()
