"""One part of several, indexes that omit what is there, and what lies beside a whole file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from embedfilter import CheckpointError, open_unembedding
from embedfilter.files.input_file import InputFile
from embedfilter.files.part_names import part_of, parts_beside

V, D = 400, 16
E, H = np.random.default_rng(0).standard_normal((2, V, D), np.float32)
EMBEDDING, HEAD, LAYER = "model.embed_tokens.weight", "lm_head.weight", "model.layers.0.a.weight"
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
PART = "model-{:05}-of-00002.safetensors"
NORM = {LAYER: np.ones((3, D), np.float32)}


def save(path: Path, **tensors: np.ndarray) -> None:
    if path.suffix.lower() == ".safetensors":
        safetensors.numpy.save_file(tensors, path)
    else:
        torch.save({name: torch.from_numpy(array) for name, array in tensors.items()}, path)


def write_index(path: Path, **files: str) -> None:
    path.write_text(json.dumps({"metadata": {}, "weight_map": files}))


def config(folder: Path, tied: bool | None = False, **more: object) -> None:
    flag = {} if tied is None else {"tie_word_embeddings": tied}
    (folder / "config.json").write_text(
        json.dumps({"hidden_size": D, "vocab_size": V, **flag, **more})
    )


def split(folder: Path, *, index: bool = True, ending: str = "safetensors") -> list[Path]:
    """Two parts, the embedding in the first and the head in the second."""
    stem = "model" if ending == "safetensors" else "pytorch_model"
    parts = [folder / f"{stem}-{number:05}-of-00002.{ending}" for number in (1, 2)]
    save(parts[0], **{EMBEDDING: E})
    save(parts[1], **{HEAD: H}, **NORM)
    if index:
        files = {EMBEDDING: parts[0].name, HEAD: parts[1].name, LAYER: parts[1].name}
        write_index(folder / f"{stem}.{ending}.index.json", **files)
    return parts


def refused(source: Path, **options: str) -> str:
    with pytest.raises(CheckpointError) as raised:
        open_unembedding(source, **options)
    message = str(raised.value)
    assert "\n" not in message
    return message


def check(source: Path, expected: np.ndarray, name: str | None = None, *reasons: str) -> None:
    with open_unembedding(source) as W:
        np.testing.assert_array_equal(W.rows(0, V), expected)
        assert name in (None, W.name)
        for reason in reasons:
            assert reason in W.reason


def opened_files(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []
    init = InputFile.__init__

    def record(self: InputFile, path: Path) -> None:
        names.append(path.name)
        init(self, path)

    monkeypatch.setattr(InputFile, "__init__", record)
    return names


# ---- An index that omits what its shards hold --------------------------------------------------


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
@pytest.mark.parametrize("tied", [None, False])
@pytest.mark.parametrize("where", ["", "index"])
@pytest.mark.parametrize("alone", [True, False], ids=["alone", "beside"])
def test_a_head_that_the_index_omits(tmp_path, ending, tied, where, alone):
    parts = split(tmp_path, ending=ending)
    if alone:  # in a file that the index does not name, then
        save(parts[1], **{HEAD: H})
    config(tmp_path, tied)
    index = next(tmp_path.glob("*.index.json"))
    write_index(index, **{EMBEDDING: parts[0].name}, **({} if alone else {LAYER: parts[1].name}))
    source = index if where else tmp_path
    check(source, H, HEAD, f"the index omits it, '{parts[1].name}' holds it")


def test_a_head_that_the_index_omits_by_its_name(tmp_path):
    parts = split(tmp_path)
    write_index(tmp_path / INDEX, **{EMBEDDING: parts[0].name, LAYER: parts[1].name})
    with open_unembedding(tmp_path, tensor=HEAD) as W:
        np.testing.assert_array_equal(W.rows(0, V), H)
        assert "the index omits it" in W.reason


@pytest.mark.parametrize("packed", ["lm_head.qweight", "lm_head.trellis", "lm_head.weight.absmax"])
def test_headers_are_read_only_where_the_index_may_omit_a_head(tmp_path, monkeypatch, packed):
    parts = split(tmp_path)
    names = opened_files(monkeypatch)
    open_unembedding(tmp_path).close()
    assert names == [INDEX, INDEX, parts[1].name]
    write_index(tmp_path / INDEX, **{EMBEDDING: parts[0].name, packed: parts[1].name})
    config(tmp_path, tied=False)
    names.clear()
    with pytest.raises(CheckpointError):
        open_unembedding(tmp_path, tensor="no.such")  # looks for it everywhere
    assert parts[1].name in names


@pytest.mark.parametrize("how", ["missing", "damaged", "pointer"])
def test_an_index_without_a_head_and_a_shard_that_cannot_be_read(tmp_path, how):
    parts = split(tmp_path)
    write_index(tmp_path / INDEX, **{EMBEDDING: parts[0].name, LAYER: parts[1].name})
    config(tmp_path, None)
    if how == "missing":
        parts[1].unlink()
    else:
        parts[1].write_bytes(b"version https://git-lfs" if how == "pointer" else b"x" * 20)
    try:
        with open_unembedding(tmp_path) as W:
            assert any(parts[1].name in doubt for doubt in W.doubts)
    except CheckpointError as error:  # without evidence that it is tied
        assert "\n" not in str(error)  # noqa: PT017


# ---- A part alone ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "model-00001-of-00002.safetensors",
        "MODEL-00001-OF-00002.SAFETENSORS",
        "model.00001-of-00002.safetensors",
        "model_1-of-2.safetensors",
        "consolidated-00001-of-00002.safetensors",
        "model-00000-of-00002.safetensors",
        "model.fp16-00001-of-00002.safetensors",
        "model-00001-of-00002.fp16.safetensors",
        "pytorch_model-00001-of-00002.bin",
        "pytorch_model_00001-of-00002.pt",
    ],
)
def test_a_part_alone_is_refused(tmp_path, name):
    path = tmp_path / name
    save(path, **{EMBEDDING: E})
    part = part_of(name)
    other = part.named(1 - part.number if "00000" in name else 2)
    assert other != name
    for source in (path, tmp_path):
        message = refused(source)
        assert f"part {part.number} of 2 of a checkpoint, without an output head" in message
        assert message.endswith(f"or put the missing ones there: '{other}'")
    # The others make it a whole.
    save(tmp_path / other, **{HEAD: H})
    for source in (path, tmp_path / other, tmp_path):
        check(source, H, HEAD)
    (tmp_path / other).unlink()
    # The user may know better.
    with open_unembedding(path, tensor=EMBEDDING) as W:
        np.testing.assert_array_equal(W.rows(0, V), E)
    assert "without the tensor 'lm_head.weight'" in refused(path, tensor=HEAD)


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
@pytest.mark.parametrize("index", [True, False])
def test_a_part_beside_the_others(tmp_path, ending, index):
    parts = split(tmp_path, index=index, ending=ending)
    for source in (tmp_path, *parts):
        check(source, H, HEAD)
    with open_unembedding(parts[0]) as W:
        assert W.source == str(parts[0])
    with open_unembedding(parts[1], tensor=EMBEDDING) as W:
        np.testing.assert_array_equal(W.rows(0, V), E)


def test_a_part_with_the_head_is_enough(tmp_path):
    parts = split(tmp_path, index=False)
    parts[0].unlink()
    check(parts[1], H, HEAD)
    check(tmp_path, H, HEAD)


def test_a_part_beside_the_index_alone(tmp_path):
    parts = split(tmp_path)
    parts[1].unlink()
    message = refused(parts[0])
    assert "incomplete download: tensor 'lm_head.weight'" in message
    assert parts[1].name in message


def test_parts_of_which_one_is_missing(tmp_path):
    name = "model-{:05}-of-00003.safetensors"
    save(tmp_path / name.format(1), **{EMBEDDING: E})
    save(tmp_path / name.format(2), **NORM)
    for source in (tmp_path, tmp_path / name.format(2)):
        message = refused(source)
        assert message.endswith(f"put the missing ones there: '{name.format(3)}'")
    save(tmp_path / name.format(3), **{HEAD: H})
    check(tmp_path, H, HEAD)
    (tmp_path / name.format(2)).unlink()
    check(tmp_path, H, HEAD)  # not needed
    check(tmp_path / name.format(1), H, HEAD)


def test_parts_that_are_tied(tmp_path):
    save(tmp_path / PART.format(1), **{EMBEDDING: E})
    save(tmp_path / PART.format(2), **NORM)
    config(tmp_path, tied=True)
    for source in (tmp_path, tmp_path / PART.format(1), tmp_path / PART.format(2)):
        check(source, E, EMBEDDING)


def test_parts_with_the_same_tensor(tmp_path):
    for number in (1, 2):
        save(tmp_path / PART.format(number), **{EMBEDDING: E[: V // 2]})
    message = refused(tmp_path)
    assert f"the tensor '{EMBEDDING}' is in" in message


def test_a_part_whose_rows_are_not_all(tmp_path):
    save(tmp_path / PART.format(1), **{HEAD: H[: V // 2]})
    config(tmp_path)
    assert "lacks rows: expected at least 400" in refused(tmp_path / PART.format(1))


def test_two_sets_of_parts(tmp_path):
    split(tmp_path, index=False)
    save(tmp_path / "other-1-of-2.safetensors", **{EMBEDDING: E})
    assert "expected one checkpoint, found 2" in refused(tmp_path)
    (tmp_path / "other-1-of-2.safetensors").rename(tmp_path / "consolidated-1-of-2.safetensors")
    check(tmp_path, H, HEAD)  # the same, as Mistral publishes it, too


def test_a_whole_file_beside_some_parts(tmp_path):
    parts = split(tmp_path, index=False)
    parts[1].unlink()
    save(tmp_path / "consolidated.safetensors", **{EMBEDDING: E, HEAD: 2 * H})
    check(tmp_path, 2 * H, HEAD)


def test_a_link_to_a_part(tmp_path):
    (tmp_path / "real").mkdir()
    parts = split(tmp_path / "real", index=False)
    link = tmp_path / "mine.safetensors"
    link.symlink_to(parts[0])
    check(link, H, HEAD)
    parts[1].unlink()
    assert "part 1 of 2 of a checkpoint" in refused(link)


def test_a_trainers_files_are_no_checkpoints(tmp_path):
    split(tmp_path, index=False, ending="bin")
    for name in ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state_0.pth"):
        torch.save({"a": torch.ones(3)}, tmp_path / name)
    check(tmp_path, H, HEAD)


@pytest.mark.parametrize(
    ("name", "number", "count"),
    [
        ("a-00003-of-00007.safetensors", 3, 7),
        ("a-1-of-2", 1, 2),
        ("a_00-of-02.bin", 0, 2),
        ("1-of-2.bin", 1, 2),
    ],
)
def test_names_of_parts(name, number, count):
    part = part_of(name)
    assert (part.number, part.count) == (number, count)
    assert part.named(number) == name
    first = 0 if number == 0 else 1
    there, missing = parts_beside(part, [name, "b-00001-of-00007.safetensors"])
    assert there == {number: name}
    assert len(missing) == count - 1
    assert {part_of(other).number for other in missing} == set(range(first, first + count)) - {
        number
    }


@pytest.mark.parametrize(
    "name", ["model.safetensors", "a-00001-of-00001.bin", "a-3-of-2.bin", "a-1-of-999999.bin", ""]
)
def test_names_of_wholes(name):
    assert part_of(name) is None


# ---- A whole file beside an index --------------------------------------------------------------


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
@pytest.mark.parametrize("stale", ["all gone", "one gone", "not json"])
def test_a_stale_index_beside_a_whole_file(tmp_path, ending, stale):
    parts = split(tmp_path, ending=ending)
    index = next(tmp_path.glob("*.index.json"))
    single = tmp_path / index.name.removesuffix(".index.json")
    save(single, **{EMBEDDING: E, HEAD: 2 * H})
    if stale == "not json":
        index.write_text("{")
    for part in parts[: 1 if stale == "one gone" else 2]:
        part.unlink()
    check(tmp_path, 2 * H, HEAD, "beside it is not used" if "gone" in stale else "is not used")


@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("damage", [b"version https://git-lfs.github.com/spec/v1\n", b"cut"])
@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_a_set_of_shards_beside_a_file_that_is_not_whole(tmp_path, index, damage, ending):
    parts = split(tmp_path, index=index, ending=ending)
    single = tmp_path / (SINGLE if ending == "safetensors" else "pytorch_model.bin")
    save(single, **{EMBEDDING: E, HEAD: 2 * H})
    single.write_bytes(single.read_bytes()[:-100] if damage == b"cut" else damage)
    check(tmp_path, H, HEAD, f"{single.name} beside it is not whole")
    parts[0].unlink()  # neither is whole
    message = refused(tmp_path)
    assert message.startswith(str(single))


@pytest.mark.parametrize("index", [True, False])
def test_a_set_of_shards_beside_a_whole_file(tmp_path, index):
    split(tmp_path, index=index)
    save(tmp_path / SINGLE, **{EMBEDDING: E, HEAD: 2 * H})
    check(tmp_path, 2 * H, HEAD, "beside it is not used, as transformers does not")


def test_a_stale_index_beside_another_format(tmp_path):
    parts = split(tmp_path)
    for part in parts:
        part.unlink()
    assert "incomplete download" in refused(tmp_path)
    save(tmp_path / "pytorch_model.bin", **{EMBEDDING: E, HEAD: H})
    check(tmp_path, H, HEAD, f"{INDEX} beside it is not used")


# ---- The Hub's cache ---------------------------------------------------------------------------

COMMIT, OTHER = "a" * 40, "b" * 40


def cache(folder: Path, **snapshots: np.ndarray) -> Path:
    repository = folder / "hub" / "models--Org--Name"
    (repository / "blobs").mkdir(parents=True)
    for commit, matrix in snapshots.items():
        snapshot = repository / "snapshots" / commit
        snapshot.mkdir(parents=True)
        blob = repository / "blobs" / f"{commit[0]}{'0' * 63}"
        safetensors.numpy.save_file({EMBEDDING: E, HEAD: matrix}, blob)
        (snapshot / SINGLE).symlink_to(Path("../../blobs") / blob.name)
    return repository


def test_the_hubs_cache(tmp_path):
    repository = cache(tmp_path, **{COMMIT: H, OTHER: 2 * H})
    message = refused(repository)
    assert f"found 'snapshots/{COMMIT}', 'snapshots/{OTHER}'; pass the path" in message
    (repository / "refs").mkdir()
    for commit, expected in ((COMMIT, H), (OTHER, 2 * H)):
        (repository / "refs" / "main").write_text(commit)
        for source in (repository, repository / "snapshots", f"{repository}/"):
            check(source, expected, HEAD)
        check(repository / "snapshots" / COMMIT, H, HEAD)
    (repository / "refs" / "main").write_text("c" * 40)
    refused(repository)


@pytest.mark.parametrize("ref", [None, "", "c" * 40, "../../x", "x" * 1000, "\0"])
def test_the_hubs_cache_with_one_snapshot(tmp_path, ref):
    repository = cache(tmp_path, **{COMMIT: H})
    if ref is not None:
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(ref)
    check(repository, H, HEAD)


def test_the_hubs_cache_without_snapshots(tmp_path):
    repository = cache(tmp_path)
    assert "snapshots cannot be listed" in refused(repository)
    (repository / "snapshots").mkdir()
    assert "found none" in refused(repository)


def test_a_blob_that_is_a_part(tmp_path):
    repository = cache(tmp_path)
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for number, path in enumerate(split(tmp_path)):
        blob = repository / "blobs" / (f"{number}" * 64)
        path.rename(blob)
        (snapshot / path.name).symlink_to(Path("../../blobs") / blob.name)
    check(repository / "blobs" / ("0" * 64), H, HEAD)
    (snapshot / PART.format(2)).unlink()
    assert "part 1 of 2 of a checkpoint" in refused(repository / "blobs" / ("0" * 64))


def test_a_local_folder_of_links_into_the_hubs_cache(tmp_path):
    repository = cache(tmp_path, **{COMMIT: H})
    folder = tmp_path / "local"
    folder.mkdir()
    (folder / SINGLE).symlink_to((repository / "snapshots" / COMMIT / SINGLE).resolve())
    check(folder, H, HEAD)
    check(folder / SINGLE, H, HEAD)


@pytest.mark.parametrize(
    "place", ["blobs", "x/blobs", "models--a/x", "models--a/blobs/x", "models--a"]
)
def test_links_elsewhere_are_refused_with_a_hint(tmp_path, place):
    other = tmp_path / place
    other.mkdir(parents=True)
    save(other / SINGLE, **{HEAD: H})
    folder = tmp_path / "local"
    folder.mkdir()
    (folder / SINGLE).symlink_to(other / SINGLE)
    message = refused(folder)
    assert "a link that leaves the checkpoint's folder" in message
    assert "copy the files into one folder (cp -rL), or pass the folder that holds them" in message


def test_names_of_other_parts_are_no_heads(tmp_path: Path) -> None:
    """A tower's head in the first part says nothing of the language model's."""
    part, _ = split(tmp_path)
    tower = {"visual.head.weight": H[:9]}
    save(part, **{EMBEDDING: E}, **tower)
    check(part, H, HEAD)
    write_index(tmp_path / INDEX, **{EMBEDDING: part.name, "visual.head.weight": part.name})
    check(tmp_path, H, HEAD, "the index omits it")


@pytest.mark.parametrize("tied", [True, None])
def test_no_config_is_believed_where_headers_cost_nothing(
    tmp_path: Path, tied: bool | None
) -> None:
    part, _ = split(tmp_path)
    write_index(tmp_path / INDEX, **{EMBEDDING: part.name})
    config(tmp_path, tied, model_type="gemma")
    check(tmp_path, H, HEAD, "the index omits it")
