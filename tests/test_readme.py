"""The README's links lead somewhere, its commands exist, its Python runs; README and report hold the results."""

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from tools.renew_readme import renewed
from tools.write_report import report

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])


def test_its_blocks_are_filled_from_the_results():
    again = renewed(TEXT)
    for name in ("verdict", "study"):
        block = re.search(rf"<!-- {name}: begin -->\n(.*?)\n<!-- {name}: end -->", again, re.DOTALL)[1]
        assert re.search(r"\d\.\d", block), name
    blocks = re.compile(r"<!-- (\w+): begin -->.*?<!-- \1: end -->", re.DOTALL)
    assert blocks.sub("", again) == blocks.sub("", TEXT)


def test_it_fits_the_first_half_hour():
    assert len(TEXT.split()) <= 1000


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_of_a_page_lead_to_files_and_to_headings(page):
    for link, place in re.findall(r"\]\((?!https?:|mailto:)([^)#]*)#?([^)]*)\)", page.read_text(encoding="utf-8")):
        target = page.parent / link if link else page
        assert target.exists(), link
        if place and target.suffix == ".md":
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8").lower(), re.MULTILINE)
            assert place in {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_make_targets_and_modules_that_a_page_names_exist(page):
    text = page.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert (
        set(re.findall(r"\bmake ([a-z]+)`", text)) | set(re.findall(r"^make ([a-z]+)", text, re.MULTILINE)) <= targets
    )
    for file in re.findall(r"`?((?:cmbfe|tools|tests|benchmarks|notebooks)/[\w/]+\.(?:py|ipynb))", text):
        assert (ROOT / file).is_file(), file


@pytest.fixture
def results(tmp_path) -> Path:
    """A folder with this clone's settings and tables, to be changed."""
    for folder in ("tables", "study"):
        shutil.copytree(ROOT / "results" / folder, tmp_path / "results" / folder)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    return tmp_path


def test_it_holds_the_tables_of_the_results(results):
    text = report(results)
    for name in ("table2", "false_positives", "contradictions"):
        first = pd.read_csv(results / "results" / "tables" / f"{name}.csv").iloc[0, 0]
        assert f"| {first} |" in text
    assert not re.search(r"\bnan\b|\{\{|\}\}", text)
