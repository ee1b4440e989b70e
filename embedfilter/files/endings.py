"""How a file's name ends, which says what it is where its content does not."""

from __future__ import annotations

from pathlib import PurePath

__all__ = [
    "ARROW",
    "ARROW_STREAM",
    "COMPRESSED",
    "CSV",
    "GGUF",
    "JSON_LINES",
    "NPY",
    "NPZ",
    "OF_OTHER_FILES",
    "PARQUET",
    "PICKLES",
    "SAFETENSORS",
    "TORCH",
    "TSV",
    "ending",
    "inner_ending",
]

SAFETENSORS = (".safetensors",)
GGUF = (".gguf",)
TORCH = (".bin", ".pt", ".pth")
PICKLES = (".ckpt", ".pkl", ".pickle")
NPY = (".npy",)
NPZ = (".npz",)
PARQUET = (".parquet", ".pq")
ARROW = (".arrow", ".feather", ".ipc", ".arrows")
ARROW_STREAM = (".arrows",)
JSON_LINES = (".jsonl", ".ndjson")
CSV = (".csv",)
TSV = (".tsv",)
COMPRESSED = (".gz", ".zst")
OF_OTHER_FILES = (
    *GGUF, *TORCH, *PICKLES, *NPY, *NPZ, *PARQUET, *ARROW, *JSON_LINES, *CSV, *TSV, *COMPRESSED,
    ".json", ".txt", ".html", ".png", ".svg", ".pdf", ".onnx",
)  # fmt: skip
"""Endings that no filter's file has."""


def ending(name: str | PurePath) -> str:
    """Return the ending of a file's name in lower case, with its dot; "" where there is none."""
    return PurePath(name).suffix.lower()


def inner_ending(name: str | PurePath) -> str:
    """Return the ending of a file's name before it was compressed: .csv of x.csv.gz."""
    path = PurePath(name)
    return ending(path.with_suffix("")) if ending(path) in COMPRESSED else ending(path)
