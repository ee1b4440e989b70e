"""What a filter of the input embedding is worth where the head was dropped, beside the head's own.

    python benchmarks/dropped_head.py CHECKPOINT SETS.json EMBEDDINGS.npz [--input NAME]

CHECKPOINT has both matrices. SETS.json has text sets by name, each with "kind" and "y": of pairs
the scores, of labels the labels; EMBEDDINGS.npz has the embeddings of their texts, by the same
names: of pairs all first texts, then all second ones.

angles     principal angles between what the two filters keep: their median, the largest, and the
           mean squared cosine, which between random subspaces is k / d
quality    Spearman's correlation of cosines with scores, and accuracy of the nearest neighbour,
           times 100, each the mean over its sets. "another matrix" is one of random numbers, which
           has nothing to do with the head
rows       the median cosine of rows of the two matrices: near 1 if they are one, stored twice
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from embedfilter import EmbedFilter, open_unembedding

RATIOS = (2, 4, 8)
N_ROWS = 4096


def spearman(Y: NDArray[np.float32], scores: NDArray[np.float64]) -> float:
    """Return the correlation of the cosines of pairs of unit rows with their scores."""
    left, right = Y.reshape(2, len(scores), -1)
    return float(100 * spearmanr(np.sum(left * right, axis=1), scores)[0])


def neighbour(Y: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Return for how many unit rows the nearest other one has the same label."""
    cosines = Y @ Y.T
    np.fill_diagonal(cosines, -np.inf)
    return float(100 * np.mean(labels[cosines.argmax(axis=1)] == labels))


def quality(f: EmbedFilter, sets: dict, embeddings: dict) -> list[float]:
    """Return the means over the sets of pairs, and over those of labels."""
    found: dict[str, list[float]] = {"pairs": [], "labels": []}
    for name, texts in sets.items():
        measure = spearman if texts["kind"] == "pairs" else neighbour
        Y = f.transform(embeddings[name])
        found[texts["kind"]].append(measure(Y, np.array(texts["y"])))
    return [float(np.mean(values)) for values in found.values()]


def rows_cosine(arguments: argparse.Namespace) -> float:
    """Return the median cosine between the first rows of the head and of the input embedding."""
    rows = []
    for tensor in (None, arguments.input):
        with open_unembedding(arguments.checkpoint, tensor=tensor) as W:
            some = W.rows(0, min(N_ROWS, W.shape[0])).astype(np.float64)
            rows.append(some / np.linalg.norm(some, axis=1, keepdims=True))
    return float(np.median(np.sum(rows[0] * rows[1], axis=1)))


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("sets", type=Path)
    parser.add_argument("embeddings", type=Path)
    parser.add_argument("--input", default="token_embd.weight", help="the input embedding's name")
    arguments = parser.parse_args()
    sets = json.loads(arguments.sets.read_text(encoding="utf-8"))
    embeddings = dict(np.load(arguments.embeddings))
    whole = EmbedFilter.from_checkpoint(arguments.checkpoint, kind="identity")
    d = whole.n_features_in
    other = np.random.default_rng(0).standard_normal((4 * d, d), np.float32)
    print(f"rows of the two matrices: a median cosine of {rows_cosine(arguments):.4f}\n")
    print(f"{'':>22}  {'angles: median':>14}  {'largest':>7}  {'shared':>6}  {'pairs':>5}  labels")
    pairs, labels = quality(whole, sets, embeddings)
    print(f"{'no filter':<16}{d:>6}  {'':>14}  {'':>7}  {'':>6}  {pairs:5.1f}  {labels:6.1f}")
    for ratio in RATIOS:
        filters = {
            "head": EmbedFilter.from_checkpoint(arguments.checkpoint, ratio=ratio),
            "input embedding": EmbedFilter.from_checkpoint(
                arguments.checkpoint, ratio=ratio, tensor=arguments.input
            ),
            "another matrix": EmbedFilter.from_matrix(other, ratio=ratio),
        }
        right = filters["head"].components.astype(np.float64)
        for name, f in filters.items():
            cosines = np.linalg.svd(right @ f.components.T, compute_uv=False).clip(0, 1)
            median, largest = np.degrees(np.arccos([np.median(cosines), cosines.min()]))
            shared = np.mean(cosines**2)
            pairs, labels = quality(f, sets, embeddings)
            print(
                f"{name:<16}{f.n_components:>6}  {median:13.1f}°  {largest:6.1f}°  {shared:6.3f}"
                f"  {pairs:5.1f}  {labels:6.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
