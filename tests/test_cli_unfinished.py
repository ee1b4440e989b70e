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

from embedfilter import EmbedFilter

# A file of more bytes than allowed is an error of the system, as a full disk is, or, as the system
# has it where Python does not ask for the error, the end of the process in the middle of a write.
LIMITED = """
import resource, signal, sys
import embedfilter.commands, embedfilter.cli
if sys.argv[1] == "killed":
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
embedfilter.cli.main(sys.argv[2:])
"""
COMMANDS = {
    "fit": ["fit", "head.npy", "-o", "OUT.safetensors"],
    "calibrate": ["calibrate", "f.safetensors", "x.npy", "-o", "OUT.safetensors"],
    "apply": ["apply", "f.safetensors", "x.npy", "OUT.npy"],
    "apply onto itself": ["apply", "f.safetensors", "OUT.npy", "OUT.npy"],
    "apply to Parquet": ["apply", "f.safetensors", "x.parquet", "OUT.parquet"],
    "evaluate": [
        "evaluate",
        "x.npy",
        "--labels",
        "labels.txt",
        "--model",
        "head.npy",
        "-o",
        "OUT.html",
    ],
}


@pytest.fixture
def folder(tmp_path: Path, rng: np.random.Generator) -> Path:
    W = rng.standard_normal((300, 64)).astype(np.float32)
    X = rng.standard_normal((200, 64)).astype(np.float32)
    np.save(tmp_path / "head.npy", W)
    np.save(tmp_path / "x.npy", X)
    pyarrow.parquet.write_table(pa.table({"x": list(X)}), tmp_path / "x.parquet")
    (tmp_path / "labels.txt").write_text("a\nb\n" * 100, encoding="utf-8")
    EmbedFilter.from_matrix(W).save(tmp_path / "f.safetensors")
    return tmp_path


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such limits")
@pytest.mark.parametrize("way", ["full disk", "killed"])
@pytest.mark.parametrize("command", list(COMMANDS))
def test_the_old_file_stays(folder: Path, command: str, way: str) -> None:
    words = COMMANDS[command]
    name = next(word for word in words if word.startswith("OUT"))
    old = (folder / "x.npy").read_bytes() if "itself" in command else b"old"
    (folder / name).write_bytes(old)
    before = set(folder.iterdir())
    done = subprocess.run(
        [sys.executable, "-B", "-c", LIMITED, way, *words],
        cwd=folder,
        check=False,
        capture_output=True,
        text=True,
    )
    assert (folder / name).read_bytes() == old
    left = set(folder.iterdir()) - before
    if way == "full disk":
        assert done.returncode == 2, done.stderr
        assert done.stderr.startswith("embedfilter: error: ")
        assert "File too large" in done.stderr
        assert not left
    else:
        assert done.returncode == -signal.SIGXFSZ, done.stderr
        # What was begun has a name of its own, and is not taken for a result.
        assert all(path.name.startswith(".") for path in left), left
