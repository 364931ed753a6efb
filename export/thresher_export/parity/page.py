"""A parity report as one HTML page that needs nothing else: verdict, plots, tables."""

from __future__ import annotations

from html import escape

from thresher.agreement import Deviation
from thresher.errors import counted
from thresher.page import figures_html, html_page
from thresher_export.parity.chart import Series, decades
from thresher_export.parity.report import Check, ParityReport

__all__ = ["parity_page"]

_MAX_FLIPS = 200

_STYLE = """svg { width: 100%; min-width: 640px; height: auto; display: block; }
.grid { stroke: var(--line); } .tick { fill: var(--soft); font-size: 11px; }
.first { fill: var(--first); } .second { fill: var(--second); } .wrong { fill: var(--bad); }
polyline.second { fill: none; stroke: var(--second); stroke-width: 2; }
.limit { stroke: var(--bad); stroke-dasharray: 5 4; }
.limit-text { fill: var(--bad); stroke: var(--card); stroke-width: 5px; paint-order: stroke; }
.mark { stroke: var(--bad); stroke-width: 1.5; }
.key { font-size: 13px; color: var(--soft); margin: 4px 0 8px; }
.key span::before { content: ""; display: inline-block; width: 9px; height: 9px;
  border-radius: 50%; margin: 0 6px 0 14px; background: currentColor; }
.key .a { color: var(--first); } .key .b { color: var(--second); }
li { overflow-wrap: anywhere; }
"""


def parity_page(report: ParityReport, *, what: str = "") -> str:
    """Return the page.

    Args:
        report: What was compared.
        what: The heading, such as ``models:/digits/3``.
    """
    problems = report.summary()
    failed = sum(not check.agreement.ok for check in report.checks)
    verdict = (
        f"Does not pass: {failed} of {len(report.checks)} comparisons fail"
        if problems
        else "Passes: every engine decides as the reference does"
    )
    title = f"Parity of {what}" if what else "Parity"
    parts = (_layers, _labels, _margins, _flips, _checks, _notes)
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="verdict {"bad" if problems else "good"}">{verdict}</p>',
        _figures(report),
        _problems(problems),
        *(part(report) for part in parts),
    ]
    return html_page(title, "\n".join(body), style=_STYLE)


def _figures(report: ParityReport) -> str:
    real = [c.agreement for c in report.checks if c.rows == "split"]
    inside = sum(a.num_flips - a.num_flips_outside_band for a in real)
    outside = sum(c.agreement.num_flips_outside_band for c in report.checks)
    figures = (
        (f"{len(report.checks)}", "comparisons"),
        (
            f"{max((a.num_rows * a.num_labels for a in real), default=0):,}",
            "decisions in the widest",
        ),
        (f"{outside:,}", "flips outside the bands"),
        (f"{inside:,}", "flips inside, all comparisons"),
        (f"{report.band_half_width:.1e}", "widest band, half"),
        (report.precision, "precision of the body"),
    )
    return figures_html(figures)


def _problems(lines: list[str]) -> str:
    if not lines:
        return ""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<h2>What is wrong</h2><ul>{items}</ul>"


def _layers(report: ParityReport) -> str:
    if report.departure is None:
        return ""
    layers, first = report.departure.layers, report.departure.first
    chart = decades(
        [Series(name="error", values=[layer.relative for layer in layers], css="first")],
        [f"{layer.value} ({layer.op_type})" for layer in layers],
        title="Relative error by node",
        limit=("tolerance", report.tolerances.logits_rtol),
        marked=None if first is None else layers.index(first),
    )
    return (
        "<h2>Error by node</h2>"
        f"<p class='soft'>Largest difference from {escape(report.departure.reference)} over the "
        "largest value, in the graph's order, on a few rows. "
        f"{len(layers)} of {report.departure.num_values} results have a name on both sides.</p>"
        f'<div class="card">{chart}</div>'
    )


def _labels(report: ParityReport) -> str:
    labels = report.labels()
    if not labels:
        return ""
    chart = decades(
        [
            Series(name="logit", values=[r.logit_error for r in labels], css="second"),
            Series(name="probability", values=[r.probability_error for r in labels], css="first"),
        ],
        [record.label for record in labels],
        title="Largest error by label",
        limit=("tolerance of probabilities", report.tolerances.probabilities_atol),
    )
    return (
        "<h2>Error by label</h2><p class='key'>Largest difference on real rows:"
        '<span class="a">probability</span><span class="b">logit</span></p>'
        f'<div class="card">{chart}</div>'
    )


