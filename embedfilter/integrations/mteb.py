"""A filtered model for MTEB, with a name and a revision of its own.

MTEB keeps results by a model's name and revision. Those of a filtered model must be others than
those of the model that it was, and others for each filter.
"""

from __future__ import annotations

import hashlib
import os
from typing import Any

from embedfilter.filter import EmbedFilter, as_filter

try:
    import mteb
    from mteb.models.sentence_transformer_wrapper import SentenceTransformerEncoderWrapper
except ImportError as error:
    raise ImportError('to evaluate with MTEB: pip install "embedfilter[mteb]"') from error

__all__ = ["FilteredEncoder"]


class FilteredEncoder(SentenceTransformerEncoderWrapper):  # type: ignore[misc]  # untyped
    """A sentence-transformers model whose embeddings go through a filter: for `mteb.evaluate`.

    Parameters
    ----------
    model : SentenceTransformer
        A model that does not filter yet.
    f : EmbedFilter or path
        The filter, or its file; it must take embeddings of the model's size.
    name : str, optional
        "organisation/model"; by default the model's own. "-embedfilter" is put behind it.

    Raises
    ------
    ValueError
        If the filter takes embeddings of another size.
    """

    mteb_model_meta: Any

    def __init__(
        self, model: Any, f: EmbedFilter | str | os.PathLike[str], name: str | None = None
    ) -> None:
        f = as_filter(f)
        width = model.get_embedding_dimension()
        if width != f.n_features_in:
            raise ValueError(
                f"f: expected a filter of embeddings of {width}, as the model makes, found one of"
                f" {f.n_features_in}"
            )
        super().__init__(model)
        self._filter = f
        own = self.mteb_model_meta
        base = name or own.name or "unknown/model"
        arrays = (f.components, f.mean) if f.mean is not None else (f.components,)
        digest = hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()
        self.mteb_model_meta = own.model_copy(
            update={
                "name": f"{base}-embedfilter",
                "revision": f"{own.revision or 'unknown'}-{digest[:16]}",
                "embed_dim": f.n_components,
                "adapted_from": own.name,
                "similarity_fn_name": mteb.models.model_meta.ScoringFunction.COSINE,
            }
        )

    def encode(self, *arguments: Any, **options: Any) -> Any:
        """Return filtered embeddings (n, k), of unit length."""
        return self._filter.transform(super().encode(*arguments, **options))
