from typing import Any

import numpy as np
from numpy.typing import NDArray

def available_isas() -> tuple[str, ...]: ...
def get_isa() -> str: ...
def set_isa(name: str, /) -> None: ...
def eigh(
    matrix: NDArray[np.float64], wanted: NDArray[np.int64], n_threads: int, /
) -> tuple[NDArray[np.float64], NDArray[np.float64]]: ...

class Gram:
    def __new__(cls, d: int, basis: NDArray[np.float32] | None = None) -> Gram: ...
    def add(self, w: NDArray[Any], n_threads: int, /) -> None: ...
    def finish(self, out: NDArray[np.float64], n_threads: int, /) -> None: ...

class PackedFilter:
    def __new__(
        cls, components: NDArray[np.float32], bias: NDArray[np.float32] | None = None
    ) -> PackedFilter: ...
    def project(
        self,
        x: NDArray[Any],
        out: NDArray[Any],
        precision: str,
        normalize: bool,
        starts: NDArray[np.float32] | None,
        steps: NDArray[np.float32] | None,
        n_threads: int,
        /,
    ) -> None: ...
