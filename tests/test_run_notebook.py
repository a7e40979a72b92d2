"""Executed notebooks: what a rerun, another machine or another place would change is not in them."""

import base64
import io
import json
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from papermill.exceptions import PapermillExecutionError
from PIL import Image

from tools.run_notebook import run

PRINTS = """
import os, sys
print(os.getcwd() + "/data", object())
print("progress 100 %", file=sys.stderr)
"""
DRAWS = """
from PIL import Image
from PIL.PngImagePlugin import PngInfo
import time
said = PngInfo()
said.add_text("Creation Time", str(time.time()))
image = Image.radial_gradient("L").convert("RGBA")
image.save("image.png", pnginfo=said)
from IPython.display import Image as Shown
Shown("image.png")
"""
LINKS = "[Executed copy](../results/notebooks/a.ipynb) [b](b.ipynb#part) [how](../docs/x.md#y) [web](https://x.org/z)"


def written(folder: Path, *sources: str, links: str = LINKS) -> Path:
    cells = [
        new_markdown_cell(links, id="text"),
        *(new_code_cell(each, id=f"c{k}") for k, each in enumerate(sources)),
    ]
    notebook = new_notebook(cells=cells)
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path = folder / "notebooks" / "a.ipynb"
    path.parent.mkdir()
    nbformat.write(notebook, path)
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_rerun_gives_the_same_bytes_without_times_progress_paths_and_addresses(folder):
    source, out = written(folder, PRINTS, DRAWS), folder / "results" / "notebooks" / "a.ipynb"
    run(source, out)
    first = out.read_bytes()
    run(source, out)
    assert out.read_bytes() == first
    cells = nbformat.reads(first.decode(), 4).cells
    assert cells[0].source == (
        "[Source](../../notebooks/a.ipynb) [b](b.ipynb#part) [how](../../docs/x.md#y) [web](https://x.org/z)"
    )
    assert [(each.name, each.text) for each in cells[1].outputs] == [("stdout", "data <object object>\n")]
    image = Image.open(io.BytesIO(base64.b64decode(cells[2].outputs[0].data["image/png"])))
    assert (image.mode, image.size, image.info) == ("P", (256, 256), {})
    before = nbformat.read(source, 4)
    assert json.loads(first)["metadata"] == before.metadata
    assert [(cell.id, cell.metadata) for cell in cells] == [(cell.id, cell.metadata) for cell in before.cells]


def test_a_cell_that_raises_leaves_the_last_copy_as_it_was(folder):
    source, out = written(folder, "1 / 0"), folder / "out.ipynb"
    out.write_text("earlier")
    with pytest.raises(PapermillExecutionError, match="ZeroDivisionError"):
        run(source, out)
    assert out.read_text() == "earlier"
    assert not list(folder.glob(".*partial*"))
