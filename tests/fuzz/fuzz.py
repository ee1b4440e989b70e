"""Coverage-guided fuzzing of one target: ``python tests/fuzz/fuzz.py gguf -max_total_time=600``.

Needs ``pip install atheris``. Starts from tests/fuzz/corpus/TARGET; what widens the coverage goes
into a folder of the same name under the current directory's ``fuzz-work``, what fails into
``fuzz-work/TARGET-crash-*``. All other options are libFuzzer's. `README.md` says what to keep.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["embedfilter"]):
    from targets import TARGETS

FOLDER = Path(__file__).parent


def main() -> None:
    """Fuzz the target that the command line names."""
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"expected one of {', '.join(TARGETS)}; then libFuzzer's options")
    name = sys.argv[1]
    work = Path("fuzz-work")
    (work / name).mkdir(parents=True, exist_ok=True)
    limits = [
        "-timeout=2",
        "-rss_limit_mb=1024",
        "-max_len=4096",
        f"-artifact_prefix={work}/{name}-",
    ]
    folders = [str(work / name), str(FOLDER / "corpus" / name)]
    atheris.Setup([sys.argv[0], *limits, *sys.argv[2:], *folders], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
