"""All benchmarks, then their pictures: ``python benchmarks/run.py [--short | --large]``.

--short takes a few minutes; --large adds the head of an 8B model to the fits, which keeps
the peers busy for many minutes, and a million rows to the projections.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def main() -> None:
    """Run each benchmark in a process of its own."""
    options = sys.argv[1:]
    if options not in ([], ["--short"], ["--large"]):
        sys.exit(__doc__)
    size = ["--short"] if "--short" in options else []
    large = ["--large"] if "--large" in options else []
    subprocess.run([sys.executable, FOLDER / "project.py", *size, *large], check=True)
    subprocess.run([sys.executable, FOLDER / "company.py", *size], check=True)
    subprocess.run([sys.executable, FOLDER / "fit.py", *size, *large], check=True)
    subprocess.run([sys.executable, FOLDER / "accuracy.py", *size], check=True)
    subprocess.run([sys.executable, FOLDER / "dequantize.py", *size], check=True)
    subprocess.run([sys.executable, FOLDER / "lens.py", *size], check=True)
    subprocess.run([sys.executable, FOLDER / "apply.py", *size], check=True)
    subprocess.run([sys.executable, FOLDER / "retrieval.py", *size], check=True)
    if not size:
        subprocess.run([sys.executable, FOLDER / "sweep.py"], check=True)
        subprocess.run([sys.executable, FOLDER / "plot.py"], check=True)


if __name__ == "__main__":
    main()
