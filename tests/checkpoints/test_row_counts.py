"""Padding: rows of zeros and copies are counted and warned of, and the tokenizer is asked."""

from __future__ import annotations

import json
import warnings

import gguf
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from command_line import run

from embedfilter import EmbedFilter
from embedfilter.checkpoints import open_unembedding
from embedfilter.checkpoints.row_counts import RowCounts, count_rows
from embedfilter.errors import CheckpointError

V, D = 2000, 32


def matrix(*, zeros: int = 0, copies: int = 0) -> np.ndarray:
    """Random rows; at the end `copies` that equal the row before them, then zeros."""
    W = np.random.default_rng(0).standard_normal((V, D)).astype(np.float32)
    end = V - zeros
    W[end:] = 0
    W[end - copies : end] = W[end - copies - 1]
    return W


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", ml_dtypes.bfloat16])
@pytest.mark.parametrize("width", [1, 3, 5, 31, D])
@pytest.mark.parametrize("n_rows", [1, 700, None])
def test_counts(dtype, width, n_rows):
    # Whole numbers up to 90 stay apart in every type and width.
    W_given = np.tile(np.arange(90)[:, None], (1, width)).astype(dtype)
    W_given[40:45] = -0.0
    W_given[60:67] = W_given[3]
    with open_unembedding(W_given) as W:
        blocks = W.blocks(n_rows)
        done: list[int] = []
        assert count_rows(blocks, done.append) == RowCounts(zero=6, copies=7)
        assert sum(done) == 90


def test_counts_equal_numpys(rng):
    W_given = rng.integers(0, 2, (500, 6)).astype(np.float32)
    nonzero = W_given[W_given.any(axis=1)]
    with open_unembedding(W_given) as W:
        counts = count_rows(W.blocks(100))
    assert counts.zero == 500 - len(nonzero)
    assert counts.copies == len(nonzero) - len(np.unique(nonzero, axis=0))


def test_no_rows():
    assert count_rows([]) == RowCounts(0, 0)


@pytest.mark.parametrize(
    ("options", "share"),
    [
        ({}, None),
        ({"copies": 40}, None),
        ({"zeros": 900}, None),  # which do not move the directions
        ({"copies": 400}, "20%"),
        ({"copies": 400, "zeros": 800}, "20%"),
    ],
)
def test_large_share_of_copies_is_warned_of(options, share):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        EmbedFilter.from_matrix(matrix(**options))
    if share is None:
        assert not caught
        return
    (warning,) = caught
    assert f"about {share} of its 2000 rows are copies of row" in str(warning.message)
    assert warning.filename == __file__


def test_a_few_rows_alike_are_no_large_share():
    W = np.repeat(np.random.default_rng(0).standard_normal((8, 4)), 4, axis=0)
    EmbedFilter.from_matrix(W)


def test_zeros_do_not_move_the_filter():
    few, many = (EmbedFilter.from_matrix(matrix(zeros=n)[: V - 900 + n]) for n in (0, 900))
    np.testing.assert_allclose(few.components, many.components, atol=1e-5)


# ---- The tokenizer ---------------------------------------------------------------------------


def tokenizer(vocabulary: object, added: object = ()) -> str:
    return json.dumps({"model": {"type": "x", "vocab": vocabulary}, "added_tokens": added})


@pytest.fixture
def model(tmp_path):
    safetensors.numpy.save_file(
        {"lm_head.weight": matrix(zeros=50, copies=20)}, tmp_path / "model.safetensors"
    )
    config = {"hidden_size": D, "vocab_size": 1990}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


MAP = {f"token {number}": number for number in range(1900)}
ADDED = [{"id": 1900, "content": "<pad>"}, {"id": 1929, "content": "<mask>"}]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, 1990),  # the config's
        (tokenizer(MAP), 1900),
        (tokenizer(MAP, ADDED), 1930),
        (tokenizer([[token, -1.5] for token in MAP]), 1900),
        (tokenizer([[token, -1.5] for token in MAP], ADDED), 1930),
        (tokenizer({}), 1990),
        (tokenizer(None, None), 1990),
        (tokenizer({"a": "b", "c": True}, [{"id": None}, 3]), 1990),
        ("{}", 1990),
        ('{"model": []}', 1990),
    ],
)
def test_number_of_tokens(model, text, expected):
    if text is not None:
        (model / "tokenizer.json").write_text(text)
    with open_unembedding(model) as W:
        assert W.n_tokens == expected


@pytest.mark.parametrize("text", ["", "[]", '{"model": {"vocab": ', '{"a":' * 100_000])
def test_damaged_tokenizer_is_named_when_it_is_asked(model, text):
    (model / "tokenizer.json").write_text(text)
    with open_unembedding(model) as W:
        with pytest.raises(CheckpointError, match=r"tokenizer\.json: the tokenizer"):
            W.n_tokens  # noqa: B018 - a property that reads
        assert W.rows(0, 1).shape == (1, D)


def test_unknown_number_of_tokens():
    with open_unembedding(matrix()) as W:
        assert W.n_tokens is None


def test_tokens_of_gguf(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_token_list([f"token {number}" for number in range(1950)])
    writer.add_tensor("output.weight", matrix())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with open_unembedding(tmp_path) as W:
        assert W.n_tokens == 1950


def test_inspect_counts(model):
    (model / "tokenizer.json").write_text(tokenizer(MAP, ADDED))
    facts = json.loads(run("inspect", model, "--json").stdout)
    assert {name: facts[name] for name in list(facts)[-4:]} == {
        "tokens": 1930,
        "padding_rows": 70,
        "zero_rows": 50,
        "copied_rows": 20,
    }
    lines = run("inspect", model).stdout.splitlines()
    assert [line.split() for line in lines[-4:]] == [
        ["tokens", "1930"],
        ["padding_rows", "70"],
        ["zero_rows", "50"],
        ["copied_rows", "20"],
    ]


def test_inspect_warns(tmp_path):
    safetensors.numpy.save_file({"lm_head.weight": matrix(copies=400)}, tmp_path / "a.safetensors")
    done = run("inspect", tmp_path)
    assert "embedfilter: warning: " in done.stderr
    assert "rows are copies of row" in done.stderr


def test_inspect_of_what_has_no_tokenizer(tmp_path):
    np.save(tmp_path / "head.npy", matrix())
    facts = json.loads(run("inspect", tmp_path / "head.npy", "--json").stdout)
    assert list(facts)[-2:] == ["zero_rows", "copied_rows"]
    assert "tokens" not in facts


def test_real_models(smollm2):
    facts = json.loads(run("inspect", smollm2, "--json").stdout)
    assert facts["tokens"] == facts["vocabulary"] == 49152
    assert (facts["zero_rows"], facts["copied_rows"]) == (0, 11)
