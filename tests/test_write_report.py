"""docs/report.md: written from results/, its sentences follow them."""

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from cmbfe.errors import InputError
from tools.write_report import report

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def results(tmp_path) -> Path:
    """A folder with this clone's settings and tables, to be changed."""
    shutil.copytree(ROOT / "results" / "tables", tmp_path / "results" / "tables")
    (tmp_path / "results" / "study").mkdir()
    shutil.copy(ROOT / "results" / "study" / "test_cmbs.csv", tmp_path / "results" / "study")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    return tmp_path


def change_study(results: Path, change) -> None:
    file = results / "results" / "tables" / "study.csv"
    change(pd.read_csv(file).set_index("arm")).to_csv(file)


def test_it_holds_the_tables_of_the_results(results):
    text = report(results)
    for name in ("table2", "false_positives", "contradictions"):
        first = pd.read_csv(results / "results" / "tables" / f"{name}.csv").iloc[0, 0]
        assert f"| {first} |" in text
    assert not re.search(r"\bnan\b|\{\{|\}\}", text)


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(0.01, 0.03, "helped"), (-0.03, -0.01, "harmed"), (-0.01, 0.05, "inconclusive")]
)
def test_other_results_make_another_report(results, low, high, verdict):
    def change(study: pd.DataFrame) -> pd.DataFrame:
        study.loc["ssd512", ["gain", "gain_low", "gain_high"]] = [(low + high) / 2, low, high]
        return study

    change_study(results, change)
    gain = re.escape(f"({100 * (low + high) / 2:+.1f} AP points")
    assert re.search(rf"\*\*[^*]*{verdict}[^*]*{gain}", report(results))


def test_an_arm_that_was_not_trained_is_named(results):
    change_study(results, lambda study: study.drop(index="placement-source"))
    assert re.search(r"Not measured yet, and left out: [^(]*placement-source", report(results))


def test_a_missing_table_is_named(results):
    (results / "results" / "tables" / "table2.csv").unlink()
    with pytest.raises(InputError, match=r"table2\.csv"):
        report(results)
