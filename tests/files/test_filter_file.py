"""Filter files: what is refused when they are read, and how they are written."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import stat
import struct
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from checkpoint_files import SOUND_GGUF
from numpy.typing import NDArray
from oracle import head_with_spectrum, model_like_spectrum

from embedfilter import CheckpointError, EmbedFilter, FilterFileError, open_unembedding
from embedfilter.files.atomic import atomic_output
from embedfilter.files.filter_file import is_filter_file

D, K = 48, 24


@pytest.fixture(scope="module")
def f() -> EmbedFilter:
    W = head_with_spectrum(np.random.default_rng(1), 200, model_like_spectrum(D, 25))
    return EmbedFilter.from_matrix(W)


@pytest.fixture
def saved(f: EmbedFilter, tmp_path: Path) -> Path:
    path = tmp_path / "filter.safetensors"
    f.save(path)
    return path


def rewrite(path: Path, change) -> None:
    """Write the filter again after `change` has edited its tensors and metadata."""
    with safetensors.safe_open(path, "numpy") as file:
        metadata = file.metadata()
    tensors = safetensors.numpy.load_file(path)
    change(tensors, metadata)
    safetensors.numpy.save_file(tensors, path, metadata)


def set_metadata(key: str, value: str):
    def change(tensors: dict, metadata: dict) -> None:
        metadata[key] = value

    return change


def set_tensor(key: str, edit):
    def change(tensors: dict, metadata: dict) -> None:
        tensors[key] = edit(tensors[key])

    return change


def with_value(row: int, value: float):
    def edit(tensor: NDArray) -> NDArray:
        tensor = tensor.copy()
        tensor[row] = value
        return tensor

    return edit


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t, m: m.clear() or m.update(a="b"),
            "embedfilter fit' writes it, found another safetensors",
        ),
        (set_metadata("format_version", "2"), "format version 1, found version '2'"),
        (set_metadata("kind", "evil"), "a kind of edge.*found 'evil'"),
        (set_metadata("d", "-48"), "a positive integer as metadata 'd', found '-48'"),
        (set_metadata("k", "9" * 5000), "a positive integer as metadata 'k'"),
        (set_metadata("k", "49"), "at most d, 48, as metadata 'k', found 49"),
        (set_metadata("d", "32767"), "at most 32766 as metadata 'd', found 32767"),
        (set_metadata("k", "23"), r"shape \(23, 48\), found F32 and \(24, 48\)"),
        (
            lambda t, m: t.pop("singular_values"),
            "the tensors .*found 'component_indices', 'components'",
        ),
        (lambda t, m: t.update(more=np.ones(3)), "the tensors .*found .*more"),
        (set_tensor("components", lambda t: t.astype("f8")), "type F32 .*found F64"),
        (set_tensor("components", lambda t: t * 1.01), "orthonormal components"),
        (set_tensor("components", with_value(3, np.nan)), "finite components, found NaN"),
        (set_tensor("components", with_value(3, 3e38)), "orthonormal components"),
        (set_tensor("components", lambda t: t[[0, 0, *range(2, K)]]), "orthonormal components"),
        (set_tensor("singular_values", with_value(0, -1.0)), "finite and descending"),
        (set_tensor("singular_values", with_value(0, np.nan)), "finite and descending"),
        (set_tensor("component_indices", with_value(0, 48)), "from 0 to 47"),
        (set_tensor("component_indices", with_value(0, 12)), "component_indices that differ"),
    ],
)
def test_filter_files(saved: Path, change, message: str) -> None:
    rewrite(saved, change)
    with pytest.raises(FilterFileError, match=message) as raised:
        EmbedFilter.load(saved)
    assert str(saved) in str(raised.value)


def scaled(row: int, factor: float):
    def edit(tensor: NDArray) -> NDArray:
        tensor = tensor.copy()
        tensor[row] *= factor
        return tensor

    return edit


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, m: t.pop("mean"), "the tensors components, .*found .*ranges"),
        (lambda t, m: t.pop("ranges"), "the tensors .*mean, ranges, found 'component_indices', .*"),
        (lambda t, m: t.update(more=np.ones(3)), "the tensors .*found .*more"),
        (set_tensor("mean", lambda t: t[:-1]), r"'mean' of .* \(48,\), found F32 and \(47,\)"),
        (set_tensor("mean", lambda t: t.astype("f8")), r"'mean' of type F32 .*found F64"),
        (set_tensor("mean", with_value(0, np.nan)), "a finite mean, found NaN or infinity"),
        (set_tensor("mean", with_value(0, -np.inf)), "a finite mean, found NaN or infinity"),
        (set_tensor("mean", lambda t: t * 0 + 3e38), "a mean that float32 can project"),
        (set_tensor("ranges", lambda t: t.T.copy()), r"'ranges' of .* \(2, 24\), found F32 and"),
        (set_tensor("ranges", lambda t: t.astype("f2")), "'ranges' of type F32 .*found F16"),
        (set_tensor("ranges", lambda t: t[::-1].copy()), "ranges that are finite and ascending"),
        (set_tensor("ranges", with_value((0, 3), np.nan)), "ranges that are finite and ascending"),
        (set_tensor("ranges", with_value((1, 3), np.inf)), "ranges that are finite and ascending"),
        (
            set_tensor("ranges", lambda t: np.float32([[-3e38], [3e38]]) + 0 * t),
            "ranges that are finite and ascending",
        ),
        (set_tensor("components", with_value(3, np.nan)), "finite components, found NaN"),
        (set_tensor("components", scaled(3, 0)), "a length from 0.001 to 1000, found 0 to"),
        (set_tensor("components", scaled(3, 1e-4)), "a length from 0.001 to 1000"),
        (set_tensor("components", scaled(3, 1e36)), "a length from 0.001 to 1000"),
        (
            set_tensor("components", lambda t: t[[0, 0, *range(2, K)]]),
            "expected orthogonal components, found products up to",
        ),
    ],
)
def test_files_of_calibrated_filters(f: EmbedFilter, saved: Path, change, message: str) -> None:
    g = f.calibrate(np.random.default_rng(3).standard_normal((50, D)))
    g.save(saved)
    rewrite(saved, set_metadata("calibration_rows", "many"))  # metadata are not relied on
    assert EmbedFilter.load(saved) == g
    rewrite(saved, change)
    with pytest.raises(FilterFileError, match=message) as raised:
        EmbedFilter.load(saved)
    assert str(saved) in str(raised.value)


@pytest.mark.parametrize("size", [0, 7, 8, 100, -1])
def test_truncated_filter_files(saved: Path, size: int) -> None:
    data = saved.read_bytes()
    saved.write_bytes(data[:size])
    with pytest.raises(FilterFileError, match="filter.safetensors"):
        EmbedFilter.load(saved)


def test_other_files(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(FilterFileError, match="missing.safetensors: no such file or folder$"):
        EmbedFilter.load(tmp_path / "missing.safetensors")
    with pytest.raises(FilterFileError, match=f"{tmp_path}: .*found a folder"):
        EmbedFilter.load(tmp_path)
    header = json.dumps({"__metadata__": {"format_version": 1}}).encode()
    saved.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(FilterFileError, match="__metadata__: expected an object of strings"):
        EmbedFilter.load(saved)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("model.gguf", SOUND_GGUF),
        ("notes.txt", b"these are notes, and no filter"),
        ("empty.safetensors", b""),
        ("model.safetensors", safetensors.numpy.save({"lm_head.weight": np.ones((9, 3), "f4")})),
        (
            "versioned.safetensors",
            safetensors.numpy.save({"lm_head.weight": np.ones((9, 3), "f4")}, {"format": "pt"}),
        ),
    ],
)
def test_files_that_are_no_filter(tmp_path: Path, name: str, data: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    assert not is_filter_file(path)
    with pytest.raises(FilterFileError, match="expected a filter as 'embedfilter fit' writes it"):
        EmbedFilter.load(path)


def test_the_same_filter_has_the_same_bytes(f: EmbedFilter, tmp_path: Path) -> None:
    """The library orders metadata otherwise in each process, and at each save."""
    many = EmbedFilter(
        **{**f.__getstate__(), "metadata": {**f.metadata, "é": "ü\n", "source": "x"}}
    )
    for each in (f, many):
        data = set()
        for i in range(8):
            each.save(tmp_path / f"{i}.safetensors")
            data.add((tmp_path / f"{i}.safetensors").read_bytes())
        (only,) = data
        assert int.from_bytes(only[:8], "little") % 8 == 0  # numbers lie where mmap can take them
        with safetensors.safe_open(tmp_path / "0.safetensors", "np") as file:
            assert list(json.loads(only[8 : only.index(b"}")] + b"}}")["__metadata__"]) == sorted(
                file.metadata()
            )
            assert file.metadata().items() >= dict(each.metadata).items()
            np.testing.assert_array_equal(file.get_tensor("components"), each.components)
        assert EmbedFilter.load(tmp_path / "0.safetensors") == each


def test_a_filter_is_recognised_by_what_it_holds(saved: Path, tmp_path: Path) -> None:
    other_name = tmp_path / "filter"
    saved.rename(other_name)
    assert is_filter_file(other_name)
    # One key of the metadata, which any other program may write, is not enough.
    other = tmp_path / "model.safetensors"
    tensors = {"lm_head.weight": np.ones((9, 3), np.float32)}
    safetensors.numpy.save_file(tensors, other, {"format_version": "1", "kind": "edge"})
    assert not is_filter_file(other)
    with open_unembedding(other) as W:
        assert W.shape == (9, 3)


@pytest.mark.parametrize("tensor", [None, "components"])
def test_a_filter_is_no_checkpoint(saved: Path, tensor: str | None) -> None:
    for source in (saved, saved.parent):
        with pytest.raises(CheckpointError, match="this is a filter, not a checkpoint") as raised:
            EmbedFilter.from_checkpoint(source, tensor=tensor)
        assert str(saved) in str(raised.value)


def test_a_hostile_file_takes_memory_as_its_size(tmp_path: Path) -> None:
    """With k over d, or orthonormality checked at once, 40 kB would ask for 400 MB."""
    k = 10_000
    path = tmp_path / "hostile.safetensors"
    safetensors.numpy.save_file(
        {
            "components": np.ones((k, 1), np.float32),
            "component_indices": np.zeros(k, np.int64),
            "singular_values": np.ones(1),
        },
        path,
        {"format_version": "1", "kind": "edge", "d": "1", "k": str(k)},
    )
    tracemalloc.start()
    try:
        with pytest.raises(FilterFileError, match="at most d, 1, as metadata 'k', found 10000"):
            EmbedFilter.load(path)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_orthonormality_is_checked_in_every_block_of_rows(tmp_path: Path) -> None:
    path = tmp_path / "wide.safetensors"
    d = 600
    for row, column in ((0, 599), (400, 599), (599, 599)):
        components = np.eye(d, dtype=np.float32)
        components[row, column] += np.float32(1e-3)
        wide = EmbedFilter(
            components, np.arange(d), np.arange(d, 0, -1.0), kind="identity", metadata={}
        )
        wide.save(path)
        with pytest.raises(FilterFileError, match="orthonormal components, found products up to"):
            EmbedFilter.load(path)


def test_a_source_that_is_not_utf_8(f: EmbedFilter, tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/mod\xffel"
    try:
        os.mkdir(folder)  # noqa: PTH102 - bytes
    except OSError:
        pytest.skip("the file system takes names in UTF-8 only")
    path = Path(os.fsdecode(folder)) / "model.safetensors"
    W = np.random.default_rng(0).standard_normal((40, 8), np.float32)
    safetensors.numpy.save_file({"lm_head.weight": W}, path)
    output = tmp_path / "filter.safetensors"
    for source in (path, os.fsencode(path)):
        EmbedFilter.from_checkpoint(source).save(output)
        loaded = EmbedFilter.load(output)
        assert loaded.metadata["source"].endswith("mod\\udcffel/model.safetensors")


# ---- writing ----------------------------------------------------------------


@pytest.mark.parametrize("place", ["missing/filter", ""])
def test_places_that_cannot_be_written(f: EmbedFilter, tmp_path: Path, place: str) -> None:
    with pytest.raises(OSError, match="missing" if place else "folder"):
        f.save(tmp_path / place)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(
    f: EmbedFilter, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    before = saved.read_bytes()
    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        f.truncate(3).save(saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


@pytest.mark.parametrize(("make", "found"), [(os.mkfifo, "FIFO"), (make_socket, "socket")])
@pytest.mark.parametrize("linked", [False, True])
def test_what_is_no_regular_file_is_not_replaced(
    f: EmbedFilter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make, found: str, linked: bool
) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    path = Path("special")
    make(path)
    kind = stat.S_IFMT(path.stat().st_mode)
    if linked:
        path = Path("link")
        path.symlink_to("special")
    with pytest.raises(OSError, match=f"expected a regular file to write, found a {found}") as e:
        f.save(path)
    assert e.value.filename == str(path)
    assert stat.S_IFMT(Path("special").stat().st_mode) == kind
    assert len(list(tmp_path.iterdir())) == 1 + linked


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_is_followed(f: EmbedFilter, tmp_path: Path, exists: bool) -> None:
    target = tmp_path / "elsewhere" / "target"
    target.parent.mkdir()
    if exists:
        target.write_bytes(b"old")
    link = tmp_path / "link"
    link.symlink_to(Path("elsewhere") / "target")
    f.save(link)
    assert link.is_symlink()
    assert EmbedFilter.load(target) == f
    assert list(target.parent.iterdir()) == [target]
    link.unlink()
    link.symlink_to(Path("nowhere") / "target")
    with pytest.raises(FileNotFoundError, match="no such folder: .*nowhere"):
        f.save(link)


def test_a_file_without_write_permission(
    f: EmbedFilter, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved.read_bytes()
    saved.chmod(0o444)
    if os.geteuid() == 0:  # to whom everything is permitted
        monkeypatch.setattr("os.access", lambda path, mode: mode != os.W_OK)
    with pytest.raises(PermissionError, match="may be written, found mode 0444") as raised:
        f.truncate(3).save(saved)
    assert raised.value.filename == str(saved)
    assert saved.read_bytes() == before


def test_permissions(f: EmbedFilter, tmp_path: Path) -> None:
    path = tmp_path / "filter"
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from embedfilter.files.atomic import atomic_output\n"
        "os.umask(0o027)\n"
        "with atomic_output(Path(sys.argv[1])) as file:\n"
        "    file.write(b'new')\n"
    )
    subprocess.run([sys.executable, "-c", code, path], check=True, cwd=tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    path.chmod(0o606)
    f.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o606


def test_the_umask_is_not_touched(
    f: EmbedFilter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It belongs to the process: other threads may be creating files."""
    monkeypatch.delattr("os.umask")
    f.save(tmp_path / "filter")


