"""A job's report as one HTML page that needs nothing else: counts, rates beside validation's."""

from __future__ import annotations

from html import escape
from string import Template
from typing import Any

__all__ = ["report_page"]

_MAX_LABELS = 300

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Scored by $what</title>
<style>
:root { color-scheme: light dark; --back: #fbfbfa; --card: #ffffff; --text: #1d2126;
  --soft: #5d6670; --line: #dfe3e7; --now: #1f6fb2; --before: #b45f06; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --back: #15181c; --card: #1c2025; --text: #e6e9ec;
  --soft: #9aa4ae; --line: #343b43; --now: #6db3f2; --before: #f0a35b; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 900px; padding: 28px 20px 60px; background: var(--back);
  color: var(--text); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 24px; margin: 0 0 4px; } h2 { font-size: 17px; margin: 34px 0 6px; }
p { margin: 6px 0; overflow-wrap: anywhere; } .soft { color: var(--soft); }
.bad { color: var(--bad); }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(130px, 1fr)); gap: 10px;
  margin: 18px 0; }
.figure { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 10px 12px; } .figure b { display: block; font-size: 19px; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 12px; overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; }
th, td { text-align: left; padding: 4px 12px 4px 0; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.rates { width: 45%; min-width: 180px; padding-right: 0; }
svg { width: 100%; height: 14px; display: block; overflow: visible; }
.now { fill: var(--now); } .before { stroke: var(--before); stroke-width: 2.5; }
.key { font-size: 13px; color: var(--soft); }
.key i { display: inline-block; width: 14px; height: 9px; background: var(--now);
  margin: 0 6px 0 0; } .key i.tick { width: 3px; height: 13px; background: var(--before);
  margin-left: 16px; vertical-align: -2px; }
</style>
</head>
<body>
<h1>Scored by $what</h1>
<p class="soft">$given</p>
<div class="figures">$figures</div>
$sections
</body>
</html>
""")


def report_page(told: dict[str, Any]) -> str:
    """Return the page.

    Args:
        told: What `ScoringReport.to_dict` returns, with the key "run".
    """
    rows = told["rows"]
    figures = [
        ("rows read", f"{rows['read']:,}"),
        ("scored", f"{rows['scored']:,}"),
        ("rejected", f"{rows['rejected']:,}"),
        ("parts", f"{told['parts']:,}"),
        ("rows a second", f"{told['run']['rows_per_s']:,.0f}"),
    ]
    boxes = (f'<div class="figure"><b>{value}</b>{escape(name)}</div>' for name, value in figures)
    return _PAGE.substitute(
        what=escape(f"{told['model']}/{told['version']}"),
        given=escape(told["input"]),
        figures="".join(boxes),
        sections=_broken(told) + _reasons(told) + _labels(told["labels"]),
    )


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
    rest = f'<p class="soft">and {more} labels more</p>' if more > 0 else ""
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
