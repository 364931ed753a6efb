"""What the labels of a data set are like: how many a row, how uneven, together, or missing.

Source of the imbalance figures: F. Charte et al., "Addressing imbalance in multilabel
classification: Measures and random resampling algorithms", Neurocomputing 163, 2015: a label's
imbalance ratio is the count of the most frequent label over its own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from thresher_training.data import DataSet, Split, SplitName
from thresher_training.spreadsheet import write_csv

__all__ = ["DataStatistics", "LabelPair", "SplitStatistics", "describe", "write_statistics"]

_BLOCK_ROWS = 16_384
_NUM_PAIRS = 50
_MIN_TOGETHER = 10  # fewer rows say little about two labels


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SplitStatistics:
    """The labels of one split; unknown targets count as neither positive nor negative."""

    num_rows: int
    """N."""

    cardinality: float
    """Mean number of labels a row."""

    density: float
    """Share of positives among the known targets; cardinality over L where all are known."""

    max_labels: int
    """The most labels that a row has."""

    num_without_labels: int
    """Rows with no label."""

    num_label_sets: int
    """Distinct sets of labels."""

    missing_share: float
    """Share of unknown targets."""

    mean_imbalance: float
    """Mean imbalance ratio over the labels with positives; NaN where there are none."""

    max_imbalance: float
    """The rarest label's."""

    imbalance_variation: float
    """Standard deviation of the imbalance ratio over its mean (CVIR)."""

    num_without_positives: int
    """Labels that no row has."""

    positives_L: npt.NDArray[np.float64]
    """Rows with each label, [L]; soft targets count as far as they go."""

    known_L: npt.NDArray[np.int64]
    """Rows whose target is known, [L]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelPair:
    """Two labels and how often a train row has both."""

    first: str
    second: str

    count: int
    """Train rows with both."""

    lift: float
    """Count over what it would be if the two were independent."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DataStatistics:
    """What `describe` returns."""

    labels: tuple[str, ...]
    splits: Mapping[SplitName, SplitStatistics]

    together_LL: npt.NDArray[np.int64]
    """Train rows with both labels, [L, L]; each label's own count on the diagonal."""

    frequent_pairs: tuple[LabelPair, ...]
    """The pairs that most train rows have, most frequent first."""

    strong_pairs: tuple[LabelPair, ...]
    """The pairs of highest lift among those that at least ten train rows have."""

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each label: positives, share and imbalance ratio by split."""
        found: list[dict[str, Any]] = [{"label": label} for label in self.labels]
        for name, split in self.splits.items():
            ratio_L = imbalance_ratios(split.positives_L)
            for at, row in enumerate(found):
                positives, known = float(split.positives_L[at]), int(split.known_L[at])
                row[f"{name}_positives"] = round(positives, 3)
                row[f"{name}_share"] = round(positives / known, 6) if known else None
                row[f"{name}_missing"] = split.num_rows - known
                ratio = float(ratio_L[at])
                row[f"{name}_imbalance"] = round(ratio, 3) if math.isfinite(ratio) else None
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the matrix, as JSON takes it; NaN becomes None."""
        splits = {}
        for name, split in self.splits.items():
            told = asdict(split)
            told["positives"] = [round(float(p), 3) for p in told.pop("positives_L")]
            told["known"] = [int(k) for k in told.pop("known_L")]
            splits[name] = {k: _finite(v) for k, v in told.items()}
        return {
            "labels": list(self.labels),
            "splits": splits,
            "frequent_pairs": [asdict(pair) for pair in self.frequent_pairs],
            "strong_pairs": [asdict(pair) for pair in self.strong_pairs],
        }

    def summary(self) -> str:
        """Return tables of the splits and of the pairs, in Markdown."""
        lines = [f"| | {' | '.join(self.splits)} |", f"|---|{'---:|' * len(self.splits)}"]
        for title, key, form in _SUMMARY:
            cells = (format(getattr(split, key), form) for split in self.splits.values())
            lines.append(f"| {title} | {' | '.join(cells)} |")
        for title, pairs in (
            ("Most frequent pairs in train", self.frequent_pairs[:10]),
            ("Strongest pairs in train", self.strong_pairs[:10]),
        ):
            if pairs:
                lines += ["", f"| {title} | rows with both | lift |", "|---|---:|---:|"]
                lines += [
                    f"| {_cell(p.first)} + {_cell(p.second)} | {p.count} | {p.lift:.2f} |"
                    for p in pairs
                ]
        return "\n".join(lines) + "\n"


_SUMMARY = (
    ("rows", "num_rows", ",d"),
    ("labels a row (cardinality)", "cardinality", ".3f"),
    ("share of positives (density)", "density", ".4f"),
    ("most labels of a row", "max_labels", "d"),
    ("rows without labels", "num_without_labels", ",d"),
    ("distinct label sets", "num_label_sets", ",d"),
    ("unknown targets", "missing_share", ".2%"),
    ("mean imbalance ratio", "mean_imbalance", ".1f"),
    ("largest imbalance ratio", "max_imbalance", ".1f"),
    ("variation of the imbalance ratio", "imbalance_variation", ".2f"),
    ("labels without positives", "num_without_positives", ",d"),
)


