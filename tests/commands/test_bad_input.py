"""Bad input to the command line: one line on standard error, status 2, and no partial file."""

from __future__ import annotations

import json
import re
import resource
import signal
import stat
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from command_line import SCRIPTS, failure, fifo, run, run_code
from numpy.typing import NDArray

import embedfilter
from embedfilter import EmbedFilter
from embedfilter.commands.main import main


def test_bad_arguments_to_fit(checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "f"
    assert "nowhere" in failure("fit", "nowhere", "-o", output)
    assert "ratio: expected" in failure("fit", checkpoint, "-o", output, "--ratio", 0)
    assert "expected one of the two" in failure(
        "fit", checkpoint, "-o", output, "--ratio", 2, "--components", 3
    )
    assert "from 1 to 64, found 65" in failure("fit", checkpoint, "-o", output, "--components", 65)
    assert "no such folder" in failure("fit", checkpoint, "-o", tmp_path / "no" / "f")
    assert "found a folder" in failure("fit", checkpoint, "-o", tmp_path)
    assert "no.such.tensor" in failure(
        "fit", checkpoint, "-o", output, "--tensor", "no.such.tensor"
    )
    assert list(tmp_path.iterdir()) == []


def test_weights_with_nan(tmp_path: Path) -> None:
    path, output = tmp_path / "model.safetensors", tmp_path / "f"
    W = np.ones((70, 8), np.float32)
    W[33, 2] = np.nan
    safetensors.numpy.save_file({"lm_head.weight": W}, path)
    line = failure("fit", path, "-o", output)
    assert f"{path}: tensor 'lm_head.weight': expected finite numbers, found NaN" in line
    assert "row 33" in line
    assert not output.exists()


def save_npy(path: Path, array: NDArray, cut: int = 0, extra: bytes = b"") -> None:
    np.save(path, array)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - cut] + extra)


def npy_header(text: bytes) -> bytes:
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", len(text)) + text


def save_header(path: Path, shape: tuple[int, ...]) -> None:
    """Write a .npy file without numbers in it."""
    text = repr({"descr": "<f4", "fortran_order": False, "shape": shape}).encode() + b"\n"
    path.write_bytes(npy_header(text))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda p: None, "X.npy: no such file or folder$"),
        (lambda p: p.mkdir(), "X.npy: not a regular file: expected one, found a folder"),
        (lambda p: p.write_bytes(b""), "X.npy: not a .npy file: .*, found an empty file"),
        (lambda p: p.write_bytes(b"PK\x03\x04 zip"), "X.npy: not a sound zip archive"),
        (lambda p: p.write_bytes(b"\x93NUM"), r"X.npy: not a .npy file: .*found b'.x93NUM'"),
        (lambda p: p.write_bytes(b"\x93NUMPY"), "X.npy: expected the header of a .npy file"),
        (lambda p: p.write_bytes(b"\x93NUMPY\x09\x00" + bytes(99)), "version 1, 2 or 3, found 9.0"),
        (lambda p: p.write_bytes(b"\x93NUMPY\x01\x00\xff\xff{"), "X.npy: .*a damaged one"),
        (lambda p: p.write_bytes(b"\x93NUMPY\x01\x00\x10\x00{'shape': (((( ]\n"), "damaged one"),
        (lambda p: p.write_bytes(npy_header(b"(" * 9000)), "X.npy: .*a damaged one"),
        (lambda p: p.write_bytes(npy_header(b" " * 20_000)), "X.npy: .*a damaged one"),
        (
            lambda p: save_header(p, (-3, 64)),
            r"X.npy: expected sizes of 0 or more.*shape \(-3, 64\)",
        ),
        (
            lambda p: save_header(p, (-3, -64)),
            r"X.npy: expected sizes of 0 or more.*shape \(-3, -64\)",
        ),
        (lambda p: save_header(p, (3, 0)), r"X.npy: expected an array .*shape \(3, 0\)"),
        (lambda p: np.save(p, np.ones((3, 63))), "expected rows of 64.*found rows of 63"),
        (lambda p: np.save(p, np.float32(1)), r"expected an array \(..., d\), found shape \(\)$"),
        (
            lambda p: np.save(p, np.ones((2, 3, 64)).transpose()),
            r"found shape \(64, 3, 2\) in Fort",
        ),
        (lambda p: np.save(p, np.ones((3, 64), int)), "expected float16.*found int64: quantised"),
        (lambda p: np.save(p, np.ones((3, 64), complex)), "expected float16.*found complex128$"),
        (
            lambda p: np.save(p, np.full((3, 64), None)),
            "expected an array of fl.*found 'object'",
        ),
        (lambda p: save_npy(p, np.ones((3, 64)), cut=8), "expected 1536 bytes.*found 1528"),
        (lambda p: save_npy(p, np.ones((3, 64)), extra=b"x"), "expected 1536 bytes.*found 1537"),
        (
            lambda p: np.save(p, np.full((3, 64), np.nan)),
            "npy: expected finite numbers, found NaN or infinity in row 0$",
        ),
    ],
)
def test_bad_embeddings(filter_file: Path, tmp_path: Path, write, message: str) -> None:
    source, output = tmp_path / "X.npy", tmp_path / "Y.npy"
    write(source)
    line = failure("apply", filter_file, source, output)
    assert re.search(message, line), line
    assert not output.exists()
    assert not list(tmp_path.glob(".*"))


