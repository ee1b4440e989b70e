"""Errors about parameters, in the words of the command line."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from command_line import failure, run
from numpy.typing import NDArray

from embedfilter.commands.fit import fit
from embedfilter.commands.main import main
from embedfilter.commands.wording import in_options


@pytest.mark.parametrize(
    ("command", "message", "expected"),
    [
        ("fit", "n_threads: expected", "--threads: expected"),
        ("fit", "source: expected", "CHECKPOINT: expected"),
        ("fit", "a: pass tensor= with", "a: pass --tensor with"),
        ("fit", "a: pass tensor='b.c' if", "a: pass --tensor b.c if"),
        ("fit", "as base=MODEL (--base MODEL), or", "as --base MODEL, or"),
        ("fit", "found ratio=4.0 and n_components=8", "found --ratio 4.0 and --components 8"),
        ("evaluate", "X: expected", "EMBEDDINGS: expected"),
        ("evaluate", "labels: expected", "--labels: expected"),
        ("evaluate", "a: pass tensor= with", "a: pass --tensor (of embedfilter fit) with"),
        (
            "encode",
            "filter: expected no ratio, n_components",
            "--filter: expected no ratio, --comp",
        ),
        ("mteb", "ratio: expected", "--ratio: expected"),
        ("plot", "bands: expected", "--bands: expected"),
        # No parameters.
        ("apply", "x_y.npy: rows 0 to 2", "x_y.npy: rows 0 to 2"),
        ("apply", "a: column 'n_components': expected", "a: column 'n_components': expected"),
        ("apply", "column=3/a: found", "column=3/a: found"),
        ("apply", "a/key=b: found", "a/key=b: found"),
        ("apply", "n_components/x.npy: found", "n_components/x.npy: found"),
        ("encode", "runs/batch_size/x.npy: found", "runs/batch_size/x.npy: found"),
        ("encode", "runs/batch_size: found", "runs/batch_size: found"),
    ],
)
def test_parameters_are_options(command: str, message: str, expected: str) -> None:
    assert in_options(message, main.commands[command], {"embedfilter fit": fit}).startswith(
        expected
    )


@pytest.mark.parametrize(
    ("arguments", "message", "expected"),
    [
        (["fit", "base"], "base: tensor 'a'", "base: tensor 'a'"),
        (["fit", "./base"], "base: pass tensor= with", "base: pass --tensor with"),
        (["fit", "a", "--base=base"], "base: found", "base: found"),
        (["fit", "n_threads"], "a: found n_threads", "a: found n_threads"),
        (["fit", "a n_threads b"], "a n_threads b: found", "a n_threads b: found"),
        (["fit", "tensor=A"], "tensor=A: found n_threads", "tensor=A: found --threads"),
        # Typed, but not what the message is of.
        (["fit", "a", "--ratio", "4"], "ratio: expected", "--ratio: expected"),
        (["fit", "base", "-o", "f"], "pass base= with", "pass --base with"),
        (["fit", "a", "--components", "9"], "found n_components=9", "found --components 9"),
        (["evaluate", "X.npy"], "X: expected", "EMBEDDINGS: expected"),
    ],
)
def test_what_was_typed_stays(arguments: list[str], message: str, expected: str) -> None:
    command = main.commands[arguments[0]]
    assert in_options(message, command, {"embedfilter fit": fit}, arguments) == expected


def test_files_with_names_of_parameters(
    checkpoint: Path, filter_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("n_components").mkdir()
    for path in (Path("n_components/bad.npy"), Path("base")):
        path.write_bytes(b"none")
    path = "n_components/bad.npy"
    assert failure("apply", filter_file, path, "o.npy").startswith(f"embedfilter: error: {path}: ")
    assert failure("fit", "base", "-o", "o.safetensors").startswith("embedfilter: error: base: ")


def test_no_command_is_told_python_names(
    checkpoint: Path, filter_file: Path, X: NDArray, tmp_path: Path
) -> None:
    """Of each command that can fail so: no ``name=``, no name of a parameter at its start."""
    x, out = tmp_path / "x.npy", tmp_path / "o.safetensors"
    np.save(x, X)
    two = tmp_path / "two.safetensors"
    safetensors.numpy.save_file(dict.fromkeys("ab", np.eye(9, 3, dtype="f4")), two)
    lines = [
        failure(*map(str, arguments))
        for arguments in (
            ("fit", two, "-o", out),
            ("fit", two, "-o", out, "--tensor", "c"),
            ("fit", checkpoint, "-o", out, "--ratio", 0),
            ("fit", checkpoint, "-o", out, "--components", 99),
            ("fit", checkpoint, "-o", out, "--components", 9, "--ratio", 2),
            ("fit", checkpoint, "-o", out, "--revision", "main"),
            ("fit", checkpoint, "-o", out, "--threads", 0),
            ("fit", x, "-o", out, "--tensor", "a"),
            ("calibrate", filter_file, x, "-o", out, "--whitening", 2),
            ("calibrate", filter_file, x, "-o", out, "--components", 99),
            ("apply", filter_file, x, tmp_path / "o.npy", "--threads", 0),
            ("lens", checkpoint, x, "-k", 0),
            ("lens", two, x),
            ("plot", "energy", checkpoint, x, "--bands", 0, "-o", tmp_path / "o.png"),
            ("evaluate", x, "--dimensions", 99),
            ("evaluate", x, "-k", 0),
            ("evaluate", x, "--model", two),
            ("inspect", two),
        )
    ]
    for line in lines:
        text = line.removeprefix("embedfilter: error: ").replace(str(tmp_path), "")
        assert not re.search(r"\b[a-z_]+=", text), line
        assert not re.match(r"[a-z_]+: ", text), line
        assert "n_components" not in text


def test_the_filter_and_embeddings_the_other_way_round(
    checkpoint: Path, filter_file: Path, X: NDArray, tmp_path: Path
) -> None:
    x, f, out = tmp_path / "x.npy", filter_file, tmp_path / "o.safetensors"
    np.save(x, X)
    for arguments in (
        ("apply", x, f, tmp_path / "o.npy"),
        ("calibrate", x, f, "-o", out),
        ("evaluate", f, "--filter", x),
        ("lens", checkpoint, f, "--filter", x),
        ("plot", "similarities", f, "--filter", x, "-o", tmp_path / "o.png"),
    ):
        line = failure(*arguments)
        assert f"{x}: expected the filter here and embeddings in place of {f}, found" in line
    for arguments in (("apply", f, f, tmp_path / "o.npy"), ("evaluate", f, "--filter", f)):
        assert f"{f}: expected embeddings, found a filter" in failure(*arguments)


def test_embeddings_that_are_filtered_already(
    filter_file: Path, X: NDArray, tmp_path: Path
) -> None:
    x, y = tmp_path / "x.npy", tmp_path / "y.npy"
    np.save(x, X)
    run("apply", filter_file, x, y)
    run("apply", filter_file, x, tmp_path / "y.jsonl")
    for source in (y, tmp_path / "y.jsonl"):
        for line in (
            failure("apply", filter_file, source, tmp_path / "o.npy"),
            failure("calibrate", filter_file, source, "-o", tmp_path / "o.safetensors"),
        ):
            assert (
                f"{source}: expected rows of 64, which {filter_file} takes, the hidden size of"
                in line
            )
            assert line.endswith(
                "found rows of 32: as many as it gives, so they may be filtered already"
            )


def test_numbers_of_rows_that_are_none(tmp_path: Path) -> None:
    for command in (("lens", "w"), ("plot", "tokens", "w")):
        arguments = (*command, "x.npy", "--rows", 0)
        output = ("-o", tmp_path / "o.png") if command[0] == "plot" else ()
        assert "'--rows': 0 is not in the range x>=1" in run(*arguments, *output, status=2).stderr


@pytest.mark.long
def test_a_number_of_threads_that_is_none(checkpoint: Path, tmp_path: Path) -> None:
    arguments = ("fit", checkpoint, "-o", tmp_path / "f.safetensors")
    for text, count in (("many", 1), ("0", 1), ("", 0), ("1", 0)):
        done = run(*arguments, variables={"EMBEDFILTER_NUM_THREADS": text})
        told = f"EMBEDFILTER_NUM_THREADS: expected a number of threads, at least 1, found {text!r}"
        assert done.stderr.count(told) == count
        assert len(done.stderr.splitlines()) == count


@pytest.mark.long
def test_no_progress_where_nobody_sees_it(filter_file: Path, X: NDArray, tmp_path: Path) -> None:
    """Standard error is no terminal here."""
    np.save(tmp_path / "x.npy", X[:60])
    done = run("evaluate", tmp_path / "x.npy", "--filter", filter_file, variables=dict(os.environ))
    assert done.stderr == ""
