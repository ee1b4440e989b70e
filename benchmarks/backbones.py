"""What each method is worth on embeddings of several language models: one command, one figure.

    python benchmarks/backbones.py SETS.json EMBEDDINGS.npz... CHECKPOINT... [--words FOLDER]
    python benchmarks/backbones.py --encode SETS.json CHECKPOINT TEMPLATE OUT.npz

SETS.json    {name: {"kind": "pairs" or "labels", "texts": [...], "y": [...]}}: scored pairs (all
             first texts, then all second ones), or a label for each text
EMBEDDINGS   of those texts, NAME.TEMPLATE.npz: one array (rows, d) a set, not filtered and not
             normalised; --encode makes them
CHECKPOINT   the models, as many; each takes the embeddings of its hidden size
--words      where embeddings of words of the vocabulary are kept from run to run

Protocol: each set is cut into its even and its odd rows (pairs stay whole); what is fitted to
texts is fitted to one half, all of it or 20 of its texts (the mean of five choices), and the other
half is scored, both ways. Principal axes beyond as many as the half has rows are anything, so that
PCA and whitening have no figure there. The figure of a set is Spearman's correlation (pairs) or the
accuracy of the nearest neighbour (labels), x 100; that of a model the mean of the mean of either
kind. Seeds are fixed. Half a minute to three minutes a file on one core.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from backbones_tables import tables
from measure import RESULTS, write

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from embedfilter import EmbedFilter, open_unembedding, vocabulary_sample
from embedfilter.evaluation.inputs import as_filters
from embedfilter.evaluation.measures import nearest
from embedfilter.evaluation.methods import all_methods

RATIOS = (2, 4, 8)
KINDS = ("edge", "late", "head", "tail", "mid")
WITHOUT_ROWS = (*KINDS, "no filter", "first coordinates", "random directions")
FEW, N_CHOICES = 20, 5
Rows = NDArray[np.float32]
Map = Callable[[Rows, int], Rows]  # of rows, to so many dimensions


class Compared(NamedTuple):
    """A method: what makes its map, of which of the rows of half a set, and at which ratios."""

    fit: Callable[[Rows], Map]
    ratios: tuple[int, ...]
    samples: Callable[[Rows], list[Rows]] = lambda X: [X]
    needs_rows: bool = False  # one more than it gives dimensions


def encode(sets: dict[str, Any], model: str, template: str) -> dict[str, Rows]:
    """Return the embeddings of each set's texts, as `EMBEDDINGS` has them."""
    from embedfilter import encoder

    embed = encoder(model, template=template, ratio=1, normalize=False)
    return {
        name: embed.encode(one["texts"], show_progress_bar=True).astype(np.float16)
        for name, one in sets.items()
    }


