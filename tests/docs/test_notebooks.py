"""The notebooks run from top to bottom, and are committed with what they show."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

pytestmark = pytest.mark.long

NOTEBOOKS = sorted(Path(__file__).parents[2].joinpath("notebooks").glob("*.ipynb"))
MOST_BYTES = 400_000  # each is read on the web, and cloned by everyone


def test_all_are_there() -> None:
    assert [path.stem for path in NOTEBOOKS] == [
        "1_quick_start",
        "2_the_lens",
        "3_smaller_index",
        "4_gguf_to_verdict",
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_committed(path: Path) -> None:
    assert path.stat().st_size < MOST_BYTES
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not any(output.output_type == "error" for output in outputs)
    assert not any(output.get("name") == "stderr" for output in outputs)
    shown = {kind for output in outputs for kind in output.get("data", {})}
    assert {"image/png", "text/html"} <= shown
    assert "site-packages" not in path.read_text(encoding="utf-8")  # a path of some machine


# The client's ports are on this machine; ipykernel warns that they are not encrypted.
@pytest.mark.filterwarnings("ignore:.*encryption.*")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_from_top_to_bottom(path: Path, smollm2: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook,
        timeout=240,
        kernel_name="python3",
        coalesce_streams=True,  # what is printed comes in one piece or in several
        resources={"metadata": {"path": str(tmp_path)}},
    ).execute()
    committed = nbformat.read(path, as_version=4)
    for cell, before in zip(notebook.cells, committed.cells, strict=True):
        if cell.cell_type == "code":
            kinds = [sorted(output.get("data", {})) for output in cell.outputs]
            assert kinds == [sorted(output.get("data", {})) for output in before.outputs]