def test_bad_arguments_to_apply(filter_file: Path, X: NDArray, tmp_path: Path) -> None:
    source, output = tmp_path / "X.npy", tmp_path / "Y.npy"
    np.save(source, X)
    for no_filter in (_other_file(tmp_path), source):
        line = failure("apply", no_filter, source, output)
        assert f"{no_filter}: expected a filter as 'embedfilter fit' writes it" in line
    assert "--threads: expected" in failure("apply", filter_file, source, output, "--threads", 0)
    done = run("apply", filter_file, source, output, "--precision", "x", status=2)
    assert "'x' is not one of 'float32', 'float16'" in done.stderr
    assert "no such folder" in failure("apply", filter_file, source, tmp_path / "no" / "Y.npy")
    pipe = fifo(tmp_path)
    assert "found a FIFO" in failure("apply", filter_file, source, pipe)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert not output.exists()


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        (
            np.ones((2, 31)),
            r"ranges.npy: expected ranges of shape \(2, 32\), found shape \(2, 31\)",
        ),
        (
            np.ones((32, 2)),
            r"ranges.npy: expected ranges of shape \(2, 32\), found shape \(32, 2\)",
        ),
        (np.ones((2, 32)), "ranges.npy: ranges: expected least < greatest"),
        (np.ones((2, 32), np.int8), "ranges.npy: expected float16"),
        (None, "ranges.npy: no such file or folder$"),
    ],
)
def test_bad_ranges(
    filter_file: Path, X: NDArray, tmp_path: Path, ranges: NDArray | None, message: str
) -> None:
    source, output, ranges_file = tmp_path / "X.npy", tmp_path / "Y.npy", tmp_path / "ranges.npy"
    np.save(source, X)
    if ranges is not None:
        np.save(ranges_file, ranges)
    line = failure(
        "apply", filter_file, source, output, "--precision", "int8", "--ranges", ranges_file
    )
    assert re.search(message, line), line


def test_ranges_and_precision_belong_together(
    filter_file: Path, X: NDArray, tmp_path: Path
) -> None:
    source, output, ranges = tmp_path / "X.npy", tmp_path / "Y.npy", tmp_path / "ranges.npy"
    np.save(source, X)
    line = failure("apply", filter_file, source, output, "--precision", "int8")
    assert "--ranges: expected a .npy file (2, 32) for --precision int8, found none" in line
    # The command that the line tells must work.
    Y = EmbedFilter.load(filter_file).transform(X)
    (command,) = re.findall(r"np\.save\(.*\)", line)
    eval(command.replace("ranges.npy", str(ranges)), {"np": np, "Y": Y})
    run("apply", filter_file, source, output, "--precision", "int8", "--ranges", ranges)
    assert np.load(output).dtype == np.int8
    line = failure("apply", filter_file, source, output, "--ranges", ranges)
    assert "--ranges: expected only with --precision int8 or uint8" in line
    line = failure("apply", filter_file, source, ranges, "--precision", "int8", "--ranges", ranges)
    assert f"{ranges}: expected an output apart from the ranges" in line


def test_an_output_that_is_an_input(
    checkpoint: Path, filter_file: Path, X: NDArray, tmp_path: Path
) -> None:
    source = tmp_path / "X.npy"
    np.save(source, X)
    link = tmp_path / "link"
    link.symlink_to(filter_file)
    before = filter_file.read_bytes()
    for output in (filter_file, link):
        line = failure("apply", filter_file, source, output)
        assert f"{output}: expected an output apart from the filter" in line
    assert filter_file.read_bytes() == before

    before = checkpoint.read_bytes()
    for model in (checkpoint, checkpoint.parent):
        line = failure("fit", model, "-o", checkpoint)
        assert f"{checkpoint}: expected an output apart from the checkpoint" in line
        assert str(model) in line
    assert checkpoint.read_bytes() == before
    # An earlier filter in the model's folder is no part of the model.
    earlier = checkpoint.parent / "filter.safetensors"
    for _ in range(2):
        run("fit", checkpoint.parent, "-o", earlier)
    earlier.unlink()


