"""Columns of pandas as what is judged by."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from embedfilter import evaluate
from embedfilter.evaluation import inputs
from embedfilter.evaluation.inputs import as_task
from embedfilter.evaluation.tasks import Labels, Pairs

X = np.random.default_rng(0).standard_normal((6, 4)).astype("f4")
FRAME = pd.DataFrame({"embedding": list(X), "label": list("aabbcc"), "score": np.arange(6.0)})
NOTHING: dict[str, Any] = {
    "pairs": None, "scores": None, "labels": None, "queries": None, "qrels": None, "k": 10,
}  # fmt: skip
INDEXES: dict[str, Any] = {
    "numbers": [3, 1, 4, 5, 9, 2],
    "texts": list("fedcba"),
    "levels": pd.MultiIndex.from_product([["x", "y"], [3, 1, 2]]),
}


@pytest.mark.parametrize("index", INDEXES)
def test_one_index_in_two_orders(index: str) -> None:
    frame = FRAME.set_index(pd.Index(INDEXES[index]))
    column, labels, scores = (frame[name] for name in ("embedding", "label", "score"))
    other = frame.iloc[::-1]
    for right in (labels, labels.to_numpy(), labels.reset_index(drop=True), list(labels)):
        task = as_task(column, **{**NOTHING, "labels": right})
        assert isinstance(task, Labels)
        np.testing.assert_array_equal(task.labels, [0, 0, 1, 1, 2, 2])
    with pytest.raises(ValueError, match=r"labels: .* labels\.loc\[X\.index\] puts it right"):
        as_task(column, **{**NOTHING, "labels": other["label"]})
    as_task(column, **{**NOTHING, "labels": other["label"].loc[column.index]})
    as_task(column, **{**NOTHING, "labels": other["label"].to_numpy()})
    assert isinstance(as_task((column, column), **{**NOTHING, "scores": scores}), Pairs)
    for arguments, name in (
        ((column, other["embedding"], scores), r"X\[1\]"),
        ((column, column, other["score"]), "scores"),
    ):
        with pytest.raises(ValueError, match=f"{name}: expected the order of X's index"):
            as_task(arguments[:2], **{**NOTHING, "scores": arguments[2]})


def test_texts_and_labels_in_another_order() -> None:
    frame = FRAME.set_index(pd.Index(list("abcdef")))
    texts = pd.Series(list("uvwxyz"), frame.index)
    for given, judged, name in (
        (texts, {"labels": frame["label"].iloc[::-1]}, "labels"),
        ((texts, texts), {"scores": frame["score"].iloc[::-1]}, "scores"),
        ((texts, texts.iloc[::-1]), {"scores": frame["score"]}, r"X\[1\]"),
    ):
        with pytest.raises(ValueError, match=f"{name}: expected the order of X's index"):
            evaluate(given, encode_with="no/model", **judged)


def test_scores_of_pairs_have_an_index_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def reached(*_: object, **__: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(inputs, "check_inputs", reached)  # which comes next, before the model
    texts = pd.Series(list("uvwxyz"), range(6))
    scores = pd.Series(np.arange(6.0), range(5, -1, -1))  # of pairs, not of rows
    with pytest.raises(NotImplementedError):
        evaluate(texts, encode_with="no/model", pairs=[[0, 1]] * 6, scores=scores)


def test_an_index_that_says_nothing_of_the_order() -> None:
    of_parts = FRAME.set_index(pd.Index([0, 1, 2, 0, 1, 2]))  # as pandas.concat leaves it
    as_task(of_parts["embedding"], **{**NOTHING, "labels": of_parts["label"].iloc[::-1]})
    as_task(FRAME["embedding"], **{**NOTHING, "labels": FRAME["label"].set_axis(range(6, 12))})


def test_the_row_of_a_score_that_is_missing() -> None:
    scores = FRAME["score"].where(FRAME["score"] != 4)
    with pytest.raises(ValueError, match="scores: .* found NaN or infinity in row 4"):
        as_task((FRAME["embedding"], FRAME["embedding"]), **{**NOTHING, "scores": scores})
