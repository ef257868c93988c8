"""The report on a hand-derived gradient as HTML: what was handed in beside what is right, with the
difference marked. No script, no outside reference; everything that a user wrote is escaped."""

from __future__ import annotations

from html import escape

from markupsafe import Markup

from derive.document.template import render, resource
from derive.verify.report import RERUN, Finding, Proof, VerifyReport, steps

_SIGNS = {"proved": "✓", "kinks": "✓", "agrees": "✓", "wrong": "✗", "undecided": "?"}


def report_page(report: VerifyReport) -> str:
    """A page of its own."""
    return render("verdict.html.jinja", title=f"{report.network}: {report.verdict}",
                  style=Markup(resource("document.css") + resource("verdict.css")),
                  body=Markup(report_body(report)))


def report_cell(report: VerifyReport) -> str:
    """The report as the output of a notebook's cell, which has no style of ours."""
    style = resource("verdict.css") + resource("verdict_cell.css")
    return f"<div><style>{style}</style>{report_body(report)}</div>"


def report_body(report: VerifyReport) -> str:
    """The report as a part of a page."""
    findings = "".join(_finding(f) for f in report.findings_once)
    proof = (f'<pre class="scroll">{escape(str(report.proof))}</pre>'
             if report.proof != Proof() else "")
    notes = "".join(f"<li><code>{escape(n)}</code></li>" for n in report.notes)
    read = f'<h2>read as</h2><ul class="scroll">{notes}</ul>' if notes else ""
    rerun = (f'<p>{RERUN}</p><pre class="scroll">{escape(report.snippet)}</pre>'
             if report.snippet else "")
    computed = f'<p class="quiet">{escape(report.computed)}</p>' if report.computed else ""
    return (f'<section class="verdict {report.verdict}"><p class="head">'
            f"{_SIGNS[report.verdict]} {escape(report.head)}</p>{computed}{findings}"
            f"{rerun}{proof}{read}"
            f'<pre class="scroll">{escape(str(report.check))}</pre></section>')


def _finding(finding: Finding) -> str:
    rows = []
    if finding.place:
        rows.append(f'<p class="quiet">{_head(finding)}</p>')
    if finding.mended:
        rows.append(_pair("your line", finding.source, "mended", finding.mended))
    if finding.equation:
        rows.append(_pair("as if", finding.equation, "right", finding.formula))
    else:
        rows.append(_single("right", finding.formula))
    if finding.matrix:
        rows.append(_single("in matrix form", finding.matrix))
    rows.append(_single("example", finding.counterexample))
    return (f"<h2>{escape(finding.parameter)}</h2><p>{escape(finding.words)}</p>"
            + "".join(rows))


def _head(finding: Finding) -> str:
    """The place in words, code as code; the mended line is shown below."""
    words = finding.place.split("\n    mended")[0] if finding.mended else finding.place
    line, _, rest = words.partition("\n")
    where, colon, source = line.partition(": ")
    said = f"{escape(where)}{colon}<code>{escape(source)}</code>" if source else escape(where)
    return said + "".join(f"<br/>{_coded(part.strip())}" for part in rest.splitlines())


def _coded(text: str) -> str:
    """Text in which what stands between backticks is code."""
    parts = text.split("`")
    return "".join(f"<code>{escape(part)}</code>" if n % 2 else escape(part)
                   for n, part in enumerate(parts))


def _single(label: str, text: str) -> str:
    return (f'<div class="sides one"><div><span class="label">{label}</span>'
            f'<code class="scroll">{escape(text)}</code></div></div>')


def _pair(left: str, old: str, right: str, new: str) -> str:
    """Two lines side by side, with what only one of them has marked."""
    olds, news = [], []
    for what, a, b, c, d in steps(old, new):
        one, other = escape(old[a:b]), escape(new[c:d])
        olds.append(one if what == "equal" or not one else f"<del>{one}</del>")
        news.append(other if what == "equal" or not other else f"<ins>{other}</ins>")
    return "".join([
        '<div class="sides">',
        f'<div><span class="label">{left}</span><code class="scroll">{"".join(olds)}</code></div>',
        f'<div><span class="label">{right}</span><code class="scroll">{"".join(news)}</code></div>',
        "</div>"])
