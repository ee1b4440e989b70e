"""Headers that must be refused, by the row of the list of hostile inputs that they belong to.

Each file differs from a sound one in the one thing that its name says.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from checkpoint_files import (
    ARCHITECTURE,
    HEAD_DATA,
    SOUND_GGUF,
    SOUND_SAFETENSORS,
    gguf_array,
    gguf_file,
    gguf_pair,
    gguf_string,
    gguf_tensor,
    head_header,
    safetensors_bytes,
    safetensors_file,
    uint32,
)


@dataclass(frozen=True)
class Hostile:
    """A file that must be refused, and a part of the message (a regular expression)."""

    row: int
    name: str
    data: bytes
    message: str


# ---- safetensors -----------------------------------------------------------------------------


def _head(row: int, name: str, message: str, **changes: Any) -> Hostile:
    return Hostile(row, name, safetensors_bytes(head_header(**changes), HEAD_DATA), message)


def _raw(row: int, name: str, header: bytes, message: str) -> Hostile:
    return Hostile(row, name, safetensors_bytes(header, HEAD_DATA), message)


def _pair(
    row: int, name: str, first: list[int], second: list[int], size: int, message: str
) -> Hostile:
    header = {
        "lm_head.weight": {"dtype": "U8", "shape": [first[1] - first[0]], "data_offsets": first},
        "b": {"dtype": "U8", "shape": [second[1] - second[0]], "data_offsets": second},
    }
    return Hostile(row, name, safetensors_bytes(header, bytes(size)), message)


_ENTRY = b'{"dtype":"F32","shape":[6,2],"data_offsets":[0,48]}'

HOSTILE_SAFETENSORS = [
    Hostile(1, "empty", b"", "expected at least 8 bytes, found 0"),
    Hostile(1, "seven-bytes", bytes(7), "expected at least 8 bytes, found 7"),
    Hostile(1, "length-only", bytes(8), "starts with"),
    Hostile(
        2, "length-over-cap", safetensors_bytes(b"{}", length=100_000_001), "at most 100000000"
    ),
    Hostile(2, "length-2^63", safetensors_bytes(b"{}", length=1 << 63), "at most 100000000"),
    Hostile(
        2, "length-2^64-1", safetensors_bytes(b"{}", length=(1 << 64) - 1), "at most 100000000"
    ),
    Hostile(2, "length-past-end", safetensors_bytes(b"{}", length=3), "incomplete download"),
    Hostile(11, "cut-in-header", SOUND_SAFETENSORS[:40], "incomplete download"),
    Hostile(11, "cut-in-data", SOUND_SAFETENSORS[:-1], "incomplete download"),
    Hostile(11, "lfs-pointer", b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
    Hostile(3, "html-page", b"<!DOCTYPE html><html>Sign in</html>", "not a safetensors file"),
    _raw(3, "not-utf-8", b'{"\xff":' + _ENTRY + b"}", "not UTF-8"),
    _raw(3, "byte-order-mark", b"\xef\xbb\xbf{}", "starts with"),
    _raw(3, "not-json", b'{"a":', "not valid JSON"),
    _raw(3, "text-after-json", b"{} {}", "not valid JSON"),
    _raw(3, "json-array", b"[]", "starts with"),
    _raw(3, "json-number", b"17", "starts with"),
    _raw(3, "nested-100k", b'{"a":' * 100_000, "nested too deeply|not valid JSON"),
    _raw(3, "nested-arrays-100k", b'{"a":' + b"[" * 100_000, "nested too deeply|not valid JSON"),
    _raw(4, "space-before-header", b' {"lm_head.weight":' + _ENTRY + b"}", "starts with"),
    _raw(
        5,
        "duplicate-tensor",
        b'{"lm_head.weight":' + _ENTRY + b',"lm_head.weight":' + _ENTRY + b"}",
        "'lm_head.weight' occurs twice",
    ),
    _raw(
        5,
        "duplicate-key-in-entry",
        b'{"lm_head.weight":' + _ENTRY[:-1] + b',"dtype":"F32"}}',
        "'dtype' occurs twice",
    ),
    _raw(
        5,
        "duplicate-metadata-key",
        b'{"__metadata__":{"a":"1","a":"2"},"lm_head.weight":' + _ENTRY + b"}",
        "'a' occurs twice",
    ),
    _raw(3, "half-a-character", b'{"\\ud800":' + _ENTRY + b"}", "not valid JSON: .*surrogates"),
    _raw(3, "half-a-character-as-a-value", b'{"a":{"dtype":"\\udfff"}}', "not valid JSON"),
    _raw(3, "number-of-a-million-digits", b'{"a":' + b"9" * 1_000_000 + b"}", "not valid JSON"),
    _head(6, "offsets-negative", "data_offsets", data_offsets=[-48, 0]),
    _raw(
        6,
        "offsets-minus-zero",
        b'{"lm_head.weight":' + _ENTRY.replace(b"[0,", b"[-0,") + b"}",
        "not valid JSON: -0",
    ),
    _head(6, "offsets-reversed", "data_offsets", data_offsets=[48, 0]),
    _head(6, "offsets-float", "data_offsets", data_offsets=[0.0, 48.0]),
    _head(6, "offsets-bool", "data_offsets", data_offsets=[False, 48]),
    _head(6, "offsets-string", "data_offsets", data_offsets=["0", "48"]),
    _head(6, "offsets-three", "data_offsets", data_offsets=[0, 24, 48]),
    _head(6, "offsets-object", "data_offsets", data_offsets={"begin": 0}),
    _head(6, "offsets-null", "data_offsets", data_offsets=None),
    _head(6, "offsets-over-2^64", "data_offsets", data_offsets=[0, 1 << 64]),
    _head(6, "offsets-past-end", "incomplete", shape=[7, 2], data_offsets=[0, 56]),
    _head(6, "offsets-exabyte", "incomplete", shape=[1 << 58, 2], data_offsets=[0, 1 << 61]),
    _head(6, "offsets-infinity", "data_offsets", data_offsets=[0, float("inf")]),
    _pair(7, "hole", [0, 4], [8, 12], 12, "'b' follows a hole: expected it at byte 4"),
    _pair(7, "hole-at-start", [4, 8], [8, 12], 12, "follows a hole"),
    _pair(7, "overlap", [0, 8], [4, 12], 12, "'b' overlaps another tensor"),
    _pair(7, "same-range-twice", [0, 12], [0, 12], 12, "overlaps another tensor"),
    _pair(7, "trailing-bytes", [0, 4], [4, 8], 12, "bytes after the last tensor"),
    Hostile(7, "zip-after-data", SOUND_SAFETENSORS + b"PK\x03\x04", "bytes after the last tensor"),
    _head(8, "size-differs", "expected 40 bytes", shape=[5, 2]),
    _head(8, "shape-wraps-2^64", r"fewer than 2\^64", shape=[1 << 62, 16], data_offsets=[0, 0]),
    _head(8, "shape-of-100k", r"fewer than 2\^64", shape=[1 << 40] * 100_000),
    _head(8, "shape-negative", "shape of integers", shape=[-6, -2]),
    _head(8, "shape-float", "shape of integers", shape=[6.0, 2.0]),
    _head(8, "shape-bool", "shape of integers", shape=[True, 12]),
    _head(8, "shape-string", "shape of integers", shape="6,2"),
    _head(8, "shape-nested", "shape of integers", shape=[[6], 2]),
    _head(9, "dtype-unknown", "expected a dtype", dtype="F128"),
    _head(9, "dtype-lower-case", "expected a dtype", dtype="f32"),
    _head(9, "dtype-number", "expected a dtype", dtype=32),
    _head(9, "dtype-list", "expected a dtype", dtype=["F32"]),
    _head(9, "dtype-bool", "BOOL, the codes", dtype="BOOL", shape=[24, 2]),
    _head(9, "dtype-int", "I32, the codes", dtype="I32"),
    _head(9, "dtype-unsigned", "U8, the codes", dtype="U8", shape=[24, 2]),
    _head(9, "dtype-complex", "C64, which is not", dtype="C64", shape=[3, 2]),
    _head(20, "dtype-f8", "F8_E4M3, which is not supported", dtype="F8_E4M3", shape=[24, 2]),
    _head(9, "dtype-f4", "F4, which is not supported", dtype="F4", shape=[24, 4]),
    _head(8, "dtype-f6-part-of-a-byte", "expected 0.75 bytes", dtype="F6_E2M3", shape=[1]),
    _raw(3, "entry-null", b'{"lm_head.weight":null}', "expected an object with dtype"),
    _raw(3, "entry-incomplete", b'{"lm_head.weight":{"dtype":"F32"}}', "expected an object with"),
    Hostile(
        10,
        "metadata-not-strings",
        safetensors_bytes({"__metadata__": {"a": 1}, **head_header()}, HEAD_DATA),
        "__metadata__: expected an object of strings",
    ),
    Hostile(
        10,
        "metadata-list",
        safetensors_bytes({"__metadata__": ["a"], **head_header()}, HEAD_DATA),
        "__metadata__: expected an object of strings",
    ),
    Hostile(
        16, "no-tensors", safetensors_bytes(b"{}"), "found neither; two-dimensional tensors: none"
    ),
    Hostile(
        16,
        "name-of-a-megabyte",
        safetensors_file({"x" * 1_000_000: (2, 2)}),
        "two-dimensional tensors: 'xxx",
    ),
    Hostile(40, "head-1d", safetensors_file({"lm_head.weight": (12,)}), r"found shape \(12,\)"),
    Hostile(40, "head-0d", safetensors_file({"lm_head.weight": ()}), r"found shape \(\)"),
    Hostile(40, "head-3d", safetensors_file({"lm_head.weight": (6, 2, 1)}), r"\(6, 2, 1\)"),
    Hostile(
        40, "head-no-rows", safetensors_file({"lm_head.weight": (0, 2)}), r"found shape \(0, 2\)"
    ),
    Hostile(40, "head-no-columns", safetensors_file({"lm_head.weight": (6, 0)}), r"\(6, 0\)"),
    Hostile(
        17, "head-transposed", safetensors_file({"lm_head.weight": (2, 6)}), "2 rows and 6 col"
    ),
]

# ---- GGUF ------------------------------------------------------------------------------------


def _pairs(row: int, name: str, message: str, *pairs: bytes, **options: Any) -> Hostile:
    return Hostile(row, name, gguf_file((ARCHITECTURE, *pairs), **options), message)


def _tensors(
    row: int, name: str, message: str, *tensors: bytes, data: bytes = bytes(256)
) -> Hostile:
    return Hostile(row, name, gguf_file(tensors=tensors, data=data), message)


HOSTILE_GGUF = [
    Hostile(22, "empty", b"", "not a GGUF file"),
    Hostile(22, "three-bytes", b"GGU", "not a GGUF file"),
    Hostile(22, "magic-only", b"GGUF", "incomplete download: the version"),
    Hostile(22, "23-bytes", SOUND_GGUF[:23], "incomplete download: the number of metadata pairs"),
    Hostile(22, "bad-magic", gguf_file(magic=b"GGML"), "not a GGUF file"),
    Hostile(11, "lfs-pointer", b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
    Hostile(22, "version-0", gguf_file(version=0), "version: expected 2 or 3, found 0"),
    Hostile(22, "version-1", gguf_file(version=1), "version: expected 2 or 3, found 1"),
    Hostile(22, "version-4", gguf_file(version=4), "version: expected 2 or 3, found 4"),
    Hostile(22, "big-endian", gguf_file(version=3 << 24), "big-endian"),
    Hostile(
        23, "n-tensors-negative", gguf_file(n_tensors=(1 << 64) - 1), "tensors in .* found 1844"
    ),
    Hostile(23, "n-tensors-too-many", gguf_file(n_tensors=100), "at most . tensors"),
    Hostile(23, "n-pairs-negative", gguf_file(n_pairs=(1 << 64) - 1), "pairs in .* found 1844"),
    Hostile(23, "n-pairs-too-many", gguf_file(n_pairs=100), "metadata pairs in .* found 100"),
    _pairs(24, "key-empty", "length of 1 to 65535 bytes, found 0", gguf_pair("", 4, uint32(1))),
    _pairs(
        24, "key-length-2^63", "bytes, found 922", gguf_string(b"a", length=1 << 63) + bytes(64)
    ),
    _pairs(24, "key-past-end", "incomplete download", gguf_string(b"a", length=60_000)),
    _pairs(24, "key-not-utf-8", "is not UTF-8", gguf_pair(b"\xff\xfe", 4, uint32(1))),
    _pairs(25, "duplicate-key", "'general.architecture' occurs twice", ARCHITECTURE),
    _pairs(
        24,
        "string-length-2^63",
        "incomplete download: the metadata value of 'a': expected 922",
        gguf_pair("a", 8, gguf_string(b"x", length=1 << 63)),
    ),
    _pairs(
        24,
        "string-length-2^64-1",
        "incomplete download",
        gguf_pair("a", 8, gguf_string(b"x", length=(1 << 64) - 1)),
    ),
    _pairs(24, "value-type-13", "unknown type 13", gguf_pair("a", 13, uint32(1))),
    _pairs(24, "value-type-2^32-1", "unknown type 4294967295", gguf_pair("a", (1 << 32) - 1, b"")),
    _pairs(24, "array-length-2^63", "incomplete", gguf_pair("a", 9, gguf_array(4, 1 << 63))),
    _pairs(
        24, "array-length-2^64-1", "incomplete", gguf_pair("a", 9, gguf_array(12, (1 << 64) - 1))
    ),
    _pairs(24, "array-of-strings-2^63", "incomplete", gguf_pair("a", 9, gguf_array(8, 1 << 63))),
    _pairs(
        24,
        "string-in-array-past-end",
        "incomplete",
        gguf_pair("a", 9, gguf_array(8, 3, gguf_string("x") + gguf_string(b"", length=1 << 40))),
    ),
    _pairs(24, "array-of-arrays", "array of arrays", gguf_pair("a", 9, gguf_array(9, 1 << 20))),
    _pairs(
        24, "array-of-unknown", "an array of unknown type 77", gguf_pair("a", 9, gguf_array(77, 0))
    ),
    _pairs(
        29, "alignment-0", "power of two, found 0", gguf_pair("general.alignment", 4, uint32(0))
    ),
    _pairs(
        29, "alignment-48", "power of two, found 48", gguf_pair("general.alignment", 4, uint32(48))
    ),
    _pairs(29, "alignment-uint64", "found type 10", gguf_pair("general.alignment", 10, bytes(8))),
    _pairs(
        29, "alignment-array", "found type 9", gguf_pair("general.alignment", 9, gguf_array(4, 0))
    ),
    _pairs(
        29,
        "alignment-2^31",
        "incomplete download",
        gguf_pair("general.alignment", 4, uint32(1 << 31)),
    ),
    Hostile(
        24,
        "architecture-number",
        gguf_file((gguf_pair("general.architecture", 4, uint32(1)),)),
        "expected type 8",
    ),
    _pairs(
        30,
        "split",
        "part 2 of 3 of a split GGUF",
        gguf_pair("split.no", 2, struct.pack("<H", 1)),
        gguf_pair("split.count", 2, struct.pack("<H", 3)),
    ),
    _pairs(
        17,
        "hidden-size-contradicted",
        "expected 4 columns, the hidden size in the metadata, found 2",
        gguf_pair("llama.embedding_length", 4, uint32(4)),
    ),
    _pairs(
        17,
        "transposed",
        "transposed: expected 6 columns",
        gguf_pair("llama.embedding_length", 4, uint32(6)),
    ),
    _pairs(
        17,
        "vocabulary-contradicted",
        "lacks rows: expected at least 7, the vocabulary in the metadata, found 6",
        gguf_pair("llama.vocab_size", 4, uint32(7)),
    ),
    _pairs(
        17,
        "more-tokens-than-rows",
        "lacks rows: expected at least 7",
        gguf_pair("tokenizer.ggml.tokens", 9, gguf_array(8, 7, gguf_string("t") * 7)),
    ),
    _tensors(24, "name-empty", "length of 1 to 63 bytes, found 0", gguf_tensor("")),
    _tensors(25, "name-64-bytes", "length of 1 to 63 bytes, found 64", gguf_tensor("n" * 64)),
    _tensors(24, "name-not-utf-8", "is not UTF-8", gguf_tensor(b"\xc3\x28")),
    _tensors(
        25,
        "duplicate-name",
        "'token_embd.weight' occurs twice",
        gguf_tensor(),
        gguf_tensor(offset=64),
    ),
    _tensors(26, "dimensions-none", "1 to 4 dimensions, found 0", gguf_tensor(dimensions=())),
    _tensors(26, "dimensions-5", "1 to 4 dimensions, found 5", gguf_tensor(dimensions=(1,) * 5)),
    _tensors(26, "dimensions-2^32-1", "found 4294967295", gguf_tensor(n_dimensions=(1 << 32) - 1)),
    _tensors(26, "dimension-0", "with a product of 1 to", gguf_tensor(dimensions=(2, 0))),
    _tensors(26, "product-wraps", "with a product", gguf_tensor(dimensions=(1 << 62, 4))),
    _tensors(26, "product-2^63", "with a product", gguf_tensor(dimensions=(2, 1 << 62))),
    _tensors(27, "type-withdrawn", "withdrawn storage type 4", gguf_tensor(kind=4)),
    _tensors(27, "type-unknown", "unknown or withdrawn storage type 999", gguf_tensor(kind=999)),
    _tensors(27, "part-of-a-block", "multiple of 32", gguf_tensor(dimensions=(48, 64), kind=8)),
    _tensors(
        27, "part-of-a-k-block", "multiple of 256", gguf_tensor(dimensions=(576, 600), kind=14)
    ),
    _tensors(28, "offset-misaligned", "expected its data at byte 0", gguf_tensor(offset=8)),
    _tensors(28, "offset-past-end", "expected its data at byte 0", gguf_tensor(offset=1 << 40)),
    _tensors(28, "offset-wraps", "found 18446744073709551584", gguf_tensor(offset=(1 << 64) - 32)),
    _tensors(
        28,
        "overlap",
        "'output.weight': expected its data at byte 64",
        gguf_tensor(),
        gguf_tensor("output.weight", offset=32),
    ),
    _tensors(
        28,
        "hole",
        "'output.weight': expected its data at byte 64",
        gguf_tensor(),
        gguf_tensor("output.weight", offset=96),
    ),
    _tensors(
        28,
        "not-in-order",
        "'token_embd.weight': expected its data at byte 0 .*, found 64",
        gguf_tensor(offset=64),
        gguf_tensor("output.weight"),
    ),
    _tensors(
        11,
        "data-cut",
        "incomplete .* expected 48 bytes of data, found 47",
        gguf_tensor(),
        data=bytes(47),
    ),
    _tensors(26, "data-exabytes", "incomplete", gguf_tensor(dimensions=(2, 1 << 58))),
    _tensors(16, "no-tensors", "found neither"),
    _tensors(16, "no-head", r"two-dimensional tensors: 'a' \(6, 2\)", gguf_tensor("a")),
    _tensors(40, "head-1d", r"found shape \(12,\)", gguf_tensor(dimensions=(12,))),
    _tensors(17, "head-transposed", "2 rows and 6 columns", gguf_tensor(dimensions=(6, 2))),
    _tensors(27, "head-integers", "found I32, the codes", gguf_tensor(kind=26)),
    _tensors(
        27,
        "head-q8-1",
        "block type of GGUF, found Q8_1, which is not supported",
        gguf_tensor(dimensions=(32, 32), kind=9),
        data=bytes(32 * 40),
    ),
    _tensors(
        21, "lora-adapter", "a LoRA adapter without", gguf_tensor("blk.0.attn_q.weight.lora_a")
    ),
]
