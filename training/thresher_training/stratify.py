"""Splits that are alike in every label, with groups kept together where rows have one.

Single rows are placed by the package iterative-stratification. It knows no groups, and treating a
group as one row with all its labels ignores how many rows it has: groups are placed here.

Source: K. Sechidis, G. Tsoumakas, I. Vlahavas, "On the Stratification of Multi-Label Data", ECML
PKDD 2011.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from thresher.errors import DataError

__all__ = ["stratify"]

IntArray = npt.NDArray[np.int64]


def stratify(
    targets_NL: npt.NDArray[Any],
    fractions: Sequence[float],
    *,
    groups_N: npt.NDArray[Any] | None = None,
    seed: int = 0,
) -> IntArray:
    """Return the part that each row falls into, [N], with each label shared out as the rows are.

    Args:
        targets_NL: Targets [N, L]; above 0.5 counts as positive, NaN does not.
        fractions: The share of each part; they sum to 1.
        groups_N: Rows of the same group never fall into different parts.
        seed: The same seed gives the same parts.

    Raises:
        DataError: If a share is not between 0 and 1, they do not sum to 1, or a part stays empty.

    Example:
        >>> parts = stratify(np.eye(2).repeat(10, axis=0), [0.8, 0.2])
        >>> [int((parts[:10] == part).sum()) for part in (0, 1)]
        [8, 2]
    """
    shares = np.asarray(fractions, dtype=np.float64)
    if not ((shares > 0) & (shares < 1)).all() or abs(shares.sum() - 1) > 1e-6:
        raise DataError(
            f"the splits' shares are {', '.join(f'{s:g}' for s in shares)}; expected each "
            "between 0 and 1 and all together 1"
        )
    if groups_N is None:
        parts = _by_row(targets_NL, shares, seed=seed)
    else:
        parts = _by_group(targets_NL, shares, groups_N, seed=seed)
    counts = np.bincount(parts, minlength=len(shares))
    if not counts.all():
        units = "" if groups_N is None else f" in {len(np.unique(groups_N))} groups"
        raise DataError(
            f"{len(parts)} rows{units} are too few for shares of "
            f"{', '.join(f'{s:g}' for s in shares)}: a split would be empty"
        )
    return parts


def _by_row(
    targets_NL: npt.NDArray[Any], shares: npt.NDArray[np.float64], *, seed: int
) -> IntArray:
    from iterstrat.ml_stratifiers import (  # type: ignore[import-untyped]
        IterativeStratification,
    )

    num_rows, num_labels = targets_NL.shape
    # rows without any label are shared out too, as if that were one more label
    positive_NL = np.empty((num_rows, num_labels + 1), dtype=bool)
    for start in range(0, num_rows, 65_536):  # targets may lie on disk
        block = slice(start, start + 65_536)
        positive_NL[block, :-1] = targets_NL[block] > 0.5
        positive_NL[block, -1] = ~positive_NL[block, :-1].any(axis=1)
    parts: IntArray = IterativeStratification(
        labels=positive_NL, r=shares, random_state=np.random.RandomState(seed)
    )
    return parts


def _by_group(
    targets_NL: npt.NDArray[Any],
    shares: npt.NDArray[np.float64],
    groups_N: npt.NDArray[Any],
    *,
    seed: int,
) -> IntArray:
    """Place whole groups, those with most first, each where it brings counts nearest to the shares.

    Near is the squared distance between each part's counts (of labels and of rows) and what the
    part should have, relative to that: rare labels weigh as much as frequent ones.
    """
    _, group_N = np.unique(groups_N, return_inverse=True)
    counts = [
        np.bincount(group_N, weights=np.asarray(targets_NL[:, at]) > 0.5)
        for at in range(targets_NL.shape[1])
    ]
    counts_GC = np.stack([*counts, np.bincount(group_N)], axis=1)
    total_C = np.maximum(counts_GC.sum(axis=0), 1)
    weight_SC = 1 / np.outer(shares, total_C)
    left_SC = np.outer(shares, counts_GC.sum(axis=0))
    order_G = np.random.default_rng(seed).permutation(len(counts_GC))
    size_G = (counts_GC / total_C).sum(axis=1)
    part_G = np.zeros(len(counts_GC), dtype=np.int64)
    for group in order_G[np.argsort(-size_G[order_G], kind="stable")]:
        count_C = counts_GC[group]
        # what (left - count)**2 - left**2 comes to
        added_S = ((count_C**2 - 2 * count_C * left_SC) * weight_SC).sum(axis=1)
        part_G[group] = np.argmin(added_S)
        left_SC[part_G[group]] -= count_C
    return part_G[group_N]
