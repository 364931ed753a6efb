"""What the training recipes reach on real data: test split, thresholds tuned without it.

    python benchmarks/training_results.py                    # every recipe; hours on two cores
    python benchmarks/training_results.py --only emotions    # one, or several; the rest is kept
    python benchmarks/training_results.py --quick            # emotions with one seed; only prints

Numbers are kept in benchmarks/results/training_results.json, and docs/results.md gets its part on
trained networks from there (`training_report.py`).

The Mulan sets have too few rows to spare some for thresholds, so they are cross-fitted: K networks,
each trained without one fold; thresholds come from the pooled logits of rows that a network has not
seen, and what is tested is the mean of the K networks. The other sets hold out a validation split.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from real_data import ROOT
from training_report import RESULTS, write_report

from thresher.config import load_toml
from thresher.decision import FloatArray
from thresher_training import DataSet, DecisionConfig, Recipe, Split
from thresher_training.decisions import tune_decision
from thresher_training.loop import fit, predict_logits
from thresher_training.metrics import metrics
from thresher_training.networks import Mean
from thresher_training.prepare import load_data, prepare
from thresher_training.stratify import stratify

RECIPES = ROOT / "training" / "recipes"
OBJECTIVES = {"micro_f1": "micro_f1", "macro_f1": "f1", "hamming_loss": "cost(fp=1,fn=1)"}
"""Each figure with the objective that is meant for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a recipe is measured."""

    num_seeds: int
    num_folds: int = 0
    """Networks of the cross-fit; 0 for one network and the recipe's own validation split."""


