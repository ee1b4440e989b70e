"""Pictures: what they hold, and that they come without a warning."""

from __future__ import annotations

import builtins
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
from matplotlib import font_manager
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from oracle import head_with_spectrum, model_like_spectrum

from embedfilter import EmbedFilter, LogitLens, plots

D = 40


@pytest.fixture(scope="module")
def W() -> NDArray:
    return head_with_spectrum(np.random.default_rng(4), 300, model_like_spectrum(D, 25))


@pytest.fixture(scope="module")
def f(W: NDArray) -> EmbedFilter:
    return EmbedFilter.from_matrix(W)


@pytest.fixture
def X(rng: np.random.Generator) -> NDArray:
    return rng.standard_normal((30, D))


@pytest.fixture
def ax() -> Iterator[Axes]:
    figure = Figure()
    yield figure.subplots()
    figure.draw_without_rendering()  # whatever it warns of


@pytest.mark.parametrize("kind", ["edge", "head", "mid", "random", "identity"])
def test_spectrum(W: NDArray, ax: Axes, kind: str) -> None:
    g = EmbedFilter.from_matrix(W, kind=kind)
    assert plots.spectrum(g, ax=ax) is ax
    (line,) = ax.lines
    np.testing.assert_allclose(line.get_ydata(), g.singular_values)
    cut = set(range(D)) - set(g.component_indices.tolist())
    shaded = {
        rank
        for patch in ax.patches
        for rank in range(D)
        if patch.get_x() < rank < patch.get_x() + patch.get_width()
    }
    assert shaded == cut
    assert (ax.get_legend() is None) == (kind == "identity")


@pytest.mark.parametrize("of", ["vectors", "logits"])
def test_energy_by_band(W: NDArray, f: EmbedFilter, X: NDArray, ax: Axes, of: str) -> None:
    lens = LogitLens(W)
    before, after = lens.spectroscopy(X), lens.spectroscopy(X, filter=f)
    assert plots.energy_by_band(before, after, of=of, ax=ax) is ax
    heights = [bar.get_height() for bar in ax.patches]
    for result, some in ((before, heights[:8]), (after, heights[8:])):
        energy = result.energy if of == "vectors" else result.logit_energy
        np.testing.assert_allclose(some, energy.mean(axis=0))
    assert [text.get_text() for text in ax.get_xticklabels()][:2] == ["0-4", "5-9"]
    with pytest.raises(ValueError, match="after: expected the bands"):
        plots.energy_by_band(before, lens.spectroscopy(X, bands=3), ax=ax)
    with pytest.raises(ValueError, match="of: expected"):
        plots.energy_by_band(before, of="tokens", ax=ax)


def test_energy_alone(W: NDArray, X: NDArray, ax: Axes) -> None:
    plots.energy_by_band(LogitLens(W).spectroscopy(X, bands=5), ax=ax)
    assert len(ax.patches) == 5
    assert ax.get_legend() is None


def test_energy_of_no_vectors(W: NDArray, ax: Axes) -> None:
    none = LogitLens(W).spectroscopy(np.empty((0, W.shape[1]), np.float32), bands=4)
    plots.energy_by_band(none, ax=ax)
    assert [bar.get_height() for bar in ax.patches] == [0, 0, 0, 0]


def test_similarities(f: EmbedFilter, X: NDArray, ax: Axes) -> None:
    assert plots.similarities(X, f.transform(X), ax=ax) is ax
    units = X / np.linalg.norm(X, axis=1, keepdims=True)
    mean = (units @ units.T)[np.triu_indices(30, 1)].mean()
    np.testing.assert_allclose(ax.lines[0].get_xdata()[0], mean)
    assert len(ax.lines) == 2


def test_similarities_of_many(rng: np.random.Generator, ax: Axes) -> None:
    """Of some of the pairs, but never of a vector with itself."""
    plots.similarities(np.eye(700), ax=ax)
    edges = [patch.get_x() for patch in ax.patches if patch.get_height() > 0]
    assert max(edges) < 0.1
    plots.similarities(np.zeros((3, 4)), ax=ax)
    for wrong in (np.ones((1, 4)), np.ones(4), np.full((3, 4), np.nan)):
        with pytest.raises(ValueError, match="X: expected"):
            plots.similarities(wrong, ax=ax)


