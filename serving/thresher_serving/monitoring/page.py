"""Drift as one HTML page that needs nothing else: verdicts, a ranked list, pictures."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape

from thresher.errors import counted
from thresher.page import figures_html, html_page
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

_STYLE = """h2 { font-size: 18px; margin: 40px 0 4px; } .bad { color: var(--second); }
.card { margin: 12px 0; } .picture { background: #ffffff; }
img { display: block; max-width: 100%; height: auto; }
table { min-width: 640px; } td { overflow-wrap: anywhere; }
tr:last-child td { border-bottom: 0; } a { color: inherit; }
"""


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
        verdict = f"In {len(raised)} of {counted(len(drifts), 'window')} something moved"
    else:
        verdict = f"Nothing moved in {counted(len(drifts), 'window')}"
    many = len(drifts) > 1
    title = f"Drift of {drifts[0].window.title}"
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="verdict {"bad" if raised else "good"}">{escape(verdict)}</p>',
        _overview(drifts) if many else "",
        *(
            _window(drift, pictures, at, headed=many)
            for at, (drift, pictures) in enumerate(zip(drifts, plots, strict=True))
        ),
    ]
    return html_page(title, "\n".join(body), style=_STYLE)


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
        (drift.window.name, "window"),
        (f"{drift.window.num_rows:,}", "rows scored"),
        (f"{drift.window.num_rejected:,}", "rows rejected"),
        (f"{drift.baseline.num_rows:,}", "rows of validation"),
        (f"{drift.alpha:.2%}", "false alarms at most"),
    )
    return figures_html(figures)


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
