"""An evaluation as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedfilter.evaluation.methods import NO_FILTER

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Picture

    from embedfilter.evaluation.findings import Findings

__all__ = ["draw"]


def draw(found: Findings) -> Picture:
    """Draw each measure by number of dimensions, a line for each method."""
    try:
        from matplotlib.figure import Figure as Picture  # noqa: PLC0415 - of an extra
    except ImportError as error:
        raise ImportError("plotting needs matplotlib: pip install 'embedfilter[plot]'") from error
    names = found.measures
    picture = Picture(figsize=(4.2 * len(names) + 2, 3.6), layout="constrained")
    axes = picture.subplots(1, len(names), squeeze=False)[0]
    methods = dict.fromkeys(result.method for result in found.results)
    for ax, name in zip(axes, names, strict=True):
        for method in methods:
            points = sorted(
                (result.dimension, result.figures[name].value)
                for result in found.results
                if result.method == method
            )
            if method == NO_FILTER:
                ax.axhline(points[0][1], color="#222222", lw=1, ls="--", label=method)
            else:
                ax.plot(*zip(*points, strict=True), marker="o", ms=4, label=method)
        ax.set(xscale="log", xlabel="dimensions", title=name)
        ticks = sorted({result.dimension for result in found.results})
        ax.set_xticks(ticks, [str(tick) for tick in ticks])
        ax.minorticks_off()
        ax.spines[["top", "right"]].set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    picture.legend(handles, labels, loc="outside right center", frameon=False, fontsize=8)
    return picture
