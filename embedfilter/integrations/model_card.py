"""The README.md that `save_pretrained` writes beside a model that `embedfilter.encoder` made."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedfilter.files.messages import source_name

if TYPE_CHECKING:
    from embedfilter.filter import EmbedFilter

__all__ = ["describe", "keep_description"]

_CARD = """\
---
library_name: sentence-transformers
pipeline_tag: feature-extraction
tags:
- sentence-transformers
- feature-extraction
- embedfilter
---

# Text embeddings from {model}

{what}

{needs}

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("path/to/this/folder"{option})
embeddings = model.encode(["A text.", "Another."])  # (2, {width})
```

The first components are the most telling: of a vector the first half is the filter of half the
size. Scale to unit length again after cutting.
"""
_LAST = _CARD.index("\nThe first components")


def describe(model: Any, name: str, template: str, f: EmbedFilter | None) -> None:
    """Set the text that sentence-transformers writes as the model's README.md when it is saved.

    Parameters
    ----------
    model : SentenceTransformer
    name : str
        Of the language model.
    template : str
    f : EmbedFilter or None
        At the model's end.
    """
    width = model.get_embedding_dimension()
    pooled = {
        "prompteol": "the state of the last token of the template PromptEOL",
        "echo": "the mean state of the second copy in the template Echo",
    }.get(template, "the mean state of the tokens")
    what = f"Embeddings of {width} dimensions, {pooled}"
    if f is not None:
        kind = f.kind if f.mean is None else f"{f.kind}, calibrated"
        origin = source_name(f.metadata.get("source", name))
        what += (
            f", filtered from {f.n_features_in} by embedfilter (kind {kind}), a linear map made of"
            f" the unembedding matrix of {origin}"
        )
    needs, option = "It loads with sentence-transformers alone.", ""
    if template != "mean":
        needs = (
            "The template is a module of embedfilter: install it (`pip install"
            ' "embedfilter[encode]"`), and pass `trust_remote_code=True`, without which'
            " sentence-transformers loads no module of another package."
        )
        option = ", trust_remote_code=True"
    text = _CARD if f is not None else _CARD[:_LAST]
    _set(model, text.format(model=name, what=f"{what}.", needs=needs, option=option, width=width))


def keep_description(model: Any, folder: Path) -> None:
    """Keep the README.md of a folder that a model was opened from, for when it is saved again."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        _set(model, (folder / "README.md").read_text(encoding="utf-8"))


def _set(model: Any, text: str) -> None:
    # As sentence-transformers does with the README.md of a model that it opens. It has no public
    # name: under another one the stock text would be written, which a test would tell.
    model._model_card_text = text
