"""Running the command line: in this process, which is quick, or in one of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import warnings
from pathlib import Path

import numpy as np
import safetensors.numpy
from click.testing import CliRunner
from oracle import head_with_spectrum, model_like_spectrum

from embedfilter.commands.main import main

D = 64
SCRIPTS = Path(sysconfig.get_path("scripts"))
COMMAND = SCRIPTS / "embedfilter"
# For processes in which coverage.py, which writes a file and needs memory itself, is in the way.
UNMEASURED = {name: value for name, value in os.environ.items() if "COVERAGE" not in name}


# Prints the most memory that the process has used. ru_maxrss would do on macOS only: on Linux a
# process inherits it from the one that started it.
PEAK = """
def peak():
    import resource, sys
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with open("/proc/self/status") as file:
        (line,) = [line for line in file if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024
"""


def run(
    *arguments: object, status: int = 0, variables: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command in this process; with environment variables, in one of its own."""
    words = [*map(str, arguments)]
    done = _run_here(words) if variables is None else _run_apart(words, variables)
    assert done.returncode == status, done.stderr
    return done


def _run_here(words: list[str]) -> subprocess.CompletedProcess[str]:
    with warnings.catch_warnings():
        warnings.resetwarnings()  # as they are where nobody has turned them into errors
        for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", kind)
        result = CliRunner(catch_exceptions=False).invoke(main, words, prog_name="embedfilter")
    return subprocess.CompletedProcess(words, result.exit_code, result.stdout, result.stderr)


def _run_apart(words: list[str], variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *words],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={**os.environ, **variables},
    )


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


def failure(*arguments: object, variables: dict[str, str] | None = None) -> str:
    """Run a command that must fail; return its one line on standard error."""
    done = run(*arguments, status=2, variables=variables)
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("embedfilter: error: ")
    return line


def write_checkpoint(path: Path) -> Path:
    """Write a head of 800 x 64 with the spectrum of a model's."""
    W = head_with_spectrum(np.random.default_rng(5), 800, model_like_spectrum(D, 25))
    safetensors.numpy.save_file({"lm_head.weight": W.astype(np.float32)}, path)
    return path


def fifo(folder: Path) -> Path:
    """Make a named pipe."""
    path = folder / "fifo"
    os.mkfifo(path)
    return path
