"""Ollama's store: which file of it is a model's weights.

``manifests/<host>/<namespace>/<model>/<tag>`` is a JSON file that lists a model's layers; each of
them is a file ``blobs/sha256-<digest>``.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from embedfilter.errors import CheckpointError
from embedfilter.files.folder import exists
from embedfilter.files.input_file import InputFile
from embedfilter.files.json_file import read_json
from embedfilter.files.messages import listed, shown

__all__ = ["PREFIX", "blob_of"]

PREFIX = "ollama:"
_HOST, _NAMESPACE, _TAG = "registry.ollama.ai", "library", "latest"
# A host may have a port; no part is ".." or begins with a point.
_PART = r"\w[\w.-]*"
_NAME = re.compile(
    rf"(?:(?:({_PART}(?::\d+)?)/)?({_PART})/)?({_PART})(?::({_PART}))?", re.ASCII | re.IGNORECASE
)
_MODEL = "application/vnd.ollama.image.model"
_DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")
_MOST_BYTES = 4 << 20
_ELSEWHERE = Path("/usr/share/ollama/.ollama/models")  # where its Linux service keeps them


def blob_of(source: str) -> Path:
    """Return the GGUF file of a model that Ollama has fetched.

    Parameters
    ----------
    source
        ``ollama:NAME[:TAG]``, with the name as Ollama has it: ``qwen3``, ``user/model``,
        ``hf.co/owner/repository``. The tag is ``latest`` by default.

    Returns
    -------
    Path
        A file in the store's ``blobs``: that of the environment variable OLLAMA_MODELS, of
        ``~/.ollama/models`` or of ``/usr/share/ollama/.ollama/models``.

    Raises
    ------
    CheckpointError
        There is no store, no such model or tag in it, or the model is not one GGUF file.
    """
    name = _NAME.fullmatch(source.removeprefix(PREFIX))
    if name is None:
        raise CheckpointError(f"{source}: expected {PREFIX}NAME or {PREFIX}NAME:TAG, found another")
    host, namespace, model, tag = name.groups()
    store = _store(source)
    tags = store / "manifests" / (host or _HOST) / (namespace or _NAMESPACE) / model
    manifest = tags / (tag or _TAG)
    if not manifest.is_file():
        raise CheckpointError(_no_such_model(source, store, tags, tag or _TAG))
    return _weights(manifest, store)


def _store(source: str) -> Path:
    given = os.environ.get("OLLAMA_MODELS")
    places = [Path(given)] if given else [Path.home() / ".ollama" / "models", _ELSEWHERE]
    for place in places:
        if exists(place / "manifests"):
            return place
    asked = (
        "the folder of OLLAMA_MODELS" if given else "Ollama's models; OLLAMA_MODELS names others"
    )
    looked = " or ".join(map(str, places))
    raise CheckpointError(f"{source}: expected {asked}, found no manifests in {looked}")


def _no_such_model(source: str, store: Path, tags: Path, tag: str) -> str:
    there = _names(tags)
    if there:
        return f"{source}: expected one of the model's tags, {listed(there)}, found {shown(tag)}"
    manifests = store / "manifests"
    models = [
        _short(path.relative_to(manifests).parts)
        for path in sorted(manifests.glob("*/*/*/*"))
        if path.is_file()
    ]
    return f"{source}: expected one of the models in {store}, {listed(models)}, found another"


def _short(parts: tuple[str, ...]) -> str:
    """Return a name as Ollama lists it: without its own host and namespace."""
    host, namespace, model, tag = parts
    if host != _HOST:
        return f"{host}/{namespace}/{model}:{tag}"
    return f"{model}:{tag}" if namespace == _NAMESPACE else f"{namespace}/{model}:{tag}"


def _names(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir() if path.is_file())
    except OSError:
        return []


def _weights(manifest: Path, store: Path) -> Path:
    content = read_json(InputFile(manifest), "Ollama's manifest", limit=_MOST_BYTES)
    layers = content.get("layers")
    if not isinstance(layers, list) or not all(isinstance(layer, dict) for layer in layers):
        raise CheckpointError(f"{manifest}: Ollama's manifest: expected a list of layers")
    models = [layer.get("digest") for layer in layers if layer.get("mediaType") == _MODEL]
    if len(models) != 1:
        kinds = sorted({str(layer.get("mediaType")) for layer in layers})
        raise CheckpointError(
            f"{manifest}: Ollama's manifest: expected one layer of type {_MODEL}, a GGUF file,"
            f" found {len(models)} among {listed(kinds)}"
        )
    digest = _DIGEST.fullmatch(models[0]) if isinstance(models[0], str) else None
    if digest is None:
        raise CheckpointError(
            f"{manifest}: Ollama's manifest: expected a digest sha256:<64 digits>, found"
            f" {shown(models[0])}"
        )
    blob = store / "blobs" / f"sha256-{digest[1]}"
    if not exists(blob):
        raise CheckpointError(
            f"{manifest}: incomplete download: its weights, {blob}, are not there"
        )
    return blob
