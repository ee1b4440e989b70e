"""How a file's name ends, which says what it is where its content does not."""

from __future__ import annotations

from pathlib import PurePath

__all__ = ["ARROW", "GGUF", "NPY", "NPZ", "PARQUET", "PICKLES", "SAFETENSORS", "TORCH", "ending"]

SAFETENSORS = (".safetensors",)
GGUF = (".gguf",)
TORCH = (".bin", ".pt", ".pth")
PICKLES = (".ckpt", ".pkl", ".pickle")
NPY = (".npy",)
NPZ = (".npz",)
PARQUET = (".parquet", ".pq")
ARROW = (".arrow", ".feather", ".ipc")


def ending(name: str | PurePath) -> str:
    """Return the ending of a file's name in lower case, with its dot; "" where there is none."""
    return PurePath(name).suffix.lower()
