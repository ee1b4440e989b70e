"""Meta's layout, Mistral's, and what trainers write for several GPUs: put together or refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from embedfilter import CheckpointError, open_unembedding

V, D = 400, 16
E, H = np.random.default_rng(0).standard_normal((2, V, D), np.float32)
HEAD, EMBEDDING, QUERIES = "output.weight", "tok_embeddings.weight", "layers.0.attention.wq.weight"


def tensors(number: int, count: int, cut: str, *, head: bool = True, layer: bool = False):
    """What a part of `count` holds: rows of the head, columns or rows of the embedding."""
    axis = {"columns": 1, "rows": 0}[cut]
    parts = {EMBEDDING: np.split(E, count, axis)[number]}
    if head:
        parts[HEAD] = np.split(H, count)[number]
    if layer:
        parts[QUERIES] = np.ones((D // count, D), np.float32)
    parts["norm.weight"] = np.ones(D, np.float32)
    return {name: torch.from_numpy(array.copy()) for name, array in parts.items()}


def write(folder: Path, count: int, cut: str, dtype=torch.float32, **options: bool) -> list[Path]:
    paths = [folder / f"consolidated.{number:02}.pth" for number in range(count)]
    for number, path in enumerate(paths):
        parts = tensors(number, count, cut, **options)
        torch.save({name: tensor.to(dtype) for name, tensor in parts.items()}, path)
    return paths


def params(folder: Path, vocab_size: int | None = -1, **more: object) -> None:
    values = {"dim": D, "n_heads": 4, "n_layers": 1, "norm_eps": 1e-5, **more}
    if vocab_size is not None:
        values["vocab_size"] = vocab_size
    (folder / "params.json").write_text(json.dumps(values))


def refused(source: Path, **options: str) -> str:
    with pytest.raises(CheckpointError) as raised:
        open_unembedding(source, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def check(source: Path, expected: np.ndarray, name: str = HEAD, **options: str) -> None:
    with open_unembedding(source, **options) as W:
        assert (W.name, W.shape) == (name, expected.shape)
        np.testing.assert_array_equal(W.rows(0, V), expected)
        for start, stop in ((0, 0), (0, 1), (60, 250), (99, 101), (200, 400), (399, 400)):
            np.testing.assert_array_equal(W.rows(start, stop), expected[start:stop])
        np.testing.assert_array_equal(np.concatenate([rows for _, rows in W.blocks(37)]), expected)


# ---- Meta --------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 4, 8])
@pytest.mark.parametrize("cut", ["columns", "rows"])
def test_parts_are_put_together(tmp_path, count, cut):
    paths = write(tmp_path, count, cut)
    params(tmp_path, V if cut == "rows" else -1)
    for source in (tmp_path, *paths):
        check(source, H)
        check(source, E, EMBEDDING, tensor=EMBEDDING)
    if count > 1:
        with open_unembedding(tmp_path) as W:
            assert f"put together from {count} parts, its rows one after another" in W.reason


def test_rows_are_put_together_by_a_layers_size(tmp_path):
    paths = write(tmp_path, 2, "rows", layer=True)
    params(tmp_path)
    check(tmp_path, H)
    paths[1].unlink()
    assert "expected 2 parts by params.json, found 1 part" in refused(tmp_path)


def test_half_precision(tmp_path):
    write(tmp_path, 2, "columns", torch.bfloat16)
    params(tmp_path)
    with open_unembedding(tmp_path) as W:
        assert W.dtype == "BF16"
        expected = torch.from_numpy(H).bfloat16().double().numpy()
        np.testing.assert_array_equal(W.rows(0, V).astype(float), expected)


@pytest.mark.parametrize("gone", [0, 1, 2, 3])
@pytest.mark.parametrize("cut", ["columns", "rows"])
def test_a_part_that_is_missing(tmp_path, cut, gone):
    paths = write(tmp_path, 4, cut)
    params(tmp_path, V if cut == "rows" else -1)
    paths.pop(gone).unlink()
    for source in (tmp_path, *paths):
        message = refused(source)
        assert "a part of a model in Meta's layout" in message
        assert "give the folder with all parts" in message


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("cut", ["columns", "rows"])
@pytest.mark.parametrize("vocab_size", [-1, V])
def test_a_part_alone(tmp_path, cut, number, vocab_size):
    layer = cut == "rows" and vocab_size == -1  # or else nothing tells
    paths = write(tmp_path, 2, cut, layer=layer)
    params(tmp_path, vocab_size)
    paths[1 - number].unlink()
    assert "give the folder with all parts" in refused(paths[number])


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("given", [None, "{}", '{"dim": -1}', '{"vocab_size": 400}'])
def test_without_params(tmp_path, count, given):
    paths = write(tmp_path, count, "columns")
    if given:
        (tmp_path / "params.json").write_text(given)
    message = refused(paths[0])
    assert "expected params.json with dim beside it" in message
    assert "give the folder with params.json and all parts" in message


def test_without_params_the_user_may_know(tmp_path):
    (path,) = write(tmp_path, 1, "rows")
    check(path, H, tensor=HEAD)


def test_a_config_in_place_of_params(tmp_path):
    write(tmp_path, 2, "columns")
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": D, "vocab_size": V}))
    check(tmp_path, H)


def test_rows_of_an_unknown_number_of_parts(tmp_path):
    write(tmp_path, 2, "rows")
    params(tmp_path)
    assert "expected a vocab_size > 0 in params.json" in refused(tmp_path)


def test_an_odd_cut(tmp_path):
    for number in range(2):
        torch.save({HEAD: torch.ones(V, D // 2)}, tmp_path / f"consolidated.0{number}.pth")
    params(tmp_path, V)
    assert "cut in a way that is not known" in refused(tmp_path)


def test_parts_that_do_not_fit(tmp_path):
    paths = write(tmp_path, 2, "columns")
    params(tmp_path)
    torch.save({HEAD: torch.ones(3, D), EMBEDDING: torch.ones(V, D // 2)}, paths[1])
    assert "expected a part of shape (200, 16)" in refused(tmp_path)
    torch.save({"other": torch.ones(3, D)}, paths[1])
    assert "found none" in refused(tmp_path)
    torch.save({"other": torch.ones(3, D)}, paths[0])
    assert "by which Meta's layout is known, found neither" in refused(tmp_path)


def test_another_tensor_of_the_parts(tmp_path):
    write(tmp_path, 2, "columns", layer=True)
    params(tmp_path)
    assert "cut in a way that is not known" in refused(tmp_path, tensor=QUERIES)


def test_one_tied_part(tmp_path):
    write(tmp_path, 1, "rows", head=False)
    params(tmp_path, V, tied_embeddings=True)
    check(tmp_path, E, EMBEDDING)


def test_other_files_are_preferred(tmp_path):
    write(tmp_path, 2, "columns")
    params(tmp_path)
    torch.save({"lm_head.weight": torch.from_numpy(2 * H)}, tmp_path / "pytorch_model.bin")
    check(tmp_path, 2 * H, "lm_head.weight")
    safetensors.numpy.save_file({"lm_head.weight": 3 * H}, tmp_path / "model.safetensors")
    check(tmp_path, 3 * H, "lm_head.weight")


@pytest.mark.parametrize("given", ["", "consolidated.safetensors"])
def test_mistrals_file(tmp_path, given):
    safetensors.numpy.save_file({EMBEDDING: E, HEAD: H}, tmp_path / "consolidated.safetensors")
    params(tmp_path, V)
    check(tmp_path / given, H)
    params(tmp_path, V + 1)
    if given:  # params.json is read for it
        assert "lacks rows: expected at least 401, the vocabulary in params.json" in refused(
            tmp_path / given
        )


# ---- DeepSpeed ---------------------------------------------------------------------------------

STATES = "mp_rank_00_model_states.pt"


def states(path: Path, **changes: object) -> None:
    weights = {"model.embed_tokens.weight": E, "lm_head.weight": H}
    module = {name: torch.from_numpy(array) for name, array in weights.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(
        {"module": module, "optimizer": None, "mp_world_size": 1, "dp_world_size": 4} | changes,
        path,
    )


def test_deepspeeds_whole_model(tmp_path):
    states(tmp_path / "global_step10" / STATES)
    torch.save({}, tmp_path / "global_step10" / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt")
    (tmp_path / "zero_to_fp32.py").write_text("")
    torch.save({}, tmp_path / "rng_state_0.pth")
    for source in ("", "global_step10", f"global_step10/{STATES}"):
        check(tmp_path / source, H, "lm_head.weight")
    states(tmp_path / "global_step9" / STATES, module={"lm_head.weight": torch.ones(V, D)})
    assert "found 2: 'global_step10', 'global_step9'; pass the path" in refused(tmp_path)
    (tmp_path / "latest").write_text("global_step10\n")
    check(tmp_path, H, "lm_head.weight")


def test_lightnings_folder_of_deepspeed(tmp_path):
    folder = tmp_path / "epoch=1.ckpt"
    states(folder / "checkpoint" / STATES, module=None, state_dict=None)
    (folder / "latest").write_text("checkpoint")
    assert "python zero_to_fp32.py" in refused(folder)
    states(folder / "checkpoint" / STATES)
    check(folder, H, "lm_head.weight")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mp_world_size": 2}, "found mp_world_size 2"),
        ({"module": None}, "found no weights; convert it with `python zero_to_fp32.py . OUT`"),
        ({"module": {"lm_head.weight": torch.ones(0)}}, "python zero_to_fp32.py . OUT"),
    ],
)
def test_deepspeeds_parts(tmp_path, changes, message):
    states(tmp_path / STATES, **changes)
    assert message in refused(tmp_path / STATES)
    states(tmp_path / STATES)
    states(tmp_path / STATES.replace("00", "01"))
    assert "cut for 2 GPUs, the others being 'mp_rank_01_model_states.pt'" in refused(
        tmp_path / STATES
    )


@pytest.mark.parametrize("latest", ["", "gone", "..", "\0", "x" * 5000, "/"])
def test_an_odd_latest(tmp_path, latest):
    (tmp_path / "latest").write_text(latest)
    (tmp_path / "global_step10").mkdir()
    assert "global_step10" in refused(tmp_path)


# ---- TensorRT-LLM ------------------------------------------------------------------------------


def test_tensorrt_llm(tmp_path):
    path = tmp_path / "rank0.safetensors"
    safetensors.numpy.save_file(
        {"transformer.vocab_embedding.weight": E, "lm_head.weight": H}, path
    )
    for source in (tmp_path, path):
        assert "nothing that says how many there are" in refused(source)
    for size in (1, 2):
        config = {"vocab_size": V, "mapping": {"world_size": size}}
        (tmp_path / "config.json").write_text(json.dumps(config))
        for source in (tmp_path, path):
            if size == 1:
                check(source, H, "lm_head.weight")
            else:
                assert "expected a world_size of 1, found 2 by config.json" in refused(source)
    (tmp_path / "rank1.safetensors").write_bytes(b"")
    for source in (tmp_path, path):
        assert "found 'rank1.safetensors'; pass the model that it was made from" in refused(source)
