"""The README's numbers are those of results/, its links lead somewhere, its commands exist."""

import re
from pathlib import Path

from tools.renew_readme import renewed

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_its_tables_are_those_of_the_results():
    assert renewed(TEXT) == TEXT, "run: .venv/bin/python tools/renew_readme.py"


def test_its_links_lead_to_files():
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", TEXT)
    assert links
    assert not [link for link in links if not (ROOT / link).exists()]


def test_its_make_targets_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)", TEXT)) <= targets
