"""How a filter is shown in a notebook."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

import numpy as np

from embedfilter.files.messages import source_name

if TYPE_CHECKING:
    from embedfilter.filter import EmbedFilter

__all__ = ["filter_html"]

_WIDTH, _HEIGHT, _POINTS = 360, 90, 120


def filter_html(f: EmbedFilter) -> str:
    """Return the facts of a filter and its spectrum, what is cut shaded, as HTML."""
    facts = {
        "dimensions": f"{f.n_features_in} → {f.n_components}",
        "kind": f.kind,
        "from": source_name(f.metadata.get("source", "?")),
        "tensor": f.metadata.get("tensor", "?"),
        "singular values": f"{f.singular_values[0]:.4g} … {f.singular_values[-1]:.4g}",
    }
    rows = "".join(
        f'<tr><th style="text-align:left">{name}</th>'
        f'<td style="text-align:left">{html.escape(value)}</td></tr>'
        for name, value in facts.items()
    )
    return f'<table style="font-size:90%">{rows}</table>{_spectrum(f)}'


def _spectrum(f: EmbedFilter) -> str:
    """Return the singular values on a logarithmic scale as SVG, what is cut shaded."""
    sigma = f.singular_values
    d = len(sigma)
    step = _WIDTH / d
    is_cut = np.ones(d, bool)
    is_cut[f.component_indices] = False
    edges = np.flatnonzero(np.diff(np.concatenate([[False], is_cut, [False]]).astype(np.int8)))
    shades = "".join(
        f'<rect x="{first * step:.1f}" y="0" width="{(end - first) * step:.1f}"'
        f' height="{_HEIGHT}" fill="#b0592f" fill-opacity="0.18"/>'
        for first, end in zip(edges[::2], edges[1::2], strict=True)
    )
    heights = np.log(np.maximum(sigma, max(sigma[0] * 1e-6, np.finfo(float).tiny)))
    heights = (heights - heights.min()) / max(float(np.ptp(heights)), 1e-12)
    ranks = np.unique(np.linspace(0, d - 1, min(d, _POINTS)).round().astype(int))
    points = " ".join(
        f"{(rank + 0.5) * step:.1f},{4 + (_HEIGHT - 8) * (1 - heights[rank]):.1f}" for rank in ranks
    )
    return (
        f'<svg width="{_WIDTH}" height="{_HEIGHT}" role="img"'
        ' aria-label="singular values by rank, on a logarithmic scale; the shaded ones are cut">'
        f'{shades}<polyline points="{points}" fill="none" stroke="#1b6ca8" stroke-width="2"/></svg>'
    )