def _margins(report: ParityReport) -> str:
    labels = report.labels()
    if not labels:
        return ""
    chart = decades(
        [
            Series(
                name="band",
                values=[r.band_half_width for r in labels],
                css="second",
                is_line=True,
            ),
            Series(name="nearest row", values=[r.margin for r in labels], css="first"),
        ],
        [record.label for record in labels],
        title="Margin to the threshold by label",
    )
    near = sum(record.margin <= record.band_half_width for record in labels)
    said = f"Inside: a row of {counted(near, 'label')}." if near else "No label has a row inside."
    return (
        "<h2>Margin to the threshold</h2><p class='key'>Distance in probability:"
        '<span class="a">from the nearest row to the threshold</span>'
        '<span class="b">half of the band in which rounding may flip a decision</span></p>'
        f'<p class="soft">{said}</p><div class="card">{chart}</div>'
    )


def _flips(report: ParityReport) -> str:
    rows = [
        f"<tr><td>{escape(check.name)}</td><td>{escape(flip.label)}</td>"
        f'<td class="number">{flip.row}</td><td class="number">{flip.reference:.9g}</td>'
        f'<td class="number">{flip.got:.9g}</td><td class="number">{flip.threshold:.9g}</td>'
        f"<td{'' if flip.in_band else ' class=bad'}>{'inside' if flip.in_band else 'outside'}</td>"
        "</tr>"
        for check in report.checks
        for flip in check.agreement.flips
    ]
    if not rows:
        return "<h2>Flips</h2><p>None: no decision differs in any comparison.</p>"
    more = f"<p class='soft'>The first {_MAX_FLIPS} of {len(rows):,}.</p>"
    return (
        f"<h2>Flips</h2>{more if len(rows) > _MAX_FLIPS else ''}<div class='card'><table><tr>"
        "<th>comparison</th><th>label</th><th class='number'>row</th>"
        "<th class='number'>reference</th><th class='number'>got</th>"
        "<th class='number'>threshold</th><th>band</th></tr>"
        f"{''.join(rows[:_MAX_FLIPS])}</table></div>"
    )


def _checks(report: ParityReport) -> str:
    return (
        "<h2>Comparisons</h2><div class='card'><table><tr><th>comparison</th>"
        "<th class='number'>rows</th><th class='number'>logits</th>"
        "<th class='number'>float32 steps, largest / median</th>"
        "<th class='number'>probabilities</th><th class='number'>flips</th><th></th></tr>"
        f"{''.join(_check_row(check) for check in report.checks)}</table></div>"
    )


def _check_row(check: Check) -> str:
    agreement = check.agreement
    logits, probabilities = (_deviation(check, name) for name in ("logits", "probabilities"))
    steps = f"{logits.max_ulp:,} / {logits.median_ulp:g}" if logits else "-"
    verdict = '<span class="good">ok</span>' if agreement.ok else '<span class="bad">fails</span>'
    return (
        f"<tr><td>{escape(check.name)}</td><td class='number'>{agreement.num_rows:,}</td>"
        f"<td class='number'>{f'{logits.max_abs:.1e}' if logits else '-'}</td>"
        f"<td class='number'>{steps}</td>"
        f"<td class='number'>{f'{probabilities.max_abs:.1e}' if probabilities else '-'}</td>"
        f"<td class='number'>{agreement.num_flips:,}</td><td>{verdict}</td></tr>"
    )


def _deviation(check: Check, output: str) -> Deviation | None:
    return next((d for d in check.agreement.deviations if d.output == output), None)


def _notes(report: ParityReport) -> str:
    limits = report.tolerances
    lines = [
        (
            f"Logits may differ by {limits.logits_atol:g} + {limits.logits_rtol:g} of their size, "
            f"probabilities by {limits.probabilities_atol:g}, a label's F1 by "
            f"{limits.f1_change:g} or by what {counted(limits.f1_rows, 'row')} can move it."
        ),
        *report.notes,
    ]
    return f"<h2>Notes</h2><ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"