def describe(data: DataSet) -> DataStatistics:
    """Return the statistics of a data set's labels, read block by block."""
    train = data.splits["train"]
    together_LL = np.zeros((data.num_labels, data.num_labels), dtype=np.float64)
    for _, positive_NL in _blocks(train):
        rows = positive_NL.astype(np.float32)  # exact: a block has far fewer than 2**24 rows
        together_LL += rows.T @ rows
    counts_LL = together_LL.round().astype(np.int64)
    frequent, strong = _pairs(data.labels, counts_LL, len(train))
    return DataStatistics(
        labels=data.labels,
        splits={name: _describe_split(split) for name, split in data.splits.items()},
        together_LL=counts_LL,
        frequent_pairs=frequent,
        strong_pairs=strong,
    )


def imbalance_ratios(positives_L: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return each label's imbalance ratio, [L]; NaN for a label without positives.

    Example:
        >>> imbalance_ratios(np.array([100.0, 25.0, 0.0])).tolist()
        [1.0, 4.0, nan]
    """
    most = positives_L.max(initial=0.0)
    ratios_L = np.full(len(positives_L), np.nan)
    np.divide(most, positives_L, out=ratios_L, where=positives_L > 0)
    return ratios_L


def write_statistics(statistics: DataStatistics, folder: Path) -> list[Path]:
    """Write summary, tables and picture; returns the files.

    Args:
        statistics: What `describe` returned.
        folder: Made where it does not exist.
    """
    from thresher_training.statistics_plot import statistics_chart

    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / name for name in ("summary.md", "statistics.json", "labels.csv", "pairs.csv")]
    files[0].write_text(statistics.summary(), encoding="utf-8")
    files[1].write_text(json.dumps(statistics.to_dict(), indent=1) + "\n", encoding="utf-8")
    _write_rows(files[2], statistics.rows())
    chosen = dict.fromkeys((*statistics.frequent_pairs, *statistics.strong_pairs))
    _write_rows(files[3], [asdict(pair) for pair in chosen])
    picture = folder / "statistics.png"
    statistics_chart(statistics, picture)
    return [*files, picture]


def _describe_split(split: Split) -> SplitStatistics:
    num_labels = split.targets_NL.shape[1]
    positives_L, known_L = np.zeros(num_labels), np.zeros(num_labels, dtype=np.int64)
    most, without, num_positive = 0, 0, 0
    sets: set[bytes] = set()
    for targets_NL, positive_NL in _blocks(split):
        positives_L += np.nansum(targets_NL, axis=0, dtype=np.float64)
        known_L += (~np.isnan(targets_NL)).sum(axis=0)
        counts_N = positive_NL.sum(axis=1)
        num_positive += int(counts_N.sum())
        most, without = max(most, int(counts_N.max())), without + int((counts_N == 0).sum())
        sets.update(row.tobytes() for row in np.packbits(positive_NL, axis=1))
    num_known = int(known_L.sum())
    ratios = imbalance_ratios(positives_L)
    ratios = ratios[~np.isnan(ratios)]
    mean = float(ratios.mean()) if len(ratios) else math.nan
    return SplitStatistics(
        num_rows=len(split),
        cardinality=num_positive / len(split),
        density=num_positive / num_known if num_known else math.nan,
        max_labels=most,
        num_without_labels=without,
        num_label_sets=len(sets),
        missing_share=1 - num_known / split.targets_NL.size,
        mean_imbalance=mean,
        max_imbalance=float(ratios.max()) if len(ratios) else math.nan,
        imbalance_variation=float(ratios.std(ddof=1)) / mean if len(ratios) > 1 else 0.0,
        num_without_positives=int((positives_L == 0).sum()),
        positives_L=positives_L,
        known_L=known_L,
    )


def _blocks(split: Split) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]]:
    """Yield targets and which of them are positive (above 0.5, where they are soft)."""
    for start in range(0, len(split), _BLOCK_ROWS):
        targets_NL = split.targets_NL[start : start + _BLOCK_ROWS]
        yield targets_NL, targets_NL > 0.5


def _pairs(
    labels: tuple[str, ...], together_LL: npt.NDArray[np.int64], num_rows: int
) -> tuple[tuple[LabelPair, ...], tuple[LabelPair, ...]]:
    first, second = np.triu_indices(len(labels), k=1)
    count = together_LL[first, second]
    kept = count > 0
    first, second, count = first[kept], second[kept], count[kept]
    own = together_LL.diagonal().astype(np.float64)
    lift = count * num_rows / (own[first] * own[second])

    def pairs(order: npt.NDArray[np.intp]) -> tuple[LabelPair, ...]:
        return tuple(
            LabelPair(
                first=labels[first[at]],
                second=labels[second[at]],
                count=int(count[at]),
                lift=round(float(lift[at]), 4),
            )
            for at in order[:_NUM_PAIRS]
        )

    by_lift = np.argsort(-lift, kind="stable")
    return pairs(np.argsort(-count, kind="stable")), pairs(by_lift[count[by_lift] >= _MIN_TOGETHER])


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    columns = list(rows[0]) if rows else ["first", "second"]
    write_csv(path, columns, [[row[column] for column in columns] for row in rows])


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cell(name: str) -> str:
    return name.replace("|", r"\|")
