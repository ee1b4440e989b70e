"""An evaluation as an HTML page without anything from outside."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from embedfilter.evaluation.verdicts import BETTER, CANNOT_TELL, SAME, WORSE, Figure

if TYPE_CHECKING:
    from embedfilter.evaluation.findings import Findings

__all__ = ["fragment", "page"]

_COLOURS = {BETTER: "#1a7f4b", SAME: "#555555", WORSE: "#b3372b", CANNOT_TELL: "#8a6d00"}
_STYLE = """
.embedfilter { font: 14px/1.5 system-ui, sans-serif; color: #222; background: #fff; padding: 1em }
.embedfilter table { border-collapse: collapse }
.embedfilter th, .embedfilter td { text-align: left; padding: .25em .8em; white-space: nowrap;
  border-bottom: 1px solid #e4e0d8 }
.embedfilter .advice { max-width: 60em; font-size: 1.1em }
.embedfilter .small { max-width: 70em; color: #555 }
.embedfilter svg { vertical-align: middle; margin-left: .5em }
"""
_WIDTH, _HEIGHT = 120, 14


def page(found: Findings) -> str:
    """Return the page."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>embedfilter: evaluation</title></head><body>{fragment(found)}</body></html>\n"
    )


def fragment(found: Findings) -> str:
    """Return the part of the page that a notebook shows."""
    header, *rows = found.rows()
    results = sorted(found.results, key=lambda result: -result.dimension)
    scales = {name: _scale(found, name) for name in found.measures}
    lines = []
    for cells, result in zip(rows, results, strict=True):
        method, dimension, *values, verdict = map(escape, cells)
        drawn = [
            value + _interval(result.figures[name], scales[name])
            for value, name in zip(values, found.measures, strict=True)
        ]
        colour = _COLOURS.get(verdict, "#222")
        lines.append(
            f"<tr><td>{method}</td><td>{dimension}</td>"
            + "".join(f"<td>{cell}</td>" for cell in drawn)
            + f'<td style="color:{colour}">{verdict}</td></tr>'
        )
    return (
        f'<div class="embedfilter"><style>{_STYLE}</style>'
        f'<p class="advice">{escape(found.recommendation)}</p>'
        + (f"<p><code>{escape(found.advice.command)}</code></p>" if found.advice.command else "")
        + f"<table><thead><tr>{''.join(f'<th>{escape(cell)}</th>' for cell in header)}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table>"
        f'<p class="small">{escape(found.legend())}'
        f"{' ' + escape(found.best()) if found.advice.best else ''}</p>"
        + "".join(f'<p class="small">Note: {escape(note)}.</p>' for note in found.notes)
        + "</div>"
    )


def _scale(found: Findings, name: str) -> float:
    """Return the largest end of an interval of a measure; at least a hundredth."""
    figures = [result.figures[name] for result in found.results]
    return max([0.01, *(abs(end) for f in figures for end in (f.low, f.high) if end is not None)])


def _interval(figure: Figure, scale: float) -> str:
    """Draw the difference to no filter, which is the line in the middle, and its interval."""
    if figure.verdict is None or figure.low is None or figure.high is None:
        return ""
    low, middle, high = (
        _WIDTH / 2 * (1 + 0.95 * end / scale)
        for end in (figure.low, figure.difference, figure.high)
    )
    colour, y = _COLOURS[figure.verdict], _HEIGHT / 2
    return (
        f'<svg width="{_WIDTH}" height="{_HEIGHT}" role="img" aria-label="{figure.verdict}">'
        f'<line x1="{_WIDTH / 2}" x2="{_WIDTH / 2}" y1="0" y2="{_HEIGHT}" stroke="#bbb"/>'
        f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}" stroke="{colour}"'
        ' stroke-width="2"/>'
        f'<circle cx="{middle:.1f}" cy="{y}" r="3" fill="{colour}"/></svg>'
    )