def methods(filters: dict[str, EmbedFilter], words: Rows) -> dict[str, Compared]:
    """Return what is compared, by name."""
    d = words.shape[1]
    base = filters["late"].truncate(d // 2)

    def filtered(f: EmbedFilter) -> Map:
        return lambda X, k: f.transform(X, normalize=False)[:, :k]

    compared: dict[str, Compared] = {}
    for method in all_methods(d, filters):
        if method.name != "calibrated":  # of another base
            fit = always(method.fit(words)) if method.name in WITHOUT_ROWS else method.fit
            ratios = (1,) if method.keeps_all else RATIOS
            compared[method.name] = Compared(fit, ratios, needs_rows=method.needs_rows)

    def own(X: Rows) -> Map:
        return filtered(base.calibrate(X))

    def with_words(X: Rows) -> Map:
        return filtered(base.calibrate(X, prior=words))

    return compared | {
        "vocabulary": Compared(always(filtered(base.calibrate(words))), RATIOS),
        "20 texts": Compared(own, RATIOS, few),
        "20 texts, vocabulary as prior": Compared(with_words, RATIOS, few),
        "half of the texts": Compared(own, RATIOS),
        "the same, vocabulary as prior": Compared(with_words, RATIOS),
    }


def always(made: Map) -> Callable[[Rows], Map]:
    """Return what is fitted to no rows: it is made once."""
    return lambda _: made


def few(X: Rows) -> list[Rows]:
    """Return choices of 20 of the rows, the same each time."""
    return [X[np.random.default_rng(seed).permutation(len(X))[:FEW]] for seed in range(N_CHOICES)]


def halves(one: dict[str, Any], X: Rows) -> Iterator[tuple[Rows, NDArray[Any], Rows]]:
    """Iterate over the scored rows, what they are scored against, and those to be fitted to."""
    y = np.asarray(one["y"])
    for half in (0, 1):
        if one["kind"] == "pairs":
            both = X.reshape(2, len(y), -1).swapaxes(0, 1)
            scored, others = (
                np.ascontiguousarray(both[i::2]).reshape(-1, X.shape[1]) for i in (1 - half, half)
            )
        else:
            scored, others = X[1 - half :: 2], X[half::2]
        yield scored, y[1 - half :: 2], others


def score(kind: str, Y: Rows, y: NDArray[Any]) -> float:
    """Return the figure of filtered rows (n, k)."""
    lengths = np.linalg.norm(Y, axis=1, keepdims=True)
    unit = np.asarray(Y / np.where(lengths > 0, lengths, 1), np.float32)
    if kind == "pairs":
        return 100 * float(spearmanr(np.sum(unit[::2] * unit[1::2], axis=1), y.astype(float))[0])
    return 100 * float(np.mean(y[nearest(unit, 1)[:, 0]] == y))


def scores(
    sets: dict[str, Any], X: dict[str, Rows], compared: dict[str, Compared]
) -> dict[str, Any]:
    """Return the figures: {method: {ratio: {set: figure, or None where there is none}}}."""
    found: dict[str, Any] = {
        name: {str(ratio): {} for ratio in method.ratios} for name, method in compared.items()
    }
    for of_set, one in sets.items():
        figures: dict[tuple[str, int], list[float]] = {}
        for scored, y, others in halves(one, X[of_set].astype(np.float32)):
            d = scored.shape[1]
            for name, method in compared.items():  # methods of the same axes one after the other
                for sample in method.samples(others):
                    transform = method.fit(sample)
                    for ratio in method.ratios:
                        if method.needs_rows and d // ratio >= len(sample):
                            figure = np.nan
                        else:
                            figure = score(one["kind"], transform(scored, d // ratio), y)
                        figures.setdefault((name, ratio), []).append(figure)
        for (name, ratio), values in figures.items():
            mean = float(np.mean(values))
            found[name][str(ratio)][of_set] = None if np.isnan(mean) else mean
        print(of_set, end=" ", flush=True)
    return found


def means(kinds: dict[str, str], figures: dict[str, float | None]) -> dict[str, float | None]:
    """Return the mean of pairs, of labels, and of the two; None where one of a kind has none."""
    found: dict[str, float | None] = {}
    for kind in sorted({*kinds.values()}):
        values = [figures[name] for name, its_kind in kinds.items() if its_kind == kind]
        known = [value for value in values if value is not None]
        found[kind] = float(np.mean(known)) if len(known) == len(values) else None
    both = [value for value in found.values() if value is not None]
    return found | {"mean": float(np.mean(both)) if len(both) == len(found) else None}


def words_of(checkpoint: Path, template: str, folder: Path | None) -> Rows:
    """Return embeddings of words of the vocabulary, kept in a folder if there is one."""
    kept = None if folder is None else folder / f"{checkpoint.stem}.{template}.words.npy"
    if kept is not None and kept.exists():
        V = np.load(kept)
    else:
        V = vocabulary_sample(checkpoint, template=template, progress=True)
        if kept is not None:
            np.save(kept, V)
    # Known again for what it is.
    from embedfilter.arrays.vocabulary_sample import VocabularySample

    return VocabularySample.of(V.astype(np.float32), f"{len(V)} words of {checkpoint.stem}")


def main() -> None:
    """Score all, print tables, write results/backbones.json; plot.py draws it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sets", type=Path)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--encode", action="store_true")
    parser.add_argument("--words", type=Path)
    options = parser.parse_args()
    sets = json.loads(options.sets.read_text(encoding="utf-8"))
    if options.encode:
        model, template, out = options.files
        np.savez(out, **encode(sets, str(model), str(template)))
        return
    checkpoints = {}
    for path in options.files:
        if path.suffix != ".npz":
            with open_unembedding(path) as W:
                checkpoints[W.shape[1]] = path
    kinds = {name: one["kind"] for name, one in sets.items()}
    report: dict[str, Any] = {"sets": kinds, "models": []}
    for path in (p for p in options.files if p.suffix == ".npz"):
        name, template = path.stem.rsplit(".", 1)
        X = dict(np.load(path))
        d = next(iter(X.values())).shape[1]
        source = checkpoints[d]
        filters = as_filters(source, d, [d // 2], KINDS)
        compared = methods(filters, words_of(source, template, options.words))
        print(f"{name}, {template}, d = {d}: ", end="", flush=True)
        of_methods = {
            method: {
                ratio: {**means(kinds, figures), "sets": figures}
                for ratio, figures in of_ratio.items()
            }
            for method, of_ratio in scores(sets, X, compared).items()
        }
        report["models"].append({"name": name, "template": template, "d": d, "methods": of_methods})
        write("backbones", report)  # what is done, should the rest be interrupted
    print(f"\n{tables(report)}")
    print(f"python benchmarks/plot.py draws {RESULTS / 'backbones.png'}")


if __name__ == "__main__":
    main()
