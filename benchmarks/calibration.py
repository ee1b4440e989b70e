"""What late and calibrated filters are worth beside the paper's, on scored pairs and topics.

    python benchmarks/calibration.py FOLDER [--checkpoint FILE] [--json FILE]

FOLDER has the sets as NAME.tsv, their first column the score of a pair (sts-*) or the topic of a
text, and the embeddings of their texts as embeddings/NAME.npy and embeddings/echo-NAME.npy: for
pairs first all of the left texts, then all of the right ones.

Protocol: each set's rows are cut into two halves, the even and the odd ones; what is fitted is
fitted to at most 1000 texts of one half, the other half is scored, both ways, and the mean is
printed. It needs scikit-learn and SciPy.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.cluster import KMeans
from sklearn.metrics import v_measure_score

from embedfilter import EmbedFilter
from embedfilter.demo import find_checkpoint

PAIRS = ("sts-2012.OnWN", "sts-2014.images")
TOPICS = "stackoverflow-titles"
N_TOPICS = 20
MOST_TEXTS = 1000
SEEDS = 3  # of k-means, whose V-measure moves by 1 to 2 from seed to seed
DIMENSIONS = (288, 72)

Transform = Callable[[NDArray], NDArray]
Fit = Callable[[NDArray], Transform]  # to a sample of texts


def first_column(path: Path) -> list[str]:
    """Return what stands before the first tab of each line but the heading."""
    lines = path.read_text(encoding="utf-8").splitlines()[1:]
    return [line.split("\t", 1)[0] for line in lines]


def score_pairs(folder: Path, name: str, prefix: str, fit: Fit) -> float:
    """Return Spearman's correlation of cosines with the scores, times 100."""
    scores = np.array(first_column(folder / f"{name}.tsv"), float)
    X = np.load(folder / "embeddings" / f"{prefix}{name}.npy").reshape(2, len(scores), -1)
    found = []
    for half in (0, 1):
        # The two texts of a pair lie together, so that the first 1000 are of 500 pairs.
        texts = X[:, half::2].swapaxes(0, 1).reshape(-1, X.shape[2])
        transform = fit(texts[:MOST_TEXTS])
        left, right = (transform(side[1 - half :: 2]) for side in X)
        cosines = np.sum(left * right, axis=1)
        found.append(100 * spearmanr(cosines, scores[1 - half :: 2])[0])
    return float(np.mean(found))


def score_topics(folder: Path, prefix: str, fit: Fit) -> tuple[float, float]:
    """Return the accuracy of the nearest neighbour and V-measure of k-means, times 100."""
    topics = np.array(first_column(folder / f"{TOPICS}.tsv"))
    X = np.load(folder / "embeddings" / f"{prefix}{TOPICS}.npy")
    found = []
    for half in (0, 1):
        Y = fit(X[half::2][:MOST_TEXTS])(X[1 - half :: 2])
        truth = topics[1 - half :: 2]
        cosines = Y @ Y.T
        np.fill_diagonal(cosines, -np.inf)
        neighbour = np.mean(truth[cosines.argmax(axis=1)] == truth)
        clusters = [
            v_measure_score(truth, KMeans(N_TOPICS, n_init=10, random_state=seed).fit_predict(Y))
            for seed in range(SEEDS)
        ]
        found.append((100 * neighbour, 100 * np.mean(clusters)))
    neighbour, v_measure = np.mean(found, axis=0)
    return float(neighbour), float(v_measure)


def methods(checkpoint: Path) -> dict[str, Fit]:
    """Return what is compared, by name."""
    edge = EmbedFilter.from_checkpoint(checkpoint)
    late = EmbedFilter.from_checkpoint(checkpoint, kind="late")

    def unfiltered(sample: NDArray) -> Transform:
        return lambda X: (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32)

    compared: dict[str, Fit] = {f"no filter, {edge.n_features_in}": unfiltered}
    for k in DIMENSIONS:
        # k is bound when the function is made, not when it is called.
        compared[f"edge, {k}"] = lambda sample, k=k: edge.truncate(k)
        compared[f"late, {k}"] = lambda sample, k=k: late.truncate(k)
        compared[f"calibrated, {k}"] = lambda sample, k=k: late.calibrate(sample, n_components=k)
    return compared


def main() -> None:
    """Score every method on the sets of both templates, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--checkpoint", type=Path, help="SmolLM2-135M, if not found by itself")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    arguments = parser.parse_args()
    compared = methods(arguments.checkpoint or find_checkpoint())
    figures = {}
    for template, prefix in (("PromptEOL", ""), ("Echo", "echo-")):
        print(f"\n{template:<16}  OnWN 2012  images 2014  titles 1-NN  titles V-measure")
        for name, fit in compared.items():
            pairs = [score_pairs(arguments.folder, each, prefix, fit) for each in PAIRS]
            row = (*pairs, *score_topics(arguments.folder, prefix, fit))
            figures[f"{template}: {name}"] = row
            print(
                f"{name:<16}  {row[0]:9.1f}  {row[1]:11.1f}  {row[2]:11.1f}  {row[3]:16.1f}",
                flush=True,
            )
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
