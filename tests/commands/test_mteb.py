"""``embedfilter mteb``: on tasks that are made here, against a direct computation."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import local_tasks
import numpy as np
import pytest
import safetensors.numpy
import scipy.stats
import sklearn.metrics
from command_line import UNMEASURED, failure, run
from local_tasks import JUDGED, OTHER_PAIRS, PAIRS
from oracle import edge_rows, unit_rows
from tiny_model import write_tiny_model

from embedfilter import encoder
from embedfilter.integrations.encoder import TemplateTransformer

pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore")]  # MTEB's and its peers' own

SUPPORT = str(Path(local_tasks.__file__).parent)
# Is killed, as by kill -9, when so many texts have been given to the model in parts of eight.
KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import local_tasks
from embedfilter.commands.main import main
from embedfilter.integrations import kept_embeddings
from embedfilter.integrations.encoder import TemplateTransformer

local_tasks.register()
kept_embeddings._CHUNK = 8
own, given = TemplateTransformer.preprocess, []

def preprocess(self, inputs, *arguments, **options):
    given.extend(inputs)
    if len(given) > int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    with open(sys.argv[2], "a") as file:
        file.writelines(f"{text}\\n" for text in inputs)
    return own(self, inputs, *arguments, **options)

TemplateTransformer.preprocess = preprocess
main(sys.argv[4:])
"""


