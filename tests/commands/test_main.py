"""What all commands share: their help."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner
from command_line import SCRIPTS, UNMEASURED, failure, run, run_code
from numpy.typing import NDArray

from embedfilter import __version__
from embedfilter.commands.common import tell_of_opening
from embedfilter.commands.main import main


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


def test_help_fits_a_terminal() -> None:
    """Of 80 columns, examples too, which are not wrapped; and every option says what it does."""
    plots = [("plot", name) for name in main.commands["plot"].commands]
    for words in [(), *((name,) for name in main.commands), *plots]:
        result = CliRunner().invoke(
            main, [*words, "--help"], prog_name="embedfilter", terminal_width=80
        )
        assert max(map(len, result.stdout.splitlines())) <= 80, words
        command = main
        for word in words:
            command = command.commands[word]
        for option in command.params:
            assert isinstance(option, click.Argument) or option.help, option.name
        if any(option.name == "output" and option.required for option in command.params):
            assert "-o OUTPUT" in result.stdout or "OUT\n" in result.stdout


def test_the_version() -> None:
    assert run("--version").stdout == f"embedfilter, version {__version__}\n"


def test_outputs_have_the_permissions_that_the_umask_leaves(
    filter_file: Path, X: NDArray, tmp_path: Path
) -> None:
    np.save(tmp_path / "x.npy", X)
    before = os.umask(0o027)
    try:
        for name in ("y.npy", "y.npz", "y.parquet", "y.jsonl", "y.pt", "y.safetensors"):
            run("apply", filter_file, tmp_path / "x.npy", tmp_path / name)
            assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o640, name
    finally:
        os.umask(before)


def test_shell_completion() -> None:
    variables = {**UNMEASURED, "_EMBEDFILTER_COMPLETE": "bash_source"}
    done = subprocess.run(
        [sys.executable, "-c", "from embedfilter.__main__ import run; run()"],
        env=variables, capture_output=True, text=True, check=False, cwd=SCRIPTS,
    )  # fmt: skip
    assert "complete -o nosort -F _embedfilter_completion embedfilter" in done.stdout


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("fi", ["plain,fit"]),
        ("fit --ki", ["plain,--kind"]),
        ("apply --precision u", ["plain,uint8", "plain,ubinary"]),
        ("plot sp", ["plain,spectrum"]),
        ("apply f.safetensors x", ["file,x"]),  # the shell looks for files itself
        ("apply f.safetensors x.npy y", ["file,y"]),
        ("fit mod", ["file,mod"]),
    ],
)
def test_what_the_shell_is_offered(typed: str, offered: list[str]) -> None:
    words = f"embedfilter {typed}"
    variables = {
        "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1),
        "_EMBEDFILTER_COMPLETE": "bash_complete",
    }  # fmt: skip
    result = CliRunner().invoke(main, env=variables, prog_name="embedfilter")
    assert result.stdout.split() == offered


@pytest.mark.skipif(shutil.which("zsh") is None, reason="there is no zsh")
def test_zsh_is_told_of_the_completion() -> None:
    script = (
        "autoload -Uz compinit; compinit -u -D; "
        'eval "$(_EMBEDFILTER_COMPLETE=zsh_source embedfilter)"; print $_comps[embedfilter]'
    )
    assert _in_a_shell("zsh", "-f", "-c", script) == ["_embedfilter_completion"]


@pytest.mark.skipif(shutil.which("fish") is None, reason="there is no fish")
def test_what_fish_offers(filter_file: Path) -> None:
    asked = (
        "embedfilter fit --kind l",
        "embedfilter ca",
        f"embedfilter apply {filter_file.parent}/",
    )
    script = "_EMBEDFILTER_COMPLETE=fish_source embedfilter | source; " + "; ".join(
        f"complete -C '{typed}'" for typed in asked
    )
    kind, command, file = _in_a_shell("fish", "--no-config", "-c", script)
    assert (kind, command.split("\t")[0], file) == ("late", "calibrate", str(filter_file))


def _in_a_shell(*words: str) -> list[str]:
    path = f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        words, env={**UNMEASURED, "PATH": path}, capture_output=True, text=True, check=False
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize("moment", ["while it is loaded", "while it waits for input"])
def test_an_interrupt_at_any_moment(filter_file: Path, tmp_path: Path, moment: str) -> None:
    loading = moment == "while it is loaded"
    program = (
        "import atexit, signal, sys\n"
        # What runs at the end of Python would meet threads that are at work still.
        "atexit.register(print, 'the end of Python', file=sys.stderr)\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from embedfilter import __main__\n"
        + (
            "import os\n"
            "class Interrupt:\n"
            "    def find_spec(self, name, *_):\n"
            "        if name == 'embedfilter.commands.apply': os.kill(os.getpid(), signal.SIGINT)\n"
            "sys.meta_path.insert(0, Interrupt())\n"
            if loading
            else ""
        )
        + "__main__.run()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, "apply", filter_file, "-", tmp_path / "y.jsonl"],
        stdin=subprocess.PIPE, stderr=subprocess.PIPE, cwd=SCRIPTS, env=UNMEASURED, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stderr is not None
    if not loading:
        row = "[" + ", ".join(["0.5"] * 64) + "]"
        process.stdin.write(f'{{"e": {row}}}\n' * 5000)  # more than a pipe holds: it has begun
        process.stdin.flush()
        process.send_signal(signal.SIGINT)
    status = process.wait(60)  # its input is still open
    assert status == (-signal.SIGINT if loading else 128 + signal.SIGINT)
    assert process.stderr.read().strip() == ("" if loading else "embedfilter: interrupted")
    process.stdin.close()
    process.stderr.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["filter.safetensors"]


def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("a text\n")
    for device in ("nonsense", "xpu:77"):
        line = failure(
            "encode", tmp_path, tmp_path / "texts.txt", "-o", tmp_path / "y.npy", "--device", device
        )
        assert (
            f"--device: expected one that torch can use here, such as cpu, found '{device}'" in line
        )


@pytest.mark.parametrize("is_watched", [False, True])
def test_bars_of_other_libraries_are_for_who_watches(is_watched: bool) -> None:
    """In a pipe they fill a file."""
    program = (
        "import sys\n"
        f"sys.stderr.isatty = lambda: {is_watched}\n"
        "sys.argv = ['embedfilter', '--version']\n"
        "from embedfilter.__main__ import run\n"
        "try: run()\n"
        "except SystemExit: pass\n"
        "from tqdm.auto import tqdm\n"
        "from huggingface_hub.utils import are_progress_bars_disabled\n"
        "print(are_progress_bars_disabled(), list(tqdm(range(2), desc='theirs')))\n"
    )
    done = run_code(program)
    assert done.stdout.splitlines()[-1] == f"{not is_watched} [0, 1]"
    assert ("theirs" in done.stderr) == is_watched


def test_whoever_watches_is_told_why_nothing_happens(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for is_watched in (False, True):
        monkeypatch.setattr("embedfilter.commands.common.on_terminal", lambda is_=is_watched: is_)
        tell_of_opening("m.gguf")
        assert capsys.readouterr().err == ("embedfilter: opening m.gguf ...\n" * is_watched)
