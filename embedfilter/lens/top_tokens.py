"""What the logit lens finds: the tokens that vectors write, and how they are shown."""

from __future__ import annotations

import functools
import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedfilter.lens.vocabulary import Vocabulary, visible

__all__ = ["TopTokens", "visible_label"]

_SHOWN_ROWS = 20
_SHOWN_TOKENS = 20
_STYLE = "padding:2px 6px;text-align:left;white-space:nowrap"


@dataclass(frozen=True, eq=False, repr=False)
class TopTokens:
    """The k tokens with the largest logits, of each of n vectors.

    Attributes
    ----------
    ids : (n, k) int64
        By descending logit, equal ones by ascending id.
    logits : (n, k) float32
    labels : sequence of str or None
        What the vectors are, shown beside them.
    vocabulary : Vocabulary or None
        Where `tokens` come from.
    """

    ids: NDArray[np.int64]
    logits: NDArray[np.float32]
    labels: Sequence[str] | None = None
    vocabulary: Vocabulary | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @functools.cached_property
    def tokens(self) -> list[list[str]]:
        """The tokens' texts; of a token that the tokenizer does not have, "#" and its id."""
        if self.vocabulary is None:
            return [[f"#{token}" for token in row] for row in self.ids.tolist()]
        return [[self.vocabulary.text(token) for token in row] for row in self.ids.tolist()]

    def as_dicts(self) -> list[dict[str, Any]]:
        """Return a dict of plain lists for each vector: ids, tokens, logits."""
        return [
            {"ids": ids, "tokens": tokens, "logits": logits}
            for ids, tokens, logits in zip(
                self.ids.tolist(), self.tokens, self.logits.tolist(), strict=True
            )
        ]

    def label(self, row: int) -> str:
        """Return what stands beside a vector: its label or its number."""
        return str(row) if self.labels is None else self.labels[row]

    def line(self, row: int) -> str:
        """Return the tokens of a vector in one line, their spaces visible."""
        return "  ".join(map(visible, self.tokens[row]))

    def __repr__(self) -> str:
        n, k = self.ids.shape
        lines = [f"TopTokens: {n} vectors, {k} tokens each"]
        lines += [
            f"{visible_label(self.label(row))}: {self.line(row)}"
            for row in range(min(n, _SHOWN_ROWS))
        ]
        if n > _SHOWN_ROWS:
            lines.append(f"... and {n - _SHOWN_ROWS} more")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """Return a table with a row for each vector; the darker a token, the larger its logit."""
        n, k = self.ids.shape
        lines = ['<table style="border-collapse:collapse;font-size:90%">']
        for row in range(min(n, _SHOWN_ROWS)):
            cells = [f'<td style="{_STYLE}">{html.escape(visible_label(self.label(row)))}</td>']
            logits = self.logits[row]
            largest = max(float(np.abs(logits).max()), np.finfo(np.float32).tiny)
            for token, logit in zip(self.tokens[row][:_SHOWN_TOKENS], logits, strict=False):
                strength = 0.45 * max(float(logit), 0.0) / largest
                cells.append(
                    f'<td style="{_STYLE};background:rgba(27,108,168,{strength:.2f})"'
                    f' title="logit {logit:.4g}"><code>{html.escape(visible(token))}</code></td>'
                )
            lines.append(f"<tr>{''.join(cells)}</tr>")
        hidden = [f"{n - _SHOWN_ROWS} vectors"] * (n > _SHOWN_ROWS)
        hidden += [f"{k - _SHOWN_TOKENS} tokens each"] * (k > _SHOWN_TOKENS)
        if hidden:
            lines.append(
                f'<caption style="caption-side:bottom">and {" and ".join(hidden)}</caption>'
            )
        return "\n".join([*lines, "</table>"])


def visible_label(label: str) -> str:
    """Return a label in one line of at most 60 characters."""
    line = " ".join(label.split())
    return line if len(line) <= 60 else line[:59] + "…"
