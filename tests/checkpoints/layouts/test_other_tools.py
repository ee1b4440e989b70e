"""What other tools write is recognised, and refused with what converts it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_files import gguf_file, gguf_tensor

from embedfilter import CheckpointError, open_unembedding
from embedfilter.checkpoints.formats.gguf import GgufFile
from embedfilter.files.input_file import InputFile

V, D = 400, 16
E, H = np.random.default_rng(0).standard_normal((2, V, D), np.float32)

# Files and folders (which end with a slash), and what is said of them.
LAYOUTS = {
    "torch-distributed": ((".metadata", "__0_0.distcp", "__1_0.distcp"), "dcp_to_torch"),
    "accelerate-fsdp": (("pytorch_model_fsdp_0/", "optimizer_0/"), "accelerate merge-weights"),
    "fsdp-in-it": (("pytorch_model_fsdp_0/", "trainer_state.json", "training_args.bin"), "merge"),
    "fsdp-rank": (("pytorch_model_fsdp_rank0.bin",), "FULL_STATE_DICT"),
    "lightning-fsdp": ((".metadata", "__0_0.distcp", "meta.pt"), "dcp_to_torch"),
    "zero-3": (("zero_pp_rank_0_mp_rank_00_model_states.pt",), "python zero_to_fp32.py . OUT"),
    "zero-folder": (("latest", "global_step7/", "zero_to_fp32.py"), "python zero_to_fp32.py"),
    "pipeline": (("layer_00-model_00-model_states.pt",), "a layer of a checkpoint of DeepSpeed's"),
    "megatron": (("mp_rank_00/", "mp_rank_01/"), "Megatron-LM's tools/checkpoint/convert.py"),
    "megatron-iter": (("iter_0000100/", "latest_checkpointed_iteration.txt"), "Megatron Bridge"),
    "megatron-pipeline": (("mp_rank_00_000/",), "Megatron-LM"),
    "megatron-rank": (("model_optim_rng.pt",), "a checkpoint of Megatron-LM"),
    "megatron-core": ((".metadata", "common.pt", "__0_0.distcp", "metadata.json"), "dcp_to_torch"),
    "flax": (("config.json", "flax_model.msgpack"), "from_flax=True"),
    "orbax": (("_METADATA", "manifest.ocdbt", "d/"), "orbax.checkpoint"),
    "orbax-inside": (("checkpoint/_METADATA",), "orbax.checkpoint"),
    "tensorflow": (("config.json", "tf_model.h5"), "from_tf=True"),
    "tensorflow-ckpt": (("checkpoint", "model.ckpt.index"), "weights of TensorFlow"),
    "bert-ckpt": (("bert_model.ckpt.meta", "bert_model.ckpt.data-00000-of-00001"), "TensorFlow"),
    "saved-model": (("saved_model.pb", "variables/"), "weights of TensorFlow"),
    "keras": (("model.weights.h5",), "weights of Keras"),
    "onnx": (("model.onnx", "model.onnx_data"), "pass the model that it was made from"),
    "onnx-inside": (("config.json", "onnx/model.onnx"), "pass the model that it was made from"),
    "metaseq": (("reshard-model_part-0.pt", "reshard-model_part-1.pt"), "metaseq's scripts"),
    "openvino": (("openvino_model.xml", "openvino_model.bin"), "a model of OpenVINO"),
    "coreml": (("Model.mlpackage/",), "a model of Core ML"),
    "trt-engine": (("rank0.engine", "config.txt"), "an engine of TensorRT"),
    "vllm": (("model-rank-0-part-0.safetensors",), "a sharded state of vLLM"),
    "nemo": (("model.nemo",), "NeMo's scripts/checkpoint_converters"),
    "ollama": (("blobs/", "manifests/"), "ollama show --modelfile NAME"),
    "llamafile": (("m.llamafile",), "`unzip`"),
}


def make(folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        path = folder / name
        if name.endswith("/"):
            path.mkdir()
            continue
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"{}" if path.suffix == ".json" else b"x" * 100)


def refused(source: Path) -> str:
    with pytest.raises(CheckpointError) as raised:
        open_unembedding(source)
    assert "\n" not in str(raised.value)
    assert str(source) in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("case", LAYOUTS)
@pytest.mark.parametrize("upper", [False, True])
def test_a_folder(tmp_path, case, upper):
    names, message = LAYOUTS[case]
    if upper:
        names = tuple(name.replace(Path(name).name, Path(name).name.upper()) for name in names)
    make(tmp_path, names)
    found = refused(tmp_path)
    assert message in found
    assert ", which is not read; " in found


@pytest.mark.parametrize(
    "name",
    [
        "__0_0.distcp",
        "model_optim_rng.pt",
        "zero_pp_rank_0_mp_rank_00_model_states.pt",
        "flax_model.msgpack",
        "tf_model.h5",
        "model.ckpt.index",
        "model.ckpt.data-00000-of-00001",
        "saved_model.pb",
        "model.onnx",
        "openvino_model.bin",
        "Model.mlmodel",
        "rank0.engine",
        "x.nemo",
    ],
)
def test_a_file(tmp_path, name):
    (tmp_path / name).write_bytes(b"x" * 100)
    assert f"found '{name}', " in refused(tmp_path / name)


@pytest.mark.parametrize(
    ("start", "message"),
    [(b"\x89HDF\r\n\x1a\n", "an HDF5 file"), (b"tjgg", "a GGML file from before GGUF")],
)
@pytest.mark.parametrize("name", ["model", "ggml-model-q4_0.bin", "model.pt"])
def test_a_file_by_how_it_starts(tmp_path, start, message, name):
    (tmp_path / name).write_bytes(start + bytes(100))
    assert message in refused(tmp_path / name)


def test_what_is_read_is_read_beside_them(tmp_path):
    names = {name for names, _ in LAYOUTS.values() for name in names if name != "config.json"}
    make(tmp_path, tuple(sorted(name for name in names if "/" not in name[:-1])))
    weights = {"model.embed_tokens.weight": E, "lm_head.weight": H}
    torch.save({k: torch.from_numpy(v) for k, v in weights.items()}, tmp_path / "weights.pt")
    with open_unembedding(tmp_path) as W:
        np.testing.assert_array_equal(W.rows(0, V), H)


def test_ollamas_blob_is_a_gguf_file(tmp_path):
    tensor = gguf_tensor("output.weight", (D, V))
    path = tmp_path / f"sha256-{'0' * 64}"
    path.write_bytes(gguf_file(tensors=(tensor,), data=H.tobytes()))
    with open_unembedding(path) as W:
        np.testing.assert_array_equal(W.rows(0, V), H)


# ---- MLX's and others' .npz --------------------------------------------------------------------


@pytest.mark.parametrize("given", ["", "weights.npz"])
def test_mlx_npz(tmp_path, given):
    np.savez(tmp_path / "weights.npz", **{"model.embed_tokens.weight": E, "lm_head.weight": H})
    with open_unembedding(tmp_path / given) as W:
        assert W.name == "lm_head.weight"
        np.testing.assert_array_equal(W.rows(0, V), H)


def test_an_npz_of_several_arrays(tmp_path):
    np.savez(tmp_path / "a.npz", E=E, H=H)
    message = refused(tmp_path / "a.npz")
    assert "'E' (400, 16)" in message
    assert "pass tensor=" in message
    with open_unembedding(tmp_path / "a.npz", tensor="H") as W:
        np.testing.assert_array_equal(W.rows(0, V), H)


# ---- GGUF: only the head must be one that can be read ------------------------------------------


def gguf(path: Path, *others: bytes, offset: int = 32, data: bytes = bytes(32)) -> Path:
    """A head after other tensors, whose data take the first bytes."""
    head = gguf_tensor("output.weight", (D, V), offset=offset)
    path.write_bytes(gguf_file(tensors=(*others, head), data=data + H.tobytes()))
    return path


@pytest.mark.parametrize(
    "other",
    [
        gguf_tensor("a", (64,), kind=99),
        gguf_tensor("a", (7, 3), kind=4),
        gguf_tensor("a", (), kind=0),  # a scalar
        gguf_tensor("a", (), kind=77),
    ],
    ids=["unknown", "withdrawn", "scalar", "unknown-scalar"],
)
def test_a_tensor_beside_the_head(tmp_path, other):
    path = gguf(tmp_path / "Model.GGUF", other)
    for source in (path, tmp_path):
        with open_unembedding(source) as W:
            np.testing.assert_array_equal(W.rows(0, V), H)
    file = GgufFile(InputFile(path))
    for read in (file.rows, file.read, file.dtype):
        with pytest.raises(CheckpointError, match="'a': (unknown or withdrawn|expected 1 to 4)"):
            read("a")
    file.close()


def test_a_tensor_of_no_numbers(tmp_path):
    path = gguf(tmp_path / "m.gguf", gguf_tensor("a", (5, 0)), offset=0, data=b"")
    with open_unembedding(path) as W:
        np.testing.assert_array_equal(W.rows(0, V), H)


@pytest.mark.parametrize(("offset", "size"), [(32, 32), (64, 64), (1024, 1024)])
def test_a_head_after_an_unknown_size(tmp_path, offset, size):
    path = gguf(tmp_path / "m.gguf", gguf_tensor("a", (64,), 99), offset=offset, data=bytes(size))
    with open_unembedding(path) as W:
        np.testing.assert_array_equal(W.rows(0, V), H)


@pytest.mark.parametrize(
    ("offset", "message"),
    [
        (0, "expected its data aligned, from byte 32 on, .* found 0"),
        (40, "expected its data aligned, from byte 32 on, .* found 40"),
        (64, "incomplete download"),
        (1 << 40, "incomplete download"),
    ],
)
def test_a_wrong_place_after_an_unknown_size(tmp_path, offset, message):
    path = gguf(tmp_path / "m.gguf", gguf_tensor("a", (64,), 99), offset=offset)
    with pytest.raises(CheckpointError, match=message):
        open_unembedding(path)


def test_places_are_exact_again_after_a_known_size(tmp_path):
    others = (gguf_tensor("a", (64,), 99), gguf_tensor("b", (8,), offset=64))
    path = gguf(tmp_path / "m.gguf", *others, offset=96, data=bytes(96))
    with open_unembedding(path) as W:
        np.testing.assert_array_equal(W.rows(0, V), H)
    gguf(path, *others, offset=128, data=bytes(128))
    with pytest.raises(CheckpointError, match=r"'output.weight': expected its data at byte 96"):
        open_unembedding(path)


def test_a_head_of_an_unknown_type(tmp_path):
    path = tmp_path / "m.gguf"
    tensors = (
        gguf_tensor("token_embd.weight", (D, V)),
        gguf_tensor("output.weight", (D, V), 99, offset=E.nbytes),
    )
    path.write_bytes(gguf_file(tensors=tensors, data=E.tobytes() + H.tobytes()))
    with pytest.raises(CheckpointError, match="'output.weight': unknown .* storage type 99"):
        open_unembedding(path)