PLANS = {
    "emotions": Plan(num_seeds=5, num_folds=10),
    "yeast": Plan(num_seeds=5, num_folds=5),
    "bibtex": Plan(num_seeds=5, num_folds=5),
    "delicious": Plan(num_seeds=5, num_folds=5),
    "miml": Plan(num_seeds=5),
    "goemotions-light": Plan(num_seeds=3),
    "goemotions-minilm": Plan(num_seeds=1),
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trained:
    """A network, and logits of the rows that it is tuned on."""

    network: torch.nn.Module
    tune_logits_NL: FloatArray
    tune_targets_NL: FloatArray


def train_once(recipe: Recipe, data: DataSet, *, tell: str = "") -> Trained:
    """Train a recipe's network on the train split and tune on the validation split."""
    prepared = prepare(recipe, recipe_folder=RECIPES, data=data)
    train, validation = data.splits["train"], data.splits["validation"]

    def on_epoch(epoch: Any) -> None:
        print(f"{tell} epoch {epoch.epoch}: {_told(epoch)}", file=sys.stderr, flush=True)

    fit(
        *(prepared.network, train, validation, prepared.loss, recipe.optimization),
        seed=recipe.seed,
        augment=data.augment,
        trim_by=data.trim_by,
        on_epoch=on_epoch if tell else lambda _: None,
    )
    logits_NL = predict_logits(prepared.network, validation.inputs, trim_by=data.trim_by)
    return Trained(
        network=prepared.network,
        tune_logits_NL=logits_NL,
        tune_targets_NL=validation.targets_NL,
    )


def cross_fit(recipe: Recipe, data: DataSet, num_folds: int, *, tell: str = "") -> Trained:
    """Train a network without each fold of the train and validation rows; return their mean.

    A row's logits are those of the one network that was trained without it.
    """
    rows = _joined(data.splits["train"], data.splits["validation"])
    fold_N = stratify(rows.targets_NL, [1 / num_folds] * num_folds, seed=recipe.seed)
    tune_logits_NL = np.empty_like(rows.targets_NL)
    networks = []
    for fold in range(num_folds):
        held_out = fold_N == fold
        splits = {
            **data.splits,
            "train": _rows(rows, ~held_out),
            "validation": _rows(rows, held_out),
        }
        one = replace(recipe, seed=recipe.seed * num_folds + fold)
        found = train_once(one, replace(data, splits=splits))
        tune_logits_NL[held_out] = found.tune_logits_NL
        networks.append(found.network)
        if tell:
            print(f"{tell} fold {fold + 1} of {num_folds}", file=sys.stderr, flush=True)
    return Trained(
        network=Mean(networks), tune_logits_NL=tune_logits_NL, tune_targets_NL=rows.targets_NL
    )


def _joined(first: Split, second: Split) -> Split:
    inputs = {k: np.concatenate([array, second.inputs[k]]) for k, array in first.inputs.items()}
    targets_NL = np.concatenate([first.targets_NL, second.targets_NL])
    return Split(inputs=inputs, targets_NL=targets_NL)


def _rows(split: Split, chosen_N: np.ndarray) -> Split:
    inputs = {name: array[chosen_N] for name, array in split.inputs.items()}
    return Split(inputs=inputs, targets_NL=split.targets_NL[chosen_N])


def _told(epoch: Any) -> str:
    shown = ("mean_average_precision", "micro_f1", "macro_f1")
    figures = ", ".join(f"{key} {epoch.validation[key]:.4f}" for key in shown)
    return f"loss {epoch.train_loss:.4f}, {figures}, {epoch.seconds:.0f} s"


def load_recipe(name: str) -> tuple[Recipe, DataSet]:
    """Return a recipe of the project with its data."""
    recipe = load_toml(RECIPES / f"{name}.toml", Recipe)
    return recipe, load_data(recipe, [RECIPES])


def train_by_plan(name: str, recipe: Recipe, data: DataSet, *, tell: str = "") -> Trained:
    """Train a recipe as `PLANS` says."""
    num_folds = PLANS[name].num_folds
    if num_folds:
        return cross_fit(recipe, data, num_folds, tell=tell)
    return train_once(recipe, data, tell=tell)


def measure(name: str, recipe: Recipe, data: DataSet) -> dict[str, float]:
    """Return a run's test figures, each under its own objective, and how long training took."""
    start = time.perf_counter()
    found = train_by_plan(name, recipe, data, tell=f"{name}, seed {recipe.seed},")
    seconds = time.perf_counter() - start
    test = data.splits["test"]
    logits_NL = predict_logits(found.network, test.inputs, trim_by=data.trim_by)
    figures: dict[str, float] = {"seconds": seconds}
    for figure, objective in OBJECTIVES.items():
        config = DecisionConfig(objective=objective, min_positives=1)
        tuned = tune_decision(data.labels, found.tune_logits_NL, found.tune_targets_NL, config)
        decided_NL = tuned.decision.apply(logits_NL)[1]
        tune_NL = tuned.decision.apply(found.tune_logits_NL)[1]
        figures[figure] = getattr(metrics(test.targets_NL, decided_NL), figure)
        figures[f"tuned_rows_{figure}"] = getattr(metrics(found.tune_targets_NL, tune_NL), figure)
    return figures


def main() -> None:
    """Run the recipes that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--only", nargs="+", choices=PLANS, default=list(PLANS), metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="emotions, one seed, only printed")
    asked = parser.parse_args()
    os.chdir(ROOT)  # the recipes' default folder of the data is named from here
    kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    for name in ["emotions"] if asked.quick else asked.only:
        recipe, data = load_recipe(name)
        runs = []
        for seed in range(1 if asked.quick else PLANS[name].num_seeds):
            runs.append(measure(name, replace(recipe, seed=seed), data))
            print(name, json.dumps(runs[-1]), flush=True)
            if not asked.quick:
                _keep(kept, name, runs, data)
    if not asked.quick:
        write_report()


def _keep(kept: dict[str, Any], name: str, runs: list[dict[str, float]], data: DataSet) -> None:
    """Write what is known so far: the next run may take an hour."""
    kept[name] = {
        "date": str(datetime.datetime.now(tz=datetime.UTC).date()),
        "torch": torch.__version__,
        "num_threads": torch.get_num_threads(),
        "num_folds": PLANS[name].num_folds,
        "rows": {split: len(rows) for split, rows in data.splits.items()},
        "labels": data.num_labels,
        "runs": runs,
    }
    # another process may have written its own recipes in the meantime
    now = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    text = json.dumps({**now, name: kept[name]}, indent=1)
    part = Path(f"{RESULTS}.part")
    part.write_text(text + "\n", encoding="utf-8")
    part.replace(RESULTS)


if __name__ == "__main__":
    main()
