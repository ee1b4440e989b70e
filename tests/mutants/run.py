"""Makes one mistake after another in a copy of the C core, and sees whether the tests notice.

``python tests/mutants/run.py [kernels | core] [PART OF A FILE'S NAME]``, from the root of the
repository, with a Python that has what the tests need. A mistake in a kernel is to be noticed by
tests/core/kernels_test.c, NEON's under an emulator; one in what drives the kernels by the tests in
Python, or by tests/core/threads_test.c under ThreadSanitizer.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import scipy_openblas32 as openblas
from core import core_mutants
from kernels import Mutant, kernel_mutants

ROOT = Path(__file__).resolve().parents[2]
FLAGS = ["-std=c11", "-D_GNU_SOURCE", "-O2", "-fno-tree-vectorize", "-ffp-contract=off"]
FLAGS += ["-pthread", "-Icsrc", '-DOPENBLAS_PREFIX="scipy_"']
FLAGS += [f'-DOPENBLAS_FILE="{openblas.get_lib_dir()}/libscipy_openblas.so"']
TESTS = ["tests/core", "tests/arrays", "tests/test_filter.py", "tests/test_threads.py"]
SECONDS = 600  # a test that hangs has noticed too


class Workplace:
    """A copy of the sources, compiled once; then only what a mutant changes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("csrc", "tests", "embedfilter", "pyproject.toml"):
            source = ROOT / name
            if source.is_dir():
                ignore = shutil.ignore_patterns("*.so", "__pycache__", "corpus")
                shutil.copytree(source, folder / name, ignore=ignore)
            else:
                shutil.copy2(source, folder)

    def run(self, *command: str | Path, **kwargs: object) -> int:
        """Run a command here; 124 where it takes too long."""
        try:
            return subprocess.run(
                command,
                cwd=self.folder,
                check=False,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=SECONDS,
                **kwargs,  # type: ignore[call-overload]
            ).returncode
        except subprocess.TimeoutExpired:
            return 124

    def compile(self, compiler: str, sources: Iterable[str], kind: str, *flags: str) -> bool:
        """Compile each source to an object of this kind."""
        for source in sources:
            name = source.replace("/", "-").removesuffix(".c") + ".o"  # gram.c is in two rooms
            target = self.folder / "objects" / kind / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if self.run(compiler, *FLAGS, *flags, "-c", source, "-o", target) != 0:
                return False
        return True

    def link(self, compiler: str, kind: str, program: str | Path, *flags: str) -> bool:
        """Link all objects of a kind."""
        objects = sorted((self.folder / "objects" / kind).glob("*.o"))
        return self.run(compiler, *objects, "-pthread", *flags, "-ldl", "-lm", "-o", program) == 0


def sources(folder: Path, pattern: str) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.glob(pattern))


class Kernels:
    """kernels_test.c, for this machine or for aarch64."""

    def __init__(self, place: Workplace, *, neon: bool) -> None:
        self.place, self.kind = place, "neon" if neon else "native"
        self.compiler = "aarch64-linux-gnu-gcc" if neon else "gcc"
        self.emulator = ["qemu-aarch64-static"] if neon else []
        self.all = [
            "tests/core/kernels_test.c",
            "csrc/core/cpu.c",
            *sources(place.folder, "csrc/kernels/*.c"),
        ]
        if not place.compile(self.compiler, self.all, self.kind) or not self.passes():
            raise RuntimeError("expected the tests to pass without a mutant, found that they fail")

    def passes(self) -> bool:
        """Tell whether the test program, linked from the objects, is content."""
        program = self.place.folder / self.kind
        if not self.place.link(self.compiler, self.kind, program, "-static"):
            raise RuntimeError("expected the objects to link, found that they do not")
        return self.place.run(*self.emulator, program) == 0

    def rebuild(self, file: str) -> bool:
        """Compile what a file is part of."""
        name = Path(file).name
        used = [file]
        if name.endswith(".h"):
            used = [s for s in self.all if name in (self.place.folder / s).read_text("utf-8")]
        return self.place.compile(self.compiler, used, self.kind)