def test_top_tokens(
    W: NDArray, f: EmbedFilter, X: NDArray, ax: Axes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens that no font has, and some that matplotlib would take for formulas."""
    font_manager.findfont(font_manager.FontProperties())  # the usual one, which is remembered
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [])
    lens = LogitLens(W, tokenizer=["$x$", " $", "中文", "\U0001f600", "a\nb", "\\frac"] * 50)
    found = [lens.top_tokens(X, labels=["text $y$"] * 30), lens.top_tokens(X, filter=f)]
    with pytest.warns(UserWarning, match="no font with .*fonts-noto-cjk"):
        assert plots.top_tokens(found, rows=3, tokens=4, ax=ax) is ax
    (table,) = ax.tables
    cells = {place: cell.get_text().get_text() for place, cell in table.get_celld().items()}
    assert len(cells) == 4 * 3
    assert [cells[0, column] for column in range(3)] == ["", "before", "after"]
    assert cells[1, 0] == "text $y$"
    assert len(cells[1, 1].split("  ")) == 4
    everything = " ".join(cells.values())
    assert "中" not in everything
    assert "\n" not in everything
    one = Figure().subplots()
    with pytest.warns(UserWarning, match="no font with"):
        plots.top_tokens(found[0], titles=["tokens"], ax=one)
    assert len(one.tables[0].get_celld()) == 9 * 2
    with pytest.raises(ValueError, match="found: expected results of the same vectors"):
        plots.top_tokens([found[0], lens.top_tokens(X[:3])], ax=ax)
    with pytest.raises(ValueError, match="titles: expected 2, found 1"):
        plots.top_tokens(found, titles=["a"], ax=ax)
    plots.top_tokens(lens.top_tokens(X[:0]), ax=Figure().subplots())


def test_characters_come_from_whatever_font_has_them(W: NDArray, X: NDArray) -> None:
    """STIX, which comes with matplotlib, stands for the fonts of other scripts."""

    def characters(name: str) -> set[int]:
        path = font_manager.findfont(name, fallback_to_default=False)
        return set(font_manager.get_font(path).get_charmap())

    ours = chr(max(characters("STIXGeneral") - characters("DejaVu Sans")))
    lens = LogitLens(W, tokenizer=[ours, "a", "\U0010fffd"] * 100)
    axes = Figure().subplots()
    plots.top_tokens(lens.top_tokens(X, labels=[ours] * 30), ax=axes)
    cells = [cell.get_text() for cell in axes.tables[0].get_celld().values()]
    text = " ".join(cell.get_text() for cell in cells)
    assert ours in text
    assert "\\U0010fffd" in text
    assert cells[0].get_fontfamily()[0] == "sans-serif"
    assert len(cells[0].get_fontfamily()) == 2
    with warnings.catch_warnings():  # matplotlib's, of a character that is not in the fonts
        warnings.simplefilter("error")
        axes.figure.canvas.draw()


def test_current_axes(f: EmbedFilter, monkeypatch: pytest.MonkeyPatch) -> None:
    plt.switch_backend("agg")
    figure, ax = plt.subplots()
    assert plots.spectrum(f) is ax
    plt.close(figure)
    real = builtins.__import__

    def missing(name: str, *args: object, **kwargs: object) -> object:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r'pip install "embedfilter\[plot\]"'):
        plots.spectrum(f)


def test_a_filter_in_a_notebook(W: NDArray, f: EmbedFilter) -> None:
    shown = f._repr_html_()
    assert "40 → 20" in shown
    assert shown.count("<rect") == 2
    assert "nan" not in shown
    identity = EmbedFilter.from_matrix(W, kind="identity")._repr_html_()
    assert "<rect" not in identity
    flat = EmbedFilter(np.eye(1, 2, dtype=np.float32), np.arange(1), np.ones(2), kind="tail",
                       metadata={"source": "<a>"})  # fmt: skip
    assert "&lt;a&gt;" in flat._repr_html_()
    stored = EmbedFilter(np.eye(1, 2, dtype=np.float32), np.arange(1), np.ones(2), kind="tail",
                         metadata={"source": "/home/someone/model/w.gguf"})  # fmt: skip
    assert "model/w.gguf" in stored._repr_html_()
    assert "someone" not in stored._repr_html_() + repr(stored)
