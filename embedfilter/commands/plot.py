"""``embedfilter plot``: pictures of spectra, energies, similarities and tokens."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from embedfilter.commands.common import (
    CHECKPOINT,
    PATH,
    column_option,
    filter_option,
    key_option,
    load_filter,
    open_filter,
    print_text,
    read_beside,
    read_rows,
    revision_option,
    tensor_option,
    texts_option,
)
from embedfilter.commands.roles import EMBEDDINGS, MODEL, check_order
from embedfilter.errors import EmbedFilterError
from embedfilter.files.endings import ending

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from embedfilter.filter import EmbedFilter

__all__ = ["plot"]

_ENDINGS = (".png", ".svg", ".pdf")
_DOTS_PER_INCH = 110


@click.group()
def plot() -> None:
    """Draw a picture; needs the extra "plot"."""


_output = click.option(
    "-o", "--output", type=PATH, required=True, help="The .png, .svg or .pdf file to write."
)


@plot.command(options_metavar="-o OUTPUT [OPTIONS]")
@click.argument("filter_file", metavar="FILTER", type=PATH)
@_output
def spectrum(filter_file: Path, output: Path) -> None:
    """Draw the singular values, those cut shaded."""
    from embedfilter import plots  # noqa: PLC0415

    picture = _Picture(output)
    plots.spectrum(open_filter(filter_file), ax=picture.ax)
    picture.save()


@plot.command(options_metavar="-o OUTPUT [OPTIONS]")
@click.argument("checkpoint", type=CHECKPOINT)
@click.argument("embeddings", type=PATH)
@filter_option
@click.option("--bands", type=int, default=8, show_default=True, help="How many bands.")
@click.option(
    "--of",
    type=click.Choice(["vectors", "logits"]),
    default="vectors",
    show_default=True,
    help="The energy of vectors, or of the logits that they give.",
)
@tensor_option
@revision_option
@column_option
@key_option
@_output
def energy(
    checkpoint: str,
    embeddings: Path,
    filter_file: Path | None,
    column: str | None,
    key: str | None,
    bands: int,
    of: str,
    output: Path,
    **options: Any,
) -> None:
    """Draw the energy in each band of the spectrum.

    EMBEDDINGS is a file, of any kind that `apply` reads, of embeddings of CHECKPOINT's model.
    """
    from embedfilter import plots  # noqa: PLC0415
    from embedfilter.lens.logit_lens import LogitLens  # noqa: PLC0415

    picture = _Picture(output)
    check_order((MODEL, checkpoint), (EMBEDDINGS, embeddings))
    f = _load(filter_file, embeddings)
    X = read_rows(embeddings, column=column, key=key)
    with LogitLens(checkpoint, tokenizer=(), **options) as lens:  # no texts are needed
        before = lens.spectroscopy(X, bands=bands)
        after = None if f is None else lens.spectroscopy(X, bands=bands, filter=f)
    plots.energy_by_band(before, after, of=of, ax=picture.ax)
    picture.save()


@plot.command(options_metavar="-o OUTPUT [OPTIONS]")
@click.argument("embeddings", type=PATH)
@filter_option
@column_option
@key_option
@_output
def similarities(
    embeddings: Path, filter_file: Path | None, column: str | None, key: str | None, output: Path
) -> None:
    """Draw the cosines of pairs of vectors.

    EMBEDDINGS is a file of any kind that `apply` reads.
    """
    from embedfilter import plots  # noqa: PLC0415

    picture = _Picture(output)
    f = _load(filter_file, embeddings)
    X = read_rows(embeddings, column=column, key=key)
    plots.similarities(X, None if f is None else f.transform(X), ax=picture.ax)
    picture.save()


@plot.command(options_metavar="-o OUTPUT [OPTIONS]")
@click.argument("checkpoint", type=CHECKPOINT)
@click.argument("embeddings", type=PATH)
@filter_option
@click.option("-k", "k", type=int, default=6, show_default=True, help="Tokens for each vector.")
@click.option(
    "--rows", type=click.IntRange(min=1), default=8, show_default=True, help="How many vectors."
)
@texts_option
@click.option("--tokenizer", type=PATH, help="A tokenizer.json, where there is none beside.")
@tensor_option
@revision_option
@column_option
@key_option
@_output
def tokens(
    checkpoint: str,
    embeddings: Path,
    filter_file: Path | None,
    column: str | None,
    key: str | None,
    k: int,
    rows: int,
    texts_file: Path | None,
    output: Path,
    **options: Any,
) -> None:
    """Draw the tokens that embeddings write.

    EMBEDDINGS is a file, of any kind that `apply` reads, of embeddings of CHECKPOINT's model.
    """
    from embedfilter import plots  # noqa: PLC0415
    from embedfilter.lens.logit_lens import LogitLens  # noqa: PLC0415

    picture = _Picture(output)
    check_order((MODEL, checkpoint), (EMBEDDINGS, embeddings))
    f = _load(filter_file, embeddings)
    X = read_rows(embeddings, rows, column=column, key=key)
    texts = read_beside(texts_file, embeddings, len(X))
    with LogitLens(checkpoint, **options) as lens:
        found = [lens.top_tokens(X, k, labels=texts)]
        if f is not None:
            found.append(lens.top_tokens(X, k, filter=f, labels=texts))
    picture.fill(plots.TABLE_ROW_INCHES * (len(X) + 1))
    plots.top_tokens(found, rows=rows, tokens=k, ax=picture.ax)
    picture.save()


def _load(path: Path | None, embeddings: Path) -> EmbedFilter | None:
    return None if path is None else load_filter(path, embeddings)


class _Picture:
    """A picture in the making, and the file it goes to, which is found out beforehand."""

    def __init__(self, output: Path) -> None:
        from embedfilter.files.atomic import check_target  # noqa: PLC0415

        if ending(output) not in _ENDINGS:
            raise EmbedFilterError(
                f"{output}: expected a name that ends in {', '.join(_ENDINGS)}, found another"
            )
        check_target(output)
        try:
            from matplotlib.figure import Figure  # noqa: PLC0415 (an extra)
        except ImportError as error:
            raise ImportError('to draw pictures: pip install "embedfilter[plot]"') from error
        self._output = output
        self._figure = Figure(figsize=(6, 3.6), dpi=_DOTS_PER_INCH)
        self.ax: Axes = self._figure.subplots()

    def fill(self, height: float) -> None:
        """Make the picture as high as so many inches, and the axes as large as the picture."""
        self._figure.set_figheight(height)
        self.ax.set_position((0, 0, 1, 1))

    def save(self) -> None:
        """Write the file, which appears whole or not at all."""
        from embedfilter.files.atomic import atomic_output  # noqa: PLC0415

        # In memory first: matplotlib would seek in the file, and name it differently in errors.
        picture = io.BytesIO()
        self._figure.savefig(picture, format=ending(self._output)[1:], bbox_inches="tight")
        with atomic_output(self._output) as file:
            file.write(picture.getvalue())
        print_text(str(self._output))
