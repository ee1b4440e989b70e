"""Makes checkpoint files for tests: sound ones byte by byte, and hostile ones.

Each hostile file differs from a sound one in the one thing that its name says.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Hostile:
    """A file that must be refused, and a part of the message (a regular expression)."""

    name: str
    data: bytes
    message: str

    def __str__(self) -> str:
        return self.name


def _head(name: str, message: str, **changes: Any) -> Hostile:
    return Hostile(name, safetensors_bytes(head_header(**changes), HEAD_DATA), message)


def _raw(name: str, header: bytes, message: str, data: bytes = HEAD_DATA) -> Hostile:
    return Hostile(name, safetensors_bytes(header, data), message)


def _pair(name: str, first: list[int], second: list[int], size: int, message: str) -> Hostile:
    header = {
        "lm_head.weight": {"dtype": "U8", "shape": [first[1] - first[0]], "data_offsets": first},
        "b": {"dtype": "U8", "shape": [second[1] - second[0]], "data_offsets": second},
    }
    return Hostile(name, safetensors_bytes(header, bytes(size)), message)


_ENTRY = b'{"dtype":"F32","shape":[6,2],"data_offsets":[0,48]}'

HOSTILE_SAFETENSORS = [
    Hostile("empty", b"", "expected at least 8 bytes, found 0"),
    Hostile("seven-bytes", bytes(7), "expected at least 8 bytes, found 7"),
    Hostile("length-only", bytes(8), "starts with"),
    Hostile("length-over-cap", safetensors_bytes(b"{}", length=100_000_001), "at most 100000000"),
    Hostile("length-2^63", safetensors_bytes(b"{}", length=1 << 63), "at most 100000000"),
    Hostile("length-2^64-1", safetensors_bytes(b"{}", length=(1 << 64) - 1), "at most 100000000"),
    Hostile("length-past-end", safetensors_bytes(b"{}", length=3), "incomplete download"),
    Hostile("cut-in-header", SOUND_SAFETENSORS[:40], "incomplete download"),
    Hostile("cut-in-data", SOUND_SAFETENSORS[:-1], "incomplete download"),
    Hostile("lfs-pointer", b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
    Hostile("html-page", b"<!DOCTYPE html><html>Sign in</html>", "not a safetensors file"),
    _raw("not-utf-8", b'{"\xff":' + _ENTRY + b"}", "not UTF-8"),
    _raw("byte-order-mark", b"\xef\xbb\xbf{}", "starts with"),
    _raw("not-json", b'{"a":', "not valid JSON"),
    _raw("text-after-json", b"{} {}", "not valid JSON"),
    _raw("json-array", b"[]", "starts with"),
    _raw("json-number", b"17", "starts with"),
    _raw("nested-100k", b'{"a":' * 100_000, "nested too deeply|not valid JSON"),
    _raw("nested-arrays-100k", b'{"a":' + b"[" * 100_000, "nested too deeply|not valid JSON"),
    _raw("space-before-header", b' {"lm_head.weight":' + _ENTRY + b"}", "starts with"),
    _raw(
        "duplicate-tensor",
        b'{"lm_head.weight":' + _ENTRY + b',"lm_head.weight":' + _ENTRY + b"}",
        "'lm_head.weight' occurs twice",
    ),
    _raw(
        "duplicate-key-in-entry",
        b'{"lm_head.weight":' + _ENTRY[:-1] + b',"dtype":"F32"}}',
        "'dtype' occurs twice",
    ),
    _raw(
        "duplicate-metadata-key",
        b'{"__metadata__":{"a":"1","a":"2"},"lm_head.weight":' + _ENTRY + b"}",
        "'a' occurs twice",
    ),
    _raw("half-a-character", b'{"\\ud800":' + _ENTRY + b"}", "not valid JSON: .*surrogates"),
    _raw("half-a-character-as-a-value", b'{"a":{"dtype":"\\udfff"}}', "not valid JSON"),
    _raw("number-of-a-million-digits", b'{"a":' + b"9" * 1_000_000 + b"}", "not valid JSON"),
    _head("offsets-negative", "data_offsets", data_offsets=[-48, 0]),
    _head("offsets-reversed", "data_offsets", data_offsets=[48, 0]),
    _head("offsets-float", "data_offsets", data_offsets=[0.0, 48.0]),
    _head("offsets-bool", "data_offsets", data_offsets=[False, 48]),
    _head("offsets-string", "data_offsets", data_offsets=["0", "48"]),
    _head("offsets-three", "data_offsets", data_offsets=[0, 24, 48]),
    _head("offsets-object", "data_offsets", data_offsets={"begin": 0}),
    _head("offsets-null", "data_offsets", data_offsets=None),
    _head("offsets-over-2^64", "data_offsets", data_offsets=[0, 1 << 64]),
    _head("offsets-past-end", "incomplete", shape=[7, 2], data_offsets=[0, 56]),
    _head("offsets-exabyte", "incomplete", shape=[1 << 58, 2], data_offsets=[0, 1 << 61]),
    _head("offsets-infinity", "data_offsets", data_offsets=[0, float("inf")]),
    _pair("hole", [0, 4], [8, 12], 12, "'b' follows a hole: expected it at byte 4"),
    _pair("hole-at-start", [4, 8], [8, 12], 12, "follows a hole"),
    _pair("overlap", [0, 8], [4, 12], 12, "'b' overlaps another tensor"),
    _pair("same-range-twice", [0, 12], [0, 12], 12, "overlaps another tensor"),
    _pair("trailing-bytes", [0, 4], [4, 8], 12, "bytes after the last tensor"),
    Hostile("zip-after-data", SOUND_SAFETENSORS + b"PK\x03\x04", "bytes after the last tensor"),
    _head("size-differs", "expected 40 bytes", shape=[5, 2]),
    _head("shape-wraps-2^64", r"fewer than 2\^64", shape=[1 << 62, 16], data_offsets=[0, 0]),
    _head("shape-of-100k", r"fewer than 2\^64", shape=[1 << 40] * 100_000),
    _head("shape-negative", "shape of integers", shape=[-6, -2]),
    _head("shape-float", "shape of integers", shape=[6.0, 2.0]),
    _head("shape-bool", "shape of integers", shape=[True, 12]),
    _head("shape-string", "shape of integers", shape="6,2"),
    _head("shape-nested", "shape of integers", shape=[[6], 2]),
    _head("dtype-unknown", "expected a dtype", dtype="F128"),
    _head("dtype-lower-case", "expected a dtype", dtype="f32"),
    _head("dtype-number", "expected a dtype", dtype=32),
    _head("dtype-list", "expected a dtype", dtype=["F32"]),
    _head("dtype-bool", "BOOL, the codes", dtype="BOOL", shape=[24, 2]),
    _head("dtype-int", "I32, the codes", dtype="I32"),
    _head("dtype-unsigned", "U8, the codes", dtype="U8", shape=[24, 2]),
    _head("dtype-complex", "C64, which is not", dtype="C64", shape=[3, 2]),
    _head("dtype-f8", "F8_E4M3, which is not supported", dtype="F8_E4M3", shape=[24, 2]),
    _head("dtype-f4", "F4, which is not supported", dtype="F4", shape=[24, 4]),
    _head("dtype-f6-part-of-a-byte", "expected 0.75 bytes", dtype="F6_E2M3", shape=[1]),
    _raw("entry-null", b'{"lm_head.weight":null}', "expected an object with dtype"),
    _raw("entry-incomplete", b'{"lm_head.weight":{"dtype":"F32"}}', "expected an object with"),
    Hostile(
        "metadata-not-strings",
        safetensors_bytes({"__metadata__": {"a": 1}, **head_header()}, HEAD_DATA),
        "__metadata__: expected an object of strings",
    ),
    Hostile(
        "metadata-list",
        safetensors_bytes({"__metadata__": ["a"], **head_header()}, HEAD_DATA),
        "__metadata__: expected an object of strings",
    ),
    Hostile("no-tensors", safetensors_bytes(b"{}"), "found neither; two-dimensional tensors: none"),
    Hostile(
        "name-of-a-megabyte",
        safetensors_file({"x" * 1_000_000: (2, 2)}),
        "two-dimensional tensors: 'xxx",
    ),
    Hostile("head-1d", safetensors_file({"lm_head.weight": (12,)}), r"found shape \(12,\)"),
    Hostile("head-0d", safetensors_file({"lm_head.weight": ()}), r"found shape \(\)"),
    Hostile("head-3d", safetensors_file({"lm_head.weight": (6, 2, 1)}), r"\(6, 2, 1\)"),
    Hostile("head-no-rows", safetensors_file({"lm_head.weight": (0, 2)}), r"found shape \(0, 2\)"),
    Hostile("head-no-columns", safetensors_file({"lm_head.weight": (6, 0)}), r"\(6, 0\)"),
    Hostile("head-transposed", safetensors_file({"lm_head.weight": (2, 6)}), "2 rows and 6 col"),
]

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


def _pairs(name: str, message: str, *pairs: bytes, **options: Any) -> Hostile:
    return Hostile(name, gguf_file((ARCHITECTURE, *pairs), **options), message)


def _tensors(name: str, message: str, *tensors: bytes, data: bytes = bytes(256)) -> Hostile:
    return Hostile(name, gguf_file(tensors=tensors, data=data), message)


HOSTILE_GGUF = [
    Hostile("empty", b"", "not a GGUF file"),
    Hostile("three-bytes", b"GGU", "not a GGUF file"),
    Hostile("magic-only", b"GGUF", "incomplete download: the version"),
    Hostile("23-bytes", SOUND_GGUF[:23], "incomplete download: the number of metadata pairs"),
    Hostile("bad-magic", gguf_file(magic=b"GGML"), "not a GGUF file"),
    Hostile("lfs-pointer", b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
    Hostile("version-0", gguf_file(version=0), "version: expected 2 or 3, found 0"),
    Hostile("version-1", gguf_file(version=1), "version: expected 2 or 3, found 1"),
    Hostile("version-4", gguf_file(version=4), "version: expected 2 or 3, found 4"),
    Hostile("big-endian", gguf_file(version=3 << 24), "big-endian"),
    Hostile("n-tensors-negative", gguf_file(n_tensors=(1 << 64) - 1), "tensors in .* found 1844"),
    Hostile("n-tensors-too-many", gguf_file(n_tensors=100), "at most . tensors"),
    Hostile("n-pairs-negative", gguf_file(n_pairs=(1 << 64) - 1), "pairs in .* found 1844"),
    Hostile("n-pairs-too-many", gguf_file(n_pairs=100), "metadata pairs in .* found 100"),
    _pairs("key-empty", "length of 1 to 65535 bytes, found 0", gguf_pair("", 4, uint32(1))),
    _pairs("key-length-2^63", "bytes, found 922", gguf_string(b"a", length=1 << 63) + bytes(64)),
    _pairs("key-past-end", "incomplete download", gguf_string(b"a", length=60_000)),
    _pairs("key-not-utf-8", "is not UTF-8", gguf_pair(b"\xff\xfe", 4, uint32(1))),
    _pairs("duplicate-key", "'general.architecture' occurs twice", ARCHITECTURE),
    _pairs(
        "string-length-2^63",
        "incomplete download: the metadata value of 'a': expected 922",
        gguf_pair("a", 8, gguf_string(b"x", length=1 << 63)),
    ),
    _pairs(
        "string-length-2^64-1",
        "incomplete download",
        gguf_pair("a", 8, gguf_string(b"x", length=(1 << 64) - 1)),
    ),
    _pairs("value-type-13", "unknown type 13", gguf_pair("a", 13, uint32(1))),
    _pairs("value-type-2^32-1", "unknown type 4294967295", gguf_pair("a", (1 << 32) - 1, b"")),
    _pairs("array-length-2^63", "incomplete", gguf_pair("a", 9, gguf_array(4, 1 << 63))),
    _pairs("array-length-2^64-1", "incomplete", gguf_pair("a", 9, gguf_array(12, (1 << 64) - 1))),
    _pairs("array-of-strings-2^63", "incomplete", gguf_pair("a", 9, gguf_array(8, 1 << 63))),
    _pairs(
        "string-in-array-past-end",
        "incomplete",
        gguf_pair("a", 9, gguf_array(8, 3, gguf_string("x") + gguf_string(b"", length=1 << 40))),
    ),
    _pairs("array-of-arrays", "array of arrays", gguf_pair("a", 9, gguf_array(9, 1 << 20))),
    _pairs("array-of-unknown", "an array of unknown type 77", gguf_pair("a", 9, gguf_array(77, 0))),
    _pairs("alignment-0", "power of two, found 0", gguf_pair("general.alignment", 4, uint32(0))),
    _pairs("alignment-48", "power of two, found 48", gguf_pair("general.alignment", 4, uint32(48))),
    _pairs("alignment-uint64", "found type 10", gguf_pair("general.alignment", 10, bytes(8))),
    _pairs("alignment-array", "found type 9", gguf_pair("general.alignment", 9, gguf_array(4, 0))),
    _pairs(
        "alignment-2^31",
        "incomplete download",
        gguf_pair("general.alignment", 4, uint32(1 << 31)),
    ),
    Hostile(
        "architecture-number",
        gguf_file((gguf_pair("general.architecture", 4, uint32(1)),)),
        "expected type 8",
    ),
    _pairs(
        "split",
        "part 2 of 3 of a split GGUF",
        gguf_pair("split.no", 2, struct.pack("<H", 1)),
        gguf_pair("split.count", 2, struct.pack("<H", 3)),
    ),
    _pairs(
        "hidden-size-contradicted",
        "expected 4 columns, the hidden size in the metadata, found 2",
        gguf_pair("llama.embedding_length", 4, uint32(4)),
    ),
    _pairs(
        "transposed",
        "transposed: expected 6 columns",
        gguf_pair("llama.embedding_length", 4, uint32(6)),
    ),
    _pairs(
        "vocabulary-contradicted",
        "lacks rows: expected at least 7, the vocabulary in the metadata, found 6",
        gguf_pair("llama.vocab_size", 4, uint32(7)),
    ),
    _pairs(
        "more-tokens-than-rows",
        "lacks rows: expected at least 7",
        gguf_pair("tokenizer.ggml.tokens", 9, gguf_array(8, 7, gguf_string("t") * 7)),
    ),
    _tensors("name-empty", "length of 1 to 63 bytes, found 0", gguf_tensor("")),
    _tensors("name-64-bytes", "length of 1 to 63 bytes, found 64", gguf_tensor("n" * 64)),
    _tensors("name-not-utf-8", "is not UTF-8", gguf_tensor(b"\xc3\x28")),
    _tensors(
        "duplicate-name",
        "'token_embd.weight' occurs twice",
        gguf_tensor(),
        gguf_tensor(offset=64),
    ),
    _tensors("dimensions-none", "1 to 4 dimensions, found 0", gguf_tensor(dimensions=())),
    _tensors("dimensions-5", "1 to 4 dimensions, found 5", gguf_tensor(dimensions=(1,) * 5)),
    _tensors("dimensions-2^32-1", "found 4294967295", gguf_tensor(n_dimensions=(1 << 32) - 1)),
    _tensors("dimension-0", "with a product of 1 to", gguf_tensor(dimensions=(2, 0))),
    _tensors("product-wraps", "with a product", gguf_tensor(dimensions=(1 << 62, 4))),
    _tensors("product-2^63", "with a product", gguf_tensor(dimensions=(2, 1 << 62))),
    _tensors("type-withdrawn", "withdrawn storage type 4", gguf_tensor(kind=4)),
    _tensors("type-unknown", "unknown or withdrawn storage type 999", gguf_tensor(kind=999)),
    _tensors("part-of-a-block", "multiple of 32", gguf_tensor(dimensions=(48, 64), kind=8)),
    _tensors("part-of-a-k-block", "multiple of 256", gguf_tensor(dimensions=(576, 600), kind=14)),
    _tensors("offset-misaligned", "expected its data at byte 0", gguf_tensor(offset=8)),
    _tensors("offset-past-end", "expected its data at byte 0", gguf_tensor(offset=1 << 40)),
    _tensors("offset-wraps", "found 18446744073709551584", gguf_tensor(offset=(1 << 64) - 32)),
    _tensors(
        "overlap",
        "'output.weight': expected its data at byte 64",
        gguf_tensor(),
        gguf_tensor("output.weight", offset=32),
    ),
    _tensors(
        "hole",
        "'output.weight': expected its data at byte 64",
        gguf_tensor(),
        gguf_tensor("output.weight", offset=96),
    ),
    _tensors(
        "not-in-order",
        "'token_embd.weight': expected its data at byte 0 .*, found 64",
        gguf_tensor(offset=64),
        gguf_tensor("output.weight"),
    ),
    _tensors("data-cut", "incomplete .* expected 48 bytes of data, found 47", gguf_tensor(),
             data=bytes(47)),
    _tensors("data-exabytes", "incomplete", gguf_tensor(dimensions=(2, 1 << 58))),
    _tensors("no-tensors", "found neither"),
    _tensors("no-head", r"two-dimensional tensors: 'a' \(6, 2\)", gguf_tensor("a")),
    _tensors("head-1d", r"found shape \(12,\)", gguf_tensor(dimensions=(12,))),
    _tensors("head-transposed", "2 rows and 6 columns", gguf_tensor(dimensions=(6, 2))),
    _tensors("head-integers", "found I32, the codes", gguf_tensor(kind=26)),
    _tensors("head-q8-1", "block type of GGUF, found Q8_1, which is not supported",
             gguf_tensor(dimensions=(32, 32), kind=9), data=bytes(32 * 40)),
    _tensors("lora-adapter", "a LoRA adapter without", gguf_tensor("blk.0.attn_q.weight.lora_a")),
]  # fmt: skip
