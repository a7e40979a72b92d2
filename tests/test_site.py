"""The site: its pages and links, and in a headless Chromium from file://, at the width of a desk and of a phone."""

import base64
import io
import json
import re
from html import unescape
from pathlib import Path
from urllib.parse import unquote

import pytest
from browser import DESKTOP, PHONE, Faults, chromium, open_browser, open_page
from PIL import Image

from cmbfe.errors import InputError
from tools.build_site import build
from tools.run_notebook import EXECUTED, with_links_from

ROOT = Path(__file__).resolve().parent.parent
STORED = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
NOT_RUN = "own_data"


def image_of(width: int, height: int) -> str:
    """A grey PNG in base64."""
    file = io.BytesIO()
    Image.new("L", (width, height), 128).save(file, "png")
    return base64.b64encode(file.getvalue()).decode()


def executed(name: str) -> dict:
    """The stored notebook's text, and a cell with a figure and wide tables, as an executed copy has them."""
    stored = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))
    texts = [cell for cell in stored["cells"] if cell["cell_type"] == "markdown"]
    for cell in texts:
        here, there = ROOT / "notebooks" / f"{name}.ipynb", EXECUTED / f"{name}.ipynb"
        cell["source"] = with_links_from(there, "".join(cell["source"]), here)
    table = "<table><tr>" + "".join(f"<td>a wide column {number}</td>" for number in range(20)) + "</tr></table>"
    shown = [
        {"image/png": image_of(800, 400), "text/plain": "<Figure>"},
        {"text/html": table, "text/plain": "a table"},
        {"text/markdown": "| written | as Markdown |\n| --- | --- |\n| in | cells |", "text/plain": "<Markdown>"},
        {"image/png": image_of(300, 300), "text/plain": "<Figure>"},
    ]
    outputs = [{"output_type": "display_data", "metadata": {}, "data": data} for data in shown]
    cell = {"cell_type": "code", "id": "c", "metadata": {}, "execution_count": 1, "source": "draw(quaternions)"}
    return {**stored, "cells": [*texts, {**cell, "outputs": outputs}]}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """README, docs and notebooks of this clone, with tiny executed copies; that of own data was not run."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "executed").mkdir()
    for name in {*STORED} - {NOT_RUN}:
        (folder / "executed" / f"{name}.ipynb").write_text(json.dumps(executed(name)), encoding="utf-8")
    warnings = build(ROOT, folder / "executed", folder / "site")
    assert warnings == ""
    return folder / "site"


class Addresses:
    """What a page points to: `links` a reader follows, `loaded` the browser fetches by itself."""

    def __init__(self, page: Path) -> None:
        text = unescape(page.read_text(encoding="utf-8"))
        self.links = re.findall(r'<a\b[^>]*?\bhref="([^"]+)"', text)
        self.loaded = re.findall(r'<(?:img|link|script|source)\b[^>]*?\b(?:src|href)="([^"]+)"', text)
        self.ids = set(re.findall(r'\bid="([^"]+)"', text))


def test_every_notebook_has_a_page_and_one_that_was_not_run_says_so(site):
    pages = {page.stem: page.read_text(encoding="utf-8") for page in (site / "notebooks").glob("*.html")}
    assert pages.keys() == {*STORED}
    assert [name for name, page in pages.items() if "has not been run here" in page] == [NOT_RUN]


def test_outputs_are_shown_and_tables_in_markdown_as_tables(site):
    page = (site / "notebooks" / "04_froc.html").read_text(encoding="utf-8")
    texts = ("quaternions", "a wide column 19", "| written |")
    assert [text in page for text in texts] == [True, True, False]
    assert page.count("<img") >= 2
    assert re.search(r"<th[^>]*>(<p>)?as Markdown", page)


def test_every_link_and_everything_loaded_is_there_and_nothing_comes_from_elsewhere(site):
    pages = {page: Addresses(page) for page in site.rglob("*.html")}
    for page, found in pages.items():
        for address in found.loaded:
            assert not re.match(r"(https?:)?//", address), f"{page.name} loads {address}"
        for address in [*found.loaded, *found.links]:
            path, _, place = address.partition("#")
            if re.match(r"https?:|mailto:|data:", address):
                continue
            target = (page.parent / unquote(path.partition("?")[0])).resolve() if path else page
            assert target.exists(), f"{page.name} leads to {address}"
            if place and target.suffix == ".html" and not address.startswith("#"):
                assert unquote(place) in pages[target].ids, f"{page.name} leads to {address}"


def test_nothing_is_built_over_other_things_or_without_notebooks(tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in ("run", "broken", "site"):
        (tmp_path / folder).mkdir()
    (tmp_path / "run" / "01_data.ipynb").write_text(json.dumps(executed("01_data")))
    (tmp_path / "broken" / "01_data.ipynb").write_text("{")
    (tmp_path / "site" / "thesis.txt").touch()
    for source, out, named in (("empty", "other", "empty"), ("run", "site", "site"), ("broken", "other", "01_data")):
        with pytest.raises(InputError, match=named):
            build(ROOT, tmp_path / source, tmp_path / out)
    assert not (tmp_path / "other").exists()


@pytest.fixture(scope="module")
def browser():
    chromium()
    with open_browser() as opened:
        yield opened


@pytest.fixture
def faults():
    """Errors and requests to other places, none of which a test may leave."""
    noted = Faults()
    yield noted
    assert noted == Faults()


def test_a_figure_enlarges_on_a_click_or_enter_and_closes_again(site, browser, faults):
    with open_page(browser, DESKTOP, faults) as page:
        page.goto((site / "notebooks" / "04_froc.html").as_uri())
        figure, enlarged = page.locator("article img").first, page.locator("dialog.enlarged img")
        figure.click()
        enlarged.wait_for()
        assert enlarged.bounding_box()["width"] >= 1.2 * figure.bounding_box()["width"]
        page.keyboard.press("Escape")
        enlarged.wait_for(state="hidden")
        figure.focus()
        page.keyboard.press("Enter")
        enlarged.click(position={"x": 5, "y": 5})
        enlarged.wait_for(state="hidden")


@pytest.mark.parametrize("name", ["index", "notebooks/04_froc", "docs/decisions", "search"])
def test_a_page_fits_a_phone_and_its_text_can_be_read(site, browser, faults, name):
    with open_page(browser, PHONE, faults) as page:
        page.goto((site / f"{name}.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
        size = page.evaluate("parseFloat(getComputedStyle(document.querySelector('article p, article')).fontSize)")
        assert size >= 15