def test_a_name_as_long_as_names_can_be(f: EmbedFilter, tmp_path: Path) -> None:
    path = tmp_path / ("f" * 255)
    f.save(path)
    assert EmbedFilter.load(path) == f


@pytest.mark.parametrize("fails", ["os.fsync", "pathlib.Path.replace"])
def test_errors_name_the_path_that_was_given(
    f: EmbedFilter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    path = tmp_path / "filter"
    with monkeypatch.context() as patch:
        patch.setattr(fails, refuse)
        with pytest.raises(PermissionError) as raised:
            f.save(path)
    assert raised.value.filename == str(path)
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_opening_names_the_path_that_was_given(
    f: EmbedFilter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.urandom", bytes)
    taken = tmp_path / f".{bytes(8).hex()}.part"
    taken.touch()
    with pytest.raises(FileExistsError) as raised:
        f.save(tmp_path / "filter")
    assert raised.value.filename == str(tmp_path / "filter")
    assert list(tmp_path.iterdir()) == [taken]  # it is another's


def refuse(*_: object) -> None:
    raise PermissionError(13, "Permission denied", "/a/temporary/file")


def test_errors_of_the_body_are_left_alone(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="of another file") as raised:  # noqa: SIM117
        with atomic_output(tmp_path / "filter"):
            raise OSError(5, "of another file")
    assert raised.value.filename is None
    assert list(tmp_path.iterdir()) == []


def test_threads_that_write_the_same_file(f: EmbedFilter, tmp_path: Path) -> None:
    path = tmp_path / "filter"
    threads = [threading.Thread(target=f.save, args=(path,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert EmbedFilter.load(path) == f
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_mounted_is_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(self: Path, target: Path) -> Path:
        raise OSError(errno.EBUSY, "Device or resource busy", str(target))

    monkeypatch.setattr(Path, "replace", busy)
    path = tmp_path / "mounted"
    path.write_bytes(b"what was there, and longer")
    with atomic_output(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    told = "No space left on device; all that was to be written is in"
    with pytest.raises(OSError, match=told), atomic_output(path) as file:
        file.write(b"newer")
    [kept] = set(tmp_path.iterdir()) - {path}
    assert kept.read_bytes() == b"newer"
