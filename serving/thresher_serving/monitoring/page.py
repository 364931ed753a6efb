"""Drift as one HTML page that needs nothing else: verdicts, a ranked list, pictures."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from string import Template

from thresher_serving.monitoring.drift import Drift, Finding

__all__ = ["KINDS", "drift_page", "value_text"]

_MOST_ROWS = 60

KINDS = {
    "rate": "positive rate",
    "scores": "scores",
    "feature": "input feature",
    "rejects": "rejected rows",
}
"""What kinds of findings are called."""

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Drift of $what</title>
<style>
:root { color-scheme: light dark; --back: #fbfbfa; --card: #ffffff; --text: #1d2126;
  --soft: #5d6670; --line: #dfe3e7; --good: #1b7f4b; --bad: #b45309; }
@media (prefers-color-scheme: dark) { :root { --back: #15181c; --card: #1c2025; --text: #e6e9ec;
  --soft: #9aa4ae; --line: #343b43; --good: #63c796; --bad: #f0a35b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1040px; padding: 28px 20px 60px; background: var(--back);
  color: var(--text); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 24px; margin: 0 0 4px; } h2 { font-size: 18px; margin: 40px 0 4px; }
p { margin: 6px 0; } .soft { color: var(--soft); }
.verdict { font-weight: 600; } .good { color: var(--good); } .bad { color: var(--bad); }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 10px;
  margin: 14px 0; }
.figure { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 10px 12px; overflow-wrap: anywhere; } .figure b { display: block; font-size: 19px; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 12px; margin: 12px 0; overflow-x: auto; }
.picture { background: #ffffff; }
img { display: block; max-width: 100%; height: auto; }
table { border-collapse: collapse; width: 100%; min-width: 640px; font-size: 13.5px; }
th, td { text-align: left; padding: 5px 12px 5px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; } th { color: var(--soft); font-weight: 600; }
tr:last-child td { border-bottom: 0; } td { overflow-wrap: anywhere; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
a { color: inherit; }
</style>
</head>
<body>
<h1>Drift of $what</h1>
<p class="verdict $tone">$verdict</p>
$overview
$windows
</body>
</html>
""")


def drift_page(drifts: Sequence[Drift], plots: Sequence[Mapping[str, bytes]]) -> str:
    """Return the page.

    Args:
        drifts: At least one, all of one version.
        plots: The pictures of each, as PNG, by name.
    """
    raised = [drift for drift in drifts if drift.moved]
    if len(drifts) == 1:
        verdict = _verdict(drifts[0])
    elif raised:
        verdict = f"In {len(raised)} of {len(drifts)} windows something moved"
    else:
        verdict = f"Nothing moved in {len(drifts)} windows"
    many = len(drifts) > 1
    return _PAGE.substitute(
        what=escape(drifts[0].window.title),
        tone="bad" if raised else "good",
        verdict=escape(verdict),
        overview=_overview(drifts) if many else "",
        windows="\n".join(
            _window(drift, pictures, at, headed=many)
            for at, (drift, pictures) in enumerate(zip(drifts, plots, strict=True))
        ),
    )


def value_text(finding: Finding, value: float) -> str:
    """Return a value as it is shown: rates in percent."""
    if finding.kind in {"rate", "rejects"}:
        return f"{100 * value:.3g}%"
    return f"{value:.4g}"


def _verdict(drift: Drift) -> str:
    total = sum(drift.num_tests.values())
    if not drift.moved:
        return f"Nothing moved, of {total:,} things that were tested"
    return f"{len(drift.moved):,} of {total:,} things that were tested moved"


