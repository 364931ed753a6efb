"""Tables of a training's report: labels, and the thresholds side by side."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from pathlib import Path
from string import Template

from thresher.evaluation import EvaluationSplit
from thresher_training.decisions import TunedDecision
from thresher_training.metrics import LabelMetrics, label_table, metrics
from thresher_training.spreadsheet import write_csv

__all__ = ["SHOWN", "side_by_side", "write_label_tables", "write_side_by_side"]

SHOWN = {
    "at_0.5": "0.5 for every label",
    "shared": "one for all labels",
    "tuned": "one for each label",
}
"""What the compared decisions are called, by name."""

_COLUMNS = (
    *("label", "support", "threshold", "precision", "recall", "f1", "f1_at_0.5"),
    *("average_precision", "validation_positives", "fell_back", "gap"),
)

Figures = Mapping[tuple[str, str], Mapping[str, float]]
"""Metrics by name, for each split and decision."""


def write_label_tables(
    tuned: TunedDecision, evaluations: Mapping[str, EvaluationSplit], folder: Path
) -> tuple[tuple[LabelMetrics, ...], tuple[LabelMetrics, ...]]:
    """Write ``labels.csv`` (test) and ``labels_validation.csv``; return test's, tuned and at 0.5.

    The rows are those of the epoch that was kept.

    Args:
        tuned: The decision and what it is compared with.
        evaluations: The splits ``"validation"`` and ``"test"``.
        folder: An existing folder.
    """
    rows = {}
    for name, file in (("validation", "labels_validation.csv"), ("test", "labels.csv")):
        split = evaluations[name]
        probabilities_NL = tuned.decision.probabilities(split.unseen_logits_NL)
        at_half, at_own = (
            label_table(split.targets_NL, probabilities_NL, tuned.compared[which])
            for which in ("at_0.5", "tuned")
        )
        rows[name] = (at_own, at_half)
        lines = []
        for row, half, tuning in zip(at_own, at_half, tuned.report, strict=True):
            fell_back = str(tuning.origin == "shared").lower()
            figures = (row.precision, row.recall, row.f1, half.f1, row.average_precision)
            lines.append(
                (
                    *(row.label, row.support, row.threshold),
                    *("" if math.isnan(x) else f"{x:.4f}" for x in figures),
                    *(tuning.positives, fell_back, f"{tuning.gap:.3g}"),
                )
            )
        write_csv(folder / file, _COLUMNS, lines)
    return rows["test"]


def side_by_side(tuned: TunedDecision, evaluations: Mapping[str, EvaluationSplit]) -> Figures:
    """Return all metrics at 0.5, shared and tuned thresholds, for each split.

    Args:
        tuned: The decision and what it is compared with.
        evaluations: Splits by name.
    """
    found = {}
    for name, split in evaluations.items():
        for which, decision in tuned.compared.items():
            _, predicted_NL = decision.apply(split.unseen_logits_NL)
            found[name, which] = metrics(split.targets_NL, predicted_NL).to_dict()
    return found


def write_side_by_side(
    found: Figures, folder: Path, *, title: str, chosen_for: Mapping[str, str]
) -> None:
    """Write ``side_by_side.csv`` and ``side_by_side.html``: a line a metric, a column a decision.

    Args:
        found: What `side_by_side` returned.
        folder: An existing folder.
        title: The page's title.
        chosen_for: What each decision's thresholds were chosen for, by its name.
    """
    columns = list(found)
    names = list(next(iter(found.values())))
    write_csv(
        folder / "side_by_side.csv",
        ["metric", *(f"{split} {which}" for split, which in columns)],
        [[name, *(f"{found[column][name]:.4f}" for column in columns)] for name in names],
    )
    splits = list(dict.fromkeys(split for split, _ in columns))
    size = {split: sum(of == split for of, _ in columns) for split in splits}
    heads = "".join(f'<th colspan="{size[split]}">{html.escape(split)}</th>' for split in splits)
    kinds = "".join(f"<th>{html.escape(SHOWN.get(which, which))}</th>" for _, which in columns)
    chosen = "".join(f"<td>{html.escape(chosen_for[which])}</td>" for _, which in columns)
    lines = [f"<tr><th>chosen for</th>{chosen}</tr>"]
    for name in names:
        cells = []
        for split, which in columns:
            value = found[split, which][name]
            rivals = [found[s, w][name] for s, w in columns if s == split]
            best = min(rivals) if name == "hamming_loss" else max(rivals)
            mark = ' class="best"' if value == best else ""
            cells.append(f"<td{mark}>{value:.4f}</td>")
        lines.append(f"<tr><th>{name.replace('_', ' ')}</th>{''.join(cells)}</tr>")
    page = _PAGE.substitute(
        TITLE=html.escape(title), HEADS=heads, KINDS=kinds, LINES="\n".join(lines)
    )
    (folder / "side_by_side.html").write_text(page, encoding="utf-8")


_PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>$TITLE</title><style>
:root { color-scheme: light dark; }
body { font: 14px/1.45 system-ui, sans-serif; margin: 1.5rem; }
h1 { font-size: 1.25rem; } table { border-collapse: collapse; }
th, td { padding: .3rem .9rem; border-bottom: 1px solid #8884; text-align: right; }
thead th { font-weight: 600; border-bottom-color: #888a; }
thead tr:first-child th { text-align: center; }
tbody th { text-align: left; font-weight: normal; } td { font-variant-numeric: tabular-nums; }
.best { font-weight: 700; }
</style></head><body><h1>$TITLE</h1>
<table><thead><tr><th></th>$HEADS</tr><tr><th>thresholds</th>$KINDS</tr></thead><tbody>
$LINES
</tbody></table>
<p>Bold: best of its split. Thresholds were chosen on the validation split, the test split chose
nothing.</p>
</body></html>
""")
