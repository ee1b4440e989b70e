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
texts is fitted to one half, all of it or 20 of its texts, and the other half is scored, both ways.
The figure of a set is Spearman's correlation (pairs) or the accuracy of the nearest neighbour
(labels), x 100; that of a model the mean of the mean of either kind. Seeds are fixed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from measure import RESULTS, write

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from embedfilter import EmbedFilter, open_unembedding, vocabulary_sample
from embedfilter.evaluation.measures import nearest
from embedfilter.evaluation.methods import all_methods
from embedfilter.fitting.kinds import kept_directions

RATIOS = (1, 2, 4, 8)
KINDS = ("edge", "late", "head", "tail", "mid")
WITHOUT_ROWS = (*KINDS, "no filter", "first coordinates", "random directions")
FEW = 20
Rows = NDArray[np.float32]
Fit = Callable[[Rows], Callable[[Rows, int], Rows]]  # to texts; then rows and dimensions to rows


def encode(sets: dict[str, Any], model: str, template: str) -> dict[str, Rows]:
    """Return the embeddings of each set's texts, as `EMBEDDINGS` has them."""
    from embedfilter import encoder

    embed = encoder(model, template=template, ratio=1, normalize=False)
    return {
        name: embed.encode(one["texts"], show_progress_bar=True).astype(np.float16)
        for name, one in sets.items()
    }


def filters_of(whole: EmbedFilter) -> dict[str, EmbedFilter]:
    """Return a filter of each kind, of half of the directions, from one of all."""
    d = whole.n_features_in
    place = np.argsort(whole.component_indices)
    return {
        kind: EmbedFilter(
            whole.components[place[kept]],
            kept,
            whole.singular_values,
            kind=kind,
            metadata=whole.metadata,
        )
        for kind in KINDS
        for kept in [kept_directions(kind, d, d // 2)]
    }


def methods(filters: dict[str, EmbedFilter], words: Rows) -> dict[str, tuple[Fit, list[int]]]:
    """Return what is compared, by name, and the ratios it is compared at."""
    late, d = filters["late"], words.shape[1]
    base = late.truncate(d // 2)

    def filtered(f: EmbedFilter) -> Callable[[Rows, int], Rows]:
        return lambda X, k: f.transform(X, normalize=False)[:, :k]

    compared: dict[str, tuple[Fit, list[int]]] = {}
    for method in all_methods(d, {kind: filters[kind] for kind in KINDS}):
        if method.name != "calibrated":  # of another base
            sizes = [1] if method.keeps_all else [2, 4, 8]
            compared[method.name] = (method.fit, sizes)
            if method.name in WITHOUT_ROWS:  # made once
                made = method.fit(words)
                compared[method.name] = (lambda _, made=made: made, sizes)
    of_words = filtered(base.calibrate(words))
    ours: dict[str, Fit] = {
        "vocabulary": lambda _: of_words,
        "20 texts": lambda X: filtered(base.calibrate(few(X))),
        "20 texts, vocabulary as prior": lambda X: filtered(base.calibrate(few(X), prior=words)),
        "half of the texts": lambda X: filtered(base.calibrate(X)),
        "the same, vocabulary as prior": lambda X: filtered(base.calibrate(X, prior=words)),
    }
    return compared | {name: (fit, [2, 4, 8]) for name, fit in ours.items()}


def few(X: Rows) -> Rows:
    """Return 20 of the rows, the same each time."""
    return X[np.random.default_rng(0).permutation(len(X))[:FEW]]


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


def scores(sets: dict[str, Any], X: dict[str, Rows], fit: Fit, sizes: list[int]) -> dict[str, Any]:
    """Return the figures of a method: {ratio: {set: figure}}."""
    found: dict[int, dict[str, list[float]]] = {ratio: {} for ratio in sizes}
    for name, one in sets.items():
        for scored, y, others in halves(one, X[name].astype(np.float32)):
            transform = fit(others)
            for ratio in sizes:
                figure = score(one["kind"], transform(scored, scored.shape[1] // ratio), y)
                found[ratio].setdefault(name, []).append(figure)
    return {
        str(ratio): {name: float(np.mean(values)) for name, values in of_set.items()}
        for ratio, of_set in found.items()
    }


def mean(sets: dict[str, Any], figures: dict[str, float]) -> dict[str, float]:
    """Return the mean of pairs, of labels, and of the two."""
    by_kind = {
        kind: float(np.mean([figures[n] for n, one in sets.items() if one["kind"] == kind]))
        for kind in sorted({one["kind"] for one in sets.values()})
    }
    return by_kind | {"mean": float(np.mean(list(by_kind.values())))}


def tables(report: dict[str, Any]) -> str:
    """Return the tables of docs/results.md."""
    kinds = list(report["sets"].values())
    titles = {
        "mean": "Mean of the two kinds",
        "pairs": f"Scored pairs (Spearman x 100, mean of {kinds.count('pairs')} sets)",
        "labels": f"Nearest neighbours (accuracy x 100, mean of {kinds.count('labels')} sets)",
    }
    rows = report["models"]
    columns = [f"{row['name']}, {row['template']}" for row in rows]
    lines = []
    for key, title in titles.items():
        lines += [f"**{title}**", "", f"| at 1/2, 1/4, 1/8 | {' | '.join(columns)} |"]
        lines += ["|---" * (len(rows) + 1) + "|"]
        for method in rows[0]["methods"]:
            cells = (
                ", ".join(f"{one[key]:.1f}" for one in row["methods"][method].values())
                for row in rows
            )
            lines.append(f"| {method} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


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
    report: dict[str, Any] = {"sets": {name: one["kind"] for name, one in sets.items()}}
    report["models"] = []
    for path in (p for p in options.files if p.suffix == ".npz"):
        name, template = path.stem.rsplit(".", 1)
        X = dict(np.load(path))
        d = next(iter(X.values())).shape[1]
        source = checkpoints[d]
        filters = {
            k: EmbedFilter.from_checkpoint(source, n_components=d // 2, kind=k) for k in KINDS
        }
        compared = methods(filters, words_of(source, template, options.words))
        row: dict[str, Any] = {"name": name, "template": template, "d": d, "methods": {}}
        print(f"\n{name}, {template}, d = {d}: pairs, labels, mean")
        for method, (fit, sizes) in compared.items():
            found = scores(sets, X, fit, sizes)
            row["methods"][method] = {
                ratio: {**mean(sets, figures), "sets": figures} for ratio, figures in found.items()
            }
            cells = "   ".join(
                f"1/{ratio}: {m['pairs']:.1f} {m['labels']:.1f} {m['mean']:.2f}"
                for ratio, m in row["methods"][method].items()
            )
            print(f"{method:<30} {cells}", flush=True)
        report["models"].append(row)
        write("backbones", report)  # what is done, should the rest be interrupted
    print(f"\n{tables(report)}")
    print(f"python benchmarks/plot.py draws {RESULTS / 'backbones.png'}")


if __name__ == "__main__":
    main()
