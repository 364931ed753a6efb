"""The mistakes that a model is most sure of, label by label: to find wrong labels and blind spots.

For each label the rows that it is given wrongly with the highest probability, and the rows that it
is missing from with the lowest: as a table, as a sheet of pictures, or as a page of texts.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from string import Template
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from thresher.decision import Decision, FloatArray
from thresher.errors import counted
from thresher.figures import figure_text, write_figure
from thresher_training.spreadsheet import write_csv

__all__ = [
    "Mistake",
    "confident_mistakes",
    "write_mistake_pictures",
    "write_mistake_table",
    "write_mistake_texts",
]

Kind = Literal["false positive", "false negative"]

_MOST_LABELS_DRAWN, _MOST_LABELS_TOLD = 12, 100
_LONGEST_TEXT = 400
_RED, _ORANGE, _GREY = "#c8102e", "#d9730d", "#6a6a6a"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """One wrong decision."""

    label: str
    kind: Kind
    row: int
    probability: float
    threshold: float


def confident_mistakes(
    targets_NL: FloatArray, logits_NL: FloatArray, decision: Decision, *, per_label: int = 4
) -> tuple[Mistake, ...]:
    """Return each label's surest mistakes, those furthest from the truth first.

    Labels come in the order of how many mistakes they have in all, false positives before false
    negatives; a label without mistakes has no entry.

    Args:
        targets_NL: float32 [N, L] of 0 and 1; NaN where unknown, which is no mistake.
        logits_NL: float32 [N, L].
        decision: Labels, calibration and thresholds.
        per_label: The most of one kind for one label.
    """
    probabilities_NL, yes_NL = decision.apply(logits_NL)
    wrong = {
        "false positive": yes_NL & (targets_NL == 0),
        "false negative": ~yes_NL & (targets_NL == 1),
    }
    number_L = sum(array.sum(axis=0) for array in wrong.values())
    signs: tuple[tuple[Kind, int], ...] = (("false positive", -1), ("false negative", 1))
    found = []
    for at in np.argsort(-np.asarray(number_L), kind="stable"):
        surest_N = probabilities_NL[:, at]
        for kind, sign in signs:
            rows = np.flatnonzero(wrong[kind][:, at])
            surest = rows[np.argsort(sign * surest_N[rows], kind="stable")][:per_label]
            found += [
                Mistake(
                    label=decision.labels[at],
                    kind=kind,
                    row=int(row),
                    probability=float(surest_N[row]),
                    threshold=float(decision.thresholds[at]),
                )
                for row in surest
            ]
    return tuple(found)


def write_mistake_table(
    mistakes: Sequence[Mistake],
    true_labels: Sequence[Sequence[str]],
    path: Path,
    *,
    texts: Sequence[str] | None = None,
) -> None:
    """Write the mistakes as CSV, one a row.

    Args:
        mistakes: What `confident_mistakes` returned.
        true_labels: By mistake, the labels that its row has.
        path: The file.
        texts: By row of the split, what it says; no such column where left out.
    """
    columns = ["label", "mistake", "row", "probability", "threshold", "true_labels"]
    rows = []
    for mistake, names in zip(mistakes, true_labels, strict=True):
        figures = (f"{mistake.probability:.4f}", f"{mistake.threshold:.4f}")
        text = () if texts is None else (_short(texts[mistake.row]),)
        rows.append((mistake.label, mistake.kind, mistake.row, *figures, "; ".join(names), *text))
    write_csv(path, columns if texts is None else [*columns, "text"], rows)


def write_mistake_pictures(
    mistakes: Sequence[Mistake], images: npt.NDArray[Any], path: Path, *, title: str
) -> int:
    """Write a sheet as PNG, a line for each label: wrongly given at the left, missed at the right.

    Args:
        mistakes: What `confident_mistakes` returned, at least one; the first labels are drawn.
        images: uint8 [N, 1 or 3, H, W], all rows of the split.
        path: The file.
        title: The title.

    Returns:
        How many labels are drawn.
    """
    labels = [(label, list(each)) for label, each in groupby(mistakes, key=lambda m: m.label)]
    labels = labels[:_MOST_LABELS_DRAWN]
    kinds: tuple[Kind, Kind] = ("false positive", "false negative")
    shown = {
        (label, kind): [m for m in each if m.kind == kind]
        for label, each in labels
        for kind in kinds
    }
    widest = {k: max(1, *(len(shown[label, k]) for label, _ in labels)) for k in kinds}
    height, width = images.shape[2:]
    cell = 1.9 if width >= 2 * height else 1.25  # inches
    picture = cell * height / width
    left, gap, line = 1.7, 0.35, picture + 0.32
    sheet_width = left + (sum(widest.values())) * (cell + 0.1) + gap
    sheet_height = 1.05 + line * len(labels)
    figure = Figure(figsize=(sheet_width, sheet_height))

    def write(x: float, y: float, text: str, **style: Any) -> None:
        figure.text(x / sheet_width, 1 - y / sheet_height, text, **style)

    write(0.15, 0.32, title, fontsize=12, weight="bold")
    starts = {kinds[0]: left, kinds[1]: left + widest[kinds[0]] * (cell + 0.1) + gap}
    write(left, 0.72, "given, but not there", color=_RED, fontsize=10, weight="bold")
    write(starts[kinds[1]], 0.72, "there, but missed", color=_ORANGE, fontsize=10, weight="bold")
    for number, (label, _) in enumerate(labels):
        top = 0.85 + number * line
        name = figure_text(label, 18)
        write(left - 0.15, top + picture / 2, name, ha="right", va="center", fontsize=10)
        for kind, color in zip(kinds, (_RED, _ORANGE), strict=True):
            for at, mistake in enumerate(shown[label, kind]):
                x = starts[kind] + at * (cell + 0.1)
                axes = figure.add_axes(
                    (
                        x / sheet_width,
                        1 - (top + picture) / sheet_height,
                        cell / sheet_width,
                        picture / sheet_height,
                    )
                )
                pixels = images[mistake.row]
                pixels = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
                axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, aspect="auto")
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set(color=color, linewidth=1.5)
                told = f"p {mistake.probability:.3f}"
                write(
                    x + cell / 2, top + picture + 0.15, told, ha="center", fontsize=8, color=_GREY
                )
    write_figure(figure, path, dpi=110)
    return len(labels)


def write_mistake_texts(
    mistakes: Sequence[Mistake],
    true_labels: Sequence[Sequence[str]],
    texts: Sequence[str],
    path: Path,
    *,
    title: str,
) -> None:
    """Write a page of HTML that loads nothing: label by label the texts that it is wrong on.

    Args:
        mistakes: What `confident_mistakes` returned.
        true_labels: By mistake, the labels that its row has.
        texts: By row of the split.
        path: The file.
        title: The title.
    """
    parts = []
    pairs = zip(mistakes, true_labels, strict=True)
    labels = [(label, list(each)) for label, each in groupby(pairs, key=lambda m: m[0].label)]
    for label, each in labels[:_MOST_LABELS_TOLD]:
        parts.append(f"<h2>{html.escape(label)} <small>{each[0][0].threshold:.3f}</small></h2>")
        parts.append("<table><tr><th></th><th>p</th><th>text</th><th>true labels</th></tr>")
        for mistake, names in each:
            is_given = mistake.kind == "false positive"
            parts.append(
                f'<tr><td class="{"given" if is_given else "missed"}">'
                f"{'given' if is_given else 'missed'}</td><td>{mistake.probability:.3f}</td>"
                f"<td>{html.escape(_short(texts[mistake.row]))}</td>"
                f"<td>{html.escape(', '.join(names)) or '<i>none</i>'}</td></tr>"
            )
        parts.append("</table>")
    if len(labels) > _MOST_LABELS_TOLD:
        more = counted(len(labels) - _MOST_LABELS_TOLD, "label")
        parts.append(f"<p>And {more} more, in mistakes.csv.</p>")
    body = "\n".join(parts) or "<p>None on the test split.</p>"
    path.write_text(_PAGE.substitute(TITLE=html.escape(title), BODY=body), encoding="utf-8")


def _short(text: str) -> str:
    """Return a text on one line, cut where it is long."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_TEXT else f"{line[: _LONGEST_TEXT - 1]}…"


_PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>$TITLE</title><style>
:root { color-scheme: light dark; }
body { font: 14px/1.45 system-ui, sans-serif; margin: 1.5rem; max-width: 70rem; }
h1 { font-size: 1.25rem; } h2 { font-size: 1rem; margin: 1.4rem 0 .3rem; }
small { font-weight: normal; opacity: .65; } small::before { content: "threshold "; }
table { border-collapse: collapse; width: 100%; }
th { text-align: left; font-weight: 600; opacity: .65; }
th, td { padding: .25rem .6rem .25rem 0; vertical-align: top; border-bottom: 1px solid #8884; }
td:nth-child(1), td:nth-child(2) { white-space: nowrap; } td:nth-child(4) { min-width: 9rem; }
.given { color: #c8102e; font-weight: 600; } .missed { color: #d9730d; font-weight: 600; }
</style></head><body><h1>$TITLE</h1>
<p>For each label, those with most mistakes first: texts that were <span class="given">given</span>
it wrongly, the highest probability first, and texts it is <span class="missed">missed</span> on,
the lowest first.</p>
$BODY
</body></html>
""")
