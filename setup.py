"""Builds the C core and puts OpenBLAS beside it; everything else is in pyproject.toml.

On Windows the compiler is Zig's, a build requirement there: the code is written for GCC and clang.

Environment variables:

EMBEDFILTER_SYSTEM_OPENBLAS=1
    Load the system's OpenBLAS, found through pkg-config, instead of a copy that is shipped.
EMBEDFILTER_WERROR=1
    Treat the compiler's warnings as errors, as continuous integration does.
EMBEDFILTER_SANITIZE=address,undefined
    Compile the core with these sanitizers; .ci/sanitize shows how to run it then.
EMBEDFILTER_COVERAGE=1
    Compile the core so that it counts which branches run; .ci/coverage shows how to read them.
"""

from __future__ import annotations

import importlib.metadata
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

COMPILE_ARGS = [
    "-std=c11",
    "-D_GNU_SOURCE",
    "-O3",
    # The kernels are vectorised by hand; the scalar ones are the oracle and stay scalar.
    "-fno-tree-vectorize",
    "-fno-tree-slp-vectorize",
    "-ffp-contract=off",
    "-fvisibility=hidden",
    "-pthread",
]
LICENSE_FILE = "LICENSE-OpenBLAS.txt"
LIBRARY_ENDINGS = {"darwin": ".dylib", "win32": ".dll"}
WARNING_ARGS = ["-Wall", "-Wextra", "-Werror"]


def switched_on(name: str) -> bool:
    """Tell whether an environment variable is set to other than nothing or 0."""
    return os.environ.get(name, "0") not in ("", "0")


class BuildWithOpenBLAS(build_ext):
    """Copies OpenBLAS to beside the module, and tells the core which file to load."""

    def build_extension(self, ext: Extension) -> None:
        """Compile and link one extension module."""
        if switched_on("EMBEDFILTER_SYSTEM_OPENBLAS"):
            file, prefix = _system_openblas(), ""
            ext.define_macros.append(("OPENBLAS_SYSTEM", None))
        else:
            file, prefix = self._ship_openblas(ext), "scipy_"
        ext.define_macros += [("OPENBLAS_FILE", f'"{file}"'), ("OPENBLAS_PREFIX", f'"{prefix}"')]
        if sys.platform == "win32":
            self._build_with_zig(ext)
        else:
            super().build_extension(ext)

    def _build_with_zig(self, ext: Extension) -> None:
        """Compile and link for Windows on x86_64, all at once."""
        import ziglang  # noqa: PLC0415 - a build requirement on Windows only

        if sysconfig.get_platform() != "win-amd64":
            raise SystemExit(f"expected Windows on x86_64, found {sysconfig.get_platform()}")
        threaded = "t" if sysconfig.get_config_var("Py_GIL_DISABLED") else ""
        python = f"python{sys.version_info[0]}{sys.version_info[1]}{threaded}.lib"
        path = Path(self.get_ext_fullpath(ext.name))
        path.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [
                *(
                    sys.executable,
                    "-m",
                    "ziglang",
                    "cc",
                    "-target",
                    "x86_64-windows-gnu",
                    "-shared",
                ),
                *(argument for argument in ext.extra_compile_args if argument != "-pthread"),
                *(
                    f"-D{name}" + (f"={value}" if value else "")
                    for name, value in ext.define_macros
                ),
                *(["-DPy_GIL_DISABLED=1"] if threaded else []),
                *(f"-I{folder}" for folder in (*ext.include_dirs, sysconfig.get_path("include"))),
                *ext.sources,
                str(Path(sys.base_prefix, "libs", python)),
                *("-s", "-o", str(path)),
            ],
            check=True,
        )
        for import_library in path.parent.glob("*.lib"):  # which nobody links with
            import_library.unlink()
        # Part of its C library is in the module.
        copying = Path(ziglang.__file__).parent / "lib" / "libc" / "mingw" / "COPYING"
        shutil.copy2(copying, path.with_name("LICENSE-mingw-w64.txt"))

    def copy_extensions_to_source(self) -> None:
        """Copy the module, and the library beside it, into the source tree: editable installs."""
        super().copy_extensions_to_source()
        for pattern in ("lib*openblas*", "LICENSE-*.txt"):
            for file in Path(self.build_lib, "embedfilter").glob(pattern):
                shutil.copy2(file, "embedfilter")

    def _ship_openblas(self, ext: Extension) -> str:
        import scipy_openblas32 as openblas  # noqa: PLC0415 - a build requirement only

        folder = Path(self.get_ext_fullpath(ext.name)).parent
        folder.mkdir(parents=True, exist_ok=True)
        library = openblas.get_library().removeprefix("lib")  # which Windows' has
        name = f"lib{library}{LIBRARY_ENDINGS.get(sys.platform, '.so')}"
        shutil.copy2(Path(openblas.get_lib_dir(), name), folder)
        shutil.copy2(_openblas_license(), folder / LICENSE_FILE)
        return name


def _openblas_license() -> Path:
    """Return the licence text that scipy-openblas32 carries; copies of it must have it too."""
    name = "scipy-openblas32"
    for file in importlib.metadata.distribution(name).files or []:
        if file.match("licenses/LICENSE*"):
            return Path(str(file.locate()))
    raise SystemExit(f"{name}: expected a file licenses/LICENSE* in its metadata, found none")


def _system_openblas() -> str:
    """Return the name by which the system's loader finds OpenBLAS."""
    folder = _output("pkg-config", "--variable=libdir", "openblas")
    if sys.platform == "darwin":
        return _output("otool", "-D", f"{folder}/libopenblas.dylib").split()[-1]
    listed = _output("objdump", "-p", f"{folder}/libopenblas.so").split()
    if "SONAME" not in listed:
        raise SystemExit(f"{folder}/libopenblas.so: expected a shared library with a SONAME")
    return listed[listed.index("SONAME") + 1]


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        found = " ".join(str(getattr(error, "stderr", None) or error).split())
        raise SystemExit(
            "EMBEDFILTER_SYSTEM_OPENBLAS=1: expected pkg-config and an openblas.pc that it finds"
            " (on Debian and Ubuntu: apt install pkg-config libopenblas-dev),"
            f" found for '{shlex.join(command)}': {found}"
        ) from None
    return done.stdout.strip()


CSRC = Path("csrc")
SANITIZERS = os.environ.get("EMBEDFILTER_SANITIZE", "")
SANITIZE_ARGS = (
    [f"-fsanitize={SANITIZERS}", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer", "-g"]
    if SANITIZERS
    else []
)
COUNTING = ["--coverage", "-fprofile-update=atomic", "-O0"]
COVERAGE_ARGS = COUNTING * switched_on("EMBEDFILTER_COVERAGE")

setup(
    ext_modules=[
        Extension(
            "embedfilter._core",
            sources=sorted(str(path) for path in CSRC.rglob("*.c")),
            depends=sorted(str(path) for path in CSRC.rglob("*.h")),
            include_dirs=[str(CSRC), np.get_include()],
            extra_compile_args=[
                *COMPILE_ARGS,
                *WARNING_ARGS * switched_on("EMBEDFILTER_WERROR"),
                *SANITIZE_ARGS,
                *COVERAGE_ARGS,
            ],
            extra_link_args=["-pthread", "-ldl", "-lm", *SANITIZE_ARGS, *COVERAGE_ARGS],
        )
    ],
    cmdclass={"build_ext": BuildWithOpenBLAS},
)
