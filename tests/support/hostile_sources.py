"""Sources other than single headers that must be refused: folders, archives, matrices, filters.

Each is made by a function that takes an empty folder and returns what is then read.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from checkpoint_files import (
    ARCHITECTURE,
    SOUND_GGUF,
    SOUND_SAFETENSORS,
    gguf_file,
    gguf_pair,
    gguf_tensor,
    safetensors_bytes,
    safetensors_file,
)

from embedfilter import CheckpointError, EmbedFilter, FilterFileError, open_unembedding

HEAD = (8, 3)
HEADS = {"lm_head.weight": HEAD, "model.embed_tokens.weight": HEAD}
INDEX = "model.safetensors.index.json"


def opened(source: Any) -> None:
    """Open a source, and read its first row."""
    with open_unembedding(source) as W:
        W.rows(0, 1)


def fitted(source: Any) -> None:
    """Fit a filter to a source, which reads all of it."""
    EmbedFilter.from_checkpoint(source)


@dataclass(frozen=True)
class HostileSource:
    """What must be refused, how it is made and tried, and a part of the message."""

    row: int
    name: str
    make: Callable[[Path], Any]
    message: str
    attempt: Callable[[Any], None] = opened
    error: type[Exception] = CheckpointError


def _files(**files: Any) -> Callable[[Path], Path]:
    """A folder of files: bytes, text or what becomes JSON; in names, a double _ is a dot."""

    def make(folder: Path) -> Path:
        for name, content in files.items():
            text = content if isinstance(content, (bytes, str)) else json.dumps(content)
            data = text.encode() if isinstance(text, str) else text
            (folder / name.replace("__", ".")).write_bytes(data)
        return folder

    return make


def _file(name: str, data: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return make


# ---- A file that changes -----------------------------------------------------------------------


def _cut_while_open(path: Path) -> None:
    with open_unembedding(path) as W:
        os.truncate(path, path.stat().st_size - 4)
        W.rows(0, W.shape[0])


def _saved_by_torch(folder: Path) -> Path:
    torch.save({"lm_head.weight": torch.ones(*HEAD)}, folder / "model.pt")
    return folder / "model.pt"


def _saved_by_numpy(folder: Path) -> Path:
    np.save(folder / "head.npy", np.ones(HEAD))
    return folder / "head.npy"


CHANGED = "changed while it was read: expected [0-9]+ bytes, found "
CHANGING = [
    HostileSource(12, "cut-safetensors", _file("a.safetensors", SOUND_SAFETENSORS), CHANGED,
                  _cut_while_open),
    HostileSource(12, "cut-gguf", _file("a.gguf", SOUND_GGUF), CHANGED, _cut_while_open),
    HostileSource(12, "cut-torch", _saved_by_torch, CHANGED, _cut_while_open),
    HostileSource(12, "cut-npy", _saved_by_numpy, CHANGED, _cut_while_open),
]  # fmt: skip

# ---- Folders -----------------------------------------------------------------------------------


def _sharded(weight_map: Any, **files: Any) -> Callable[[Path], Path]:
    shard = safetensors_file({"lm_head.weight": HEAD})
    return _files(
        model__safetensors__index__json={"weight_map": weight_map},
        **{"a__safetensors": shard, **files},
    )


def _linked(folder: Path) -> Path:
    """A shard that is a link to a file outside of the folder."""
    outside = folder.parent / f"{folder.name}-outside.safetensors"
    outside.write_bytes(safetensors_file({"lm_head.weight": HEAD}))
    model = _sharded({"lm_head.weight": "b.safetensors"})(folder)
    (model / "b.safetensors").symlink_to(outside)
    return model


def _beyond_the_cap(folder: Path) -> Path:
    (folder / INDEX).write_bytes(b"{")
    os.truncate(folder / INDEX, 1 << 33)
    return folder


def _modules(*modules: Any) -> Callable[[Path], Path]:
    return _files(modules__json=list(modules))


ELSEWHERE = {
    "absolute": "/etc/passwd.safetensors",
    "parent": "../a.safetensors",
    "dots": "..",
    "folder": "sub/a.safetensors",
    "backslash": "..\\a.safetensors",
    "nul": "a\0.safetensors",
    "drive": "C:a.safetensors",
    "url": "https://example.com/a.safetensors",
    "number": 7,
    "list": ["a.safetensors"],
}
PACKED = {
    "gptq": (["qweight", "qzeros", "scales", "g_idx"], "GPTQ"),
    "awq": (["qweight", "qzeros", "scales"], "GPTQ or AWQ"),
    "bitsandbytes-4-bit": (
        ["weight", "weight.absmax", "weight.quant_map", "weight.quant_state.bitsandbytes__nf4"],
        "bitsandbytes",
    ),
    "bitsandbytes-8-bit": (["weight", "SCB"], "bitsandbytes"),
    "mlx": (["weight", "scales", "biases"], "MLX"),
    "compressed-tensors": (["weight_packed", "weight_scale"], "compressed-tensors"),
    "nvfp4": (["weight", "weight_scale", "weight_scale_2"], "NVFP4"),
    "scales-beside-floats": (["weight", "weight_scale"], "codes with scales"),
}


def _packed(names: list[str]) -> bytes:
    tensors = {f"lm_head.{name}": ("U8", HEAD) for name in names}
    return safetensors_file({**tensors, "model.embed_tokens.weight": HEAD})


class _Abort:
    """Pickled as a call that ends the process."""

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return os.abort, ()


def _saved_with_code(folder: Path) -> Path:
    torch.save({"lm_head.weight": torch.ones(*HEAD), "a": _Abort()}, folder / "model.pt")
    return folder


def _bomb() -> bytes:
    """A pickle of a dictionary whose key is a tuple that takes 2^60 steps to hash."""
    doublings = b"".join(b"q%c" % i + b"h%c" % i + b"\x86" for i in range(60))
    return b"\x80\x02}K\x01\x85" + doublings + b"K\x01s."


def _archive_with_bomb(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "model.pt", "w") as archive:
        archive.writestr("model/data.pkl", _bomb())
        archive.writestr("model/version", "3\n")
    return folder


def _legacy_with_bomb(folder: Path) -> Path:
    torch.save({"a": torch.ones(2)}, folder / "model.pt", _use_new_zipfile_serialization=False)
    stream = io.BytesIO((folder / "model.pt").read_bytes())
    for _ in range(3):  # what comes before the object
        pickle.load(stream)
    (folder / "model.pt").write_bytes(stream.getvalue()[: stream.tell()] + _bomb())
    return folder


CODE = b"cos\nsystem\n(S'ls'\ntR."
BASE_NAME = "'lm_head.weight': expected the base name of a .safetensors file, found "
FOLDERS = [
    *(
        HostileSource(13, f"shard-{name}", _sharded({"lm_head.weight": shard}), BASE_NAME)
        for name, shard in ELSEWHERE.items()
    ),
    HostileSource(13, "shard-link", _linked, "a link that leaves the checkpoint's folder"),
    *(
        HostileSource(13, f"module-{name}", _modules({"type": "x.Transformer", "path": path}),
                      "expected as path the name of a folder|expected an object with type and path")
        for name, path in ELSEWHERE.items()
    ),
    HostileSource(14, "tensor-not-in-its-shard",
                  _sharded({"lm_head.weight": "b.safetensors"},
                           b__safetensors=safetensors_file({"other": HEAD})),
                  "'lm_head.weight' is said to be in 'b.safetensors', which does not hold it"),
    HostileSource(14, "shard-missing", _sharded({"lm_head.weight": "gone.safetensors"}),
                  "'lm_head.weight' is said to be in 'gone.safetensors', which does not exist"),
    HostileSource(14, "head-in-two-shards-of-different-shape",
                  _sharded({"lm_head.weight": "a.safetensors", "model.lm_head.weight":
                            "b.safetensors"},
                           b__safetensors=safetensors_file({"model.lm_head.weight": (9, 3)})),
                  r"found 2 that differ: 'lm_head.weight' \(8, 3\), .* \(9, 3\)"),
    HostileSource(15, "index-empty", _files(model__safetensors__index__json=""), "not valid JSON"),
    HostileSource(15, "index-list", _files(model__safetensors__index__json=[]), "found a list"),
    HostileSource(15, "index-no-map", _files(model__safetensors__index__json={}),
                  "expected a weight_map"),
    HostileSource(15, "map-list", _sharded([]), "expected a weight_map"),
    HostileSource(15, "map-twice",
                  _files(model__safetensors__index__json='{"weight_map":{},"weight_map":{}}'),
                  "'weight_map' occurs twice"),
    HostileSource(15, "index-nested", _files(model__safetensors__index__json='{"a":' * 100_000),
                  "nested too deeply|not valid JSON"),
    HostileSource(15, "index-over-cap", _beyond_the_cap, "at most 100000000 bytes, found 85899345"),
    HostileSource(15, "modules-not-a-list", _files(modules__json={}), "expected a JSON array"),
    HostileSource(15, "modules-without-transformer", _modules(), "expected a Transformer among"),
    HostileSource(16, "two-heads",
                  _files(model__safetensors=safetensors_file(
                      {"lm_head.weight": HEAD, "model.lm_head.weight": (9, 3)})),
                  "found 2 that differ"),
    HostileSource(16, "no-head", _files(model__safetensors=safetensors_file({"a": HEAD})),
                  r"found neither; two-dimensional tensors: 'a' \(8, 3\)"),
    HostileSource(16, "two-checkpoints", _files(a__gguf=b"", b__gguf=b""), "found 2: 'a.gguf'"),
    HostileSource(16, "nothing", _files(), "found nothing"),
    HostileSource(17, "config-hidden-size",
                  _files(model__safetensors=safetensors_file(HEADS), config__json={"n_embd": 4}),
                  r"of shape \(8, 3\) does not fit the model: expected 4 columns, .*found 3"),
    HostileSource(17, "config-vocabulary",
                  _files(model__safetensors=safetensors_file(HEADS),
                         config__json={"vocab_size": 9}),
                  "lacks rows: expected at least 9, .*found 8"),
    HostileSource(17, "config-transposed",
                  _files(model__safetensors=safetensors_file({"lm_head.weight": (3, 8)}),
                         config__json={"hidden_size": 3}),
                  "is transposed: expected 3 columns"),
    HostileSource(18, "hash-bomb", _archive_with_bomb, "refers to itself again and again"),
    HostileSource(18, "hash-bomb-before-torch-1.6", _legacy_with_bomb, "refers to itself again"),
    HostileSource(18, "pickle", _files(model__pkl=CODE), "found 'model.pkl'"),
    HostileSource(18, "pickle-called-bin", _files(pytorch_model__bin=CODE),
                  "not a file of torch.save: expected a zip archive, found b.cos"),
    HostileSource(18, "code-in-a-file-of-torch", _saved_with_code,
                  r"expected tensors alone, found posix\.abort, which is not loaded"),
    *(
        HostileSource(19, name, _files(model__safetensors=_packed(names)),
                      f"'lm_head.weight' is quantised .{scheme}.*beside it 'lm_head")
        for name, (names, scheme) in PACKED.items()
    ),
    HostileSource(19, "codes-alone",
                  _files(model__safetensors=safetensors_file({"lm_head.weight": ("U32", HEAD)})),
                  "found U32, the codes of a quantised matrix"),
    HostileSource(20, "fp8-without-scales",
                  _files(model__safetensors=safetensors_file(
                      {"lm_head.weight": ("F8_E4M3", HEAD)})),
                  "'lm_head.weight' .*found F8_E4M3, .*mean nothing without their scales"),
    HostileSource(20, "fp8-with-scales-of-another-shape",
                  _files(model__safetensors=safetensors_file(
                      {"lm_head.weight": ("F8_E4M3", HEAD), "lm_head.weight_scale": (7, 1)})),
                  r"'lm_head.weight_scale': expected scales of shape .*found shape \(7, 1\)"),
    HostileSource(21, "lora-alone",
                  _files(adapter_model__safetensors=safetensors_file(
                      {"base_model.model.q.lora_A.weight": HEAD})),
                  "a LoRA adapter without the output head"),
    HostileSource(21, "lora-on-the-head",
                  _files(model__safetensors=safetensors_file(
                      {"lm_head.base_layer.weight": HEAD, "lm_head.lora_A.default.weight": HEAD})),
                  "has a LoRA adapter"),
]  # fmt: skip

# ---- Split and damaged GGUF ----------------------------------------------------------------------


def _part(number: int, count: int, name: str) -> bytes:
    pairs = (
        ARCHITECTURE,
        gguf_pair("split.no", 2, struct.pack("<H", number)),
        gguf_pair("split.count", 2, struct.pack("<H", count)),
    )
    return gguf_file(pairs, (gguf_tensor(name),))


def _blocks_with_scale(scale: float) -> bytes:
    """A head of Q8_0 with this scale in row 40."""
    blocks = np.zeros((64, 34), np.uint8)
    blocks[:, :2] = np.array([1], "<f2").view(np.uint8)
    blocks[:, 2:] = np.random.default_rng(0).integers(0, 256, (64, 32))
    blocks[40, :2] = np.array([scale], "<f2").view(np.uint8)
    tensor = gguf_tensor("output.weight", (32, 64), 8)
    return gguf_file((ARCHITECTURE,), (tensor,), blocks.tobytes())


GGUF = [
    HostileSource(30, "head-in-a-missing-part",
                  _files(**{"m-00001-of-00002__gguf": _part(0, 2, "token_embd.weight")}),
                  "'output.weight' is in none .* 1 are missing: 'm-00002-of-00002.gguf'"),
    HostileSource(30, "part-under-another-name", _files(m__gguf=_part(0, 2, "output.weight")),
                  "part 1 of 2 of a split GGUF file: expected a name that ends in -00001-of-00002"),
    HostileSource(30, "part-of-another-checkpoint",
                  _files(**{"m-00001-of-00002__gguf": _part(0, 2, "token_embd.weight"),
                            "m-00002-of-00002__gguf": _part(1, 3, "output.weight")}),
                  "expected part 2 of 2 .*found part 2 of 3"),
    HostileSource(31, "scale-nan", _file("a.gguf", _blocks_with_scale(np.nan)),
                  "'output.weight': expected finite numbers, found NaN or infinity in row 40",
                  fitted),
    HostileSource(31, "scale-infinite", _file("a.gguf", _blocks_with_scale(np.inf)),
                  "expected finite numbers, found NaN or infinity in row 40", fitted),
]  # fmt: skip

# ---- NumPy's and torch's files -------------------------------------------------------------------


def npy(header: str | bytes, data: bytes = b"", *, length: int | None = None) -> bytes:
    """A .npy file with this header and these data."""
    text = header.encode() if isinstance(header, str) else header
    prefix = b"\x93NUMPY\x02\x00" + struct.pack("<I", len(text) if length is None else length)
    return prefix + text + data


def _npy(row: int, name: str, message: str, descr: str, shape: str, data: bytes) -> HostileSource:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n"
    return HostileSource(row, name, _file("a.npy", npy(header, data)), message)


def archive(entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip archive with these entries."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, data in entries.items():
            file.writestr(name, data)
    return buffer.getvalue()


def _saved(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def _directory(data: bytes, at: int, layout: str, value: int) -> bytes:
    """An archive with a number in its only directory entry changed."""
    position = data.index(b"PK\x01\x02") + at
    changed = bytearray(data)
    struct.pack_into(layout, changed, position, value)
    return bytes(changed)


SOUND_NPZ = archive({"a.npy": _saved(np.ones(HEAD))})
BOMB = archive({"a.npy": _saved(np.zeros((1 << 16, 256)))}, zipfile.ZIP_DEFLATED)
NUMBERS = bytes(8 * 24)
ARRAYS = [
    HostileSource(32, "objects", _file("a.npy", _saved(np.array([[None, {}]]))),
                  "a.npy: expected an array of float16, .*found 'object', which is not read"),
    HostileSource(32, "object-in-archive",
                  _file("a.npz", archive({"a.npy": _saved(np.array([[None, {}]]))})),
                  "entry 'a.npy': expected an array of .*found 'object'"),
    HostileSource(32, "structure", _file("a.npy", _saved(np.zeros(HEAD, [("a", "f4")]))),
                  "expected one of F64, .*found void32"),
    _npy(33, "shape-of-16-gib", "incomplete download: expected 17179869184 bytes .*found 192",
         "'<f4'", "(1073741824, 4)", NUMBERS),
    _npy(33, "shape-wraps", "incomplete download: expected 14757", "'<f8'", f"({1 << 62}, 4)",
         NUMBERS),
    _npy(33, "shape-negative", "expected sizes of 0 or more", "'<f8'", "(-8, -3)", NUMBERS),
    HostileSource(34, "empty", _file("a.npy", b""), "it to start with b'.*', found an empty file"),
    HostileSource(34, "header-cut", _file("a.npy", b"\x93NUMPY\x01\x00"), "found a damaged one"),
    HostileSource(34, "header-tokens", _file("a.npy", npy(b"{'shape': (((( ]\n")), "damaged one"),
    HostileSource(34, "header-list", _file("a.npy", npy(b"{[]: 3}\n")), "found a damaged one"),
    HostileSource(34, "header-nested", _file("a.npy", npy(b"(" * 9000)), "found a damaged one"),
    HostileSource(34, "header-code", _file("a.npy", npy(b"__import__('os').abort()")), "damaged"),
    HostileSource(34, "header-of-4-gib", _file("a.npy", npy(b"{", length=(1 << 32) - 1)),
                  "found a damaged one"),
    HostileSource(34, "version-9", _file("a.npy", b"\x93NUMPY\x09\x00" + bytes(99)), "found 9.0"),
    _npy(35, "trailing-bytes", "bytes after the array: expected 192 bytes .*found 196", "'<f8'",
         "(8, 3)", NUMBERS + b"more"),
    HostileSource(35, "trailing-bytes-in-archive",
                  _file("a.npz", archive({"a.npy": _saved(np.ones(HEAD)) + b"more"})),
                  "entry 'a.npy': bytes after the array"),
    HostileSource(36, "bomb", _file("a.npz", BOMB),
                  "entry 'a.npy': a zip bomb: expected at most 100 times its [0-9]+ bytes"),
    HostileSource(36, "archive-cut", _file("a.npz", SOUND_NPZ[:-30]), "not a sound zip archive"),
    HostileSource(36, "archive-empty", _file("a.npz", b""), "not a sound zip archive"),
    HostileSource(36, "entry-elsewhere", _file("a.npz", archive({"../a.npy": b""})),
                  "expected an archive of .npy files, found the entry '../a.npy'"),
    HostileSource(36, "entry-absolute", _file("a.npz", archive({"/a.npy": b""})), "'/a.npy'"),
    HostileSource(36, "entry-of-another-kind", _file("a.npz", archive({"a.txt": b""})), "'a.txt'"),
    HostileSource(36, "entry-encrypted", _file("a.npz", _directory(SOUND_NPZ, 8, "<H", 1)),
                  "entry 'a.npy' is encrypted"),
    HostileSource(36, "entry-by-lzma", _file("a.npz", archive({"a.npy": _saved(np.ones(HEAD))},
                                                              zipfile.ZIP_LZMA)),
                  "expected it stored or deflated, .*found compression 14"),
    HostileSource(36, "entry-past-end", _file("a.npz", _directory(SOUND_NPZ, 42, "<I", 1 << 31)),
                  "entry 'a.npy': incomplete download|not a sound zip archive"),
    HostileSource(36, "entry-longer-than-the-file",
                  _file("a.npz", _directory(SOUND_NPZ, 24, "<I", 1 << 31)),
                  "entry 'a.npy': expected 2147483648 bytes after a header at byte 0, found "),
    HostileSource(36, "two-arrays-without-a-name",
                  _file("a.npz", archive({f"{name}.npy": _saved(np.ones(HEAD)) for name in "ab"})),
                  "found neither; two-dimensional tensors: 'a' .*'b' .*pass tensor="),
    HostileSource(36, "no-arrays", _file("a.npz", archive({})), "among 0 tensors, found neither"),
    HostileSource(36, "torch-archive-compressed",
                  _file("a.pt", archive({"a/data.pkl": bytes(1 << 20)}, zipfile.ZIP_DEFLATED)),
                  "entry 'a/data.pkl': expected it uncompressed, found compression 8"),
    HostileSource(36, "torch-archive-without-a-pickle", _file("a.pt", archive({"a/data/0": b""})),
                  "expected an entry data.pkl, found 'a/data/0'"),
]  # fmt: skip

# ---- The matrix ----------------------------------------------------------------------------------


def _matrix(row: int, name: str, W: Any, message: str, error: type = ValueError) -> HostileSource:
    return HostileSource(row, name, lambda _: W, f"^source: .*{message}", fitted, error)


def _saved_matrix(row: int, name: str, W: np.ndarray, message: str) -> HostileSource:
    data = safetensors.numpy.save({"lm_head.weight": W})
    return HostileSource(row, name, _file("a.safetensors", data), message, fitted)


RANDOM = np.random.default_rng(0).standard_normal((40, 8)).astype(np.float32)


def _changed(row: int, value: float) -> np.ndarray:
    W = RANDOM.copy()
    W[row, 3] = value
    return W


MATRICES = [
    *(
        _saved_matrix(38, f"{value}-in-a-file", _changed(17, value),
                      "'lm_head.weight': expected finite numbers, found NaN or infinity in row 17")
        for value in (np.nan, np.inf, -np.inf)
    ),
    _matrix(38, "nan-in-an-array", _changed(0, np.nan), "found NaN or infinity in row 0 .1 such"),
    _matrix(39, "zeros", np.zeros((40, 8)), "found only zeros"),
    _saved_matrix(39, "zeros-in-a-file", np.zeros((40, 8), "f4"), "'lm_head.weight': .*only zeros"),
    _matrix(39, "rank-too-low", RANDOM[:, :1] @ RANDOM[:1], "found rank 1 of 8"),
    _matrix(39, "fewer-rows-than-columns", RANDOM[:3], "found rank 3 of 8"),
    _saved_matrix(39, "fewer-rows-in-a-file", RANDOM[:3], "3 rows and 8 columns"),
    *(
        _matrix(40, f"{len(shape)}-dimensions", np.ones(shape), r"found shape \(")
        for shape in ((), (40,), (40, 8, 2))
    ),
    _matrix(40, "no-rows", np.ones((0, 8)), r"found shape \(0, 8\)"),
    HostileSource(40, "one-column", lambda _: np.ones((40, 1)),
                  "ratio: expected from 1 to the hidden size 1, found 2", fitted, ValueError),
    _matrix(40, "too-wide", np.broadcast_to(np.float32(1), (40_000, 32_767)),
            "at most 32766, found 32767"),
    *(
        _matrix(41, name, W, f"found .*{found}", TypeError)
        for name, W, found in (
            ("complex", RANDOM.astype(complex), "complex128"),
            ("object", RANDOM.astype(object), "object"),
            ("string", RANDOM.astype(str), "<U"),
            ("bool", RANDOM.astype(bool), "bool"),
            ("integer", RANDOM.astype(int), "int64"),
            ("datetime", np.zeros((40, 8), "datetime64[s]"), "datetime64"),
            ("masked", np.ma.masked_array(RANDOM), "a masked array"),
            ("sparse", torch.from_numpy(RANDOM).to_sparse(), "sparse"),
            ("quantised-torch", torch.from_numpy(RANDOM).to(torch.int8), "int8"),
        )
    ),
    _matrix(43, "squares-overflow", np.full((40, 8), 1e200), "within float64's range, found .*inf"),
    _matrix(43, "squares-underflow", np.full((40, 8), 1e-170), "within float64's range, found"),
]  # fmt: skip

# ---- Saved filters -------------------------------------------------------------------------------


def _filter(row: int, name: str, message: str, **changes: Any) -> HostileSource:
    """A filter whose tensors or metadata are others."""

    def make(folder: Path) -> Path:
        path = folder / "filter.safetensors"
        EmbedFilter.from_matrix(RANDOM).save(path)
        with safetensors.safe_open(path, "numpy") as file:
            metadata = file.metadata()
        tensors = safetensors.numpy.load_file(path)
        for key, value in changes.items():
            if isinstance(value, str):
                metadata[key] = value
            elif value is None:
                metadata.pop(key)
            else:
                tensors[key] = value
        safetensors.numpy.save_file(tensors, path, metadata)
        return path

    return HostileSource(row, name, make, message, loaded, FilterFileError)


def loaded(path: Path) -> None:
    """Read a filter."""
    EmbedFilter.load(path)


def _strings(value: Any) -> bytes:
    return safetensors_bytes({"__metadata__": {"format_version": value}})


FILTERS = [
    _filter(58, "no-version", "found another safetensors file", format_version=None),
    _filter(58, "later-version", "found version '99'", format_version="99"),
    _filter(58, "another-size", r"of type F32 and shape \(3, 8\), found F32", k="3"),
    _filter(58, "not-orthonormal", "orthonormal components", components=np.ones((4, 8), "f4")),
    _filter(58, "nan", "finite components", components=np.full((4, 8), np.nan, "f4")),
    _filter(58, "more-tensors", "found .*'more'", more=np.ones(3)),
    HostileSource(58, "cut", _file("f", SOUND_SAFETENSORS[:-1]), "incomplete download", loaded,
                  FilterFileError),
    HostileSource(59, "metadata-number", _file("f", _strings(1)), "expected an object of strings",
                  loaded, FilterFileError),
]  # fmt: skip

HOSTILE_SOURCES = [*CHANGING, *FOLDERS, *GGUF, *ARRAYS, *MATRICES, *FILTERS]
