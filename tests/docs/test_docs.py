"""What the README and the pages in docs/ tell to run, run as it stands there.

A block that begins with ```python notest needs what a test has not: another machine, the Hub, a
model that is named in passing; the pages of NOT_HERE have tests of their own.
"""

from __future__ import annotations

import csv
import http.server
import json
import re
import shlex
import textwrap
import threading
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
from command_line import run
from numpy.typing import NDArray

import embedfilter
from embedfilter import EmbedFilter

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Their code needs packages that take long to install.
OF_PEERS = {"ray-dask.md", "torch-onnx.md", "vector-stores.md"}
# Their code needs a transformers folder or the Hub.
NOT_HERE = {
    "encode.md": "test_encoder.py",
    "hub.md": "test_hub.py",
    "mteb.md": "test_mteb.py",
    "sentence-transformers.md": "test_sentence_transformers.py",
}


def blocks(page: Path, language: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```", text, re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(code) for _, code in found]


# Of the 480 texts of the demo: ten of each topic.
SOME = slice(None, None, 4)


@pytest.fixture(scope="module")
def texts(demo_texts: list[str]) -> list[str]:
    return demo_texts[SOME]


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory,
    smollm2: Path,
    demo_embeddings: dict[str, NDArray],
    texts: list[str],
) -> Path:
    """All files that the pages name."""
    folder = tmp_path_factory.mktemp("docs")
    X = demo_embeddings["Echo"][SOME].astype(np.float32)
    EmbedFilter.from_checkpoint(smollm2, ratio=2).save(folder / "filter.safetensors")
    np.save(folder / "embeddings.npy", X)
    np.save(folder / "sample.npy", X)
    (folder / "labels.txt").write_text("\n".join(topics()), encoding="utf-8")
    (folder / "texts.txt").write_text("\n".join(texts), encoding="utf-8")
    table = pa.table({"text": texts, "embedding": list(X)})
    pyarrow.parquet.write_table(table, folder / "texts.parquet")
    pyarrow.feather.write_feather(table, folder / "texts.feather")
    # A model of SmolLM2's sizes, of which the config is read.
    (folder / "embedding-model").mkdir()
    sizes = {"hidden_size": 576, "vocab_size": 49152, "tie_word_embeddings": False}
    (folder / "embedding-model" / "config.json").write_text(json.dumps(sizes), encoding="utf-8")
    return folder


def topics() -> list[str]:
    with (resources.files("embedfilter.demo") / "pairs.tsv").open(encoding="utf-8") as file:
        return ([row["topic"] for row in csv.DictReader(file, delimiter="\t")] * 2)[SOME]


def names(folder: Path, texts: list[str]) -> dict[str, Any]:
    """Return what the pages take for given."""
    X = np.load(folder / "embeddings.npy")
    return {
        "embedfilter": embedfilter,
        "EmbedFilter": EmbedFilter,
        "np": np,
        "f": EmbedFilter.load(folder / "filter.safetensors"),
        "X": X,
        "X_sample": X,
        "sample": X,
        "blocks": [X[:50], X[50:]],
        "queries": X[:5],
        "texts": texts,
        "corpus": texts,
        "labels": topics(),
    }


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.long] if page.name in OF_PEERS else [], id=page.name)
        for page in PAGES
    ],
)
def test_python(
    page: Path, folder: Path, smollm2: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if page.name in NOT_HERE:
        assert list((ROOT / "tests").rglob(NOT_HERE[page.name]))
        return
    monkeypatch.chdir(folder)
    namespace = names(folder, texts)
    for code in blocks(page, "python"):
        exec(compile(code.replace("path/to/model", str(smollm2)), page.name, "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands(page: Path, folder: Path, smollm2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    if page.name in NOT_HERE:
        return
    for code in blocks(page, "sh"):
        for line in code.splitlines():
            words = shlex.split(line.replace("path/to/model", str(smollm2)), comments=True)
            if not words or words[0] != "embedfilter":
                continue
            # The README's in a process of its own, as its reader does.
            run(*words[1:], variables={} if page.name == "README.md" else None)


def test_what_a_server_answers(folder: Path, texts: list[str]) -> None:
    (code,) = blocks(ROOT / "docs" / "servers.md", "python notest")
    given = names(folder, texts)

    class Ollama(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert asked["input"] == texts
            self.send_response(200)
            self.end_headers()
            answer = {"model": asked["model"], "embeddings": given["X"].tolist()}
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("localhost", 0), Ollama) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        exec(code.replace("11434", str(server.server_port)), given)
        thread.join()
    np.testing.assert_array_equal(given["Y"], given["f"].transform(given["X"]))


def test_there_is_something_to_run() -> None:
    assert sum(len(blocks(page, "python")) for page in PAGES) > 20


def test_the_reference_has_every_public_name() -> None:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    for name in embedfilter.__all__:
        assert name == "__version__" or f":: embedfilter.{name}\n" in text, name
