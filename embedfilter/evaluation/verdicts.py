"""What the figures say: a verdict in words for each method, and a recommendation."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from embedfilter.evaluation.measures import Measure
from embedfilter.evaluation.methods import (
    CALIBRATED,
    CONTROLS,
    NO_FILTER,
    PCA_NAME,
    VOCABULARY,
)

__all__ = [
    "BETTER",
    "CANNOT_TELL",
    "MARGIN",
    "SAME",
    "WORSE",
    "Advice",
    "Figure",
    "Key",
    "advise",
    "command_for",
    "compare",
    "format_interval",
    "format_share",
]

BETTER, SAME, WORSE, CANNOT_TELL = "better", "same", "worse", "cannot tell"
# Differences under a point are of no use to anyone, however sure they are.
MARGIN = 0.01
_INTERVAL = (2.5, 97.5)

Key = tuple[str, int]  # the name of a method, and the number of dimensions


@dataclass(frozen=True)
class Figure:
    """One measure of one method.

    Attributes
    ----------
    value : float
    difference : float
        To that of no filter.
    low, high : float or None
        The 95 % interval of the difference, by a paired bootstrap; None where there is none.
    verdict : str or None
        "better", "same" (the interval lies within a point), "worse" or "cannot tell"; None
        where more is not better.
    """

    value: float
    difference: float
    low: float | None
    high: float | None
    verdict: str | None


@dataclass(frozen=True)
class Advice:
    """A recommendation.

    Attributes
    ----------
    text : str
    use_filter : bool or None
        Whether to use one of the filters that were compared, calibrated or not; None if there
        was none, or nothing to judge it by.
    best : dict
        The method to take by number of dimensions.
    method : tuple of str and int, optional
        The filter that is recommended, and its number of dimensions.
    command : str
        What makes that filter, in a shell.
    """

    text: str
    use_filter: bool | None
    best: dict[int, str]
    method: Key | None = None
    command: str = ""


def compare(ours: Measure, theirs: Measure, *, is_judged: bool) -> Figure:
    """Compare a measure with that of no filter, on the same rows."""
    difference = ours.value - theirs.value
    draws = ours.draws - theirs.draws
    if np.isnan(draws).any():
        return Figure(ours.value, difference, None, None, None)
    low, high = (float(edge) for edge in np.percentile(draws, _INTERVAL))
    return Figure(ours.value, difference, low, high, _verdict(low, high) if is_judged else None)


def _verdict(low: float, high: float) -> str:
    if low >= -MARGIN and high <= MARGIN:
        return SAME
    if low > 0:
        return BETTER
    return WORSE if high < 0 else CANNOT_TELL


def advise(scores: dict[Key, Measure], filters: Iterable[str], measure: str) -> Advice:
    """Recommend methods from their scores.

    A filter is recommended where it is better than no filter, or not worse and better than
    every way to cut dimensions that knows nothing; where PCA is not better than it, and no such
    cut of the same size ahead of it, surely or not. One that was calibrated on rows is where it
    is not worse than no filter, and better than PCA on the same rows.

    Parameters
    ----------
    scores : dict
        Of each method and number of dimensions; of several measures, their mean.
    filters : iterable of str
        The names of the methods that are filters.
    measure : str
        What the scores are.
    """
    filters = list(filters)
    judge = _Judge(scores)
    ours = [*filters, VOCABULARY, CALIBRATED] if filters else []
    best = judge.best(ours)
    helping = [key for key in scores if key[0] in ours and judge.helps(*key)]
    if helping:
        key = max(helping, key=lambda key: scores[key].value)
        best[key[1]] = key[0]
        what = {VOCABULARY: f"{filters[-1]} filter, calibrated on the model's vocabulary,",
                CALIBRATED: f"{filters[-1]} filter, calibrated on your embeddings,"}.get(
            key[0], f"{key[0]} filter"
        )  # fmt: skip
        return Advice(f"Use the {what} here: {judge.sentence(*key, measure)}.", True, best, key)
    if filters:
        text = (
            f"Do not use the {' or the '.join(filters)} filter here: at no dimension is it better"
            " than no filter, or as good and better than cutting dimensions without it."
        )
        return Advice(text, False, best)
    chosen = [judge.sentence(name, k, measure) for k, name in sorted(best.items(), reverse=True)]
    text = f"Best here: {'; '.join(chosen)}. No filter of a model was among them."
    return Advice(text, None, best)


def command_for(
    key: Key,
    kind: str,
    n_components: int,
    *,
    source: Sequence[str],
    filter_file: str,
    template: str,
) -> str:
    """Return the command that makes the filter that is recommended, "" if none does.

    Parameters
    ----------
    key : tuple
        The method, and its number of dimensions.
    kind, n_components : str, int
        Of the filter that is calibrated.
    source : sequence of str
        The checkpoint, and its base if it has one; empty if a filter was given.
    filter_file : str
        The file of that filter; "" where only a part of it was judged.
    template : str
        Of the embeddings, where they are known to be of a model.
    """
    name, k = key
    model, *bases = source or ["MODEL"]
    base = "".join(f" --base {shlex.quote(each)}" for each in bases)
    fit = f"embedfilter fit {shlex.quote(model)}{base} --kind"
    if name not in (CALIBRATED, VOCABULARY):
        if source:
            return f"{fit} {name} --components {k} -o {name}.safetensors"
        return f"embedfilter apply {shlex.quote(filter_file)} EMBEDDINGS OUT" if filter_file else ""
    file = f"{kind}.safetensors"
    first = f"{fit} {kind} --components {n_components} -o {file} && " if source else ""
    sample = (
        f"--vocabulary {shlex.quote(model)} --template {template}"
        if name == VOCABULARY
        else "EMBEDDINGS"
    )
    if not (source or filter_file):
        return ""
    of = file if source else shlex.quote(filter_file)
    return f"{first}embedfilter calibrate {of} {sample} --components {k} -o calibrated.safetensors"


class _Judge:
    """Compares scores pair by pair."""

    def __init__(self, scores: dict[Key, Measure]) -> None:
        self.scores = scores
        ((self.base, self.d),) = [key for key in scores if key[0] == NO_FILTER]

    def against_none(self, name: str, k: int) -> Figure:
        none = self.scores[self.base, self.d]
        return compare(self.scores[name, k], none, is_judged=True)

    def beats(self, name: str, other: str, k: int) -> bool:
        """Tell whether one method is surely better than another with as many dimensions."""
        if not {(name, k), (other, k)} <= set(self.scores):
            return False
        low, _ = np.percentile(self.scores[name, k].draws - self.scores[other, k].draws, _INTERVAL)
        return bool(low > 0)

    def helps(self, name: str, k: int) -> bool:
        """Tell whether a filter, calibrated or not, does what cheaper ways do not."""
        verdict = self.against_none(name, k).verdict
        if verdict == WORSE or self.beats(PCA_NAME, name, k) or self.is_behind_a_cut(name, k):
            return False
        if name == CALIBRATED:
            return self.beats(name, PCA_NAME, k)
        return verdict == BETTER or all(self.beats(name, control, k) for control in CONTROLS)

    def is_behind_a_cut(self, name: str, k: int) -> bool:
        """Tell whether cutting dimensions without a filter comes to more, however sure that is."""
        cuts = [self.scores[cut, k].value for cut in CONTROLS if (cut, k) in self.scores]
        return self.scores[name, k].value < max(cuts, default=-np.inf)

    def best(self, ours: list[str]) -> dict[int, str]:
        """Return the best method for each dimension.

        Filters, calibrated or not, only where they help; instead of no filter only what is
        surely better.
        """
        found: dict[int, str] = {}
        for name, k in self.scores:
            if name in CONTROLS or (name in ours and not self.helps(name, k)):
                continue
            if k == self.d and name != self.base and self.against_none(name, k).verdict != BETTER:
                continue
            if k not in found or self.scores[name, k].value > self.scores[found[k], k].value:
                found[k] = name
        return found

    def sentence(self, name: str, k: int, measure: str) -> str:
        """Return what a method reaches, in words."""
        figure = self.against_none(name, k)
        value = f"{name} at {k} dimensions ({measure} {format_share(figure.value)}"
        if name == NO_FILTER or figure.low is None or figure.high is None:
            return value + ")"
        interval = format_interval(figure)
        difference = f", {format_share(figure.difference, sign=True)}{interval}" if interval else ""
        return f"{value}{difference}: {figure.verdict})"


def format_share(value: float, *, sign: bool = False) -> str:
    """Write a share in points of 100."""
    return f"{round(100 * value, 1) + 0.0:{'+' if sign else ''}.1f}"  # which is never -0.0


def format_interval(figure: Figure) -> str:
    """Write the interval of a difference, to follow a value; "" where it is none, or nothing."""
    if figure.low is None or figure.high is None:
        return ""
    low, high = (format_share(edge, sign=True) for edge in (figure.low, figure.high))
    return "" if low == high == "+0.0" else f" [{low}, {high}]"
