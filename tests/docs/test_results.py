"""The figures of quality that the documents give are those of benchmarks/results/backbones.json."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
BENCHMARKS = REPOSITORY / "benchmarks"
WORDS, OWN, FEW = (
    "vocabulary", "the same, vocabulary as prior", "20 texts, vocabulary as prior",
)  # fmt: skip


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((BENCHMARKS / "results/backbones.json").read_bytes())
    return found


@pytest.fixture(scope="module")
def of_tables() -> dict[str, Any]:
    return runpy.run_path(str(BENCHMARKS / "backbones_tables.py"))


def page(name: str) -> str:
    """Return a document's text with single spaces."""
    return re.sub(r"\s+", " ", (REPOSITORY / name).read_text(encoding="utf-8"))


def test_the_tables(of_tables: dict[str, Any], report: dict[str, Any]) -> None:
    text = (REPOSITORY / "docs/results.md").read_text(encoding="utf-8")
    tables = of_tables["tables"](report)
    assert tables.count("\n| ") > 4 * 12
    for part in tables.split("\n\n"):
        assert part.strip() in text


def test_means_are_those_of_the_sets(report: dict[str, Any]) -> None:
    for row in report["models"]:
        for method, found in row["methods"].items():
            for one in found.values():
                kinds: dict[str, list[float]] = {"pairs": [], "labels": []}
                for name, kind in report["sets"].items():
                    kinds[kind].append(one["sets"][name])
                if any(None in figures for figures in kinds.values()):
                    assert method in ("PCA", "whitening")
                    assert one["mean"] is None
                else:
                    mean = sum(sum(values) / len(values) for values in kinds.values()) / 2
                    assert one["mean"] == pytest.approx(mean)


@pytest.mark.parametrize(
    ("name", "before", "method", "ratio", "over"),
    [
        ("docs/results.md", "late is above no filter by", "late", "2", "no filter"),
        ("docs/results.md", "edge by", "edge", "2", "no filter"),
        ("docs/results.md", "At 1/8 late is above edge by", "late", "8", "edge"),
        ("docs/results.md", "At 1/8 it is above no filter by", WORDS, "8", "no filter"),
        ("docs/results.md", "at 1/2 above late by", WORDS, "2", "late"),
        ("docs/results.md", "at 1/8 above late by", WORDS, "8", "late"),
        ("docs/results.md", "with the vocabulary as prior, above late by", FEW, "2", "late"),
        ("docs/results.md", "and at 1/8 by", FEW, "8", "late"),
        ("docs/results.md", "Without the prior, at 1/2, by", "20 texts", "2", "late"),
        ("docs/results.md", "above no filter at 1/2 by", OWN, "2", "no filter"),
        ("docs/results.md", "above no filter at 1/8 by", OWN, "8", "no filter"),
        ("docs/calibration.md", "no filter at 1/8 by", WORDS, "8", "no filter"),
    ],
)
def test_gains(
    name: str,
    before: str,
    method: str,
    ratio: str,
    over: str,
    of_tables: dict[str, Any],
    report: dict[str, Any],
) -> None:
    gains = {"prompteol": [], "echo": []}  # type: dict[str, list[str]]
    for row in report["models"]:
        gains[row["template"]].append(f"{of_tables['gain'](row, method, ratio, over):.1f}")
    told = "; Echo ".join(", ".join(values) for values in gains.values())
    assert f"{before} {told}".replace("-", "\N{MINUS SIGN}") in page(name)


def test_the_readme_s_advice_holds_on_all(
    of_tables: dict[str, Any], report: dict[str, Any]
) -> None:
    gain = of_tables["gain"]
    for row in report["models"]:
        is_gemma = (row["name"], row["template"]) == ("gemma3-270m", "prompteol")
        assert gain(row, "late", "2", "no filter") > 0
        assert gain(row, WORDS, "8", "late") > 0
        assert (gain(row, WORDS, "8", "no filter") > 0) is not is_gemma
        assert gain(row, OWN, "8", "no filter") > 0
        assert gain(row, FEW, "8", "late") > 0
