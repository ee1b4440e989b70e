"""The file of a filter: a safetensors file that any reader of that format can use.

====================  ===========  ===================================================
tensor                shape        type
====================  ===========  ===================================================
components            (k, d)       F32, orthonormal rows in nested order
component_indices     (k,)         I64, ranks in descending order of singular value
singular_values       (d,)         F64, descending
mean                  (d,)         F32, of a calibrated filter only
ranges                (2, k)       F32, least and greatest values, likewise
====================  ===========  ===================================================

The metadata are strings: format_version, kind, d, k, and those of `EmbedFilter.metadata`, the
settings of a calibration among them. A filtered embedding is ``y = x @ components.T``, of a
calibrated filter, whose components are orthogonal but of unequal length,
``y = (x - mean) @ components.T``.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedfilter.arrays.limits import MAX_HIDDEN_SIZE
from embedfilter.errors import CheckpointError, FilterFileError
from embedfilter.files.atomic import atomic_output
from embedfilter.files.containers.safetensors import SafetensorsFile
from embedfilter.files.endings import OF_OTHER_FILES, SAFETENSORS, ending
from embedfilter.files.input_file import InputFile
from embedfilter.files.messages import NOT_THERE, described, shown

__all__ = ["check_filter_name", "is_filter", "is_filter_file", "read_filter", "write_filter"]

FORMAT_VERSION = "1"
_TYPES: dict[str, tuple[str, np.dtype[Any]]] = {
    "components": ("F32", np.dtype("<f4")),
    "component_indices": ("I64", np.dtype("<i8")),
    "singular_values": ("F64", np.dtype("<f8")),
}
_CALIBRATED_TYPES = {**_TYPES, "mean": ("F32", np.dtype("<f4")), "ranges": ("F32", np.dtype("<f4"))}
_EXPECTED = "expected a filter as 'embedfilter fit' writes it"
_OWN_KEYS = ("format_version", "kind", "d", "k")
# Rounding components to float32 changes a product of two of them by 1e-7; what is further
# from orthonormal has been damaged.
_ORTHONORMAL = 1e-5
# Calibration leaves lengths about 1: within a factor of 104, with as many components as can be.
_LEAST_LENGTH, _LARGEST_LENGTH = 1e-3, 1e3
_BLOCK_ROWS = 256
_START = 256  # bytes that tell what another file is


def write_filter(
    path: Path, arrays: Mapping[str, NDArray[Any]], kind: str, metadata: Mapping[str, str]
) -> None:
    """Write a filter's arrays, those of the table above; see `EmbedFilter.save`."""
    from safetensors.numpy import save  # noqa: PLC0415 - only where a file is written

    check_filter_name(path)
    k, d = arrays["components"].shape
    data = save(
        dict(arrays),
        metadata={
            **metadata,
            "format_version": FORMAT_VERSION,
            "kind": kind,
            "d": str(d),
            "k": str(k),
        },
    )
    with atomic_output(path) as file:
        file.write(_with_sorted_metadata(data))


def check_filter_name(path: Path) -> None:
    """Raise ValueError if a file's name says that it is something else than a filter."""
    if ending(path) in OF_OTHER_FILES:
        raise ValueError(
            f"{path}: expected a name for a filter, which ends in {SAFETENSORS[0]}, found"
            f" {ending(path)!r}"
        )


