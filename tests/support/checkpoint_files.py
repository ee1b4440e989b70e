"""Makes checkpoint files for tests, byte by byte: sound ones, and the parts of others."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import numpy as np

SIZES = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2, "I64": 8, "I32": 4, "U32": 4, "U8": 1}
SIZES |= {"I8": 1, "BOOL": 1, "C64": 8, "F8_E4M3": 1, "F8_E5M2": 1, "F4": 0.5}

# ---- safetensors -----------------------------------------------------------------------------


def safetensors_bytes(header: Any, data: bytes = b"", *, length: int | None = None) -> bytes:
    """A file with this header (bytes, or what becomes JSON) and these data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def safetensors_file(tensors: dict[str, Any], metadata: dict[str, str] | None = None) -> bytes:
    """A sound file of zeros, from names and shapes, or names and (dtype, shape)."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    position = 0
    for name, kind in tensors.items():
        dtype, shape = kind if kind and isinstance(kind[0], str) else ("F32", kind)
        n_bytes = int(math.prod(shape) * SIZES[dtype])
        offsets = [position, position + n_bytes]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": offsets}
        position += n_bytes
    return safetensors_bytes(header, bytes(position))


def head_header(**changes: Any) -> dict[str, Any]:
    """The header of a file with a head of shape (6, 2) in F32, with some fields changed."""
    entry = {"dtype": "F32", "shape": [6, 2], "data_offsets": [0, 48]}
    return {"lm_head.weight": {**entry, **changes}}


HEAD_DATA = np.arange(12, dtype="<f4").tobytes()
SOUND_SAFETENSORS = safetensors_bytes(head_header(), HEAD_DATA)

# ---- GGUF ------------------------------------------------------------------------------------


def gguf_string(text: str | bytes, *, length: int | None = None) -> bytes:
    """A string, with a length that may be wrong."""
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw) if length is None else length) + raw


def gguf_pair(key: str | bytes, kind: int, value: bytes) -> bytes:
    """A metadata pair with a value of this type."""
    return gguf_string(key) + struct.pack("<I", kind) + value


def gguf_array(kind: int, count: int, elements: bytes = b"") -> bytes:
    """The value of an array."""
    return struct.pack("<IQ", kind, count) + elements


def gguf_tensor(
    name: str | bytes = "token_embd.weight",
    dimensions: tuple[int, ...] = (2, 6),
    kind: int = 0,
    offset: int = 0,
    n_dimensions: int | None = None,
) -> bytes:
    """A tensor's entry, dimensions innermost first."""
    count = len(dimensions) if n_dimensions is None else n_dimensions
    sizes = struct.pack(f"<{len(dimensions)}Q", *dimensions)
    return gguf_string(name) + struct.pack("<I", count) + sizes + struct.pack("<IQ", kind, offset)


ARCHITECTURE = gguf_pair("general.architecture", 8, gguf_string("llama"))


def uint32(value: int) -> bytes:
    """A metadata value of type 4."""
    return struct.pack("<I", value)


def gguf_file(
    pairs: tuple[bytes, ...] = (ARCHITECTURE,),
    tensors: tuple[bytes, ...] = (gguf_tensor(),),
    data: bytes = HEAD_DATA,
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    n_pairs: int | None = None,
    n_tensors: int | None = None,
    alignment: int = 32,
) -> bytes:
    """A file of these parts; counts that are not given are right."""
    counts = (
        len(tensors) if n_tensors is None else n_tensors,
        len(pairs) if n_pairs is None else n_pairs,
    )
    header = magic + struct.pack("<IQQ", version, *counts) + b"".join(pairs) + b"".join(tensors)
    return header + bytes(-len(header) % alignment) + data


SOUND_GGUF = gguf_file()
