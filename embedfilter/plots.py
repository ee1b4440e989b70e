"""Pictures of spectra, energies, similarities and tokens; they need the extra "plot".

Each function draws into the matplotlib axes that it is given, or into the current ones, and
returns them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedfilter.arrays.embeddings import as_embeddings, bad_rows_message
from embedfilter.errors import warn_user

if TYPE_CHECKING:
    import os

    from matplotlib.axes import Axes

    from embedfilter.filter import EmbedFilter
    from embedfilter.lens.spectroscopy import Spectroscopy
    from embedfilter.lens.top_tokens import TopTokens

__all__ = ["energy_by_band", "similarities", "spectrum", "top_tokens"]

BEFORE, AFTER, SHADE = "#b0592f", "#1b6ca8", "#e9e4dc"
TABLE_ROW_INCHES = 0.25
# Of more vectors, so many are drawn, and all their pairs.
_MOST_VECTORS, _SEED = 600, 0
_MANY_SCRIPTS = re.compile("CJK|Fallback|Unicode|Han|Noto Sans|Hei|Gothic")
# Bitmaps, which matplotlib cannot draw, and boxes that stand for every character.
_NOT_DRAWN = re.compile("Emoji|Last ?Resort")


def spectrum(f: EmbedFilter | str | os.PathLike[str], *, ax: Axes | None = None) -> Axes:
    """Draw the singular values of an unembedding matrix, what the filter cuts shaded.

    Parameters
    ----------
    f : EmbedFilter or path
    ax : matplotlib axes, optional

    Returns
    -------
    matplotlib axes
    """
    from embedfilter.filter import as_filter  # noqa: PLC0415 - light import

    ax, f = _axes(ax), as_filter(f)
    sigma = f.singular_values
    d = len(sigma)
    is_cut = np.ones(d, bool)
    is_cut[f.component_indices] = False
    for i, (first, end) in enumerate(_runs(is_cut)):
        label = "cut" if i == 0 else None
        ax.axvspan(first - 0.5, end - 0.5, color=SHADE, lw=0, label=label)
    ax.plot(np.arange(d), np.maximum(sigma, sigma[0] * 1e-12), color=AFTER, lw=1.5)
    ax.set(
        yscale="log",
        xlim=(-0.5 - d / 100, d - 0.5 + d / 100),
        xlabel="rank",
        ylabel="singular value",
        title=f"{f.n_components} of {d} directions kept ({f.kind})",
    )
    if is_cut.any():
        ax.legend(frameon=False, loc="upper right")
    _plain(ax)
    return ax


def energy_by_band(
    before: Spectroscopy,
    after: Spectroscopy | None = None,
    *,
    of: str = "vectors",
    ax: Axes | None = None,
) -> Axes:
    """Draw the mean share of energy in each band of the spectrum, before and after a filter.

    Parameters
    ----------
    before, after : Spectroscopy
        Of the same bands.
    of : {"vectors", "logits"}
        Whose energy.
    ax : matplotlib axes, optional

    Returns
    -------
    matplotlib axes
    """
    if of not in ("vectors", "logits"):
        raise ValueError(f"of: expected 'vectors' or 'logits', found {of!r}")
    if after is not None and after.bands != before.bands:
        raise ValueError(f"after: expected the bands {before.bands}, found {after.bands}")
    ax = _axes(ax)
    shown = [("before", before, BEFORE)]
    if after is not None:
        shown.append(("after", after, AFTER))
    places = np.arange(len(before.bands))
    width = 0.8 / len(shown)
    for i, (name, result, colour) in enumerate(shown):
        shares = result.table()["vectors" if of == "vectors" else "their logits"]
        offset = (i - (len(shown) - 1) / 2) * width
        ax.bar(places + offset, shares, width, color=colour, label=name)
    ax.set(
        xlabel="ranks of the band",
        ylabel="share",
        title=f"energy of the {of} by band of the spectrum",
    )
    names = [f"{start}-{stop - 1}" for start, stop in before.bands]
    ax.set_xticks(places, names, rotation=45, ha="right", rotation_mode="anchor")
    if after is not None:
        ax.legend(frameon=False)
    _plain(ax)
    return ax


def similarities(X: ArrayLike, Y: ArrayLike | None = None, *, ax: Axes | None = None) -> Axes:
    """Draw the cosines of pairs of vectors, before and after a filter.

    Parameters
    ----------
    X : (n, d)
        Embeddings.
    Y : (n, k), optional
        The same, filtered.
    ax : matplotlib axes, optional

    Returns
    -------
    matplotlib axes
    """
    ax = _axes(ax)
    shown = [("before", _cosines(X, "X"), BEFORE)]
    if Y is not None:
        shown.append(("after", _cosines(Y, "Y"), AFTER))
    least = min(float(cosines.min()) for _, cosines, _ in shown)
    edges = np.linspace(max(-1.0, least - 0.02), 1.0, 60).tolist()
    for name, cosines, colour in shown:
        ax.hist(cosines, edges, density=True, color=colour, alpha=0.6, label=name)
        ax.axvline(cosines.mean(), color=colour, lw=1, ls="--")
    ax.set(xlabel="cosine of two vectors", ylabel="density", xlim=(edges[0], 1))
    ax.set_yticks([])
    if Y is not None:
        ax.legend(frameon=False)
    _plain(ax)
    return ax


def top_tokens(
    found: TopTokens | Sequence[TopTokens],
    *,
    titles: Sequence[str] = ("before", "after"),
    rows: int = 8,
    tokens: int = 6,
    ax: Axes | None = None,
) -> Axes:
    """Draw a table of tokens, one column of them for each result.

    Parameters
    ----------
    found : TopTokens or a sequence of them
        Of the same vectors: before and after a filter, for instance.
    titles : sequence of str
        Heads of the columns.
    rows, tokens : int
        How many vectors, and tokens of each, are shown.
    ax : matplotlib axes, optional

    Returns
    -------
    matplotlib axes
    """
    from embedfilter.lens.top_tokens import TopTokens, visible_label  # noqa: PLC0415 - light import
    from embedfilter.lens.vocabulary import visible  # noqa: PLC0415

    results = [found] if isinstance(found, TopTokens) else list(found)
    n = len(results[0])
    if any(len(result) != n for result in results):
        raise ValueError("found: expected results of the same vectors, found different numbers")
    if len(titles) < len(results):
        raise ValueError(f"titles: expected {len(results)}, found {len(titles)}")
    ax = _axes(ax)
    ax.set_axis_off()
    cells = [
        [
            visible_label(results[0].label(row)),
            *("  ".join(map(visible, result.tokens[row][:tokens])) for result in results),
        ]
        for row in range(min(n, rows))
    ]
    families, known = _fonts(text for row in cells for text in row)
    _warn_of_lacking({character for row in cells for text in row for character in text}, known)
    table = ax.table(
        [[_drawable(text, known) for text in row] for row in cells] or [[""] * (len(results) + 1)],
        colLabels=["", *titles[: len(results)]],
        cellLoc="left",
        colLoc="left",
        loc="upper left",
        edges="horizontal",
    )
    table.auto_set_font_size(False)
    table.set_fontsize(9)
    row_height = TABLE_ROW_INCHES / ax.get_window_extent().height * ax.figure.dpi
    for (row, _), cell in table.get_celld().items():
        cell.set_edgecolor("#cccccc")
        cell.PAD = 0.05  # of its width: the usual 0.1 sets long texts far in
        cell.set_height(row_height)
        cell.get_text().set_parse_math(False)  # a token may be "$"
        cell.get_text().set_fontfamily(families)
        if row == 0:
            cell.get_text().set_fontweight("bold")
    table.auto_set_column_width(range(len(results) + 1))
    return ax


def _axes(ax: Axes | None) -> Axes:
    if ax is not None:
        return ax
    try:
        from matplotlib import pyplot  # noqa: PLC0415 (an extra)
    except ImportError as error:
        raise ImportError('to draw pictures: pip install "embedfilter[plot]"') from error
    current: Axes = pyplot.gca()
    return current


def _plain(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)


def _runs(marked: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Iterate over the runs of True: the first of each and the first after it."""
    changes = np.flatnonzero(np.diff(np.concatenate([[False], marked, [False]]).astype(np.int8)))
    yield from zip(changes[::2].tolist(), changes[1::2].tolist(), strict=True)


