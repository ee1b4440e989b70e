"""What other tools write that is not read here: how it is recognised, and what converts it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedfilter.errors import CheckpointError
from embedfilter.files.messages import shown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from embedfilter.files.input_file import InputFile

__all__ = ["ZERO_ADVICE", "is_of_another_tool", "is_state", "refuse_other_tools", "refuse_start"]


@dataclass(frozen=True)
class _Layout:
    """Names of files or folders, in any case, and what is said of them."""

    names: str
    what: str
    advice: str


_ORIGINAL = "pass the model that it was made from"
ZERO_ADVICE = (
    "convert it with `python zero_to_fp32.py . OUT`, the script that DeepSpeed puts beside it, "
    "and pass OUT"
)
_DCP = (
    "convert it with `python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER "
    "model.pt` and pass model.pt"
)
_MEGATRON = (
    "convert it to the Hugging Face format with Megatron-LM's tools/checkpoint/convert.py or with "
    "Megatron Bridge, and pass that folder"
)
_FLAX = (
    "convert it with transformers 4, from_pretrained(FOLDER, from_flax=True) and then "
    "save_pretrained(OUT), and pass OUT"
)
_TENSORFLOW = (
    "convert it with transformers 4, from_pretrained(FOLDER, from_tf=True) and then "
    "save_pretrained(OUT), and pass OUT"
)
_ORBAX = (
    "restore it with orbax.checkpoint and pass its unembedding matrix, (vocabulary, hidden size), "
    "as an array or a .npy file"
)

# In the order in which they are told: what is more telling comes first.
_LAYOUTS = (
    _Layout(
        r"pytorch_model_fsdp_\d+",
        "a sharded checkpoint of FSDP",
        "convert it with `accelerate merge-weights FOLDER OUT` and pass OUT",
    ),
    _Layout(
        r"pytorch_model_fsdp_rank\d+\.bin|.*local_state_dict.*rank.*",
        "one rank's part of a model of FSDP",
        "save it with the state dict type FULL_STATE_DICT",
    ),
    _Layout(
        r"(bf16_|fp16_)?zero_pp_rank_\d+.*|zero_to_fp32\.py",
        "of a checkpoint of DeepSpeed (ZeRO)",
        ZERO_ADVICE,
    ),
    _Layout(
        r"layer_\d+-model_\d+-model_states\.pt",
        "a layer of a checkpoint of DeepSpeed's pipeline",
        "convert it with `ds_to_universal.py` or with the tool of the project that trained it, "
        "and pass a whole state dict",
    ),
    _Layout(r"global_step\d+", "a checkpoint of DeepSpeed", ZERO_ADVICE),
    _Layout(
        r"mp_rank_\d+(_\d+)*|model_optim_rng\.pt|model_rng\.pt|iter_\d+"
        r"|latest_checkpointed_iteration\.txt|distrib_optim\.pt",
        "a checkpoint of Megatron-LM",
        _MEGATRON,
    ),
    _Layout(r"\.metadata|__\d+_\d+\.distcp", "a distributed checkpoint of torch", _DCP),
    _Layout(
        r"model\d+-mp([2-9]|\d{2,})\.safetensors|.*[-_.](tp|mp)_?rank_?\d+\.\w+|.*[-_.]tp\d+\.\w+",
        "a part of a model cut for several GPUs",
        _ORIGINAL,
    ),
    _Layout(
        r"model-rank-\d+-part-\d+\.safetensors",
        "one rank's part of a sharded state of vLLM",
        _ORIGINAL,
    ),
    _Layout(r"rank\d+\.engine|.*\.engine|.*\.plan", "an engine of TensorRT", _ORIGINAL),
    _Layout(
        r".*model_part-\d+(-shard\d+)?\.pt|.*-shard\d+\.pt|model_mp\d+\.pt",
        "a part of a model of fairseq or metaseq",
        "put the parts together with metaseq's scripts (reshard_fsdp, reshard_mp), or pass the "
        "model in the Hugging Face format",
    ),
    _Layout(
        r".*\.nemo",
        "an archive of NeMo",
        "convert it to the Hugging Face format with NeMo's scripts/checkpoint_converters, and "
        "pass that folder",
    ),
    _Layout(r"flax_model.*\.msgpack(\.index\.json)?|.*\.msgpack", "weights of Flax", _FLAX),
    _Layout(
        r"_METADATA|_CHECKPOINT_METADATA|manifest\.ocdbt|ocdbt\.process_\d+|_sharding|.*\.zarray",
        "a checkpoint of Orbax",
        _ORBAX,
    ),
    _Layout(
        r"tf_model.*\.h5(\.index\.json)?|.*\.ckpt(-\d+)?\.(index|meta|data-\d+-of-\d+)"
        r"|saved_model\.pb(txt)?",
        "weights of TensorFlow",
        _TENSORFLOW,
    ),
    _Layout(
        r".*\.(h5|hdf5|keras)",
        "weights of Keras",
        "convert them with transformers, or pass the unembedding matrix as an array or a .npy file",
    ),
    _Layout(r".*\.(onnx|onnx_data|onnx\.data|ort)", "a graph of ONNX", _ORIGINAL),
    _Layout(r"openvino_.*\.(xml|bin)", "a model of OpenVINO", _ORIGINAL),
    _Layout(r".*\.(mlmodel|mlmodelc|mlpackage)", "a model of Core ML", _ORIGINAL),
    _Layout(r".*\.(tflite|task|litertlm)", "a model of LiteRT", _ORIGINAL),
    _Layout(r".*\.(pte|ptl)", "a program of ExecuTorch or PyTorch Mobile", _ORIGINAL),
    _Layout(r".*\.llamafile", "a llamafile", "take the .gguf file out of it with `unzip`"),
    _Layout(
        r"manifests",
        "a folder of models of Ollama",
        "pass the file that `ollama show --modelfile NAME` names after FROM, blobs/sha256-...",
    ),
)
_PATTERNS = [(re.compile(layout.names, re.IGNORECASE | re.DOTALL), layout) for layout in _LAYOUTS]

# How files start that may have any name.
_STARTS = {
    b"\x89HDF\r\n\x1a\n": ("an HDF5 file, as Keras writes", _TENSORFLOW),
    b"tjgg": ("a GGML file from before GGUF", "convert it with llama.cpp's converter to GGUF"),
    b"fmgg": ("a GGML file from before GGUF", "convert it with llama.cpp's converter to GGUF"),
    b"lmgg": ("a GGML file from before GGUF", "convert it with llama.cpp's converter to GGUF"),
}
_LONGEST_START = max(map(len, _STARTS))

# What a training script puts beside the weights, with the endings of weights.
_STATES = re.compile(
    r"training_args\.bin|optimizer.*\.(bin|pt)|scheduler.*\.(bin|pt)|scaler\.pt"
    r"|rng_state.*\.(pt|pth)|.*_optim_states\.pt|meta\.pt|common\.pt",
    re.IGNORECASE,
)


def is_state(name: str) -> bool:
    """Return whether a file holds a trainer's state, by its name, and no weights."""
    return _STATES.fullmatch(name) is not None


def is_of_another_tool(name: str) -> bool:
    """Return whether a name is that of what `refuse_other_tools` refuses."""
    return any(pattern.fullmatch(name) for pattern, _ in _PATTERNS)


def refuse_other_tools(where: object, names: Iterable[str]) -> None:
    """Raise if one of the names is that of a layout which is not read.

    Parameters
    ----------
    where
        The file or the folder, for the message.
    names
        The file's name, or the folder's.
    """
    names = list(names)
    for pattern, layout in _PATTERNS:
        for name in names:
            if pattern.fullmatch(name):
                raise CheckpointError(
                    f"{where}: found {shown(name)}, {layout.what}, which is not read; "
                    f"{layout.advice}"
                )


def refuse_start(file: InputFile) -> None:
    """Raise if a file starts as one of another tool does."""
    start = file.read(0, min(file.size, _LONGEST_START)).tobytes()
    for magic, (what, advice) in _STARTS.items():
        if start.startswith(magic):
            raise CheckpointError(f"{file.path}: found {what}, which is not read; {advice}")
