"""Embeddings with ids and texts beside them, as tables hold them, and a filter for them."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from embedfilter import EmbedFilter

D, N = 16, 50
X: NDArray = np.random.default_rng(0).standard_normal((N, D)).astype("f4")
LIST = [i + 0.5 for i in range(D)]
IDS = list(range(N))
# What ends a line for other readers, quotes, characters of several bytes.
TEXTS = [f'té"xt, {i}\u2028{chr(0x85)}形' for i in IDS]
FRAME = pd.DataFrame({"id": IDS, "text": TEXTS, "embedding": X.tolist()})


def their_filter() -> EmbedFilter:
    rng = np.random.default_rng(1)
    return EmbedFilter.from_matrix(rng.standard_normal((400, D)) * np.geomspace(3, 1, D))
