"""The figures of the demonstration, computed again in plain float64 NumPy."""

from __future__ import annotations

import csv
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from numpy.typing import NDArray
from oracle import edge_rows, unit_rows

from embedfilter import CheckpointError
from embedfilter.demo import TEMPLATES, DemoReport, run_demo


@pytest.fixture(scope="module")
def report() -> DemoReport:
    return run_demo()


@pytest.fixture(scope="module")
def pairs() -> list[dict[str, str]]:
    text = (resources.files("embedfilter.demo") / "pairs.tsv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines(), delimiter="\t"))


def test_the_texts(pairs: list[dict[str, str]]) -> None:
    assert len(pairs) >= 240
    assert len({pair["topic"] for pair in pairs}) == 12
    texts = [pair[column] for pair in pairs for column in ("sentence", "paraphrase")]
    assert len(set(texts)) == len(texts)
    assert all(text.isascii() and 3 < len(text.split()) < 40 for text in texts)


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("ratio", [1, 2, 4, 8])
def test_figures(
    report: DemoReport, smollm2_vh: NDArray, pairs: list[dict[str, str]],
    demo_embeddings: dict[str, NDArray], template: str, ratio: int,
) -> None:  # fmt: skip
    (figures,) = [g for g in report.figures if (g.template, g.ratio) == (template, ratio)]
    X = demo_embeddings[template].astype(np.float64)
    Y = X if ratio == 1 else X @ smollm2_vh[edge_rows(576, 576 // ratio)].T
    Y = unit_rows(Y)
    n = len(pairs)
    topics = [pair["topic"] for pair in pairs] * 2

    products = (Y @ Y.T).tolist()
    ranks = []
    for i in range(n):
        scores = products[i][n:]
        ranks.append(sorted(scores, reverse=True).index(scores[i]) + 1)
    same_topic = 0
    cosines = []
    for i in range(2 * n):
        others = [j for j in range(2 * n) if j not in (i, (i + n) % (2 * n))]
        best = max(others, key=lambda j: products[i][j])
        same_topic += topics[best] == topics[i]
        cosines += [products[i][j] for j in range(2 * n) if topics[j] != topics[i]]

    assert figures.dimensions == Y.shape[1]
    assert figures.bytes_per_vector == 4 * Y.shape[1]
    assert figures.paraphrase_top1 == pytest.approx(np.mean(np.array(ranks) == 1), abs=1e-9)
    assert figures.paraphrase_mrr == pytest.approx(
        np.mean(1 / np.array(ranks)), abs=1e-4
    )  # a near tie
    assert figures.topic_neighbour == pytest.approx(same_topic / (2 * n), abs=1e-9)
    assert figures.unrelated_cosine == pytest.approx(np.mean(cosines), abs=1e-5)


def test_what_was_fitted(report: DemoReport) -> None:
    assert report.shape == (49152, 576)
    assert report.tensor == "token_embd.weight"
    assert report.fit_seconds >= 0
    assert all(g.apply_seconds >= 0 for g in report.figures)
    assert all(g.apply_seconds == 0 for g in report.figures if g.ratio == 1)


def test_another_model_of_the_same_width(tmp_path: Path) -> None:
    """Its filter would be applied to the wrong embeddings without a word."""
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file({"lm_head.weight": np.ones((49280, 576), np.float16)}, path)
    message = f"{path}: expected the head of SmolLM2-135M, 49152 x 576, .*found 49280 x 576"
    with pytest.raises(CheckpointError, match=message):
        run_demo(path)