@pytest.fixture(scope="module", autouse=True)
def _registered() -> None:
    local_tasks.register()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that are given to a model."""
    texts: list[str] = []
    own = TemplateTransformer.preprocess

    def preprocess(self: Any, inputs: list[str], *arguments: Any, **options: Any) -> Any:
        texts.extend(inputs)
        return own(self, inputs, *arguments, **options)

    monkeypatch.setattr(TemplateTransformer, "preprocess", preprocess)
    return texts


def embeddings(model: Path, texts: list[str], ratio: int) -> np.ndarray:
    """Embeddings of unit length by NumPy, in float64."""
    embed = encoder(model, ratio=1, normalize=False, device="cpu")
    X = embed.encode(texts, show_progress_bar=False).astype(np.float64)
    if ratio == 1:
        return unit_rows(X)
    W = safetensors.numpy.load_file(model / "model.safetensors")["model.embed_tokens.weight"]
    Vh = np.linalg.svd(W.astype(np.float64), full_matrices=False)[2]
    return unit_rows(X @ Vh[edge_rows(64, 64 // ratio)].T)


def cosines(model: Path, data: dict[str, list[Any]], ratio: int) -> np.ndarray:
    left, right = (embeddings(model, data[f"sentence{i}"], ratio) for i in (1, 2))
    return np.sum(left * right, axis=1)


def test_the_table_is_what_numpy_computes(model: Path, tmp_path: Path, embedded: list[str]) -> None:
    names = "LocalPairs,OtherPairs,JudgedPairs"
    words = ["mteb", model, "--tasks", names, "--ratio", "1", "2", "4", "-o", tmp_path / "out"]
    done = run(*words, "--template", "prompteol", "--device", "cpu")
    of_all = [d[f"sentence{i}"] for d in (PAIRS, OTHER_PAIRS, JUDGED) for i in (1, 2)]
    assert sorted(embedded) == sorted(set(itertools.chain(*of_all)))  # each text once
    found = json.loads((tmp_path / "out" / "table.json").read_text())
    assert [(row["method"], row["dimensions"]) for row in found["rows"]] == [
        ("no filter", 64),
        ("edge", 32),
        ("edge", 16),
    ]
    lines = done.stdout.splitlines()
    assert lines == (tmp_path / "out" / "table.md").read_text().splitlines()
    heads = [cell.strip() for cell in lines[0].strip("|").split("|")]
    assert heads == ["method", "size", "STS (2)", "PairClassification (1)", "mean (3)"]
    for row, line in zip(found["rows"], lines[2:], strict=True):
        ratio = int(row["ratio"])
        of_pairs = [
            100 * scipy.stats.spearmanr(cosines(model, data, ratio), data["score"])[0]
            for data in (PAIRS, OTHER_PAIRS)
        ]
        judged = 100 * sklearn.metrics.average_precision_score(
            JUDGED["labels"], cosines(model, JUDGED, ratio)
        )
        expected = [np.mean(of_pairs), judged, np.mean([*of_pairs, judged])]
        scores = [*row["groups"].values(), row["mean"]]
        assert scores == pytest.approx(expected, abs=1e-3)
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[1:] == [str(64 // ratio), *(f"{score:.2f}" for score in scores)]
    # Given again, and with one more filter: nothing is embedded, what there is stays.
    results = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("results/*/*.json")}
    assert len(results) == 9
    embedded.clear()
    again = run(*words[:-2], "8", "-o", tmp_path / "out", "--device", "cpu")
    assert embedded == []
    assert again.stdout.splitlines()[2:5] == lines[2:]
    assert (
        results.items()
        < {path: path.stat().st_mtime_ns for path in tmp_path.rglob("results/*/*.json")}.items()
    )


def test_calibrated_filters_are_those_of_the_encoder(
    model: Path, tmp_path: Path, embedded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The tiny model's tokens are bytes: these are the words that it would have.
    words = [f"{a} {b}" for a in local_tasks.WORDS for b in local_tasks.WORDS][:100]
    monkeypatch.setattr(
        "embedfilter.integrations.vocabulary_words.vocabulary_words", lambda _: words
    )
    options = ["--ratio", "1,4", "--calibrate", "vocabulary", "--device", "cpu"]
    done = run("mteb", model, "--tasks", "LocalPairs", "-o", tmp_path, "--json", *options)
    assert len(embedded) == len(set(embedded))
    none, edge, calibrated = json.loads(done.stdout)["rows"]
    assert [row["dimensions"] for row in (none, edge, calibrated)] == [64, 16, 16]
    embed = encoder(model, ratio=4, calibrate="vocabulary", device="cpu")
    left, right = (embed.encode(PAIRS[f"sentence{i}"]).astype(float) for i in (1, 2))
    expected = scipy.stats.spearmanr(np.sum(left * right, axis=1), PAIRS["score"])[0]
    assert calibrated["tasks"]["LocalPairs"] == pytest.approx(100 * expected, abs=1e-2)
    assert calibrated["mean"] != pytest.approx(edge["mean"], abs=0.1)


def test_classification_takes_lengths_as_they_are(model: Path, tmp_path: Path) -> None:
    from embedfilter.integrations import mteb_table

    given: list[np.ndarray] = []
    own = mteb_table._Method.encode

    def encode(*arguments: Any, **options: Any) -> np.ndarray:
        given.append(own(*arguments, **options))
        return given[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mteb_table._Method, "encode", encode)
        options = ["--tasks", "Labelled", "--ratio", "1,2", "-o", tmp_path, "--device", "cpu"]
        done = run("mteb", model, *options)
    assert "Classification (1)" in done.stdout
    assert {rows.shape[1] for rows in given} == {64, 32}
    for rows in given:
        assert np.ptp(np.linalg.norm(rows, axis=1)) > 1e-3


def test_a_killed_run_goes_on(model: Path, tmp_path: Path, embedded: list[str]) -> None:
    log, out = tmp_path / "texts", tmp_path / "out"
    words = ["mteb", str(model), "--tasks", "LocalPairs,OtherPairs", "--ratio", "1", "2"]
    words += ["-o", str(out), "--device", "cpu"]
    first_task = {*PAIRS["sentence1"], *PAIRS["sentence2"]}
    all_texts = first_task | {*OTHER_PAIRS["sentence2"]}
    stop = len(first_task) + 12  # in the second part of the second task's texts
    done = subprocess.run(
        [sys.executable, "-c", KILLED, SUPPORT, log, str(stop), *words],
        check=False,
        capture_output=True,
        text=True,
        env=UNMEASURED,
        cwd=tmp_path,  # away from the source, which has no C core
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    before = log.read_text().splitlines()
    results = {path: path.stat().st_mtime_ns for path in out.rglob("results/*/*.json")}
    assert {path.name for path in results} == {"LocalPairs.json"}
    assert len(results) == 2
    run(*words)
    # What was written is not embedded again: at most the part that was being embedded is.
    assert {*before} | {*embedded} == all_texts
    assert len(before) == len(first_task) + 8
    assert not {*before} & {*embedded}
    assert len(embedded) == len(set(embedded))
    assert results == {path: path.stat().st_mtime_ns for path in results}
    clean = run(*words[:-3], str(tmp_path / "clean"), "--device", "cpu")
    assert clean.stdout == (out / "table.md").read_text()


def test_what_fails_is_told(model: Path, tmp_path: Path) -> None:
    options = ["--ratio", "2", "-o", tmp_path / "out", "--device", "cpu"]
    done = run("mteb", model, "--tasks", "LostPairs,LocalPairs", *options, status=2)
    assert "STS (1)" in done.stdout
    assert "embedfilter: warning: LostPairs: ConnectionError: no network\n" in done.stderr
    assert "1 that failed, and count in no mean: LostPairs" in done.stderr.splitlines()[-1]
    assert json.loads((tmp_path / "out" / "table.json").read_text())["failed"].keys() == {
        "LostPairs"
    }
    done = run("mteb", model, "--tasks", "LostPairs", *options, status=2)
    assert done.stdout == ""
    assert "expected one that can be scored" in done.stderr.splitlines()[-1]
    assert "'STS1'" in failure("mteb", model, "--tasks", "STS1", *options)


def test_what_is_wrong_is_told_before_the_model_is_opened(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    words = ["mteb", model, "--tasks", "LocalPairs", "-o", out, "--device", "cpu", "--ratio"]
    with monkeypatch.context() as patch:
        patch.setattr("embedfilter.integrations.mteb_table.encoder", pytest.fail)
        for ratio in ("0.5", "1,inf", "nan"):
            told = run(*words, ratio, status=2).stderr
            assert "ratio: expected a finite number of at least 1, found" in told
    assert "no such file or folder" in failure("mteb", tmp_path / "absent", *words[2:], "2")
    assert not out.exists()
    told = run(*words, "65", status=2).stderr
    assert "ratio: expected from 1 to the hidden size 64, found 65" in told


def test_the_papers_tasks() -> None:
    from embedfilter.integrations.mteb_table import find_tasks

    tasks = find_tasks(["paper", "STS17"])
    assert len(tasks) == 56
    types = [task.metadata.type for task in tasks]
    counts = {name: types.count(name) for name in types}
    assert counts == {
        "STS": 10,
        "Classification": 12,
        "Clustering": 11,
        "PairClassification": 3,
        "Reranking": 4,
        "Retrieval": 15,
        "Summarization": 1,
    }
    (of_english,) = find_tasks(["STS17"])
    assert of_english.hf_subsets == ["en-en"]
