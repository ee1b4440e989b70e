"""A filter as an ONNX model, for the runtimes that read such."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from embedfilter.files.atomic import atomic_output
from embedfilter.version import __version__

try:
    import onnx
    from onnx import helper, numpy_helper
except ImportError as error:
    raise ImportError('to write ONNX models: pip install "embedfilter[onnx]"') from error

if TYPE_CHECKING:
    import os

    from embedfilter.filter import EmbedFilter

__all__ = ["IR_VERSION", "OPSET", "filter_model", "to_onnx"]

# The oldest that have all that is needed, so that most runtimes read it.
OPSET, IR_VERSION = 18, 8


def filter_model(f: EmbedFilter, *, normalize: bool = True) -> onnx.ModelProto:
    """Return a filter as an ONNX model.

    Its input is ``embeddings``, (n, d) float32, its output ``filtered``, (n, k) float32, with
    any n. The mean of a calibrated filter is subtracted first.
    """
    k, d = f.components.shape
    arrays = {"components": f.components}
    nodes = []
    centred = "embeddings"
    if f.mean is not None:
        arrays["mean"] = f.mean
        centred = "centred"
        nodes.append(helper.make_node("Sub", ["embeddings", "mean"], [centred]))
    projected = "projected" if normalize else "filtered"
    nodes.append(helper.make_node("Gemm", [centred, "components"], [projected], transB=1))
    if normalize:
        arrays["axes"] = np.array([1], np.int64)
        arrays["tiny"] = np.array(np.finfo(np.float32).tiny)  # a row of zeros stays zero
        nodes += [
            helper.make_node("ReduceL2", [projected, "axes"], ["lengths"], keepdims=1),
            helper.make_node("Max", ["lengths", "tiny"], ["positive"]),
            helper.make_node("Div", [projected, "positive"], ["filtered"]),
        ]
    graph = helper.make_graph(
        nodes,
        "embedfilter",
        [helper.make_tensor_value_info("embeddings", onnx.TensorProto.FLOAT, ["n", d])],
        [helper.make_tensor_value_info("filtered", onnx.TensorProto.FLOAT, ["n", k])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="embedfilter",
        producer_version=__version__,
    )
    helper.set_model_props(model, {**f.metadata, "kind": f.kind})
    return model


def to_onnx(f: EmbedFilter, path: str | os.PathLike[str], *, normalize: bool = True) -> None:
    """Write a filter as an ONNX model; see `EmbedFilter.to_onnx`."""
    content = filter_model(f, normalize=normalize).SerializeToString()
    with atomic_output(Path(path)) as file:
        file.write(content)
