"""What the recipes reach on real data: whole training runs, thresholds without the test split.

    python benchmarks/trained.py                    # every recipe; hours on two cores
    python benchmarks/trained.py --only emotions    # one, or several; the rest is kept
    python benchmarks/trained.py --quick            # emotions, one seed; only prints

A run is what `thresher train RECIPE --set seed=N` does. Each figure is that of thresholds chosen
for it, on the rows that the run logged for that purpose. Runs are kept in
benchmarks/results/trained.json as they end; those that are there, of the same recipe, are not
measured again, and weights that are there from another [decision] are not trained again. The table
is put into docs/results.md.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import platform
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from page import put, table
from real_data import DATA, KEPT, ROOT, data_folder

from thresher.config import load_toml, to_toml
from thresher.registry import resolve
from thresher_training import DecisionConfig, Recipe, train
from thresher_training.decisions import tune_decision
from thresher_training.metrics import metrics

RECIPES = ROOT / "training" / "recipes"
RESULTS = ROOT / "benchmarks" / "results" / "trained.json"
PAGE = ROOT / "docs" / "results.md"
VERSIONS = KEPT / "trained" / "versions.json"
"""The store's versions, by what their weights depend on."""

SEEDS = {
    "emotions": 5,
    "yeast": 5,
    "bibtex": 2,
    "delicious": 1,
    "miml": 3,
    "goemotions-light": 1,
    "goemotions-minilm": 1,
}
OBJECTIVES = {"micro_f1": "micro_f1", "macro_f1": "f1", "hamming_loss": "cost(fp=1,fn=1)"}
"""Each figure with the objective that is meant for it."""

LINEAR = {
    "emotions": (0.701, 0.700),
    "yeast": (0.650, 0.475),
    "bibtex": (0.473, 0.386),
    "delicious": (0.374, 0.185),
    "goemotions-light": (0.521, 0.452),
    "goemotions-minilm": (0.521, 0.452),
}
"""Micro- and macro-F1 of logistic regression per label (goemotions: TF-IDF of 1- and 2-grams), each
under the thresholds that are best for it: one for all or one for each label, cross-validated."""

AIMS = {
    "emotions": (0.72, 0.71),
    "yeast": (0.67, 0.50),
    "bibtex": (0.50, 0.41),
    "delicious": (0.40, 0.21),
    "miml": (None, 0.62),
    "goemotions-light": (None, 0.47),
    "goemotions-minilm": (None, 0.51),
}
"""Micro- and macro-F1 that were aimed at before anything was trained."""


def measure(recipe: Recipe) -> dict[str, float]:
    """Return the test figures of one training run, and how long it took."""
    trained, seconds = _trained(recipe)
    version = resolve(trained)
    labels, test = version.decision().labels, version.evaluation("test")
    rows = version.evaluation("validation")
    figures = {"seconds": seconds}
    for figure, objective in OBJECTIVES.items():
        config = replace(recipe.decision, objective=objective)
        decision = tune_decision(labels, rows.unseen_logits_NL, rows.targets_NL, config).decision
        for name, split, logits_NL in (
            ("tuned_rows", rows, rows.unseen_logits_NL),
            ("test", test, test.logits_NL),
        ):
            found = metrics(split.targets_NL, decision.apply(logits_NL)[1])
            figures[f"{name}/{figure}"] = getattr(found, figure)
    return figures


def _trained(recipe: Recipe) -> tuple[str, float]:
    """Return the URI of a recipe's trained version, and the seconds of its training."""
    weights = _digest(replace(recipe, decision=DecisionConfig()))
    kept = json.loads(VERSIONS.read_text("utf-8")) if VERSIONS.is_file() else {}
    if weights not in kept:
        start = time.perf_counter()
        uri = train(recipe, recipe_folder=RECIPES).uri
        found = {weights: [uri, time.perf_counter() - start]}
        kept = {**(json.loads(VERSIONS.read_text("utf-8")) if VERSIONS.is_file() else {}), **found}
        VERSIONS.write_text(json.dumps(kept, indent=1), encoding="utf-8")
    uri, seconds = kept[weights]
    return uri, seconds


def _digest(recipe: Recipe) -> str:
    return hashlib.sha256(to_toml(recipe).encode()).hexdigest()[:16]


def main() -> None:
    """Train what is asked for and not there yet; write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--only", nargs="+", choices=SEEDS, default=list(SEEDS), metavar="RECIPE")
    parser.add_argument("--quick", action="store_true", help="emotions, one seed, only printed")
    asked = parser.parse_args()
    os.environ[DATA] = str(data_folder().resolve())
    folder = KEPT / "trained"
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)  # the store of these runs, apart from the user's
    for name in ["emotions"] if asked.quick else asked.only:
        recipe = load_toml(RECIPES / f"{name}.toml", Recipe)
        digest = _digest(recipe)
        for seed in range(1 if asked.quick else SEEDS[name]):
            if not asked.quick and str(seed) in _kept(name, digest):
                continue
            found = measure(replace(recipe, seed=seed))
            print(name, seed, json.dumps(found), flush=True)
            if not asked.quick:
                _keep(name, digest, seed, found)
    if not asked.quick:
        put(PAGE, "networks", page(_read()))


def page(kept: dict[str, Any]) -> str:
    """Return the table of all recipes as Markdown."""
    rows = []
    for name in (name for name in SEEDS if name in kept):
        runs = list(kept[name]["runs"].values())
        aims = [*AIMS[name], 0.20 if name == "yeast" else None]
        linear = [*LINEAR.get(name, (None, None)), None]
        cells = [f"`{name}`", str(len(runs))]
        for figure, aim, before in zip(OBJECTIVES, aims, linear, strict=True):
            values = [run[f"test/{figure}"] for run in runs]
            spread = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
            told = [f"linear {before:.3f}"] if before else []
            told += [f"aim {aim:.2f}"] if aim else []
            cells.append(
                f"**{np.mean(values):.4f}**{spread}" + f" ({', '.join(told)})" * bool(told)
            )
        seconds = np.mean([run["seconds"] for run in runs])
        rows.append([*cells, f"{seconds / 60:.1f}"])
    heads = ["recipe", "seeds", "micro-F1", "macro-F1", "Hamming loss", "minutes a run"]
    versions = sorted({f"{of['date']}, {of['versions']}" for of in kept.values()})
    return f"{table(heads, rows)}\n\nMeasured: {'; '.join(versions)}."


def _read() -> dict[str, Any]:
    kept: dict[str, Any] = json.loads(RESULTS.read_text("utf-8")) if RESULTS.is_file() else {}
    return kept


def _kept(name: str, digest: str) -> dict[str, Any]:
    """Return a recipe's runs by seed, if they are of this very recipe."""
    found = _read().get(name, {})
    return found["runs"] if found.get("recipe_sha256") == digest else {}


def _keep(name: str, digest: str, seed: int, found: dict[str, float]) -> None:
    """Write a run at once; another process may have written its own in the meantime."""
    runs = {**_kept(name, digest), str(seed): found}
    entry = {
        "recipe_sha256": digest,
        "date": str(datetime.datetime.now(tz=datetime.UTC).date()),
        "versions": f"Python {platform.python_version()}, "
        f"torch {torch.__version__.partition('+')[0]} on the CPU",
        "runs": runs,
    }
    part = RESULTS.with_suffix(".part")
    part.write_text(json.dumps({**_read(), name: entry}, indent=1) + "\n", encoding="utf-8")
    part.replace(RESULTS)


if __name__ == "__main__":
    main()
