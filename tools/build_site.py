"""Build the site: the notebooks as they were run, README and docs, into results/site/index.html.

    python -m tools.build_site [--notebooks results/notebooks] [--out results/site]

A notebook that was not run, such as the notebook for own data, is shown without results and with a note.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

from cmbfe.errors import InputError
from cmbfe.files import read_json, whole_folder

ROOT = Path(__file__).resolve().parent.parent
SITE = Path(__file__).resolve().parent / "site"
INDEX = "index.html"
LINK = re.compile(r"(\]\()(?!https?:|#|mailto:)([^)#\s]+)")
NOT_RUN = "```{note}\nThis notebook has not been run here, so it shows no results.\n```"


def build(root: Path, notebooks: Path, out: Path) -> str:
    """Build the site of a clone.

    Args:
        root: the clone: README.md, CONTRIBUTING.md, docs/ and notebooks/ as they are stored.
        notebooks: folder of the executed notebooks.

    Returns:
        Warnings of Sphinx, such as broken links; empty if there are none.

    Raises:
        InputError: no executed notebook, an unreadable page, or an `out` with other content than an earlier site.
    """
    if not any(notebooks.glob("*.ipynb")):
        raise InputError(f"{notebooks}: no executed notebook; `make repro` writes them")
    with TemporaryDirectory() as scratch, whole_folder(out, INDEX, inputs=[notebooks]) as built:
        pages, html = Path(scratch) / "pages", Path(scratch) / "html"  # myst-nb also writes beside its target
        lay_out_pages(root, notebooks, pages)
        command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", "-d", f"{scratch}/doctrees", pages, html]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise InputError(f"Sphinx could not build the pages: {done.stderr.strip()}")
        shutil.copytree(html, built, dirs_exist_ok=True, ignore=shutil.ignore_patterns("_sources", ".buildinfo"))
    return done.stderr


def lay_out_pages(root: Path, notebooks: Path, pages: Path) -> None:
    """Copy the sources of the site in the layout of a clone, so that links between pages keep working."""
    shutil.copytree(SITE, pages, ignore=shutil.ignore_patterns("__pycache__"))
    (pages / "notebooks").mkdir()
    (pages / "docs").mkdir()
    stored = sorted((root / "notebooks").glob("*.ipynb"))
    for notebook in stored:
        _lay_out_notebook(notebook, notebooks / notebook.name, pages / "notebooks" / notebook.name)
    texts = [root / "CONTRIBUTING.md", *sorted((root / "docs").glob("*.md"))]
    for text in texts:
        _write(pages / text.relative_to(root), text.read_text(encoding="utf-8"))
    readme = (root / "README.md").read_text(encoding="utf-8")
    names, first = [text.relative_to(root).with_suffix("").as_posix() for text in texts], "docs/report"
    contents = [
        _contents("The result", [name for name in names if name == first]),
        _contents("The paper as notebooks", [f"notebooks/{notebook.stem}" for notebook in stored]),
        _contents("Background", [name for name in names if name != first]),
    ]
    _write(pages / "index.md", "\n\n".join([readme, *contents]))
    _copy_what_is_linked(root, pages)


def _lay_out_notebook(stored: Path, executed: Path, page: Path) -> None:
    """Write the executed notebook as a page or, if it was not run, the stored notebook without results."""
    content = read_json(executed if executed.is_file() else stored)
    if not executed.is_file():
        note = {"cell_type": "markdown", "id": "not-run", "metadata": {}, "source": NOT_RUN}
        content["cells"].insert(1, note)
    for cell in content["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = _with_links_of_the_site("".join(cell["source"]))
    page.write_text(json.dumps(content), encoding="utf-8")


def _contents(title: str, pages: Iterable[str]) -> str:
    return "\n".join(["```{toctree}", ":hidden:", f":caption: {title}", "", *pages, "```"])


def _write(file: Path, text: str) -> None:
    file.write_text(_with_links_of_the_site(text), encoding="utf-8")


def _with_links_of_the_site(text: str) -> str:
    """The text with links for the site: README.md is its index, and a notebook and its executed copy share a page."""
    text = re.sub(r" ?\[Source\]\([^)]*\)", "", text).replace("](../../", "](../")
    text = re.sub(r"(\]\((?:\.\./)*)results/notebooks/", r"\1notebooks/", text)
    return re.sub(r"(\]\((?:\.\./)*)README\.md", r"\1index.md", text)


def _copy_what_is_linked(root: Path, pages: Path) -> None:
    """Copy figures and other linked files of the clone to the places where the links expect them."""
    for page in [*pages.rglob("*.md"), *pages.rglob("*.ipynb")]:
        text = page.read_text(encoding="utf-8")
        if page.suffix == ".ipynb":
            cells = json.loads(text)["cells"]
            text = "\n".join(cell["source"] for cell in cells if cell["cell_type"] == "markdown")
        for _, link in LINK.findall(text):
            wanted = (page.parent / link).resolve()
            source = root / wanted.relative_to(pages.resolve()) if wanted.is_relative_to(pages.resolve()) else wanted
            if source.is_file() and not wanted.exists() and source.resolve().is_relative_to(root.resolve()):
                wanted.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, wanted)


def main() -> None:
    """Build the site of this clone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--notebooks", type=Path, default=ROOT / "results" / "notebooks", help="executed notebooks")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "site", help="folder of the site")
    given = parser.parse_args()
    sys.stderr.write(build(ROOT, given.notebooks, given.out))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
