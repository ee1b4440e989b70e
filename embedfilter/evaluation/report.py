"""The result of an evaluation: what was found, as a picture or a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from embedfilter.evaluation.findings import Findings
from embedfilter.evaluation.page import fragment, page
from embedfilter.evaluation.picture import draw
from embedfilter.files.atomic import atomic_output

if TYPE_CHECKING:
    import os

    from matplotlib.figure import Figure as Picture

__all__ = ["Evaluation"]


class Evaluation(Findings):
    """What `embedfilter.evaluate` found; attributes as in `Findings`."""

    def to_html(self) -> str:
        """Return a page that needs nothing besides itself."""
        return page(self)

    def save_html(self, path: str | os.PathLike[str]) -> None:
        """Write the page to a file, which appears whole or not at all."""
        with atomic_output(Path(path)) as file:
            file.write(self.to_html().encode())

    def _repr_html_(self) -> str:
        return fragment(self)

    def plot(self) -> Picture:
        """Draw each measure by number of dimensions; needs matplotlib (the extra "plot")."""
        return draw(self)
