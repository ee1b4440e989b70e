"""Models in Ollama's store, laid out here as Ollama does."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from checkpoint_files import gguf_file, gguf_tensor
from command_line import run
from tokenizer_files import write_gguf

import embedfilter
from embedfilter import CheckpointError, EmbedFilter, LogitLens, open_unembedding
from embedfilter.lens.vocabulary import open_vocabulary

MODEL = "application/vnd.ollama.image.model"
REGISTRY = "registry.ollama.ai/library"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "models"))
    (tmp_path / "models" / "blobs").mkdir(parents=True)
    (tmp_path / "models" / "manifests").mkdir()
    return tmp_path / "models"


def add_blob(store: Path, content: bytes) -> str:
    digest = hashlib.sha256(content).hexdigest()
    (store / "blobs" / f"sha256-{digest}").write_bytes(content)
    return f"sha256:{digest}"


def add_manifest(store: Path, name: str, layers: object) -> Path:
    path = store / "manifests" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    config = {"mediaType": "application/vnd.docker.container.image.v1+json"}
    path.write_text(json.dumps({"schemaVersion": 2, "config": config, "layers": layers}))
    return path


def layer(kind: str, digest: object) -> dict[str, object]:
    return {"mediaType": kind, "digest": digest, "size": 1}


@pytest.fixture
def matrix(store: Path, rng: np.random.Generator) -> np.ndarray:
    """The head of the one model in the store."""
    W = rng.standard_normal((300, 32)).astype(np.float32)
    tensor = gguf_tensor("output.weight", dimensions=(32, 300))
    weights = add_blob(store, gguf_file(tensors=(tensor,), data=W.tobytes()))
    template = add_blob(store, b"{{ .Prompt }}")
    layers = [layer("application/vnd.ollama.image.template", template), layer(MODEL, weights)]
    add_manifest(store, f"{REGISTRY}/tiny/latest", layers)
    add_manifest(store, f"{REGISTRY}/tiny/8b-q4_0", layers)
    add_manifest(store, "registry.ollama.ai/someone/tiny/latest", layers)
    add_manifest(store, "hf.co/owner/tiny-GGUF/Q4_0", layers)
    return W


@pytest.mark.parametrize(
    "source",
    [
        "ollama:tiny",
        "ollama:tiny:latest",
        "ollama:tiny:8b-q4_0",
        "ollama:library/tiny",
        "ollama:someone/tiny",
        "ollama:registry.ollama.ai/library/tiny:latest",
        "ollama:hf.co/owner/tiny-GGUF:Q4_0",
    ],
)
def test_names(matrix: np.ndarray, source: str) -> None:
    with open_unembedding(source) as W:
        assert (W.source, W.name) == (source, "output.weight")
        np.testing.assert_array_equal(W.rows(0, 300), matrix)


def test_a_filter_and_the_command_line(matrix: np.ndarray, tmp_path: Path) -> None:
    f = EmbedFilter.from_checkpoint("ollama:tiny", ratio=4)
    assert f == EmbedFilter.from_matrix(matrix, ratio=4)
    assert f.metadata["source"] == "ollama:tiny"
    run("fit", "ollama:tiny", "-o", str(tmp_path / "f.safetensors"), "--ratio", "4")
    assert EmbedFilter.load(tmp_path / "f.safetensors") == f
    assert "output.weight" in run("inspect", "ollama:tiny").stdout


def test_the_store_is_looked_for_at_home(
    store: Path, matrix: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OLLAMA_MODELS")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home" / ".ollama").mkdir(parents=True)
    shutil.move(store, tmp_path / "home" / ".ollama" / "models")
    with open_unembedding("ollama:tiny") as W:
        np.testing.assert_array_equal(W.rows(0, 300), matrix)


def test_a_file_of_that_name_comes_first(
    matrix: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "other.npy", matrix[::2])
    (tmp_path / "other.npy").rename(tmp_path / "ollama:tiny")
    with open_unembedding("ollama:tiny") as W:
        assert W.shape == (150, 32)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("ollama:tiny:70b", "expected one of the model's tags, '8b-q4_0', 'latest', found '70b'"),
        (
            "ollama:huge",
            "expected one of the models in .*, 'hf.co/owner/tiny-GGUF:Q4_0',"
            " 'tiny:8b-q4_0', 'tiny:latest', 'someone/tiny:latest', found another",
        ),
        ("ollama:", "expected ollama:NAME or ollama:NAME:TAG"),
        ("ollama:../../etc/passwd", "expected ollama:NAME or ollama:NAME:TAG"),
        ("ollama:tiny:../latest", "expected ollama:NAME or ollama:NAME:TAG"),
        ("ollama:a/b/c/d", "expected ollama:NAME or ollama:NAME:TAG"),
    ],
)
def test_names_that_are_none(matrix: np.ndarray, source: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as error:
        open_unembedding(source)
    assert "\n" not in str(error.value)


def test_no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "nowhere"))
    with pytest.raises(CheckpointError, match="the folder of OLLAMA_MODELS, found no manifests in"):
        open_unembedding("ollama:tiny")
    monkeypatch.delenv("OLLAMA_MODELS")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(CheckpointError, match="OLLAMA_MODELS names others"):
        open_unembedding("ollama:tiny")


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (None, "expected a list of layers"),
        ([1], "expected a list of layers"),
        ([], "expected one layer of type .*, found 0 among nothing"),
        ([layer("a/tensor", "sha256:0")] * 3, "found 0 among 'a/tensor'"),
        ([layer(MODEL, "sha256:" + "0" * 64)] * 2, "found 2 among"),
        ([layer(MODEL, None)], "expected a digest"),
        ([layer(MODEL, "sha256:../../../etc/passwd")], "expected a digest"),
        ([layer(MODEL, "sha256:" + "0" * 64)], "incomplete download"),
    ],
)
def test_damaged_manifests(store: Path, layers: object, message: str) -> None:
    add_manifest(store, f"{REGISTRY}/tiny/latest", layers)
    with pytest.raises(CheckpointError, match=message):
        open_unembedding("ollama:tiny")


def test_a_revision_is_of_the_hub_alone(matrix: np.ndarray) -> None:
    with pytest.raises(ValueError, match="revision: expected None"):
        open_unembedding("ollama:tiny", revision="main")


@pytest.mark.parametrize(
    ("source", "named"),
    [("tiny:8b", True), ("hf.co/owner/tiny-GGUF:Q4_0", True), ("tiny", False), ("c:\\tiny", False)],
)
def test_a_name_without_its_prefix(source: str, named: bool) -> None:
    with pytest.raises(CheckpointError, match="no such file or folder") as error:
        open_unembedding(source)
    assert str(error.value).endswith(f"is named ollama:{source}") is named


def test_the_tokens_of_a_model(store: Path, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "x.gguf", [b"one", b"two", b"three"])
    weights = add_blob(store, path.read_bytes())
    add_manifest(store, f"{REGISTRY}/words/latest", [layer(MODEL, weights)])
    with LogitLens("ollama:words") as lens:
        assert lens.vocabulary is not None
        assert lens.vocabulary.text(1) == "two"
    assert open_vocabulary("ollama:words").text(2) == "three"


@pytest.mark.long
def test_a_model_that_embeds(store: Path, smollm2: Path) -> None:
    weights = add_blob(store, smollm2.read_bytes())
    add_manifest(store, f"{REGISTRY}/smollm2/135m", [layer(MODEL, weights)])
    texts = ["A cat sat on the mat.", "Stock prices fell."]
    found, expected = (
        embedfilter.encoder(model, ratio=4).encode(texts)
        for model in ("ollama:smollm2:135m", smollm2)
    )
    np.testing.assert_array_equal(found, expected)
