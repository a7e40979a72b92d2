"""docs/report.md: its numbers are those of results/, and its sentences follow them."""

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from cmbfe.errors import InputError
from tools.write_report import report

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "report.md"


@pytest.fixture
def results(tmp_path) -> Path:
    """A folder with this clone's settings and tables, to be changed."""
    shutil.copytree(ROOT / "results" / "tables", tmp_path / "results" / "tables")
    (tmp_path / "results" / "study").mkdir()
    shutil.copy(ROOT / "results" / "study" / "test_cmbs.csv", tmp_path / "results" / "study")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    return tmp_path


def test_it_is_that_of_the_results():
    assert report(ROOT) == PAGE.read_text(encoding="utf-8"), "run: .venv/bin/python -m tools.write_report"


def test_its_links_lead_to_files():
    links = re.findall(r"\]\((?!https?:)([^)#]+)", PAGE.read_text(encoding="utf-8"))
    assert len(links) > 5
    assert not [link for link in links if not (PAGE.parent / link).exists()]


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.01, 0.03, "FE helped ssd512 (+2.0"),
        (-0.03, -0.01, "FE harmed ssd512"),
        (-0.01, 0.05, "cannot be told (+2.0"),
    ],
)
def test_other_results_make_another_report(results, low, high, said):
    file = results / "results" / "tables" / "study.csv"
    study = pd.read_csv(file).set_index("arm")
    study.loc["ssd512", ["gain", "gain_low", "gain_high"]] = [(low + high) / 2, low, high]
    study.to_csv(file)
    assert said in report(results)


def test_an_arm_that_was_not_trained_is_named(results):
    file = results / "results" / "tables" / "study.csv"
    study = pd.read_csv(file).set_index("arm")
    study.drop(index="placement-source").to_csv(file)
    assert re.search(r"Not measured yet, and left out: [^(]*placement-source", report(results))


def test_a_missing_table_is_named(results):
    (results / "results" / "tables" / "table2.csv").unlink()
    with pytest.raises(InputError, match=r"table2\.csv: no such file; `make repro`"):
        report(results)
