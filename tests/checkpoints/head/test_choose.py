"""The right matrix or a refusal: heads under other names, packed, parametrised, or dropped.

Each source has the input embedding E and, somehow, the head H, both (400, 16); what is read must be
H, or the reason why not.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from numpy.typing import NDArray

from embedfilter import CheckpointError, EmbedFilter, LogitLens, open_unembedding
from embedfilter.checkpoints.head.packed import says_head, says_other
from embedfilter.errors import HeadError

V, D = 400, 16
RNG = np.random.default_rng(17)
E, H = (RNG.standard_normal((V, D)).astype(np.float32) for _ in range(2))
NORMS = np.linalg.norm(H, axis=1, keepdims=True)
STEPS = (np.abs(H).max(axis=1, keepdims=True) / 127).astype(np.float32)
CODES = np.round(H / STEPS).astype(np.int8)
INTS = RNG.integers(0, 100, (25, 32)).astype(np.int16)
HALVES = RNG.standard_normal(V).astype(np.float16)
EMBEDDING = "model.embed_tokens.weight"
UNTIED, TIED = {"tie_word_embeddings": False}, {"tie_word_embeddings": True}


def write(folder: Path, tensors: dict[str, NDArray], config: dict | None = None) -> Path:
    copies = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    safetensors.numpy.save_file(copies, folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def rows(folder: Path) -> NDArray:
    with open_unembedding(folder) as W:
        assert W.doubts == ()
        return W.rows(0, V)


# ---- heads under other names -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("embedding", "head"),
    [
        ("embed.weight", "head.weight"),  # DeepSeek-V4
        ("embedding.weight", "unembedding.weight"),  # gpt-oss
        ("decoder.embed_tokens.weight", "decoder.output_projection.weight"),  # fairseq
        (EMBEDDING, "to_logits.weight"),
        (EMBEDDING, "logits_proj.weight"),
        ("embed.weight", "generator.weight"),
        ("tok.weight", "output"),
    ],
)
def test_the_one_whose_name_says_head(tmp_path: Path, embedding: str, head: str) -> None:
    write(tmp_path, {embedding: E, head: H}, {"vocab_size": V})
    assert np.array_equal(rows(tmp_path), H)


def test_no_word_says_both() -> None:
    words = "lm_head head heads output outputs unembed unembedding output_projection"
    words += " output_layer logits to_logits embed_out generator proj_out lm_loss predictions"
    words += " pred_layer vocab_projector output_embedding"
    for word in words.split():
        assert says_head(f"{word}.weight"), word
        assert not says_other(f"{word}.weight"), word


@pytest.mark.parametrize("head", ["my_head.weight", "some_heads.weight", "codec_head.weight"])
def test_a_head_of_something(tmp_path: Path, head: str) -> None:
    """It may be one of tokens, or of anything else."""
    write(tmp_path, {EMBEDDING: E, head: H}, UNTIED)
    with pytest.raises(CheckpointError, match=f"not known .'{head}'"):
        open_unembedding(tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        ["student.model.embed_tokens.weight", "teacher.model.embed_tokens.weight"],
        ["student.embed_tokens.weight"],
    ],
)
@pytest.mark.parametrize("part", ["teacher", "other"])
@pytest.mark.parametrize("config", [TIED, UNTIED])
def test_the_head_of_another_part(
    tmp_path: Path, names: list[str], part: str, config: dict
) -> None:
    names = [name.replace("teacher", part) for name in names]
    write(tmp_path, {**dict.fromkeys(names, E), f"{part}.lm_head.weight": H}, config)
    with pytest.raises(CheckpointError, match="pass tensor="):
        open_unembedding(tmp_path)


@pytest.mark.parametrize("state", ["momentum", "grad", "exp_avg"])
def test_an_optimizer_s_states(tmp_path: Path, state: str) -> None:
    write(tmp_path, {f"{state}.lm_head.weight": H, "step": HALVES})
    with pytest.raises(CheckpointError, match="found neither"):
        open_unembedding(tmp_path)


@pytest.mark.parametrize("beside", ["scale", "weight_col_scale", "row_gain"])
def test_something_unknown_beside_a_head(tmp_path: Path, beside: str) -> None:
    write(tmp_path, {EMBEDDING: E, "lm_head.weight": H, f"lm_head.{beside}": HALVES})
    with open_unembedding(tmp_path) as W:
        assert W.name == "lm_head.weight"
        assert f"'lm_head.{beside}'" in W.doubts[0]


@pytest.mark.parametrize("config", [None, TIED, UNTIED])
def test_a_second_matrix_of_which_nothing_is_known(tmp_path: Path, config: dict | None) -> None:
    write(tmp_path, {EMBEDDING: E, "foo.bar.weight": H}, config)
    with pytest.raises(CheckpointError, match=r"embed_tokens.*foo\.bar.*pass tensor="):
        open_unembedding(tmp_path)


def test_what_stands_beside_a_tied_embedding(tmp_path: Path) -> None:
    """Positions, classifiers, norms, towers and tables for each layer are no heads."""
    beside = {
        "model.embed_positions.weight": H,
        "score.weight": H[:3],
        "model.norm.weight": H[0],
        "vision_model.head.weight": H,
        "model.embed_tokens_per_layer.weight": np.concatenate([H, H], axis=1),
        "model.layers.0.output.dense.weight": H,
        "lm_head.layer_norm.weight": H[0],
        "lm_head.dense.weight": H[:D],
    }
    write(tmp_path, {EMBEDDING: E, **beside}, TIED)
    assert np.array_equal(rows(tmp_path), E)


# ---- packed and parametrised heads -------------------------------------------------------------


@pytest.mark.parametrize(
    ("beside", "said"),
    [
        ({"trellis": INTS, "svh": HALVES}, "EXL3"),
        ({"q_weight": INTS, "q_scale": INTS, "q_groups": INTS[0]}, "EXL2"),
        ({"_weight_qdata": INTS, "_weight_scale": HALVES}, "torchao"),
        ({"W_q": INTS, "meta": HALVES}, "HQQ"),
        ({"weight._data": CODES, "weight._scale": STEPS}, "quanto"),
        ({"codes": INTS, "codebooks": HALVES}, "AQLM"),
        ({"Qidxs": INTS, "SU": HALVES}, "QuIP#"),
        ({"indices": INTS, "centroids": HALVES}, "VPTQ"),
        ({"weight": CODES.view(np.uint8), "weight_scale": HALVES[:1]}, "codes with scales"),
        ({"weight_orig": H, "weight_u": HALVES}, "spectral norm"),
        ({"zorp": INTS, "scale": HALVES}, r"form that is not known \('lm_head\.zorp'\)"),
        ({"0.weight": H[:4], "1.weight": H[:, :4]}, r"not known \('lm_head\.1\.weight'\)"),
        ({"kernel": H.T}, r"not known \('lm_head\.kernel'\)"),
        ({"0.weight": H[:200], "1.weight": H[200:]}, r"not known \('lm_head\.0\.weight', "),
        ({"shard_0.weight": H[:200], "shard_1.weight": H[200:]}, r"not known \('lm_head\.shard_0"),
        ({"table": HALVES.reshape(4, 10, 10)}, r"not known \('lm_head\.table'\)"),
    ],
)
@pytest.mark.parametrize("config", [None, UNTIED, TIED])
def test_packed_heads_are_refused(
    tmp_path: Path, beside: dict[str, NDArray], said: str, config: dict | None
) -> None:
    tensors = {f"lm_head.{name}": array for name, array in beside.items()}
    write(tmp_path, {EMBEDDING: E, **tensors}, config)
    with pytest.raises(CheckpointError, match=said) as raised:
        open_unembedding(tmp_path)
    assert "\n" not in str(raised.value)
    with open_unembedding(tmp_path, tensor=EMBEDDING) as W:
        assert np.array_equal(W.rows(0, V), E)


@pytest.mark.parametrize(
    ("beside", "tolerance"),
    [
        ({"weight_v": 3 * H, "weight_g": NORMS}, 1e-6),
        (
            {
                "parametrizations.weight.original1": 3 * H,
                "parametrizations.weight.original0": NORMS,
            },
            1e-6,
        ),
        ({"weight": CODES, "weight_scale": STEPS}, 0.02),
        ({"weight": CODES, "SCB": 127 * STEPS[:, 0], "weight_format": np.uint8([0])}, 0.02),
    ],
)
def test_forms_that_are_a_few_exact_lines(
    tmp_path: Path, beside: dict[str, NDArray], tolerance: float
) -> None:
    tensors = {f"lm_head.{name}": array for name, array in beside.items()}
    write(tmp_path, {EMBEDDING: E, **tensors}, UNTIED)
    found = rows(tmp_path)
    np.testing.assert_allclose(found, H, rtol=tolerance, atol=tolerance)
    if "weight" in beside:
        np.testing.assert_allclose(found, CODES * STEPS, rtol=1e-6)
    with open_unembedding(tmp_path) as W:
        assert len(W.notes) == 1
        assert np.array_equal(W.rows(7, 31), found[7:31])


def test_weight_norm_of_another_shape(tmp_path: Path) -> None:
    write(tmp_path, {EMBEDDING: E, "lm_head.weight_v": H, "lm_head.weight_g": NORMS[:9]})
    with pytest.raises(CheckpointError, match="expected 400 floats, found F32 of shape"):
        open_unembedding(tmp_path)


# ---- what the model does to its head -----------------------------------------------------------


@pytest.mark.parametrize("config", [{"model_type": "baichuan"}, {"norm_head": True}])
def test_rows_divided_by_their_norms(tmp_path: Path, config: dict) -> None:
    write(tmp_path, {EMBEDDING: E, "lm_head.weight": H}, {"vocab_size": V, **config})
    np.testing.assert_allclose(rows(tmp_path), H / NORMS, rtol=1e-6)
    f = EmbedFilter.from_checkpoint(tmp_path)
    assert f == EmbedFilter.from_matrix(rows(tmp_path))
    assert "NormHead" in f.metadata["applied"]


def test_a_tensor_that_is_named_is_not_the_head(tmp_path: Path) -> None:
    write(tmp_path, {EMBEDDING: E, "lm_head.weight": H}, {"vocab_size": V, "norm_head": True})
    with open_unembedding(tmp_path, tensor=EMBEDDING) as W:
        assert np.array_equal(W.rows(0, V), E)
        assert "these are not it" in W.notes[0]
    with open_unembedding(tmp_path, tensor="lm_head.weight") as W:
        np.testing.assert_allclose(W.rows(0, V), H / NORMS, rtol=1e-6)


def test_baichuan_of_the_first_generation(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    W = rng.standard_normal((64000, 4)).astype(np.float32)
    write(tmp_path, {"lm_head.weight": W}, {"model_type": "baichuan", "vocab_size": 64000})
    with open_unembedding(tmp_path) as found:
        assert np.array_equal(found.rows(0, 64000), W)
        assert found.notes == ()


def test_what_leaves_the_directions_as_they_are_is_told(tmp_path: Path) -> None:
    config = {"logit_scale": 0.0625, "final_logit_softcapping": 30.0, "logits_scaling": 1}
    write(tmp_path, {EMBEDDING: E, "lm_head.weight": H}, config)
    assert np.array_equal(rows(tmp_path), H)
    with open_unembedding(tmp_path) as W:
        assert [note.split(" by ")[0].split(" at ")[0] for note in W.notes] == [
            "the model multiplies all logits",
            "the model caps the logits, in order,",
        ]


@pytest.mark.parametrize(
    ("head", "bias", "shape"),
    [
        ("lm_head.weight", "lm_head.bias", (V,)),
        ("lm_head.weight", "final_logits_bias", (1, V)),
        (None, "lm_head.bias", (V,)),
        (None, "cls.predictions.bias", (V,)),
        (None, "decoder.bias", (V,)),
        ("cls.predictions.decoder.weight", "cls.predictions.bias", (V,)),
        ("lm_head.decoder.weight", "lm_head.bias", (V,)),
    ],
)
def test_biases(tmp_path: Path, head: str | None, bias: str, shape: tuple[int, ...]) -> None:
    tensors = {EMBEDDING: E, bias: HALVES.reshape(shape)}
    write(tmp_path, tensors | ({} if head is None else {head: H}), TIED)
    with open_unembedding(tmp_path) as W:
        assert W.bias is not None
        assert W.bias.dtype == np.float32
        np.testing.assert_array_equal(W.bias, HALVES.astype(np.float32))


def test_bias_beside_weight_norm(tmp_path: Path) -> None:
    head = {"lm_head.weight_v": H, "lm_head.weight_g": NORMS, "lm_head.bias": HALVES}
    write(tmp_path, {EMBEDDING: E, **head})
    with open_unembedding(tmp_path) as W:
        np.testing.assert_array_equal(W.bias, HALVES.astype(np.float32))


def test_biases_of_other_things(tmp_path: Path) -> None:
    tensors = {EMBEDDING: E, "score.bias": HALVES, "lm_head.dense.bias": HALVES[:D]}
    write(tmp_path, tensors, TIED)
    with open_unembedding(tmp_path) as W:
        assert W.bias is None


# ---- is it tied? -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "tied", "evidence"),
    [
        (TIED, True, "config.json says tie_word_embeddings=true"),
        ({"text_config": TIED}, True, "config.json says tie_word_embeddings=true"),
        (
            {"untie_embeddings_and_output_weights": True},
            False,
            "config.json says untie_embeddings_and_output_weights=true",
        ),
        ({"model_type": "gpt2"}, True, "gpt2 shares it with the input embedding"),
        ({"model_type": "bert"}, True, "bert shares it with the input embedding"),
        (UNTIED, False, "config.json says tie_word_embeddings=false"),
        ({"model_type": "t5", **TIED, "scale_decoder_outputs": False}, False, "T5 1.1"),
        ({"model_type": "mt5", "feed_forward_proj": "gated-gelu"}, False, "T5 1.1"),
        ({"model_type": "t5", **TIED, "feed_forward_proj": "relu"}, True, "=true"),
        ({"model_type": "gpt2", **UNTIED}, False, "config.json says tie_word_embeddings=false"),
        ({"model_type": "llama"}, False, "llama does not share it"),
        ({"model_type": "of-tomorrow"}, False, "does not say that it is tied"),
        ({}, False, "does not say that it is tied"),
        (None, False, "there is no config.json to say"),
    ],
)
def test_evidence_for_tying(tmp_path: Path, config: dict | None, tied: bool, evidence: str) -> None:
    write(tmp_path, {EMBEDDING: E}, config)
    with open_unembedding(tmp_path) as W:
        assert W.name == EMBEDDING
        if tied:
            assert W.doubts == ()
            assert evidence in W.reason
        else:
            (doubt,) = W.doubts
            assert evidence in doubt
            assert f"tensor={EMBEDDING!r}" in doubt


def test_a_doubt_is_told_where_the_matrix_is_used(tmp_path: Path) -> None:
    write(tmp_path, {EMBEDDING: E}, UNTIED)
    with pytest.warns(UserWarning, match="probably not the unembedding matrix") as caught:
        f = EmbedFilter.from_checkpoint(tmp_path)
    assert caught[0].filename == __file__
    assert "probably not" in f.metadata["doubt"]
    with pytest.warns(UserWarning, match="probably not the unembedding matrix") as caught:
        LogitLens(tmp_path)
    assert caught[0].filename == __file__
    # Who names the tensor knows.
    named = EmbedFilter.from_checkpoint(tmp_path, tensor=EMBEDDING)
    assert named == f
    assert "doubt" not in named.metadata
    assert named.metadata["evidence"] == "named by tensor="


def test_an_encoder_is_told_of(tmp_path: Path) -> None:
    name = "embeddings.word_embeddings.weight"  # as of all-MiniLM
    path = write(tmp_path, {name: E}, {"model_type": "bert"})
    with pytest.warns(UserWarning, match="bert are encoders, not language models"):
        f = EmbedFilter.from_checkpoint(path)
    named = EmbedFilter.from_checkpoint(path, tensor=name)  # no warning
    assert named == f


def test_a_doubt_names_the_base_model(tmp_path: Path) -> None:
    write(tmp_path, {EMBEDDING: E}, UNTIED)
    card = "---\nbase_model: mistralai/Mistral-7B-v0.1\n---\nAn embedding model.\n"
    (tmp_path / "README.md").write_text(card, encoding="utf-8")
    with open_unembedding(tmp_path) as W:
        assert "base model 'mistralai/Mistral-7B-v0.1'" in W.doubts[0]


# ---- what has a head's name, and is none --------------------------------------------------------


@pytest.mark.parametrize("state", ["momentum", "grad", "exp_avg", "optimizer_state"])
def test_a_trainers_state_is_no_weight(tmp_path: Path, state: str) -> None:
    write(tmp_path, {f"{state}.lm_head.weight": H, f"{state}.model.embed_tokens.weight": E}, TIED)
    with pytest.raises(HeadError, match="found neither"):
        open_unembedding(tmp_path)
    tensors = {EMBEDDING: E, "lm_head.weight": H, f"{state}.lm_head.weight": E}
    write(tmp_path, tensors, UNTIED)
    assert np.array_equal(rows(tmp_path), H)


def test_the_only_array_of_a_file_by_the_name_of_an_embedding(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", embed_tokens=E)
    with pytest.warns(UserWarning, match="may not be the unembedding matrix"):
        EmbedFilter.from_checkpoint(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", W=H)
    assert np.array_equal(rows(tmp_path / "b.npz"), H)


@pytest.mark.parametrize("other", ["pytorch_model.bin", "head.safetensors"])
def test_weights_beside_a_file_without_a_head_are_named(tmp_path: Path, other: str) -> None:
    write(tmp_path, {EMBEDDING: E}, UNTIED)
    for name in (other, "adapter_model.bin", "optimizer.pt", "training_args.bin", "weights.gguf"):
        (tmp_path / name).write_bytes(b"")
    with open_unembedding(tmp_path) as W:
        (doubt,) = W.doubts
        assert doubt.endswith(f"; beside it lies {other!r}, which may have the head")