def _overview(drifts: Sequence[Drift]) -> str:
    rows = []
    for at, drift in enumerate(drifts):
        first = drift.moved[0] if drift.moved else None
        told = "-" if first is None else escape(_title(first))
        tone = "bad" if drift.moved else "good"
        rows.append(
            f'<tr><td><a href="#window-{at}">{escape(drift.window.name)}</a></td>'
            f'<td class="number">{drift.window.num_rows:,}</td>'
            f'<td class="number {tone}">{len(drift.moved):,}</td><td>{told}</td>'
            f'<td class="number">{"-" if first is None else f"{first.shift:+.2f}"}</td></tr>'
        )
    return (
        '<div class="card"><table><tr><th>window</th><th class="number">rows</th>'
        '<th class="number">moved</th><th>most of all</th><th class="number">shift, sd</th></tr>'
        f"{''.join(rows)}</table></div>"
    )


def _window(drift: Drift, plots: Mapping[str, bytes], at: int, *, headed: bool) -> str:
    tone = "bad" if drift.moved else "good"
    head = f'<h2 id="window-{at}">{escape(drift.window.name)}</h2>' if headed else ""
    if headed:
        head += f'<p class="verdict {tone}">{escape(_verdict(drift))}</p>'
    pictures = "".join(
        f'<div class="card picture"><img alt="{escape(name)}" '
        f'src="data:image/png;base64,{base64.b64encode(png).decode()}"></div>'
        for name, png in plots.items()
    )
    return f"{head}{_figures(drift)}{_ranked(drift)}{pictures}{_tested(drift)}"


def _figures(drift: Drift) -> str:
    figures = (
        (escape(drift.window.name), "window"),
        (f"{drift.window.num_rows:,}", "rows scored"),
        (f"{drift.window.num_rejected:,}", "rows rejected"),
        (f"{drift.baseline.num_rows:,}", "rows of validation"),
        (f"{drift.alpha:.2%}", "false alarms at most"),
    )
    cells = "".join(f'<div class="figure"><b>{a}</b>{b}</div>' for a, b in figures)
    return f'<div class="figures">{cells}</div>'


def _ranked(drift: Drift) -> str:
    if not drift.moved:
        return ""
    rows = "".join(
        f"<tr><td>{escape(finding.name) or '-'}</td><td>{KINDS[finding.kind]}</td>"
        f'<td class="number">{value_text(finding, finding.before)}</td>'
        f'<td class="number">{value_text(finding, finding.now)}</td>'
        f'<td class="number">{interval_text(finding)}</td>'
        f'<td class="number">{finding.shift:+.2f}</td>'
        f'<td class="number">{p_text(finding)}</td></tr>'
        for finding in drift.moved[:_MOST_ROWS]
    )
    more = len(drift.moved) - _MOST_ROWS
    told = f'<p class="soft">and {more:,} more, in drift.json</p>' if more > 0 else ""
    return (
        '<div class="card"><table><tr><th>what moved</th><th>kind</th>'
        '<th class="number">validation</th><th class="number">window</th>'
        '<th class="number">change, in points</th><th class="number">shift, sd</th>'
        f'<th class="number">p, adjusted</th></tr>{rows}</table>{told}</div>'
    )


def interval_text(finding: Finding) -> str:
    """Return the change of a rate and its interval, in percentage points."""
    if finding.interval is None:
        return "-"
    lower, upper = (100 * limit for limit in finding.interval)
    return f"{100 * (finding.now - finding.before):+.2f} [{lower:+.2f}, {upper:+.2f}]"


def p_text(finding: Finding) -> str:
    """Return an adjusted p-value, short."""
    return "< 1e-9" if finding.p_value < 1e-9 else f"{finding.p_value:.2g}"


def _tested(drift: Drift) -> str:
    tests = ", ".join(
        f"{number:,} of {KINDS[kind]} (each at {drift.alpha_of(kind):.1e})"
        for kind, number in drift.num_tests.items()
    )
    notes = "".join(f"<li>{escape(note)}</li>" for note in drift.notes)
    return (
        f'<p class="soft">Tests: {tests}. Of scores the median logit is shown, of a feature the '
        "mean. A shift of 1 sd is one standard deviation of a row.</p>"
        + (f'<ul class="soft">{notes}</ul>' if notes else "")
    )


def _title(finding: Finding) -> str:
    return f"{finding.name}, {KINDS[finding.kind]}" if finding.name else KINDS[finding.kind]
