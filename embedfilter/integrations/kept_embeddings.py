"""Embeddings of a model in a file, so that each text is embedded once, whatever is tried."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from embedfilter.errors import EmbedFilterError
from embedfilter.integrations.encoder import TEMPLATES

__all__ = ["KeptEmbeddings"]

_CHUNK = 1024  # texts that are embedded between two writes: what a kill costs at most
_KEYS = 500  # asked for at once
_IN_FOLDER = "embeddings-{}.sqlite"


class KeptEmbeddings:
    """A model that embeds no text twice, in this process or a later one.

    Embeddings are kept in a file of a folder, whose name is a digest of all that decides them:
    weights, configuration, tokenizer, template and pooling. Another model has another file.

    Parameters
    ----------
    model : SentenceTransformer
        Made by `encoder`, without a filter and not normalised.
    folder : Path
        Exists.
    batch_size : int

    Raises
    ------
    EmbedFilterError
        If the file cannot be read or written.
    """

    def __init__(self, model: Any, folder: Path, *, batch_size: int = 32) -> None:
        self._model = model
        self._batch_size = batch_size
        self.digest = _digest(model)
        self.width: int = model.get_embedding_dimension()
        self.tokenizer = model.tokenizer
        self.path = folder / _IN_FOLDER.format(self.digest[:16])
        with self._errors_told():
            # Another process may be writing to the same file.
            self._file = sqlite3.connect(self.path, timeout=600)
            with contextlib.ExitStack() as if_it_fails:
                if_it_fails.callback(self._file.close)
                self._file.execute(
                    "CREATE TABLE IF NOT EXISTS embeddings (text BLOB PRIMARY KEY, embedding BLOB)"
                )
                if_it_fails.pop_all()

    def encode(self, texts: Sequence[str], **_: Any) -> NDArray[np.float32]:
        """Return embeddings (n, d) of texts, and keep those that are new."""
        keys = [_key(text) for text in texts]
        with self._errors_told():
            found = self._kept(list(dict.fromkeys(keys)))
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in found}
        pairs = list(new.items())
        with tqdm(
            total=len(pairs), desc="encoding", unit=" texts", leave=False, disable=not pairs
        ) as bar:
            for first in range(0, len(pairs), _CHUNK):
                chunk = pairs[first : first + _CHUNK]
                rows = self._embed([text for _, text in chunk])
                rows_of = dict(zip((key for key, _ in chunk), rows, strict=True))
                with self._errors_told(), self._file:  # all of a chunk or nothing
                    self._file.executemany(
                        "INSERT OR REPLACE INTO embeddings VALUES (?, ?)",
                        [(key, row.tobytes()) for key, row in rows_of.items()],
                    )
                found |= rows_of
                bar.update(len(chunk))
        result = np.empty((len(keys), self.width), np.float32)
        for row, key in zip(result, keys, strict=True):
            row[:] = found[key]
        return result

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _embed(self, texts: list[str]) -> NDArray[np.float32]:
        rows = self._model.encode(texts, batch_size=self._batch_size, show_progress_bar=False)
        return np.ascontiguousarray(rows, "<f4")

    def _kept(self, keys: list[bytes]) -> dict[bytes, NDArray[np.float32]]:
        found: dict[bytes, NDArray[np.float32]] = {}
        for first in range(0, len(keys), _KEYS):
            part = keys[first : first + _KEYS]
            marks = ", ".join("?" * len(part))
            # The values are bound; what is put into the text are question marks alone.
            query = f"SELECT text, embedding FROM embeddings WHERE text IN ({marks})"
            for key, embedding in self._file.execute(query, part):
                found[key] = np.frombuffer(embedding, "<f4")
        return found

    @contextlib.contextmanager
    def _errors_told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise EmbedFilterError(
                f"{self.path}: expected a file of embeddings that can be read and written,"
                f" found: {error}"
            ) from None


def _key(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _digest(model: Any) -> str:
    """Return a digest of all that decides a model's embeddings, but not of where it lies."""
    result = hashlib.blake2b(digest_size=20)
    first = model[0]
    settings = first.model.config.to_dict()
    for of_place in ("_name_or_path", "transformers_version"):
        settings.pop(of_place, None)
    described: list[Any] = [
        settings,
        first.tokenizer.backend_tokenizer.to_str(),
        TEMPLATES.get(getattr(first, "template", "")),
        first.max_seq_length,
        [[type(module).__name__, module.get_config_dict()] for module in model],
    ]
    result.update(json.dumps(described, sort_keys=True, default=str).encode())
    for name, tensor in model.state_dict().items():
        result.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        # Bytes, since NumPy has no bfloat16.
        flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        result.update(flat.numpy().data)
    return result.hexdigest()
