"""Arguments in another order than they are to be, told as that."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from command_line import D, failure, run
from numpy.typing import NDArray


@pytest.fixture
def files(filter_file: Path, X: NDArray, tmp_path: Path) -> dict[str, Path]:
    """Name a file of each role; the model is a damaged one, which nothing here may open."""
    model, texts, array = (tmp_path / name for name in ("model.gguf", "texts.txt", "x.npy"))
    model.write_bytes(b"GGUF\x03\x00\x00\x00 and no more")
    texts.write_text("A text.\nEin anderer: für alle.\n", encoding="utf-8")
    np.save(array, X[:20])
    return {"FILTER": filter_file, "MODEL": model, "TEXTS": texts, "X": array}


@pytest.mark.parametrize(
    ("words", "first", "second"),
    [
        ("apply X FILTER out.npy", "the filter", "FILTER"),
        ("calibrate X FILTER -o out", "the filter", "FILTER"),
        ("lens X MODEL", "the model", "MODEL"),
        ("lens MODEL FILTER --filter X", "the filter", "FILTER"),
        ("encode TEXTS MODEL -o out.npy", "the model", "MODEL"),
        ("encode TEXTS owner/name -o out.npy", "the model", "owner/name"),
        ("encode TEXTS ollama:name -o out.npy", "the model", "ollama:name"),
        ("export MODEL FILTER -o out", "the filter", "FILTER"),
        ("evaluate MODEL --model X", "embeddings", "X"),
        ("evaluate MODEL --encode-with TEXTS", "texts", "TEXTS"),
        ("plot energy X MODEL -o out.png", "the model", "MODEL"),
        ("plot tokens X MODEL -o out.png", "the model", "MODEL"),
        ("plot similarities FILTER --filter X -o out.png", "the filter", "FILTER"),
    ],
)
def test_arguments_that_are_the_other_way_round(
    files: dict[str, Path], tmp_path: Path, words: str, first: str, second: str
) -> None:
    typed = [
        str(files.get(word, tmp_path / word if word.startswith("out") else word))
        for word in words.split()
    ]
    line = failure(*typed)
    assert f": expected {first} here and " in line
    assert f" in place of {files.get(second, second)}, found them the other way round" in line
    assert not list(tmp_path.glob("out*"))


def test_a_model_in_place_of_a_filter(files: dict[str, Path], tmp_path: Path) -> None:
    model = files["MODEL"]
    for words in (
        ("apply", model, files["X"], tmp_path / "y.npy"),
        ("plot", "spectrum", model, "-o", tmp_path / "p.png"),
    ):
        assert failure(*words).endswith(
            f"{model}: expected a filter, found a model: 'embedfilter fit {model} -o"
            " filter.safetensors' makes one of it"
        )
    line = failure("apply", "no/filter", files["X"], tmp_path / "y.npy")
    assert line.endswith("no/filter: no such file or folder")


def test_other_files_are_named_without_their_bytes(files: dict[str, Path], tmp_path: Path) -> None:
    output = tmp_path / "y.npy"
    line = failure("apply", files["FILTER"], files["TEXTS"], output)
    assert line.endswith("found a file of text: 'embedfilter encode' makes embeddings of texts")
    assert "found a GGUF file, a model" in failure("apply", files["FILTER"], files["MODEL"], output)
    assert "found a .npy file" in failure("apply", files["X"], files["X"], output)
    assert "found a file of text" in failure("inspect", files["TEXTS"])


def test_files_that_may_be_either_are_left_to_their_readers(X: NDArray, tmp_path: Path) -> None:
    head, embeddings = tmp_path / "head.npy", tmp_path / "x.npy"
    np.save(head, np.random.default_rng(2).standard_normal((300, D), np.float32))
    np.save(embeddings, X[:2])
    tokens = run("lens", head, embeddings, "-k", 1)
    assert len(tokens.stdout.splitlines()) == 2
    packed = tmp_path / "texts.txt.gz"
    packed.write_bytes(gzip.compress(b"a\n"))
    line = failure("encode", tmp_path, packed, "-o", tmp_path / "y.npy")
    assert "the other way round" not in line
    safetensors.numpy.save_file({"x": X[:2]}, tmp_path / "x.safetensors")
    assert run("lens", head, tmp_path / "x.safetensors", "-k", 1).stdout == tokens.stdout