def _with_sorted_metadata(data: bytes) -> bytes:
    """Return a safetensors file with its metadata in order: the library's differs each time."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    return len(text).to_bytes(8, "little") + text + data[end:]


def is_filter(file: SafetensorsFile) -> bool:
    """Tell whether an open safetensors file is a filter, sound or not."""
    return file.metadata.keys() >= set(_OWN_KEYS) and "components" in file.tensors


def is_filter_file(path: Path) -> bool:
    """Tell whether a file is a filter, sound or not, whatever it is called."""
    try:
        with contextlib.closing(SafetensorsFile(InputFile(path))) as file:
            return is_filter(file)
    except CheckpointError:
        return False


def read_filter(path: Path, kinds: Collection[str]) -> dict[str, Any]:
    """Return the arguments of `EmbedFilter` from a file; see `EmbedFilter.load`.

    Parameters
    ----------
    path : Path
    kinds : collection of str
        The kinds of filter that there are.
    """
    try:
        with contextlib.closing(SafetensorsFile(InputFile(path))) as file:
            return _read(path, file, kinds)
    except CheckpointError as error:
        detail = str(error).removeprefix(f"{path}: ")
        if detail.startswith("not a safetensors file: "):  # most files that are given by mistake
            with contextlib.closing(InputFile(path)) as other:
                start = other.read(0, min(other.size, _START)).tobytes()
            raise FilterFileError(f"{path}: {_EXPECTED}, found {described(start)}") from None
        if detail == NOT_THERE:
            raise FilterFileError(f"{path}: {detail}") from None
        raise FilterFileError(f"{path}: {_EXPECTED}: {detail}") from None


def _read(path: Path, file: SafetensorsFile, kinds: Collection[str]) -> dict[str, Any]:
    metadata = file.metadata
    version = metadata.get("format_version")
    if version is None:
        raise FilterFileError(f"{path}: {_EXPECTED}, found another safetensors file")
    expected = f"a filter of format version {FORMAT_VERSION}"
    _check(path, version == FORMAT_VERSION, expected, f"version {version!r}")
    names = ", ".join(shown(name) for name in sorted(file.tensors)[:10])
    types = _CALIBRATED_TYPES if "mean" in file.tensors else _TYPES
    _check(path, set(file.tensors) == set(types), f"the tensors {', '.join(types)}", names)
    d, k = (_size(path, metadata, key) for key in ("d", "k"))
    _check(path, d <= MAX_HIDDEN_SIZE, f"at most {MAX_HIDDEN_SIZE} as metadata 'd'", str(d))
    _check(path, k <= d, f"at most d, {d}, as metadata 'k'", str(k))
    shapes = {
        "components": (k, d),
        "component_indices": (k,),
        "singular_values": (d,),
        "mean": (d,),
        "ranges": (2, k),
    }
    arrays: dict[str, NDArray[Any]] = {}
    for name, (stored_type, dtype) in types.items():
        info = file.tensors[name]
        _check(
            path,
            (info.dtype, info.shape) == (stored_type, shapes[name]),
            f"tensor '{name}' of type {stored_type} and shape {shapes[name]}",
            f"{info.dtype} and {info.shape}",
        )
        arrays[name] = file.read(name).view(dtype).reshape(shapes[name])
    kind = metadata.get("kind")
    _check(path, kind in kinds, f"a kind of {', '.join(kinds)}", repr(kind))
    _check_values(path, arrays, d)
    return {
        **arrays,
        "kind": str(kind),
        # Sorted, as safetensors keeps no order.
        "metadata": {key: metadata[key] for key in sorted(metadata) if key not in _OWN_KEYS},
    }


def _check(path: Path, holds: bool, expected: str, found: str) -> None:
    if not holds:
        raise FilterFileError(f"{path}: expected {expected}, found {found}")


def _size(path: Path, metadata: dict[str, str], key: str) -> int:
    text = metadata.get(key, "")
    plain = text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0
    _check(path, plain, f"a positive integer as metadata '{key}'", repr(text))
    return int(text)


def _check_values(path: Path, arrays: dict[str, NDArray[Any]], d: int) -> None:
    """Check the numbers themselves: finite, in order, in range, orthogonal."""
    components, indices = arrays["components"], arrays["component_indices"]
    sigma = arrays["singular_values"]
    valid = bool((indices >= 0).all() and (indices < d).all())
    _check(
        path,
        valid and len(np.unique(indices)) == len(indices),
        f"component_indices that differ, from 0 to {d - 1}",
        "others",
    )
    descending = (sigma >= 0).all() and (sigma[:-1] >= sigma[1:]).all()
    ordered = bool(descending and np.isfinite(sigma).all())
    _check(path, ordered, "singular values that are finite and descending", "others")
    _check(path, bool(np.isfinite(components).all()), "finite components", "NaN or infinity")
    if "mean" in arrays:
        lengths = np.linalg.norm(components.astype(np.float64), axis=1, keepdims=True)
        ordinary = bool(((lengths > _LEAST_LENGTH) & (lengths < _LARGEST_LENGTH)).all())
        expected = f"components of a length from {_LEAST_LENGTH:g} to {_LARGEST_LENGTH:g}"
        _check(path, ordinary, expected, f"{lengths.min():.3g} to {lengths.max():.3g}")
        _check_calibration(path, components, arrays["mean"], arrays["ranges"])
        components = (components / lengths).astype(np.float32)
    distance = _distance_from_orthonormal(components)
    _check(
        path,
        distance < _ORTHONORMAL,
        "orthogonal components" if "mean" in arrays else "orthonormal components",
        f"products up to {distance:.2g} from those of orthonormal rows",
    )


def _check_calibration(
    path: Path, components: NDArray[Any], mean: NDArray[Any], ranges: NDArray[Any]
) -> None:
    _check(path, bool(np.isfinite(mean).all()), "a finite mean", "NaN or infinity")
    with np.errstate(over="ignore"):
        projected = (components.astype(np.float64) @ mean).astype(np.float32)
    _check(path, bool(np.isfinite(projected).all()), "a mean that float32 can project", "a larger")
    with np.errstate(over="ignore", invalid="ignore"):
        steps = (ranges[1] - ranges[0]) / np.float32(255)
    ascending = bool(np.isfinite(ranges).all() and np.isfinite(steps).all() and (steps > 0).all())
    _check(path, ascending, "ranges that are finite and ascending", "others")


def _distance_from_orthonormal(components: NDArray[np.float32]) -> float:
    """Return by how much the products of two rows (k, d) differ at most from 0 and 1."""
    largest = 0.0
    # A block of rows at a time, as k may be large.
    for start in range(0, len(components), _BLOCK_ROWS):
        block = components[start : start + _BLOCK_ROWS]
        with np.errstate(over="ignore", invalid="ignore"):
            products = block @ components[start:].T
            products[np.arange(len(block)), np.arange(len(block))] -= 1
            distance = float(np.abs(products).max())
        if not distance < _ORTHONORMAL:  # so that NaN, from overflow, is found too
            return distance
        largest = max(largest, distance)
    return largest