def _cosines(X: ArrayLike, name: str) -> NDArray[np.float64]:
    """Return the cosines of all pairs of rows, where there are many, of some rows."""
    array, _ = as_embeddings(X, None, name=name)
    if array.ndim != 2 or len(array) < 2:
        raise ValueError(f"{name}: expected at least two vectors (n, d), found shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(bad_rows_message(array, name))
    if len(array) > _MOST_VECTORS:
        some = np.random.default_rng(_SEED).choice(len(array), _MOST_VECTORS, replace=False)
        array = array[some]
    array = array.astype(np.float64)
    norms = np.linalg.norm(array, axis=1, keepdims=True)
    units = array / np.where(norms > 0, norms, 1.0)
    cosines: NDArray[np.float64] = (units @ units.T)[np.triu_indices(len(units), 1)]
    return cosines


def _fonts(texts: Iterable[str]) -> tuple[list[str], set[int]]:
    """Find fonts for texts, of all that are installed.

    Returns
    -------
    families : list of str
        The usual ones, and others for the characters that they lack.
    known : set of int
        The characters that these have.
    """
    import matplotlib as mpl  # noqa: PLC0415 (an extra)
    from matplotlib import font_manager  # noqa: PLC0415

    families = list(mpl.rcParams["font.family"])
    font = font_manager.get_font(font_manager.findfont(font_manager.FontProperties()))
    known = set(font.get_charmap())
    lacking = {ord(character) for text in texts for character in text} - known
    # Those of many scripts first, so that few are opened.
    entries = sorted(
        font_manager.fontManager.ttflist, key=lambda entry: _MANY_SCRIPTS.search(entry.name) is None
    )
    for entry in entries:
        if not lacking:
            break
        if entry.style != "normal" or _NOT_DRAWN.search(entry.name) or entry.name in families:
            continue
        characters = set(font_manager.get_font(entry.fname).get_charmap())
        if lacking & characters:
            families.append(entry.name)
            known |= characters
            lacking -= characters
    return families, known


def _warn_of_lacking(characters: set[str], known: set[int]) -> None:
    lacking = sorted(c for c in characters if ord(c) not in known and c.isprintable())
    if lacking:
        warn_user(
            f"found no font with {len(lacking)} of the characters, such as {lacking[0]!r}, which"
            " are drawn as escapes: install one that has them (Debian: apt install fonts-noto-cjk),"
            " and delete matplotlib's cache of fonts"
        )


def _drawable(text: str, known: set[int]) -> str:
    """Return a text with the characters that no font has as escapes."""
    return "".join(
        character if ord(character) in known else character.encode("unicode_escape").decode("ascii")
        for character in text
    )
