"""Write verdict and result table into README.md between their markers, so that no number is typed by hand."""

import sys
from pathlib import Path

import pandas as pd

from cmbfe.errors import InputError
from cmbfe.files import whole_file
from cmbfe.paper.tables import markdown_of, with_block
from cmbfe.paper.words import verdict
from cmbfe.params import load_params
from tools.words import answer, earlier, of_earlier_patients, with_fe

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"
COLUMNS = {
    "detector": "detector",
    "ap": "AP without FE",
    "ap_treated": "AP with FE",
    "points": "gain, AP points (95 % CI)",
    "paper_points": "in the paper",
    "seeds": "seeds",
}
"""Columns of the table with their headings. Most names are columns of study.csv and others.csv."""


def detectors() -> pd.DataFrame:
    """The rows of `with_fe` with their gains as text."""
    rows = with_fe(*(pd.read_csv(RESULTS / "tables" / f"{name}.csv") for name in ("study", "others")))
    gains = (100 * rows[["gain", "gain_low", "gain_high"]]).itertuples(index=False)
    rows["points"] = [f"{gain:+z.1f} ({low:+z.1f} to {high:+z.1f})" for gain, low, high in gains]
    return rows.assign(paper_points=(100 * rows["paper_gain"]).map("{:+.1f}".format, na_action="ignore"))


def headline(rows: pd.DataFrame) -> str:
    """The answer, and a sentence for each detector whose gain by FE the paper prints."""
    ours = rows.dropna(subset="paper_gain")
    return f"**{answer(rows)}** {' '.join(verdict(row['detector'], row) for _, row in ours.iterrows())}"


def renewed(text: str) -> str:
    """The text of README.md with the present results."""
    rows = detectors()
    text = with_block(text, "verdict", headline(rows))
    text = with_block(text, "study", markdown_of(rows, COLUMNS))
    old = of_earlier_patients(load_params(ROOT / "params.yaml"), ROOT)
    return with_block(text, "earlier", earlier([name for name in old if name in set(rows["arm"])]))


if __name__ == "__main__":
    readme = ROOT / "README.md"
    try:
        new_text = renewed(readme.read_text(encoding="utf-8"))
    except InputError as error:
        sys.exit(f"error: {error}")
    with whole_file(readme) as temporary:
        temporary.write_text(new_text, encoding="utf-8")