def test_an_output_that_is_a_part_of_a_sharded_checkpoint(tmp_path: Path) -> None:
    W = np.random.default_rng(0).standard_normal((40, 8), np.float32)
    shard, index = tmp_path / "a.safetensors", tmp_path / "model.safetensors.index.json"
    safetensors.numpy.save_file({"lm_head.weight": W}, shard)
    index.write_text(json.dumps({"weight_map": {"lm_head.weight": shard.name}}))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for model in (tmp_path, index):
        for output in before:
            assert "apart from the checkpoint" in failure("fit", model, "-o", output)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_filter_is_no_checkpoint(filter_file: Path, tmp_path: Path) -> None:
    line = failure("fit", filter_file, "-o", tmp_path / "f")
    assert f"{filter_file}: this is a filter, not a checkpoint" in line


def _other_file(folder: Path) -> Path:
    path = folder / "other.safetensors"
    safetensors.numpy.save_file({"a": np.ones(3)}, path)
    return path


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no limit on file sizes")
def test_a_full_disk(filter_file: Path, X: NDArray, tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: a write fails half-way."""
    source, output = tmp_path / "X.npy", tmp_path / "Y.npy"
    np.save(source, X)
    code = (
        "import resource, signal, sys\n"
        "import embedfilter.commands.main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "embedfilter.commands.main.main(sys.argv[1:])\n"
    )
    done = run_code(code, "apply", filter_file, source, output, status=2)
    assert "File too large" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"filter.safetensors", "X.npy"}


def test_usage_errors_exit_with_2(tmp_path: Path) -> None:
    assert failure("fit", "x").endswith(
        "error: missing option '-o' / '--output'; see 'embedfilter fit --help'"
    )
    assert failure("fitt").endswith(
        "error: no such command 'fitt'. Did you mean 'fit'? see 'embedfilter --help'"
    )
    assert "no such option '--revise'" in failure("fit", "x", "-o", "y", "--revise", "main")
    assert failure("plot", "fit").endswith("no such command 'fit'; see 'embedfilter plot --help'")
    assert failure("apply", "f", "x").endswith(
        "missing argument 'IN...'; expected embedfilter apply [OPTIONS] FILTER IN... OUT; see"
        " 'embedfilter apply --help'"
    )
    assert "is not a valid integer; see" in failure("fit", "x", "-o", "y", "--threads", "a")
    assert "Usage" in run("plot", status=2).stderr
    assert embedfilter.__version__ in run("--version").stdout


def test_warnings_that_are_errors(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file({"lm_head.weight": np.eye(8, dtype=np.float32)}, path)
    arguments = ["fit", str(path), "-o", str(tmp_path / "f"), "--kind", "tail"]
    for options, status, what in (([], 0, "warning"), (["-W", "error"], 2, "error")):
        done = subprocess.run(
            [sys.executable, *options, "-m", "embedfilter", *arguments],
            capture_output=True, text=True, check=False, cwd=SCRIPTS,
        )  # fmt: skip
        assert done.returncode == status, done.stderr
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"embedfilter: {what}: ")


@pytest.mark.parametrize("error", [ArithmeticError, OverflowError, MemoryError, UserWarning])
def test_what_is_turned_into_a_line(error: type[BaseException], monkeypatch, capsys) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error("of\ntwo lines")

    monkeypatch.setattr(EmbedFilter, "load", fail)
    with pytest.raises(SystemExit) as exit_:
        main(["apply", "a", "b", "c"])
    assert exit_.value.code == 2
    assert capsys.readouterr().err == "embedfilter: error: of two lines\n"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_an_unknown_instruction_set(filter_file: Path, checkpoint: Path) -> None:
    variables = {"EMBEDFILTER_ISA": "mmx"}
    for arguments in (("inspect", filter_file), ("fit", checkpoint, "-o", filter_file)):
        line = failure(*arguments, variables=variables)
        assert "EMBEDFILTER_ISA: expected" in line
        assert "mmx" in line
    assert "Usage" in run("--help", variables=variables).stdout


def test_missing_files_are_told_of_in_one_way(
    checkpoint: Path, filter_file: Path, X: NDArray, tmp_path: Path
) -> None:
    no, x, out = tmp_path / "no", tmp_path / "x.npy", tmp_path / "out"
    np.save(x, X)
    (texts := tmp_path / "texts.txt").write_text("a text\n")
    for words in (
        ("apply", no, x, out), ("apply", filter_file, no, out), ("fit", no, "-o", out),
        ("calibrate", filter_file, no, "-o", out), ("inspect", no), ("lens", no, x),
        ("lens", checkpoint, no), ("lens", checkpoint, x, "--tokenizer", no),
        ("evaluate", no), ("evaluate", x, "--labels", no), ("evaluate", x, "--model", no),
        ("evaluate", x, "--filter", no), ("encode", no, texts, "-o", out),
        ("encode", "owner/name", no, "-o", out), ("export", no, checkpoint, "-o", out),
        ("export", filter_file, no, "-o", out), ("plot", "spectrum", no, "-o", "p.png"),
    ):  # fmt: skip
        assert failure(*words) == f"embedfilter: error: {no}: no such file or folder", words
