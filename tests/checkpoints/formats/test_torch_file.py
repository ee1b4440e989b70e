"""Files that torch.save writes: read as torch reads them, and nothing in them is run."""

from __future__ import annotations

import builtins
import hashlib
import json
import os
import pickle
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from embedfilter import EmbedFilter
from embedfilter.checkpoints import open_unembedding
from embedfilter.commands.main import main
from embedfilter.errors import CheckpointError

V, D = 203, 12
TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


def head(dtype: str = "F32", seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(V, D, generator=generator).to(TYPES[dtype])


def state_dict(dtype: str = "F32") -> dict[str, torch.Tensor]:
    return {
        "model.embed_tokens.weight": head(dtype, 1),
        "model.layers.0.mlp.weight": torch.ones(5, 3, dtype=torch.int64),
        "lm_head.weight": head(dtype),
    }


def as_float64(rows: np.ndarray) -> np.ndarray:
    return rows.astype(np.float64)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("n_rows", [1, 64, None])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth"])
def test_rows_and_blocks_equal_torch(tmp_path, dtype, n_rows, name):
    torch.save(state_dict(dtype), tmp_path / name)
    for source in (tmp_path, tmp_path / name):
        with open_unembedding(source) as W:
            assert (W.name, W.shape, W.dtype, W.tied) == ("lm_head.weight", (V, D), dtype, False)
            rows = np.concatenate([rows for _, rows in W.blocks(n_rows)])
            np.testing.assert_array_equal(as_float64(rows), head(dtype).double().numpy())
            np.testing.assert_array_equal(W.rows(3, 5), rows[3:5])
            assert W.rows(3, 5).flags.c_contiguous
            raw = head(dtype).view(torch.uint8).numpy().tobytes()
            assert W.fingerprint() == hashlib.sha256(raw).hexdigest()


def test_views_and_parameters(tmp_path):
    wide = torch.cat([head(), head()], dim=1)
    tensors = {"lm_head.weight": wide[:, D:], "other": torch.nn.Parameter(head().T)}
    torch.save(tensors, tmp_path / "model.pt")
    with open_unembedding(tmp_path / "model.pt") as W:
        np.testing.assert_array_equal(W.rows(0, V), head().numpy())
    torch.save({"lm_head.weight": tensors["other"].T}, tmp_path / "model.pt")
    with open_unembedding(tmp_path / "model.pt") as W:
        np.testing.assert_array_equal(W.rows(0, V), head().numpy())


def test_tied_tensors_are_stored_once_and_found_twice(tmp_path):
    W_given = head()
    torch.save({"lm_head.weight": W_given, "model.embed_tokens.weight": W_given}, tmp_path / "a.pt")
    with open_unembedding(tmp_path / "a.pt") as W:
        assert (W.name, W.tied) == ("lm_head.weight", False)


@pytest.mark.parametrize("keys", [["state_dict"], ["model"], ["model_state_dict"], ["module"]])
def test_checkpoint_of_a_training_run(tmp_path, keys):
    saved: dict = state_dict()
    for key in keys:
        saved = {key: saved, "epoch": 3, "optimizer": {"lr": 0.1}}
    torch.save(saved, tmp_path / "model.pt")
    with open_unembedding(tmp_path / "model.pt") as W:
        np.testing.assert_array_equal(W.rows(0, V), head().numpy())


def test_checkpoint_of_lightning(tmp_path):
    path = tmp_path / "last.ckpt"
    saved = {f"model.{name}": tensor for name, tensor in state_dict().items()}
    torch.save({"state_dict": saved, "pytorch-lightning_version": "2.5.0"}, path)
    with open_unembedding(path) as W:
        np.testing.assert_array_equal(W.rows(0, V), head().numpy())


def test_before_torch_1_6(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    torch.save(state_dict(), path, _use_new_zipfile_serialization=False)
    with open_unembedding(path) as W:
        np.testing.assert_array_equal(W.rows(0, V), head().numpy())


def test_the_same_filter_as_from_safetensors(tmp_path):
    torch.save(state_dict(), tmp_path / "pytorch_model.bin")
    f = EmbedFilter.from_checkpoint(tmp_path)
    assert f == EmbedFilter.from_matrix(head().numpy())


def test_config_is_compared(tmp_path):
    torch.save(state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": D + 1}))
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: .*expected 13 columns"):
        open_unembedding(tmp_path)


# ---- Sharded ---------------------------------------------------------------------------------

SHARD = "pytorch_model-{:05}-of-00002.bin"


@pytest.fixture
def sharded(tmp_path) -> Path:
    weight_map = {}
    tensors = state_dict("BF16")
    for number, names in enumerate((list(tensors)[:2], list(tensors)[2:]), 1):
        torch.save({name: tensors[name] for name in names}, tmp_path / SHARD.format(number))
        weight_map |= dict.fromkeys(names, SHARD.format(number))
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return tmp_path


@pytest.mark.parametrize("part", ["", "pytorch_model.bin.index.json"])
def test_sharded(sharded, part):
    (sharded / SHARD.format(1)).unlink()  # not needed
    with open_unembedding(sharded / part) as W:
        assert (W.name, W.dtype) == ("lm_head.weight", "BF16")
        np.testing.assert_array_equal(as_float64(W.rows(0, V)), head("BF16").double().numpy())


def test_index_names_files_of_torch_only(sharded):
    path = sharded / "pytorch_model.bin.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["lm_head.weight"] = "model.safetensors"
    path.write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"expected the base name of a \.bin file"):
        open_unembedding(sharded)


# ---- What must not be read -------------------------------------------------------------------


class Call:
    """Pickled as the call of a function."""

    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_pickle_is_not_run(tmp_path, legacy):
    marker = tmp_path / "ran"
    path = tmp_path / "pytorch_model.bin"
    saved = {**state_dict(), "evil": Call(os.mkdir, str(marker))}
    torch.save(saved, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match=r"found posix\.mkdir, which is not loaded") as raised:
        open_unembedding(path)
    assert not marker.exists()
    assert str(path) in str(raised.value)
    assert "weights_only" not in str(raised.value)  # torch's advice on how to run it
    assert "\n" not in str(raised.value)


def test_whole_module_is_not_unpickled(tmp_path):
    torch.save(torch.nn.Linear(D, V), tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"found torch\.nn\.modules\.linear\.Linear, which"):
        open_unembedding(tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ([head()], "expected tensors by their names, found a list"),
        (head(), "expected tensors by their names, found a Tensor"),
        ({"lm_head.weight": 3}, "found neither"),
        ({3: head()}, "found neither"),
        ({"lm_head.weight": head().to_sparse()}, "found neither"),
        ({"lm_head.weight": torch.zeros(V, D, dtype=torch.int8)}, "found I8, the codes"),
        ({"lm_head.weight": torch.zeros(V, D, dtype=torch.complex64)}, "found complex64"),
        ({"lm_head.weight": torch.zeros(V)}, r"found shape \(203,\)"),
        (
            {"lm_head.weight": torch.zeros(V, D, device="meta")},
            "lm_head.weight.: expected numbers, found none",
        ),
    ],
)
def test_what_holds_no_head(tmp_path, saved, message):
    path = tmp_path / "model.pt"
    torch.save(saved, path)
    with pytest.raises(CheckpointError, match=message) as raised:
        open_unembedding(path)
    assert str(path) in str(raised.value)


def archive(path: Path, entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in entries.items():
            file.writestr(name, data)


def storage_pickle(
    numel: int, size: tuple[int, ...], stride: tuple[int, ...], offset: int
) -> bytes:
    """A state dict of one tensor whose storage is what its entry says or not."""

    class Storage:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            if isinstance(value, Storage):
                return ("storage", torch.FloatStorage, "0", "cpu", numel)
            return None

    import io

    from torch._utils import _rebuild_tensor_v2

    call = Call(_rebuild_tensor_v2, Storage(), offset, size, stride, False, {})
    buffer = io.BytesIO()
    Pickler(buffer, protocol=2).dump({"lm_head.weight": call})
    return buffer.getvalue()


def written(path: Path, data: bytes, numbers: bytes) -> None:
    entries = {"a/data.pkl": data, "a/byteorder": b"little", "a/version": b"3\n"}
    archive(path, {**entries, "a/data/0": numbers})


def test_archive_written_by_hand_is_read(tmp_path):
    path = tmp_path / "model.pt"
    written(path, storage_pickle(V * D, (V, D), (D, 1), 0), head().numpy().tobytes())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with open_unembedding(path) as W:
            np.testing.assert_array_equal(W.rows(0, V), head().numpy())


@pytest.mark.parametrize(
    ("numel", "size", "stride", "offset"),
    [
        (V * D, (V + 1, D), (D, 1), 0),
        (V * D, (V, D), (D, 1), 1),
        (V * D, (V, D), (1 << 40, 1), 0),
        (1 << 40, (1 << 30, 1 << 10), (1 << 10, 1), 0),
        (1 << 62, (V, D), (D, 1), 1 << 61),
        (V * D, (1 << 62, 1 << 62), (1 << 62, 1), 0),
        (V * D, (-1, D), (D, 1), 0),
        (-1, (V, D), (D, 1), 0),
    ],
)
def test_tensor_that_leaves_its_storage(tmp_path, numel, size, stride, offset):
    path = tmp_path / "model.pt"
    written(path, storage_pickle(numel, size, stride, offset), head().numpy().tobytes())
    with pytest.raises(CheckpointError, match="found a damaged one") as raised:
        open_unembedding(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_file_cut_after_opening_is_an_error(tmp_path):
    path = tmp_path / "model.pt"
    torch.save(state_dict(), path)
    size = path.stat().st_size
    with open_unembedding(path) as W:
        os.truncate(path, 4096)
        with pytest.raises(
            CheckpointError, match=r"model\.pt: changed while it was read"
        ) as raised:
            W.rows(0, V)
    assert f"expected {size} bytes, found 4096" in str(raised.value)


def test_rows_outlive_the_file(tmp_path):
    path = tmp_path / "model.pt"
    torch.save(state_dict(), path)
    with open_unembedding(path) as W:
        rows = W.rows(0, V)
    os.truncate(path, 0)
    np.testing.assert_array_equal(rows, head().numpy())


# ---- torch itself ----------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path) -> Path:
    torch.save(state_dict(), tmp_path / "model.pt")
    return tmp_path / "model.pt"


def test_without_torch_the_message_says_what_to_install(file, monkeypatch, tmp_path):
    real = builtins.__import__

    def no_torch(name, *arguments, **options):
        if name == "torch":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", no_torch)
    with pytest.raises(ImportError, match=r"not installed: pip install 'torch>=2\.10'$") as raised:
        open_unembedding(file)
    assert str(file) in str(raised.value)
    result = CliRunner().invoke(main, ["fit", str(file), "-o", str(tmp_path / "f")])
    assert result.exit_code == 2
    assert "pip install 'torch>=2.10'" in result.output


def test_torch_that_is_too_old_is_refused(file, monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    with pytest.raises(ImportError, match=r"expected torch 2\.10 or newer, .*found 2\.9\.1"):
        open_unembedding(file)
