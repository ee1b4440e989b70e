"""Small tasks of MTEB, with data that are made here."""

from __future__ import annotations

import random
import sys
from typing import Any

import datasets
import mteb
import sklearn.linear_model
from mteb.abstasks.classification import AbsTaskClassification
from mteb.abstasks.pair_classification import AbsTaskPairClassification
from mteb.abstasks.sts import AbsTaskSTS
from mteb.abstasks.task_metadata import TaskMetadata

WORDS = ["a", "cat", "dog", "train", "book", "sleeps", "runs", "the", "on", "red", "late", "sings"]


def _sentences(n: int, seed: int) -> list[str]:
    chosen = random.Random(seed)
    return [" ".join(chosen.choices(WORDS, k=chosen.randint(3, 7))) for _ in range(n)]


def metadata_of(name: str, kind: str, main_score: str) -> TaskMetadata:
    """Return what MTEB wants to know of a task."""
    return TaskMetadata(
        name=name,
        description="Made for a test.",
        reference=None,
        dataset={"path": "local/none", "revision": "1"},
        type=kind,
        category="t2t",
        modalities=["text"],
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score=main_score,
        date=("2026-01-01", "2026-01-02"),
        domains=["Written"],
        task_subtypes=[],
        license="mit",
        annotations_creators="human-annotated",
        dialect=[],
        sample_creation="created",
        bibtex_citation="",
    )


PAIRS = {
    "sentence1": _sentences(30, 1),
    "sentence2": _sentences(30, 2),
    "score": [i * 7 % 30 / 6 for i in range(30)],
}
# Half of its sentences are those of the first task.
OTHER_PAIRS = {
    "sentence1": PAIRS["sentence1"],
    "sentence2": _sentences(30, 3),
    "score": [i * 11 % 30 / 6 for i in range(30)],
}
JUDGED = {
    "sentence1": _sentences(40, 4),
    "sentence2": _sentences(40, 5),
    "labels": [i * 7 % 40 % 2 for i in range(40)],
}
TRAINING = {"text": _sentences(40, 6), "label": [i % 2 for i in range(40)]}
LABELLED = {"text": _sentences(50, 7), "label": [i * 3 % 50 % 2 for i in range(50)]}


class LocalPairs(AbsTaskSTS):
    metadata = metadata_of("LocalPairs", "STS", "cosine_spearman")
    data = PAIRS

    def load_data(self, *_: Any, **__: Any) -> None:
        self.dataset = {"test": datasets.Dataset.from_dict(self.data)}
        self.data_loaded = True


class OtherPairs(LocalPairs):
    metadata = metadata_of("OtherPairs", "STS", "cosine_spearman")
    data = OTHER_PAIRS


class LostPairs(LocalPairs):
    metadata = metadata_of("LostPairs", "STS", "cosine_spearman")

    def load_data(self, *_: Any, **__: Any) -> None:
        raise ConnectionError("no network\nat all")


class JudgedPairs(AbsTaskPairClassification):
    metadata = metadata_of("JudgedPairs", "PairClassification", "max_ap")

    def load_data(self, *_: Any, **__: Any) -> None:
        self.dataset = {"test": datasets.Dataset.from_dict(JUDGED)}
        self.data_loaded = True


class Labelled(AbsTaskClassification):
    metadata = metadata_of("Labelled", "Classification", "accuracy")
    evaluator_model = sklearn.linear_model.LogisticRegression(max_iter=1000)
    samples_per_label = 16

    def load_data(self, *_: Any, **__: Any) -> None:
        parts = {"train": TRAINING, "test": LABELLED}
        self.dataset = {name: datasets.Dataset.from_dict(data) for name, data in parts.items()}
        self.data_loaded = True


def register() -> None:
    """Let `mteb.get_task` find them."""
    assert mteb.get_task  # the module below is loaded
    registry = sys.modules["mteb.get_tasks"]._TASKS_REGISTRY
    for task in (LocalPairs, OtherPairs, LostPairs, JudgedPairs, Labelled):
        registry[task.metadata.name] = task
