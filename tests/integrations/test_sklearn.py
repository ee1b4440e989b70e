"""The scikit-learn transformer, judged by scikit-learn's own checks and used in its tools."""

from __future__ import annotations

import importlib
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from command_line import SCRIPTS
from oracle import assert_same_directions
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from embedfilter import EmbedFilter
from embedfilter.integrations.sklearn import EmbedFilterTransformer

# Of scikit-learn 1.9; 1.6 has 41. A mark that skips the battery leaves one.
FEWEST_CHECKS = 40

CHECKS = """
import json
from sklearn.utils.estimator_checks import check_estimator
from embedfilter.integrations.sklearn import EmbedFilterTransformer
results = check_estimator(EmbedFilterTransformer(), on_fail=None, on_skip=None)
print(json.dumps([(r["check_name"], r["status"], str(r["exception"])) for r in results]))
"""


@pytest.fixture(scope="module")
def whole(smollm2: Path) -> EmbedFilter:
    return EmbedFilter.from_checkpoint(smollm2, ratio=1)


@pytest.fixture(scope="module")
def X(demo_embeddings) -> np.ndarray:
    return demo_embeddings["Echo"].astype(np.float32)


@pytest.fixture(scope="module")
def topics(demo_texts) -> np.ndarray:
    from embedfilter.demo import __file__ as folder

    table = pd.read_csv(Path(folder).with_name("pairs.tsv"), sep="\t")
    return np.tile(table["topic"].to_numpy(), 2)


def test_every_check_of_scikit_learn_passes() -> None:
    # One of the checks is skipped unless SciPy was imported with this variable set.
    run = subprocess.run(
        [sys.executable, "-c", CHECKS],
        env={**os.environ, "SCIPY_ARRAY_API": "1"},
        cwd=SCRIPTS,  # where there is no package to import by accident
        capture_output=True,
        text=True,
        check=True,
    )
    results = json.loads(run.stdout)
    assert [result for result in results if result[1] != "passed"] == []
    assert len(results) >= FEWEST_CHECKS


def test_a_checkpoint_gives_what_its_filter_gives(smollm2: Path, X: np.ndarray) -> None:
    ours = EmbedFilterTransformer(smollm2, ratio=4, kind="late").fit_transform(X)
    expected = EmbedFilter.from_checkpoint(smollm2, ratio=4, kind="late").transform(X)
    assert ours.dtype == np.float32
    assert np.array_equal(ours, expected)


def test_a_filter_is_cut_short_or_taken_whole(whole: EmbedFilter, X: np.ndarray) -> None:
    expected = whole.truncate(72)
    assert np.array_equal(EmbedFilterTransformer(whole, ratio=8).fit_transform(X), expected(X))
    assert np.array_equal(
        EmbedFilterTransformer(whole, n_components=72).fit_transform(X), expected(X)
    )
    assert np.array_equal(
        EmbedFilterTransformer(expected, ratio=None).fit_transform(X), expected(X)
    )
    plain = EmbedFilterTransformer(expected, ratio=None, normalize=False).fit(X)
    assert np.array_equal(plain.transform(X), expected.transform(X, normalize=False))
    assert np.array_equal(
        plain.inverse_transform(plain.transform(X)),
        expected.inverse_transform(expected.transform(X, normalize=False)),
    )


def test_an_identity_and_a_calibrated_filter_can_be_cut(smollm2: Path, X: np.ndarray) -> None:
    identity = EmbedFilter.from_checkpoint(smollm2, kind="identity")
    edge = EmbedFilterTransformer(identity, ratio=4).fit(X)
    assert_same_directions(edge.filter_, EmbedFilter.from_checkpoint(smollm2, ratio=4))
    calibrated = edge.filter_.calibrate(X)
    shorter = EmbedFilterTransformer(calibrated, n_components=30).fit_transform(X)
    assert np.array_equal(shorter, calibrated.truncate(30)(X))


