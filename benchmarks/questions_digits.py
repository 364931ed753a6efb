"""BCE or cross-entropy where exactly one label is right? scikit-learn's digits, both losses."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from bare_training import Rows, fitted, mlp
from sklearn.datasets import load_digits
from sklearn.metrics import log_loss
from torch import nn

__all__ = ["digits"]

DIGITS = (
    ("1,097 rows, cut short (30 epochs, rate 0.002)", None, 30, 2e-3),
    ("1,097 rows, to the end (150 epochs, rate 0.01)", None, 150, 1e-2),
    ("100 rows, to the end (300 epochs, rate 0.01)", 100, 300, 1e-2),
)
"""What is told, rows, epochs, learning rate."""

Runs = list[dict[str, Any]]


def digits(*, quick: bool) -> Runs:
    """BCE or cross-entropy on single-label digits?"""
    pictures, classes = load_digits(return_X_y=True)
    features = torch.from_numpy(pictures.astype(np.float32) / 16)
    found = []
    for seed in range(2 if quick else 10):
        order = np.random.default_rng(seed).permutation(len(classes))
        test, validation, rest = np.split(order, [400, 700])
        for what, num_rows, epochs, learning_rate in DIGITS:
            at = rest[:num_rows]
            rows = Rows(features=features[at], targets_NL=np.eye(10, dtype=np.float32)[classes[at]])
            for name, loss, targets in (
                ("cross-entropy", nn.CrossEntropyLoss(), torch.from_numpy(classes[at])),
                ("BCE", nn.BCEWithLogitsLoss(), None),
            ):

                def said(network: nn.Module, at: np.ndarray, name: str = name) -> np.ndarray:
                    with torch.inference_mode():
                        logits = network(features[at]).double()
                    return _of_one_class(logits, softmax=name == "cross-entropy")

                network = fitted(
                    partial(mlp, 64, 10, 64),
                    loss,
                    rows,
                    lambda n, said=said, at=validation: -log_loss(classes[at], said(n, at)),
                    seed=seed,
                    epochs=epochs,
                    learning_rate=learning_rate,
                    targets=targets,
                ).network
                on_test = said(network, test)
                found.append(
                    {
                        "set": what,
                        "what": name,
                        "seed": seed,
                        "accuracy, %": 100 * float((on_test.argmax(1) == classes[test]).mean()),
                        "log loss": float(log_loss(classes[test], on_test)),
                        "ECE, %": 100 * top_label_ece(on_test, classes[test]),
                    }
                )
    return found


def _of_one_class(logits: torch.Tensor, *, softmax: bool) -> np.ndarray:
    """Return probabilities that add up to 1: a softmax, or sigmoids over their sum."""
    said = logits.softmax(dim=1) if softmax else logits.sigmoid()
    return (said / said.sum(dim=1, keepdim=True)).numpy()


def top_label_ece(said: np.ndarray, classes: np.ndarray, num_bins: int = 15) -> float:
    """Return how far the likeliest class's probability is from how often it is right."""
    confidence, right = said.max(axis=1), said.argmax(axis=1) == classes
    bins = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
    gaps = [abs((right[bins == b] - confidence[bins == b]).sum()) for b in range(num_bins)]
    return float(sum(gaps) / len(classes))
