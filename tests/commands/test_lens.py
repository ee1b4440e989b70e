"""The commands lens and plot, run in a process of their own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import D, failure, run, write_checkpoint
from numpy.typing import NDArray

from embedfilter import EmbedFilter, LogitLens


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture(scope="module")
def filter_file(checkpoint: Path) -> Path:
    path = checkpoint.with_name("filter.st")
    EmbedFilter.from_checkpoint(checkpoint).save(path)
    return path


@pytest.fixture(scope="module")
def X() -> NDArray:
    return np.random.default_rng(9).standard_normal((50, D)).astype(np.float32)


@pytest.fixture(scope="module")
def embeddings(checkpoint: Path, X: NDArray) -> Path:
    path = checkpoint.with_name("x.npy")
    np.save(path, X)
    return path


def test_lens(checkpoint: Path, embeddings: Path, X: NDArray) -> None:
    lines = run("lens", checkpoint, embeddings, "-k", 3).stdout.splitlines()
    found = LogitLens(checkpoint).top_tokens(X[:20], 3)
    assert lines == [
        f"{row:>5}  " + "  ".join(f"#{token}" for token in found.ids[row]) for row in range(20)
    ]


def test_lens_with_a_filter(
    checkpoint: Path, embeddings: Path, filter_file: Path, X: NDArray, tmp_path: Path
) -> None:
    arguments = ("--filter", filter_file, "--rows", 2, "-k", 4, "--threads", 1)
    lines = run("lens", checkpoint, embeddings, *arguments).stdout.splitlines()
    assert [line.split()[:2] for line in lines[:2]] == [
        ["0", "before"],
        ["after", *lines[1].split()[1:2]],
    ]
    assert len(lines) == 4
    facts = json.loads(run("lens", checkpoint, embeddings, *arguments, "--json").stdout)
    f, lens = EmbedFilter.load(filter_file), LogitLens(checkpoint)
    assert facts["tensor"] == "lm_head.weight"
    assert (facts["rows"], facts["k"]) == (2, 4)
    assert facts["before"] == lens.top_tokens(X[:2], 4).as_dicts()
    assert facts["after"] == lens.top_tokens(X[:2], 4, filter=f).as_dicts()

    filtered = tmp_path / "filtered.npy"
    np.save(filtered, f.transform(X, normalize=False))
    again = json.loads(run("lens", checkpoint, filtered, *arguments, "--json").stdout)
    assert [row["ids"] for row in again["after"]] == [row["ids"] for row in facts["after"]]
    assert "before" not in again


def test_lens_of_a_real_model(smollm2: Path, tmp_path: Path, demo_embeddings: dict) -> None:
    path = tmp_path / "echo.npy"
    np.save(path, demo_embeddings["Echo"])
    lines = run("lens", smollm2, path, "--rows", 480).stdout.splitlines()
    assert len(lines) == 480
    assert np.mean(["␣the" in line for line in lines]) > 0.7
    plain = run("lens", smollm2, path, "--rows", 1, variables={"PYTHONIOENCODING": "ascii"}).stdout
    assert "\\u2423the" in plain


def test_no_embeddings(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "none.npy"
    np.save(path, np.empty((0, D), np.float32))
    assert run("lens", checkpoint, path).stdout == ""
    assert json.loads(run("lens", checkpoint, path, "--json").stdout)["before"] == []


def test_lens_refuses(
    checkpoint: Path, embeddings: Path, filter_file: Path, tmp_path: Path
) -> None:
    assert "k: expected from 1 to the 800 tokens" in failure(
        "lens", checkpoint, embeddings, "-k", 801
    )
    assert "k: expected from 1" in failure("lens", checkpoint, embeddings, "-k", 0)
    narrow = tmp_path / "narrow.npy"
    np.save(narrow, np.ones((3, 7)))
    assert "EMBEDDINGS: expected (n, 64)" in failure("lens", checkpoint, narrow)
    assert "EMBEDDINGS: expected (n, 64)" in failure(
        "lens", checkpoint, narrow, "--filter", filter_file
    )
    bad = tmp_path / "bad.npy"
    np.save(bad, np.full((3, D), np.nan))
    assert "NaN or infinity in 3 of 3 rows" in failure("lens", checkpoint, bad)
    assert "missing.npy" in failure("lens", checkpoint, tmp_path / "missing.npy")
    assert "expected a filter" in failure("lens", checkpoint, embeddings, "--filter", checkpoint)
    assert "tokenizer.json" in failure(
        "lens", checkpoint, embeddings, "--tokenizer", tmp_path / "tokenizer.json"
    )


# ---- plot -------------------------------------------------------------------

PNG, PDF = b"\x89PNG", b"%PDF"


def test_pictures(checkpoint: Path, embeddings: Path, filter_file: Path, tmp_path: Path) -> None:
    pictures = {
        "spectrum.png": ("spectrum", filter_file),
        "energy.png": ("energy", checkpoint, embeddings, "--filter", filter_file, "--bands", 4),
        "logits.svg": ("energy", checkpoint, embeddings, "--of", "logits"),
        "cosines.pdf": ("similarities", embeddings, "--filter", filter_file),
        "tokens.PNG": ("tokens", checkpoint, embeddings, "--filter", filter_file, "-k", 3),
    }
    for name, arguments in pictures.items():
        output = tmp_path / name
        assert run("plot", *arguments, "-o", output).stdout == f"{output}\n"
        start = output.read_bytes()[:200]
        assert start.startswith(PNG) or start.startswith(PDF) or b"<?xml" in start
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(pictures)


def test_plot_refuses(
    checkpoint: Path, embeddings: Path, filter_file: Path, tmp_path: Path
) -> None:
    assert "expected a name that ends in .png" in failure(
        "plot", "spectrum", filter_file, "-o", tmp_path / "picture"
    )
    output = ("-o", tmp_path / "picture.png")
    assert "no such folder" in failure(
        "plot", "spectrum", filter_file, "-o", tmp_path / "a" / "b.png"
    )
    assert "bands: expected from 1 to 64" in failure(
        "plot", "energy", checkpoint, embeddings, "--bands", 65, *output
    )
    assert "missing.npy" in failure("plot", "similarities", tmp_path / "missing.npy", *output)
    assert list(tmp_path.iterdir()) == []


def test_texts_beside_the_vectors(
    checkpoint: Path, embeddings: Path, X: NDArray, filter_file: Path, tmp_path: Path
) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("".join(f"text number {i}\n" for i in range(len(X))))
    options = ("--filter", filter_file, "-k", 2, "--rows", 3)
    plain = run("lens", checkpoint, embeddings, *options).stdout.splitlines()
    lines = run("lens", checkpoint, embeddings, *options, "--texts", texts).stdout.splitlines()
    assert lines[::3] == [f"{i:>5}  text number {i}" for i in range(3)]
    assert [line.split() for line in lines if "number" not in line] == [
        [word for word in line.split() if not word.isdigit()] for line in plain
    ]
    facts = json.loads(
        run("lens", checkpoint, embeddings, *options, "--texts", texts, "--json").stdout
    )
    assert facts["texts"] == [f"text number {i}" for i in range(3)]
    picture = tmp_path / "p.svg"
    run("plot", "tokens", checkpoint, embeddings, "--texts", texts, "-o", picture)
    assert picture.stat().st_size > 0
    texts.write_text("one\n")
    line = failure("lens", checkpoint, embeddings, "--texts", texts)
    assert f"{texts}: expected 20 texts, one for each row of {embeddings}, found 1" in line
