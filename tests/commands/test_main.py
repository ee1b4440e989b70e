"""What all commands share: their help."""

from __future__ import annotations

from command_line import run


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
