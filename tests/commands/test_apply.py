"""``embedfilter apply``; of tables: test_apply_columns.py."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from command_line import COMMAND, PEAK, SCRIPTS, D, run, run_code
from numpy.typing import NDArray

from embedfilter import EmbedFilter
from embedfilter.commands.common import block_rows


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_apply(filter_file: Path, X: NDArray, tmp_path: Path, dtype: str) -> None:
    source, output = tmp_path / "X.npy", tmp_path / "Y.npy"
    np.save(source, X.astype(dtype))
    done = run("apply", filter_file, source, output)
    assert f"{output}: 1000 rows of 32" in done.stdout
    result = np.load(output)
    assert result.dtype == np.float32
    assert np.array_equal(result, EmbedFilter.load(filter_file).transform(X.astype(dtype)))


@pytest.mark.parametrize(
    "precision", ["float32", "float16", "bfloat16", "int8", "uint8", "ubinary"]
)
def test_apply_precisions(filter_file: Path, X: NDArray, tmp_path: Path, precision: str) -> None:
    source, output, ranges = tmp_path / "X.npy", tmp_path / "Y.npy", tmp_path / "ranges.npy"
    np.save(source, X)
    np.save(ranges, np.array([[-0.5] * 32, [0.5] * 32]))
    options = ["--ranges", ranges] if precision in ("int8", "uint8") else []
    run("apply", filter_file, source, output, "--precision", precision, *options)
    result = np.load(output)
    if precision == "bfloat16":
        result = result.view(ml_dtypes.bfloat16)
    levels = np.load(ranges) if options else None
    expected = EmbedFilter.load(filter_file).transform(X, precision=precision, ranges=levels)
    assert result.dtype == expected.dtype
    assert np.array_equal(result, expected)


def test_apply_bfloat16_without_normalising(filter_file: Path, X: NDArray, tmp_path: Path) -> None:
    source, output = tmp_path / "X.npy", tmp_path / "Y.npy"
    np.save(source, X.astype(ml_dtypes.bfloat16))
    run("apply", filter_file, source, output, "--no-normalize", "--threads", 1)
    f = EmbedFilter.load(filter_file)
    expected = f.transform(X.astype(ml_dtypes.bfloat16), normalize=False)
    assert np.array_equal(np.load(output), expected)


def test_apply_in_place_and_to_no_rows(filter_file: Path, X: NDArray, tmp_path: Path) -> None:
    source = tmp_path / "X.npy"
    np.save(source, X)
    run("apply", filter_file, source, source)
    assert np.array_equal(np.load(source), EmbedFilter.load(filter_file).transform(X))
    np.save(source, X[:0])
    run("apply", filter_file, source, source)
    assert np.load(source).shape == (0, 32)


def test_apply_to_a_file_larger_than_the_memory_allowed(filter_file: Path, tmp_path: Path) -> None:
    source, output = tmp_path / "X.npy", tmp_path / "Y.npy"
    n = 4_000_000  # 512 MB of float16
    with source.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"shape": (n, D), "fortran_order": False, "descr": "<f2"}
        )
        file.truncate(file.tell() + n * D * 2)
    code = (
        f"{PEAK}\n"
        "import sys\n"
        "import embedfilter.commands.main, numpy\n"
        "before = peak()\n"
        "embedfilter.commands.main.main(sys.argv[1:], standalone_mode=False)\n"
        "print(peak() - before)\n"
    )
    options = ("--precision", "float16", "--threads", 2)
    done = run_code(code, "apply", filter_file, source, output, *options)
    assert 0 < int(done.stdout.splitlines()[-1]) < 128e6
    assert np.load(output, mmap_mode="r").shape == (n, 32)


def read_all(terminal: int) -> bytes:
    """Read a pseudo-terminal to its end, which Linux reports as an error."""
    data = b""
    with contextlib.suppress(OSError):
        while chunk := os.read(terminal, 1 << 16):
            data += chunk
    os.close(terminal)
    return data


def test_a_progress_bar_is_shown_on_a_terminal(
    filter_file: Path, X: NDArray, tmp_path: Path
) -> None:
    source, output = tmp_path / "X.npy", tmp_path / "Y.npy"
    np.save(source, X)
    terminal, other_end = os.openpty()
    fcntl.ioctl(other_end, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    done = subprocess.run(
        [COMMAND, "apply", filter_file, source, output],
        stdout=subprocess.PIPE, stderr=other_end, check=True,
    )  # fmt: skip
    os.close(other_end)
    assert b"100%" in read_all(terminal)
    assert b"%" not in done.stdout


@pytest.mark.parametrize(
    ("number", "status", "message"),
    [
        (signal.SIGINT, 128 + signal.SIGINT, "embedfilter: interrupted"),
        (signal.SIGTERM, 128 + signal.SIGTERM, ""),
    ],
)
def test_interrupted_apply_leaves_nothing(
    filter_file: Path, tmp_path: Path, number: int, status: int, message: str
) -> None:
    source, output = tmp_path / "X.npy", tmp_path / "Y.npy"
    output.write_bytes(b"old")
    n = 20_000_000
    with source.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"shape": (n, D), "fortran_order": False, "descr": "<f2"}
        )
        file.truncate(file.tell() + n * D * 2)
    # Whoever runs the tests may ignore the signals, which children inherit.
    code = (
        "import signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "signal.signal(signal.SIGTERM, signal.SIG_DFL)\n"
        "from embedfilter.commands.main import main\n"
        "main(sys.argv[1:])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "apply", filter_file, source, output],
        stderr=subprocess.PIPE, text=True, cwd=SCRIPTS,
    )  # fmt: skip
    deadline = time.monotonic() + 240
    while not any(path.stat().st_size > 1000 for path in tmp_path.glob(".*.part")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == status, errors
    assert errors.strip() == message
    assert {path.name for path in tmp_path.iterdir()} == {"filter.safetensors", "X.npy", "Y.npy"}
    assert output.read_bytes() == b"old"


def test_what_is_counted_of_an_array_of_more_axes(
    filter_file: Path, X: NDArray, tmp_path: Path
) -> None:
    source, output = tmp_path / "x.npy", tmp_path / "y.npy"
    np.save(source, X[:24].reshape(2, 12, D))
    line = run("apply", filter_file, source, output).stdout
    assert line.startswith(f"{output}: an array (2, 12, {D // 2}), of 24 vectors, in ")
    facts = json.loads(run("apply", filter_file, source, output, "--json").stdout)
    assert (facts["rows"], facts["shape"]) == (24, [2, 12, D // 2])


def test_blocks_are_of_few_rows_however_short() -> None:
    # Rows of short embeddings may have long texts, which come with them.
    assert [block_rows(d) for d in (1, 128, 1024, 1 << 22)] == [4096, 4096, 1024, 1]
