"""Write the seeds: the sound and the hostile files of the tests, as files of the corpus.

``python tests/fuzz/make_seeds.py`` from the folder ``tests``'s parent. It needs no fuzzer.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import numpy as np
from checkpoint_files import SOUND_GGUF, SOUND_SAFETENSORS
from hostile_headers import HOSTILE_GGUF, HOSTILE_SAFETENSORS

from embedfilter import EmbedFilter

CORPUS = Path(__file__).parent / "corpus"
LARGEST = 4096  # bytes: libFuzzer cuts what is longer


def filter_files() -> dict[str, bytes]:
    """Return a filter file of each form: plain, calibrated."""
    rng = np.random.default_rng(0)
    f = EmbedFilter.from_matrix(rng.standard_normal((40, 6)), n_components=3)
    filters = {"plain": f, "calibrated": f.calibrate(rng.standard_normal((50, 6)))}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "filter.safetensors"
        files = {}
        for name, one in filters.items():
            one.save(path)
            files[name] = path.read_bytes()
    return files


def main() -> None:
    """Write every seed."""
    seeds = {
        "safetensors": {h.name: h.data for h in HOSTILE_SAFETENSORS} | {"sound": SOUND_SAFETENSORS},
        "gguf": {h.name: h.data for h in HOSTILE_GGUF} | {"sound": SOUND_GGUF},
        "filter": filter_files(),
    }
    for target, files in seeds.items():
        folder = CORPUS / target
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            if len(data) <= LARGEST:
                (folder / f"seed-{name}").write_bytes(data)


if __name__ == "__main__":
    main()
