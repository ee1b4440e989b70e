"""Embeddings in a file: right, each text embedded once, and never those of another model."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from tiny_model import write_tiny_model

from embedfilter import encoder
from embedfilter.errors import EmbedFilterError
from embedfilter.integrations import kept_embeddings
from embedfilter.integrations.kept_embeddings import KeptEmbeddings

TEXTS = ["one", "", "another text", "one", "é"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


def model(folder: Path, template: str = "prompteol") -> SentenceTransformer:
    return encoder(folder, template=template, ratio=1, normalize=False, device="cpu")


def path_of(embed: SentenceTransformer, folder: Path) -> Path:
    with contextlib.closing(KeptEmbeddings(embed, folder)) as kept:
        return kept.path


def test_each_text_is_embedded_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_embeddings, "_CHUNK", 2)
    embed = model(folder)
    texts = TEXTS
    expected = np.stack([embed.encode(text) for text in texts])
    embedded: list[str] = []
    own = embed.encode

    def encode(texts: list[str], **options: object) -> np.ndarray:
        embedded.extend(texts)
        return own(texts, **options)

    monkeypatch.setattr(embed, "encode", encode)
    kept = KeptEmbeddings(embed, tmp_path)
    found = kept.encode(texts)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert sorted(embedded) == sorted({*texts})
    assert kept.encode([]).shape == (0, 64)
    kept.close()
    with contextlib.closing(KeptEmbeddings(embed, tmp_path)) as again:
        np.testing.assert_array_equal(again.encode([*texts[::-1], "new"])[:-1], found[::-1])
    assert sorted(embedded) == sorted({*texts, "new"})


def test_the_file_is_of_the_model_and_not_of_its_place(folder: Path, tmp_path: Path) -> None:
    first = path_of(model(folder), tmp_path)
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert path_of(model(copy), tmp_path) == first
    assert path_of(model(folder, "echo"), tmp_path) != first
    for change in ("weight", "tokenizer", "configuration"):
        other = model(folder)
        if change == "weight":
            with torch.no_grad():
                next(other.parameters())[3, 5] += 1e-6
        elif change == "tokenizer":
            other.tokenizer.add_tokens(["cat"])
        else:
            other[0].model.config.rms_norm_eps *= 2
        assert path_of(other, tmp_path) != first, change


def test_an_error_names_the_file(folder: Path, tmp_path: Path) -> None:
    embed = model(folder)
    path = path_of(embed, tmp_path)
    path.write_bytes(b"no database, and longer than a header" * 100)
    with pytest.raises(EmbedFilterError, match=rf"{path.name}: expected a file .*, found: file is"):
        KeptEmbeddings(embed, tmp_path)


def test_no_file_stays_open_where_it_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[sqlite3.Connection] = []
    connect = sqlite3.connect

    def noted(*arguments: Any, **options: Any) -> sqlite3.Connection:
        opened.append(connect(*arguments, **options))
        return opened[-1]

    embed = model(folder)
    path_of(embed, tmp_path).write_bytes(b"no database, and longer than a header" * 100)
    monkeypatch.setattr(sqlite3, "connect", noted)
    with pytest.raises(EmbedFilterError):
        KeptEmbeddings(embed, tmp_path)
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        opened[0].execute("SELECT 1")
