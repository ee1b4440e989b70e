"""What an evaluation found, as a table in words and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from embedfilter.evaluation.verdicts import MARGIN, Advice, Figure, format_interval, format_share

__all__ = ["Findings", "Result"]


@dataclass(frozen=True)
class Result:
    """One method at one number of dimensions.

    Attributes
    ----------
    method : str
    dimension : int
    figures : dict
        By the name of the measure.
    verdict : str or None
        Of the mean of the measures, against no filter: "better", "same", "worse" or "cannot
        tell"; None for no filter itself.
    """

    method: str
    dimension: int
    figures: dict[str, Figure]
    verdict: str | None


@dataclass(frozen=True, repr=False)
class Findings:
    """What `embedfilter.evaluate` found; `Evaluation` shows it in other forms, too.

    Attributes
    ----------
    task : {"pairs", "labels", "relevance", "space"}
        What the embeddings were scored against; "space" stands for nothing.
    n_rows, n_features : int
    results : tuple of Result
        "no filter" first.
    advice : Advice
        Its `text` is the recommendation.
    notes : tuple of str
        What was done that was not asked for.
    """

    task: str
    n_rows: int
    n_features: int
    results: tuple[Result, ...]
    advice: Advice
    notes: tuple[str, ...]

    @property
    def recommendation(self) -> str:
        """The recommendation, in words."""
        return self.advice.text

    def best(self) -> str:
        """Return which method is best at each number of dimensions, in words."""
        chosen = sorted(self.advice.best.items(), reverse=True)
        return f"Best at each size: {', '.join(f'{name} at {k}' for k, name in chosen)}."

    @property
    def measures(self) -> list[str]:
        """The names of the measures."""
        return list(self.results[0].figures)

    def to_json(self) -> str:
        """Return all of it as JSON."""
        return json.dumps(asdict(self), allow_nan=False)

    def rows(self) -> list[list[str]]:
        """Return the cells of the table, in words: its header, then one row for each result."""
        header = ["method", "dimensions", *self.measures, "verdict"]
        return [header] + [
            [
                result.method,
                str(result.dimension),
                *(self._cell(result.figures[name]) for name in self.measures),
                result.verdict or "",
            ]
            for result in sorted(self.results, key=lambda result: -result.dimension)
        ]

    def _cell(self, figure: Figure) -> str:
        if figure.verdict is None:
            return f"{figure.value:.3g}"
        return format_share(figure.value) + format_interval(figure)

    def legend(self) -> str:
        """Return what the cells of the table mean."""
        if not self.advice.best:
            return f"{self.n_rows} rows of {self.n_features}."
        return (
            f"{self.n_rows} rows of {self.n_features}, in two halves: fitted on one, scored on the"
            " other, both ways. In points of 100; in brackets, the 95 % interval of the difference"
            " to no filter (paired bootstrap); same: all of it within"
            f" {format_share(MARGIN)} point."
        )

    def __str__(self) -> str:
        table = self.rows()
        widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in table
        ]
        notes = [f"Note: {note}." for note in self.notes]
        said = [self.best()] if self.advice.best else []
        command = [f"  {self.advice.command}"] if self.advice.command else []
        return "\n".join(
            [*lines, "", self.legend(), *notes, *said, "", self.recommendation, *command]
        )

    __repr__ = __str__  # what is typed at a prompt shows itself as a table