class Core:
    """The Python tests of the C module, and threads_test.c under ThreadSanitizer."""

    def __init__(self, place: Workplace) -> None:
        self.place = place
        self.core = sources(place.folder, "csrc/core/*.c")
        kernels = sources(place.folder, "csrc/kernels/*.c")
        include = f"-I{sysconfig.get_path('include')}", f"-I{np.get_include()}", "-fPIC"
        self.include = include
        built = place.compile("gcc", sources(place.folder, "csrc/**/*.c"), "module", *include)
        built = built and place.compile(
            "gcc",
            ["tests/core/threads_test.c", *self.core, *kernels],
            "tsan",
            "-fsanitize=thread",
            "-g",
        )
        if not built or not self.passes():
            raise RuntimeError("expected the tests to pass without a mutant, found that they fail")

    def passes(self) -> bool:
        """Tell whether all tests are content."""
        module = f"embedfilter/_core{sysconfig.get_config_var('EXT_SUFFIX')}"
        program = self.place.folder / "tsan"
        if not self.place.link("gcc", "module", module, "-shared") or not self.place.link(
            "gcc", "tsan", program, "-fsanitize=thread"
        ):
            raise RuntimeError("expected the objects to link, found that they do not")
        machine = os.uname().machine
        if self.place.run("setarch", machine, "-R", program, "8", "1") != 0:
            return False
        pytest = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *TESTS]
        return self.place.run(*pytest, env=os.environ | {"PYTHONPATH": str(self.place.folder)}) == 0

    def rebuild(self, file: str) -> bool:
        """Compile a file of the core."""
        return self.place.compile("gcc", [file], "module", *self.include) and self.place.compile(
            "gcc", [file], "tsan", "-fsanitize=thread", "-g"
        )


def outcome(tests: Kernels | Core, mutant: Mutant) -> str:
    """Return "killed", "survived" or, of what is no C, "not compiled"."""
    path = tests.place.folder / mutant.file
    before = path.read_text(encoding="utf-8")
    path.write_text(before[: mutant.start] + mutant.new + before[mutant.end :], encoding="utf-8")
    try:
        if not tests.rebuild(mutant.file):
            return "not compiled"
        return "survived" if tests.passes() else "killed"
    finally:
        path.write_text(before, encoding="utf-8")
        tests.rebuild(mutant.file)


def main() -> int:
    """Run what was asked for; 1 if a mutant survives."""
    kind, part = [*sys.argv[1:], "", ""][:2]
    everything = [] if kind == "core" else list(kernel_mutants(ROOT))
    if "avx512_vnni" not in Path("/proc/cpuinfo").read_text(encoding="utf-8"):
        print("this machine lacks AVX-512: no mutants of its kernels")
        everything = [m for m in everything if "avx512" not in m.file]
    groups = [
        [m for m in everything if ("neon" in m.file) is neon and part in m.file]
        for neon in (False, True)
    ]
    groups.append([m for m in core_mutants(ROOT) if part in m.file] if kind != "kernels" else [])
    print(*(f"{len(group)} mutants" for group in groups), sep=", ")
    counts = {"killed": 0, "survived": 0, "not compiled": 0}

    def work(index: int) -> None:
        if not groups[index]:
            return
        with tempfile.TemporaryDirectory() as folder:
            place = Workplace(Path(folder))
            tests = Core(place) if index == 2 else Kernels(place, neon=index == 1)
            for mutant in groups[index]:
                result = outcome(tests, mutant)
                counts[result] += 1
                if result != "killed":
                    print(f"{mutant.file}, {mutant.what}: {result}", flush=True)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, range(len(groups))))
    compiled = counts["killed"] + counts["survived"]
    print(f"killed {counts['killed']} of {compiled} mutants; {counts['not compiled']} are no C")
    return int(counts["survived"] > 0)


if __name__ == "__main__":
    sys.exit(main())
