"""``embedfilter inspect``."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
from command_line import failure, fifo, run
from safetensors.numpy import save_file

from embedfilter import EmbedFilter
from embedfilter.commands.inspect import _spectrum_line


def test_inspect_a_checkpoint(smollm2: Path, checkpoint: Path) -> None:
    text = run("inspect", smollm2).stdout
    for fact in ("token_embd.weight", "49152", "576", "Q8_0", "tied"):
        assert fact in text
    facts = json.loads(run("inspect", checkpoint, "--json").stdout)
    assert facts["tensor"] == "lm_head.weight"
    assert facts["tied"] is False
    assert (facts["vocabulary"], facts["hidden_size"]) == (800, 64)


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_what_is_doubtful_names_options(kind: str, tmp_path: Path) -> None:
    """As a fit's warning does: what is read here is typed there."""
    config = {"model_type": kind, "architectures": ["X"], "hidden_size": 8, "vocab_size": 20}
    tied = kind == "bert"
    (tmp_path / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": tied}))
    name = "embeddings.word_embeddings.weight" if tied else "model.embed_tokens.weight"
    matrix = np.random.default_rng(0).standard_normal((20, 8)).astype(np.float32)
    save_file({name: matrix}, tmp_path / "model.safetensors")
    text = run("inspect", tmp_path).stdout
    assert re.search("^(doubtful|caution) .*", text, re.MULTILINE)[0].count(f"--tensor {name}") == 1
    assert "tensor=" not in text
    assert "base=" not in text
    assert "named by --tensor" in run("inspect", tmp_path, "--tensor", name).stdout


def test_inspect_a_filter(filter_file: Path) -> None:
    text = run("inspect", filter_file).stdout
    f = EmbedFilter.load(filter_file)
    for name, fact in (("kind", "edge"), ("n_features_in", "64"), *f.metadata.items()):
        if name != "accuracy":
            assert fact in text
    (told,) = re.findall(r"accuracy +singular values under (.*) may be rounding alone", text)
    noise = float(f.metadata["accuracy"].split()[1])
    assert float(told) == pytest.approx(noise, rel=0.05)
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
