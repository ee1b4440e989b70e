"""``embedfilter calibrate`` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import PEAK, D, failure, run, run_code, write_checkpoint

from embedfilter import EmbedFilter


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A filter, a sample, and that filter calibrated with it."""
    folder = tmp_path_factory.mktemp("calibrate")
    f = EmbedFilter.from_checkpoint(write_checkpoint(folder / "model.safetensors"))
    f.save(folder / "filter")
    sample = np.random.default_rng(0).standard_normal((300, D)).astype(np.float32) + 3
    np.save(folder / "sample.npy", sample)
    f.calibrate(sample).save(folder / "calibrated")
    return folder


def test_few_rows_are_warned_of(folder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "few.npy", np.load(folder / "sample.npy")[:5])
    done = run("calibrate", folder / "filter", tmp_path / "few.npy", "-o", tmp_path / "g")
    assert "few.npy: 5 rows are few to calibrate on: 20 or more, or" in done.stderr


def test_calibrate(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "g"
    done = run("calibrate", folder / "filter", folder / "sample.npy", "-o", output)
    assert done.stderr == ""
    expected = f"{output}: 64 -> 32 dimensions, edge, calibrated on 300 rows (shrinkage "
    assert done.stdout.startswith(expected)
    assert EmbedFilter.load(output) == EmbedFilter.load(folder / "calibrated")
    options = ("--components", 7, "--whitening", 0.25, "--threads", 2, "--json")
    done = run("calibrate", folder / "filter", folder / "sample.npy", "-o", output, *options)
    g = EmbedFilter.load(folder / "filter").calibrate(
        np.load(folder / "sample.npy"), n_components=7, whitening=0.25
    )
    assert EmbedFilter.load(output) == g
    facts = json.loads(done.stdout)
    assert facts.pop("seconds") >= 0
    assert facts == {
        "filter": str(output),
        "n_features_in": 64,
        "n_components": 7,
        "rows": 300,
        "vocabulary": None,
        "whitening": 0.25,
        "shrinkage": float(g.metadata["calibration_shrinkage"]),
    }


def test_inspecting_and_applying_a_calibrated_filter(folder: Path, tmp_path: Path) -> None:
    g = EmbedFilter.load(folder / "calibrated")
    text = run("inspect", folder / "calibrated").stdout
    assert "32 of 64 kept, calibrated)" in text
    facts = json.loads(run("inspect", folder / "calibrated", "--json").stdout)
    assert facts["calibrated"] is True
    assert facts["calibration_rows"] == 300
    assert facts["calibration_whitening"] == "0.5"
    output = tmp_path / "out.npy"
    run("apply", folder / "calibrated", folder / "sample.npy", output, "--precision", "int8")
    sample = np.load(folder / "sample.npy")
    assert np.array_equal(np.load(output), g.transform(sample, precision="int8"))


def test_a_file_larger_than_the_memory_it_takes(folder: Path, tmp_path: Path) -> None:
    rows = np.random.default_rng(1).standard_normal((400_000, D)).astype(np.float32)
    np.save(tmp_path / "large.npy", rows)  # 100 MB
    code = (
        PEAK + "import sys\nfrom embedfilter.commands.main import main\n"
        "from embedfilter import EmbedFilter\n"
        "main(['calibrate', *sys.argv[1:3], '-o', sys.argv[3], '--threads', '2'],"
        " standalone_mode=False)\n"
        "print(peak())"
    )
    small = run_code(code, folder / "filter", folder / "sample.npy", tmp_path / "g")
    large = run_code(code, folder / "filter", tmp_path / "large.npy", tmp_path / "g")
    grown = int(large.stdout.split()[-1]) - int(small.stdout.split()[-1])
    assert grown < 70 << 20
    assert EmbedFilter.load(tmp_path / "g") == EmbedFilter.load(folder / "filter").calibrate(rows)


def test_bad_input(folder: Path, tmp_path: Path) -> None:
    f, sample, output = folder / "filter", folder / "sample.npy", tmp_path / "g"

    def message(*arguments: object) -> str:
        text = failure("calibrate", *arguments)
        assert list(tmp_path.glob("*.part")) == []
        assert not output.exists()
        return text

    assert "calibrated: expected one that is not calibrated" in message(
        folder / "calibrated", sample, "-o", output
    )
    assert "missing: no such file or folder" in message(tmp_path / "missing", sample, "-o", output)
    assert "no such folder" in message(f, sample, "-o", tmp_path / "none" / "g")
    assert "apart from the embeddings" in message(f, sample, "-o", sample)
    assert "whitening: expected from 0 to 1" in message(f, sample, "-o", output, "--whitening", 2)
    assert "--components: expected from 1 to 32, found 33" in message(
        f, sample, "-o", output, "--components", 33
    )
    rows = np.load(sample)
    for name, content, expected in (
        ("one.npy", rows[:1], "one.npy: expected at least 2 rows, found 1"),
        ("none.npy", rows[:0], "none.npy: expected at least 2 rows, found 0"),
        ("alike.npy", rows[[0, 0]], "alike.npy: expected rows that differ once filtered"),
        ("narrow.npy", rows[:, :5], "narrow.npy: expected rows of 64, which "),
        (
            "nan.npy",
            np.where(rows > 6, np.nan, rows),
            "nan.npy: expected finite numbers, found NaN or infinity in row",
        ),
        ("whole.npy", rows.astype(int), "whole.npy: expected float16"),
        (
            "tokens.npy",
            rows.reshape(-1, 10, 64),
            "tokens.npy: expected a matrix (n, d), found shape (30, 10, 64)",
        ),
    ):
        np.save(tmp_path / name, content)
        assert expected in message(f, tmp_path / name, "-o", output)
