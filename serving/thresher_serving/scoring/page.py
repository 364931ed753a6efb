"""A job's report as one HTML page that needs nothing else: counts, rates beside validation's."""

from __future__ import annotations

from html import escape
from typing import Any

from thresher.errors import counted
from thresher.page import figures_html, html_page

__all__ = ["report_page"]

_MAX_LABELS = 300

_STYLE = """td.rates { width: 45%; min-width: 180px; padding-right: 0; }
svg { width: 100%; height: 14px; display: block; overflow: visible; }
.now { fill: var(--first); } .before { stroke: var(--second); stroke-width: 2.5; }
.key { font-size: 13px; color: var(--soft); }
.key i { display: inline-block; width: 14px; height: 9px; background: var(--first);
  margin: 0 6px 0 0; } .key i.tick { width: 3px; height: 13px; background: var(--second);
  margin-left: 16px; vertical-align: -2px; }
"""


def report_page(told: dict[str, Any]) -> str:
    """Return the page.

    Args:
        told: What `ScoringReport.to_dict` returns, with the key "run".
    """
    rows = told["rows"]
    title = f"Scored by {told['model']}/{told['version']}"
    figures = [
        (f"{rows['read']:,}", "rows read"),
        (f"{rows['scored']:,}", "scored"),
        (f"{rows['rejected']:,}", "rejected"),
        (f"{told['parts']:,}", "part" if told["parts"] == 1 else "parts"),
    ]
    if told["run"]["rows_per_s"]:
        figures.append((f"{told['run']['rows_per_s']:,.0f}", "rows a second"))
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{escape(told["input"])}</p>',
        figures_html(figures),
        _broken(told),
        _reasons(told),
        _labels(told["labels"]),
    ]
    return html_page(title, "\n".join(body), style=_STYLE)


def _broken(told: dict[str, Any]) -> str:
    if not told["broken_files"]:
        return ""
    lines = "".join(f'<p class="bad">{escape(line)}</p>' for line in told["broken_files"][:50])
    return f'<h2>Files that cannot be read</h2><div class="card">{lines}</div>'


def _reasons(told: dict[str, Any]) -> str:
    if not told["reject_reasons"]:
        return ""
    lines = "".join(
        f'<tr><td>{escape(reason)}</td><td class="number">{count:,}</td></tr>'
        for reason, count in told["reject_reasons"].items()
    )
    head = '<tr><th>reason</th><th class="number">rows</th></tr>'
    return f'<h2>Rejected rows</h2><div class="card"><table>{head}{lines}</table></div>'


def _labels(labels: list[dict[str, Any]]) -> str:
    """Return the labels, those first whose rate is furthest from that in validation."""
    knows = bool(labels) and "validation_rate" in labels[0]

    def distance(label: dict[str, Any]) -> float:
        return float(abs(label["rate"] - label["validation_rate"]) if knows else label["rate"])

    highest = max([label["rate"] for label in labels] + [0.0])
    highest = max([label.get("validation_rate", 0.0) for label in labels] + [highest, 1e-9])
    lines = []
    for label in sorted(labels, key=distance, reverse=True)[:_MAX_LABELS]:
        before = label.get("validation_rate")
        lines.append(
            f"<tr><td>{escape(label['label'])}</td>"
            f'<td class="number">{label["count"]:,}</td>'
            f'<td class="number">{label["rate"]:.2%}</td>'
            + ("" if before is None else f'<td class="number">{before:.2%}</td>')
            + f'<td class="rates">{_bar(label["rate"], before, highest)}</td></tr>'
        )
    more = len(labels) - len(lines)
    rest = f'<p class="soft">and {counted(more, "label")} more</p>' if more > 0 else ""
    key = '<p class="key"><i></i>these rows'
    key += '<i class="tick"></i>validation</p>' if knows else "</p>"
    told = "<th class='number'>validation</th>" if knows else ""
    head = (
        '<tr><th>label</th><th class="number">rows</th><th class="number">rate</th>'
        f"{told}<th></th></tr>"
    )
    return (
        f'<h2>Rate of each label</h2>{key}<div class="card"><table>{head}'
        f"{''.join(lines)}</table></div>{rest}"
    )


def _bar(rate: float, before: float | None, highest: float) -> str:
    """Return a bar for a rate, and a mark for that in validation."""
    mark = ""
    if before is not None:
        at = 100 * before / highest
        mark = f'<line class="before" x1="{at:.2f}%" x2="{at:.2f}%" y1="0" y2="14"/>'
    width = 100 * rate / highest
    return f'<svg><rect class="now" y="3" height="8" width="{width:.2f}%"/>{mark}</svg>'