def test_without_a_source_the_filter_is_that_of_the_embeddings(X: np.ndarray) -> None:
    fitted = EmbedFilterTransformer(ratio=8).fit(X)
    # The middle of the 576 right singular vectors of X, in float64.
    _, sigma, Vh = np.linalg.svd(X.astype(np.float64), full_matrices=True)
    middle = Vh[(576 - 72) // 2 :][:72]
    overlap = np.linalg.svd(fitted.filter_.components @ middle.T, compute_uv=False)
    assert overlap.min() > 1 - 1e-5
    assert np.allclose(fitted.filter_.singular_values[: len(sigma)], sigma, rtol=1e-4)


def test_types_of_input_and_output(whole: EmbedFilter, X: np.ndarray) -> None:
    transformer = EmbedFilterTransformer(whole).fit(X)
    expected = transformer.transform(X)
    for dtype in (np.float16, np.float64):
        result = transformer.transform(X.astype(dtype))
        assert result.dtype == np.float32
        assert np.array_equal(result, expected)  # the embeddings are of float16


def test_pandas_out_with_names(whole: EmbedFilter, X: np.ndarray) -> None:
    frame = pd.DataFrame(X, columns=[f"e{i}" for i in range(576)], index=np.arange(len(X)) + 7)
    transformer = EmbedFilterTransformer(whole, n_components=12).set_output(transform="pandas")
    result = transformer.fit_transform(frame)
    names = [f"embedfiltertransformer{i}" for i in range(12)]
    assert list(result.columns) == names == list(transformer.get_feature_names_out())
    assert list(result.index) == list(frame.index)
    assert (result.dtypes == np.float32).all()
    assert list(transformer.feature_names_in_) == list(frame.columns)
    with pytest.raises(ValueError, match="feature names"):
        transformer.transform(frame.rename(columns={"e0": "other"}))


def test_clones_and_pickles(whole: EmbedFilter, X: np.ndarray) -> None:
    transformer = EmbedFilterTransformer(whole, ratio=4).fit(X)
    expected = transformer.transform(X)
    copied = clone(transformer)
    with pytest.raises(NotFittedError):
        copied.transform(X)
    assert copied.get_params()["ratio"] == 4
    assert np.array_equal(copied.fit_transform(X), expected)
    assert np.array_equal(pickle.loads(pickle.dumps(transformer)).transform(X), expected)


def test_grid_search_over_the_ratio(whole: EmbedFilter, X: np.ndarray, topics: np.ndarray) -> None:
    pipeline = make_pipeline(EmbedFilterTransformer(whole), LogisticRegression(C=10, max_iter=500))
    ratios = [2, 4, 8, 64]
    search = GridSearchCV(pipeline, {"embedfiltertransformer__ratio": ratios}, cv=3, n_jobs=1)
    search.fit(X, topics)
    scores = search.cv_results_["mean_test_score"]
    best = search.best_params_["embedfiltertransformer__ratio"]
    assert best == ratios[int(np.argmax(scores))]
    assert scores[0] > scores[-1]  # nine dimensions are too few for the topics
    chosen = search.best_estimator_[0].filter_
    assert chosen == whole.truncate(576 // best)
    # The pipeline computes what its steps do by hand.
    model = LogisticRegression(C=10, max_iter=500).fit(chosen(X), topics)
    assert np.array_equal(search.predict(X), model.predict(chosen(X)))


@pytest.mark.parametrize(
    ("parameters", "change", "error", "message"),
    [
        ({}, lambda X: X[:, :100], ValueError, r"expected \(n, 576\).*found shape \(480, 100\)"),
        ({}, lambda X: X.astype(np.int8), TypeError, "float type, found int8: quantised"),
        ({}, lambda X: (X > 0).astype(np.uint8), TypeError, "found uint8: quantised"),
        ({}, lambda X: np.where(np.arange(576) == 3, np.nan, X), ValueError, "contains NaN"),
        ({}, lambda X: X[:0], ValueError, "0 sample"),
        ({"ratio": 0.5}, lambda X: X, ValueError, "ratio: expected from 1"),
        ({"ratio": "2"}, lambda X: X, TypeError, "ratio: expected a number"),
        ({"n_components": 577}, lambda X: X, ValueError, "n_components: expected from 1 to 576"),
        ({"source": None, "kind": "middle"}, lambda X: X, ValueError, "kind: expected one of"),
        # Without a source: of 4 rows there are 4 singular values over 0, none in the middle.
        ({"source": None}, lambda X: X[:4], ValueError, "without a source.*n_samples = 4"),
    ],
)  # fmt: skip
def test_bad_input(whole: EmbedFilter, X: np.ndarray, parameters, change, error, message) -> None:
    transformer = EmbedFilterTransformer(**{"source": whole, **parameters})
    with pytest.raises(error, match=message):
        transformer.fit(change(X))
    assert not hasattr(transformer, "filter_")


def test_bad_input_to_transform(whole: EmbedFilter, X: np.ndarray) -> None:
    transformer = EmbedFilterTransformer(whole).fit(X)
    for wrong, error, message in (
        (X[:, 1:], ValueError, "575 features.*expecting 576"),
        (X[0], ValueError, "Expected 2D array"),
        (X.astype(np.int8), TypeError, "quantised"),
        (np.full_like(X, np.inf), ValueError, "infinity"),
    ):
        with pytest.raises(error, match=message):
            transformer.transform(wrong)


def test_a_missing_checkpoint(X: np.ndarray, tmp_path: Path) -> None:
    from embedfilter import CheckpointError

    with pytest.raises(CheckpointError, match=r"absent\.gguf"):
        EmbedFilterTransformer(tmp_path / "absent.gguf").fit(X)


def test_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    monkeypatch.delitem(sys.modules, "embedfilter.integrations.sklearn")
    with pytest.raises(ImportError, match=r'pip install "embedfilter\[sklearn\]"'):
        importlib.import_module("embedfilter.integrations.sklearn")


def test_a_filter_keeps_its_size_and_kind(
    whole: EmbedFilter, X: np.ndarray, tmp_path: Path
) -> None:
    path = tmp_path / "f.safetensors"
    k = whole.n_features_in // 4
    f = whole.truncate(k)
    f.save(path)
    for source in (f, path, str(path)):
        fitted = EmbedFilterTransformer(source).fit(X)
        np.testing.assert_array_equal(fitted.transform(X), f.transform(X))
        shorter = EmbedFilterTransformer(source, n_components=k // 2).fit(X)
        assert shorter.filter_ == f.truncate(k // 2)
        assert EmbedFilterTransformer(source, kind=f.kind).fit(X).filter_ == f
        for wrong in ({"kind": "nonsense"}, {"kind": "tail"}, {"tensor": "a"}, {"revision": "b"}):
            with pytest.raises(ValueError, match=f"{next(iter(wrong))}: expected .* is a filter"):
                EmbedFilterTransformer(source, **wrong).fit(X)
        with pytest.raises(ValueError, match=f"ratio: expected at most the {k} components"):
            EmbedFilterTransformer(source, ratio=2).fit(X)
        with pytest.raises(ValueError, match="expected one of the two"):
            EmbedFilterTransformer(source, ratio=8, n_components=2).fit(X)


def test_calibrating(whole: EmbedFilter, X: np.ndarray) -> None:
    f = whole.truncate(whole.n_features_in // 2)
    fitted = EmbedFilterTransformer(f, calibrate=True).fit(X)
    assert fitted.filter_ == f.calibrate(X)
    calibrated = EmbedFilterTransformer(fitted.filter_).fit(X)
    np.testing.assert_array_equal(calibrated.transform(X), fitted.filter_.transform(X))


@pytest.mark.parametrize("size", [{"ratio": 8}, {"n_components": 72}], ids=str)
def test_calibrating_cuts(
    smollm2: Path, whole: EmbedFilter, X: np.ndarray, tmp_path: Path, size: dict[str, int]
) -> None:
    half = whole.truncate(288)
    half.save(tmp_path / "f.safetensors")
    for source in (whole, half, tmp_path / "f.safetensors"):
        fitted = EmbedFilterTransformer(source, calibrate=True, **size).fit(X)
        assert fitted.filter_ == half.calibrate(X, n_components=72)
    late = EmbedFilter.from_checkpoint(smollm2, ratio=2, kind="late")
    fitted = EmbedFilterTransformer(smollm2, calibrate=True, **size).fit(X)
    assert fitted.filter_ == late.calibrate(X, n_components=72)
    alone = EmbedFilterTransformer(calibrate=True, **size).fit(X)
    of_rows = EmbedFilter.from_matrix(X, ratio=2, kind="late")
    assert alone.filter_ == of_rows.calibrate(X, n_components=72)
    with pytest.raises(TypeError, match="calibrate: expected True or False, found 'vocabulary'"):
        EmbedFilterTransformer(smollm2, calibrate="vocabulary", **size).fit(X)
    few = EmbedFilterTransformer(half.truncate(100), calibrate=True, **size).fit(X)
    assert few.filter_ == half.truncate(100).calibrate(X, n_components=72)


def test_calibrating_what_keeps_more_than_half(smollm2: Path, X: np.ndarray) -> None:
    late = EmbedFilter.from_checkpoint(smollm2, n_components=400, kind="late")
    fitted = EmbedFilterTransformer(smollm2, calibrate=True, n_components=400).fit(X)
    assert fitted.filter_ == late.calibrate(X)
    for wrong in ({"n_components": 600}, {"ratio": 2, "n_components": 3}, {"kind": "middle"}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}.*: expected"):
            EmbedFilterTransformer(smollm2, calibrate=True, **wrong).fit(X)


def test_columns_of_lists(whole: EmbedFilter, X: np.ndarray) -> None:
    transformer = EmbedFilterTransformer(whole, ratio=2)
    expected = transformer.fit_transform(X)
    for given in (
        pd.Series(list(X)), pd.DataFrame({"e": list(X)}), pa.array(list(X)), torch.tensor(X),
    ):  # fmt: skip
        np.testing.assert_array_equal(transformer.fit_transform(given), expected)
    pipeline = ColumnTransformer([("filter", transformer, "e")])
    frame = pd.DataFrame({"e": list(X), "n": range(len(X))})
    np.testing.assert_array_equal(pipeline.fit_transform(frame), expected)
    names = [f"filter__embedfiltertransformer{i}" for i in range(288)]
    assert list(pipeline.get_feature_names_out()) == names
    named = pipeline.set_output(transform="pandas").fit_transform(frame)
    assert list(named.columns) == names
    for wide in (X, pd.DataFrame(X, columns=[f"e{i}" for i in range(576)])):
        with pytest.raises(ValueError, match="input_features"):
            transformer.fit(wide).get_feature_names_out(["e"])
