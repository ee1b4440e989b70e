"""Which model a fine-tune came from, as its files tell it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from checkpoint_files import ARCHITECTURE, gguf_file, gguf_pair, gguf_string
from hub_server import COMMIT, HubServer, SparseFile, small_model
from hypothesis import given
from hypothesis import strategies as st

from embedfilter.checkpoints import base_model
from embedfilter.checkpoints.base_model import base_models, named_base_models
from embedfilter.checkpoints.config import read_config
from embedfilter.checkpoints.formats.gguf import GgufFile
from embedfilter.checkpoints.hub.repository import open_repository
from embedfilter.files.folder import Folder
from embedfilter.files.input_file import InputFile

CARD = "---\nlicense: mit\n{}\ntags:\n- mteb\n---\n# A model\nbase_model: no/card\n"

LINES = """base_model:
|base_model: a/b|- a/b|  - c|tags:|  x: y||# a|x: 1|base_model: '|- yes|- 'q r'|-
|base_model: "a" b|base_model: 0x1f|base_model: 1.5e-5|base_model: a #b|base_model: a# b
|base_model: &x a""".replace("\n", "").split("|")


def write(folder: Path, card: str | bytes | None = None, **configs: Any) -> Folder:
    folder.mkdir(parents=True, exist_ok=True)
    for name, config in configs.items():
        text = config if isinstance(config, bytes) else json.dumps(config).encode()
        (folder / f"{name}.json").write_bytes(text)
    if card is not None:
        (folder / "README.md").write_bytes(card if isinstance(card, bytes) else card.encode())
    return Folder(folder)


def test_nothing_tells(tmp_path: Path) -> None:
    assert base_models(write(tmp_path)) == ()
    assert base_models() == ()
    assert base_models(Folder(tmp_path / "missing")) == ()
    assert base_models(write(tmp_path / "own", "# A card\n", config={"hidden_size": 3})) == ()


def test_an_adapter_tells_it(tmp_path: Path) -> None:
    adapter = {"base_model_name_or_path": "mistralai/Mistral-7B-v0.1"}
    folder = write(tmp_path / "a", CARD.format("base_model: other/x"), adapter_config=adapter)
    assert base_models(folder) == ("mistralai/Mistral-7B-v0.1",)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("base_model: Qwen/Qwen3-8B-Base", ("Qwen/Qwen3-8B-Base",)),
        ('base_model: "Qwen/Qwen3-8B-Base"  # that one', ("Qwen/Qwen3-8B-Base",)),
        ("base_model: 'gpt2'", ("gpt2",)),
        ("base_model:\n- a/one\n- 'b/two'\n\n# x\n- \"c/3\" # x", ("a/one", "b/two", "c/3")),
        ("base_model:   # of two\n  - a/one\n  - b/two", ("a/one", "b/two")),
        ("base_model_relation: finetune\nbase_model: a/one", ("a/one",)),
        # Ways of YAML that are left alone, and values that are no model's name.
        ("base_model: [a/one, b/two]", ()),
        ("base_model: a/one\n  two", ()),
        ("base_model: >\n  a/one", ()),
        ("base_model: a one", ()),
        ("base_model: null", ()),
        ("base_model: 3.5", ()),
        ("base_model:", ()),
        ("base_model: /home/someone/model", ()),
        ("base_model: a/b/c", ()),
        ("base_model: a/one\nbase_model: b/two", ()),
        ("text: >\n  base_model: a/one", ()),
        ("base_model_relation: finetune", ()),
    ],
)  # fmt: skip
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_card(tmp_path: Path, value: str, expected: tuple[str, ...], end: str) -> None:
    card = CARD.format(value)
    assert base_models(write(tmp_path / "m", card.replace("\n", end))) == expected
    marked = b"\xef\xbb\xbf" + card.encode()
    assert base_models(write(tmp_path / "m", marked)) == expected
    parsed = yaml.safe_load(card.split("---\n")[1])["base_model"] if expected else None
    assert expected == (
        tuple(parsed) if isinstance(parsed, list) else (parsed,) * (parsed is not None)
    )


@given(st.lists(st.sampled_from(LINES), max_size=6))
def test_what_is_read_is_what_yaml_says(lines: list[str]) -> None:
    found = base_model._base_model_key("\n".join(["---", *lines, "---", ""]).encode())
    if not found:
        return
    try:
        parsed = yaml.safe_load("\n".join(lines))
    except yaml.YAMLError:
        return
    value = parsed["base_model"]
    strings = [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, str)]
    assert all(word in strings for word in found)


def test_a_card_without_an_end_or_a_start(tmp_path: Path) -> None:
    for card in ("---\nbase_model: a/b\n", "\nbase_model: a/b\n---\n", "base_model: a/b\n", ""):
        assert base_models(write(tmp_path / "m", card)) == ()


def test_a_long_card_is_read_to_a_limit(tmp_path: Path) -> None:
    scores = "- 0.5\n" * 100_000
    card = CARD.format(f"scores:\n{scores}base_model: a/b")
    assert base_models(write(tmp_path / "m", card)) == ("a/b",)
    assert base_models(write(tmp_path / "m", CARD.format(f"s:\n{scores * 8}base_model: a/b"))) == ()


def test_the_config_tells_it_where_it_is_not_the_model_itself(tmp_path: Path) -> None:
    for name, expected in (
        ("mistralai/Mistral-7B-v0.1", ("mistralai/Mistral-7B-v0.1",)),
        ("intfloat/e5-mistral", ()),
        ("e5-mistral", ()),
        (str(tmp_path / "e5-mistral"), ()),
        ("/a/path/of/another/machine", ()),
        (str(tmp_path), (str(tmp_path),)),  # a folder that is there
        ("", ()),
        ("x" * 300, ()),
        ("a/b\nc", ()),
        (7, ()),
    ):
        folder = write(tmp_path / "e5-mistral", config={"_name_or_path": name})
        assert base_models(folder) == expected, name
        facts = read_config(folder)
        assert facts is not None
        assert facts.base_models() == expected


def test_the_hubs_cache_is_named_further_up(tmp_path: Path) -> None:
    place = tmp_path / "models--intfloat--e5" / "snapshots" / COMMIT
    assert base_models(write(place, config={"_name_or_path": "intfloat/e5"})) == ()
    assert base_models(write(place, config={"_name_or_path": "a/base"})) == ("a/base",)


def test_people_come_first(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "m",
        CARD.format("base_model: a/card"),
        config={"_name_or_path": "b/config", "base_model_name_or_path": "a/card"},
    )
    assert base_models(folder) == ("a/card", "b/config")


def test_the_card_of_a_sentence_transformers_model_lies_at_its_root(tmp_path: Path) -> None:
    root = write(tmp_path / "m", CARD.format("base_model: a/card"))
    write(tmp_path / "m" / "0_Transformer", config={"_name_or_path": "m"})
    assert base_models(root.folder("0_Transformer")) == ("a/card",)


@pytest.mark.parametrize("damage", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000, b"9" * 5000])
def test_damaged_files_tell_nothing(tmp_path: Path, damage: bytes) -> None:
    folder = write(tmp_path / "m", damage, config=damage, adapter_config=damage)
    assert base_models(folder) == ()
    folder = write(tmp_path / "m", CARD.format("base_model: a/b"))
    assert base_models(folder) == ("a/b",)
    (tmp_path / "m" / "config.json").unlink()
    (tmp_path / "m" / "config.json").symlink_to("/etc/hostname")  # leaves the folder
    (tmp_path / "m" / "adapter_config.json").unlink()
    (tmp_path / "m" / "adapter_config.json").mkdir()
    assert base_models(folder) == ("a/b",)


# ---- GGUF -------------------------------------------------------------------------------------


def strings(**values: str) -> dict[str, str]:
    return {f"general.base_model.0.{key}": value for key, value in values.items()}


def test_names_in_gguf_files() -> None:
    url = "https://huggingface.co/Qwen/Qwen3-0.6B-Base"
    assert named_base_models(strings(repo_url=url, name="Qwen3 0.6B Base")) == (
        "Qwen/Qwen3-0.6B-Base",
    )
    assert named_base_models(strings(name="Qwen3 0.6B Base", organization="Qwen")) == (
        "Qwen Qwen3 0.6B Base",
    )
    assert named_base_models(strings(name="gpt2", organization="openai")) == ("openai/gpt2",)
    assert named_base_models(strings(repo_url="https://elsewhere.org/a/b")) == ()
    assert named_base_models(strings(name="a\nb")) == ()
    assert named_base_models({}) == ()


def test_a_gguf_file(tmp_path: Path) -> None:
    pairs = [
        gguf_pair(f"general.base_model.0.{key}", 8, gguf_string(value))
        for key, value in (("name", "X"), ("repo_url", "https://huggingface.co/a/x"), ("doi", "1"))
    ]
    pairs.append(gguf_pair("general.base_model.1.name", 8, gguf_string("y" * 5000)))
    pairs.append(gguf_pair("general.base_model.2.name", 8, gguf_string(b"\xff\xfe")))
    (tmp_path / "m.gguf").write_bytes(gguf_file((ARCHITECTURE, *pairs)))
    file = GgufFile(InputFile(tmp_path / "m.gguf"))
    assert file.facts.base_models() == ("a/x", "��")
    file.close()


# ---- The Hub ----------------------------------------------------------------------------------


def test_a_repository_costs_its_card_at_most(hub: HubServer) -> None:
    W = np.zeros((40, 8), np.float32)
    files = small_model(W)
    card = CARD.format("base_model: a/card").encode()
    config = json.dumps({"_name_or_path": "owner/model"}).encode()
    for name, content in (("README.md", card), ("config.json", config)):
        files[name] = SparseFile(content, len(content))
    hub.add("owner/model", files)
    folder = open_repository("owner/model")
    facts = read_config(folder)
    before = len(hub.requests)
    assert facts is not None
    assert facts.base_models() == ("a/card",)
    fetched = {request.path.rpartition("/")[2] for request in hub.requests[before:]}
    assert fetched == {"README.md"}
    hub.hub_status = {"/owner/model": 500}
    assert facts.base_models() == ("a/card",)  # from the cache


def test_a_card_that_cannot_be_had_is_no_error(hub: HubServer) -> None:
    files = small_model(np.zeros((40, 8), np.float32))
    files["README.md"] = SparseFile(b"---\nbase_model: a/b\n---\n", 24)
    hub.add("owner/model", files)
    folder = open_repository("owner/model")
    hub.hub_status = {"/owner/model": 404}
    assert base_models(folder) == ()
