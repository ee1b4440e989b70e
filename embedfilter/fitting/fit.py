"""Fitting: from an open unembedding matrix to what a filter consists of."""

from __future__ import annotations

from typing import Any

import numpy as np

from embedfilter.checkpoints.row_counts import warn_of_copies
from embedfilter.checkpoints.unembedding import Unembedding
from embedfilter.errors import warn_user
from embedfilter.files.messages import source_name
from embedfilter.fitting.cuts import check_cuts
from embedfilter.fitting.kinds import kept_directions
from embedfilter.fitting.spectrum import Spectrum
from embedfilter.version import __version__


def fit(
    W: Unembedding, k: int, kind: str, *, n_threads: int, progress: bool = False
) -> dict[str, Any]:
    """Return the arguments of `EmbedFilter`, fitted to a matrix.

    Parameters
    ----------
    W : Unembedding (V, d)
    k : int
        Number of components, as `embedfilter.fitting.kinds.resolve_n_components` returns it.
    kind : str
        See `embedfilter.fitting.kinds.kept_directions`.
    n_threads : int
    progress : bool
        Show a progress bar on standard error.

    Raises
    ------
    SpectrumError
        For NaN, infinity, or a rank too low for what is to be kept.
    CheckpointError
        If the matrix cannot be read.

    Warns
    -----
    UserWarning
        Of doubts about the matrix or its use, and of cuts that are not exact: see
        `fitting.cuts.check_cuts`.
    """
    V, d = W.shape
    kept = kept_directions(kind, d, k)
    for told in (*W.doubts, W.caution):  # before the work
        if told is not None:
            warn_user(f"{W.source}: {told}")
    spectrum = Spectrum.of(W, kept, n_threads=n_threads, progress=progress)
    check_cuts(spectrum.singular_values, kept, spectrum.accuracy)
    warn_of_copies(W)
    return {
        "components": spectrum.directions.astype(np.float32),
        "component_indices": kept,
        "singular_values": spectrum.singular_values,
        "kind": kind,
        "metadata": {
            "source": source_name(W.source),
            **({} if W.revision is None else {"revision": W.revision}),
            **({} if W.fitted_for is None else {"fitted_for": source_name(W.fitted_for)}),
            "tensor": W.name,
            "dtype": W.dtype,
            "rows": str(V),
            "fingerprint": W.fingerprint(),
            "evidence": W.reason,
            **({"applied": "; ".join(W.notes)} if W.notes else {}),
            **({"doubt": "; ".join(W.doubts)} if W.doubts else {}),
            "accuracy": str(spectrum.accuracy),
            "version": __version__,
        },
    }
