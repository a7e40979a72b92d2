"""Run a notebook and store it with its outputs in results/notebooks. Equal results give equal bytes.

    python -m tools.run_notebook notebooks/04_froc.ipynb

Outputs that vary between runs or machines are removed: times, progress bars, widgets, paths and object addresses.
Images are reduced to 256 colours.
"""

import argparse
import base64
import os
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
import papermill
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError

from cmbfe.figures.style import compact_png
from cmbfe.files import whole_file
from tools.build_site import LINK

ROOT = Path(__file__).resolve().parent.parent
EXECUTED = ROOT / "results" / "notebooks"
ADDRESS = re.compile(r" at 0x[0-9a-f]{6,16}\b")
"""The memory address in the text of an object."""
WIDGET, PNG = "application/vnd.jupyter.widget-view+json", "image/png"


def run(source: Path, out: Path) -> None:
    """Run a notebook in the current folder and write it to `out`.

    Raises:
        PapermillExecutionError: a cell raised; `out` stays as it was.
    """
    with TemporaryDirectory() as scratch:
        executed = papermill.execute_notebook(source, Path(scratch) / source.name, progress_bar=False)
    lasting = lasting_parts(executed, source, out)
    with whole_file(out) as temporary:
        temporary.write_text(lasting, encoding="utf-8")


def lasting_parts(notebook: NotebookNode, source: Path, out: Path) -> str:
    """An executed notebook as JSON, without outputs that vary between runs, and with links that work from `out`."""
    stored = nbformat.read(source, as_version=4)
    notebook.metadata = stored.metadata
    for cell, before in zip(notebook.cells, stored.cells, strict=True):
        cell.metadata = before.metadata
        if cell.cell_type == "markdown":
            cell.source = with_links_from(out, cell.source, source)
        for output in cell.get("outputs", []):
            _compact(output)
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return ADDRESS.sub("", nbformat.writes(notebook).replace(f"{Path.cwd()}/", "")) + "\n"


def _compact(output: NotebookNode) -> None:
    data = output.get("data", {})
    data.pop(WIDGET, None)
    if PNG in data:
        data[PNG] = base64.b64encode(compact_png(base64.b64decode(data[PNG]))).decode()


def with_links_from(out: Path, text: str, source: Path) -> str:
    """The text with file links relative to `out`. Links to other notebooks lead to their executed copies."""
    text = text.replace(f"[Executed copy]({_relative(out, source)})", f"[Source]({_relative(source, source)})")

    def moved(link: re.Match[str]) -> str:
        target = source.parent / link[2]
        beside = target.parent == source.parent and target.suffix == ".ipynb" and target.name != source.name
        return link[1] + (link[2] if beside else _relative(target, out))

    return LINK.sub(moved, text)


def _relative(path: Path, page: Path) -> str:
    return Path(os.path.relpath(path, page.parent)).as_posix()


def main() -> None:
    """Run one notebook."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("--out", type=Path, help="the executed copy; default: of the same name in results/notebooks")
    given = parser.parse_args()
    try:
        run(given.notebook, given.out or EXECUTED / given.notebook.name)
    except PapermillExecutionError as error:
        sys.exit(f"error: {given.notebook}: {error}")


if __name__ == "__main__":
    main()
