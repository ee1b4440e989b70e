"""OpenBLAS: when it is loaded, how, and what becomes of forks meanwhile."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from embedfilter import _core

MODULE = Path(_core.__file__)
LIBRARY = next(MODULE.parent.glob("lib*openblas*"), Path("none"))

pytestmark = pytest.mark.skipif(not LIBRARY.is_file(), reason="built with the system's OpenBLAS")


def run(code: str, folder: Path, *arguments: str | Path, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *arguments],
        env=os.environ | variables,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


MAPPED = """
import sys
from pathlib import Path
import numpy as np
from embedfilter import EmbedFilter

def mapped():
    return sys.argv[1] in Path("/proc/self/maps").read_text()

W = np.random.default_rng(0).standard_normal((100, 40)).astype(np.float32)
components = np.eye(40, dtype=np.float32)[:20]
EmbedFilter(components, np.arange(20), np.ones(40), kind="edge", metadata={}).save("f.safetensors")
f = EmbedFilter.load("f.safetensors")
f.transform(W)
print(mapped())
EmbedFilter.from_matrix(W)
print(mapped())
"""


@pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="memory cannot be looked at")
def test_who_only_transforms_does_not_load_it(tmp_path: Path) -> None:
    assert run(MAPPED, tmp_path, LIBRARY) == "False\nTrue\n"


ALONE = """
import importlib.util, os, shutil, sys
import numpy as np

def eigh():
    return module.eigh(np.eye(40), np.arange(3), 1)[0][0]

spec = importlib.util.spec_from_file_location("embedfilter._core", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
os.chdir("/")
def fails():
    try:
        eigh()
    except ImportError as error:
        print(error)

fails()
beside = os.path.join(os.path.dirname(sys.argv[1]), os.path.basename(sys.argv[2]))
open(beside, "wb").close()
fails()
shutil.copy2(sys.argv[2], beside)
print(eigh())
"""


def test_a_library_that_is_not_there(tmp_path: Path) -> None:
    """It is named, without its folder; and found as soon as it is there."""
    shutil.copy2(MODULE, tmp_path)
    missing, empty, found = run(ALONE, tmp_path, tmp_path / MODULE.name, LIBRARY).splitlines()
    for message in (missing, empty):
        assert message.startswith(f"OpenBLAS could not be loaded: {LIBRARY.name}: ")
        assert "/" not in message
    assert missing != empty or sys.platform != "linux"
    assert found == "1.0"


RELATIVE = """
import importlib.machinery, importlib.util, os, sys
import numpy as np

name = "embedfilter._core"
loader = importlib.machinery.ExtensionFileLoader(name, sys.argv[1])
spec = importlib.machinery.ModuleSpec(name, loader, origin=sys.argv[1])
module = importlib.util.module_from_spec(spec)
loader.exec_module(module)
os.chdir("/")
print(module.eigh(np.eye(40), np.arange(3), 1)[0][0])
"""


def test_a_module_loaded_by_a_relative_path(tmp_path: Path) -> None:
    """As one is from a relative entry of ``sys.path`` by Python 3.10."""
    shutil.copy2(MODULE, tmp_path)
    shutil.copy2(LIBRARY, tmp_path)
    assert run(RELATIVE, tmp_path, Path(MODULE.name)) == "1.0\n"


LOADED = """
import os
import numpy as np
from embedfilter import _core

def state():
    return len(os.listdir("/proc/self/task")), os.sched_getaffinity(0), dict(os.environ)

before = state()
_core.eigh(np.eye(300), np.arange(300), 1)
print(state() == before)
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads cannot be counted")
def test_loading_leaves_no_trace(tmp_path: Path) -> None:
    """No thread, no variable, and the caller may run where it could before."""
    for n in ("1", "4"):
        assert run(LOADED, tmp_path, OPENBLAS_NUM_THREADS=n) == "True\n"


NO_THREADS = """
import ctypes, os, resource
import numpy as np  # whose own OpenBLAS has its one thread

os.environ["OPENBLAS_NUM_THREADS"] = "2"
if os.getuid() == 0:  # for whom no limit holds
    os.setresuid(65534, 65534, 0)
    ctypes.CDLL(None).setfsuid(0)  # who may still read what root may
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
from embedfilter import _core
import threading
try:
    threading.Thread(target=print).start()
except RuntimeError:
    A = np.diag(np.arange(300.0)) + 1
    print(np.array_equal(_core.eigh(A.copy(), np.arange(9), 2)[0],
                         _core.eigh(A.copy(), np.arange(9), 1)[0]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="threads cannot be forbidden")
def test_no_thread_can_be_made(tmp_path: Path) -> None:
    """OpenBLAS would interrupt the process when it is loaded, or wait for the thread for ever."""
    assert run(NO_THREADS, tmp_path, OPENBLAS_NUM_THREADS="1") == "True\n"


FORKS = """
import os, signal, threading
import numpy as np
from embedfilter import _core

signal.alarm(240)  # found out if it hangs
A = np.diag(np.arange(60.0)) + 1

def values():
    return [v.hex() for v in _core.eigh(A.copy(), np.arange(60), 2)[0].tolist()]

start = threading.Barrier(2)
def fit():
    start.wait()
    for _ in range(50):
        values()

def child_fits():
    child = os.fork()
    if child == 0:
        signal.alarm(200)
        os._exit(0 if values() == values() else 1)
    assert os.waitpid(child, 0)[1] == 0

child_fits()  # which loads it itself
busy = threading.Thread(target=fit)
busy.start()
start.wait()
for _ in range(3):
    child_fits()
while busy.is_alive():
    child_fits()
child_fits()
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_forks_while_it_is_loaded_and_used(tmp_path: Path) -> None:
    for _ in range(3):
        assert run(FORKS, tmp_path) == "done\n"
