"""A filter cut to its first components."""

from __future__ import annotations

from typing import Any

import numpy as np

from embedfilter.fitting.cuts import Accuracy, SpectrumError, check_cuts
from embedfilter.fitting.kinds import check_n_components

__all__ = ["truncate"]


def truncate(state: dict[str, Any], n_components: int) -> dict[str, Any]:
    """Return what the filter of the first components consists of; see `EmbedFilter.truncate`.

    Parameters
    ----------
    state : dict
        What the filter consists of, by the names of its attributes.
    n_components : int
        How many to keep.
    """
    components, indices, ranges = (
        state[name] for name in ("components", "component_indices", "ranges")
    )
    k = check_n_components(n_components, len(components))
    kind = state["kind"]
    if k < len(components) and state["mean"] is None:  # calibrated ones are cut by variance
        try:
            accuracy = Accuracy.of_metadata(state["metadata"]).at_least(state["singular_values"])
            check_cuts(state["singular_values"], indices[:k], accuracy)
        except SpectrumError as error:
            raise ValueError(f"n_components: {error}") from None
        kind = "edge" if kind == "identity" else kind
    if ranges is not None:
        energy = np.square(ranges[1] - ranges[0])
        wider = ranges[:, :k] * np.sqrt(energy.sum() / energy[:k].sum())
        ranges = np.clip(wider, -1, 1)
    return state | {
        "components": components[:k].copy(),
        "component_indices": indices[:k].copy(),
        "kind": kind,
        "ranges": ranges,
    }
