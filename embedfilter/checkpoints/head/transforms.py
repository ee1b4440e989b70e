"""What a model does to its head before it multiplies, and to the logits after.

Rows divided by their lengths have other singular directions: that is applied here. One factor for
all logits, or a cap that keeps their order, leaves the directions as they are: that is only told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from embedfilter.checkpoints.checkpoint import StoredRows
    from embedfilter.checkpoints.config import ModelFacts

__all__ = ["NormalisedRows", "has_normalised_head", "logit_notes"]

# Baichuan of the first generation has this vocabulary and a plain head.
_PLAIN_BAICHUAN = 64000
_LEAST_NORM = 1e-12  # as torch.nn.functional.normalize has it
# Keys of config.json, and what the model does with them.
_LOGIT_SETTINGS = {
    "logit_scale": "multiplies all logits by",
    "logits_scaling": "divides all logits by",
    "final_logit_softcapping": "caps the logits, in order, at",
    "lm_head_multiplier": "multiplies all logits by",
    "output_multiplier_scale": "multiplies all logits by",
    "mup_width_multiplier": "divides all logits by",
    "dim_model_base": "divides its last states by its hidden size over",
}


class NormalisedRows:
    """Rows of a matrix, each scaled to unit length or to a length that is stored beside it.

    Parameters
    ----------
    rows
        The rows as they are stored; closed with this object.
    lengths : (V,) float32, optional
        By default 1.
    """

    def __init__(self, rows: StoredRows, lengths: NDArray[np.float32] | None = None) -> None:
        self._rows = rows
        self._lengths = lengths

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return the stored bytes of rows `start` to `stop`."""
        return self._rows.read(start, stop)

    def decode(self, raw: NDArray[np.uint8], start: int) -> NDArray[Any]:
        """Decode bytes that `read` returned, the first of row `start`, to float32."""
        rows = self._rows.decode(raw, start).astype(np.float32)
        with np.errstate(all="ignore"):  # Inf and NaN are looked for by whoever uses the rows
            norms = np.sqrt(np.square(rows, dtype=np.float64).sum(axis=1))
            factors = 1 / np.maximum(norms, _LEAST_NORM)
            if self._lengths is not None:
                factors *= self._lengths[start : start + len(rows)]
            rows *= factors.astype(np.float32)[:, None]
        return rows

    def close(self) -> None:
        """Close the rows."""
        self._rows.close()


def has_normalised_head(facts: ModelFacts) -> bool:
    """Tell whether the model divides each row of its head by its length.

    Baichuan 2's NormHead, in its own modeling_baichuan.py; other models' configs say norm_head.
    """
    if facts.model_type == "baichuan":
        return _PLAIN_BAICHUAN not in (facts.settings.get("vocab_size"), *facts.vocab_sizes)
    return facts.settings.get("norm_head") is True


def logit_notes(facts: ModelFacts) -> tuple[str, ...]:
    """Return what the model does to all logits alike, which no filter needs to know."""
    notes = []
    for key, action in _LOGIT_SETTINGS.items():
        # In GGUF's metadata after the architecture.
        value = facts.settings.get(key, facts.settings.get(f"{facts.model_type}.{key}"))
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value not in (0, 1):
            notes.append(
                f"the model {action} {value:g} ({key}), which leaves the singular directions as"
                " they are"
            )
    return tuple(notes)
