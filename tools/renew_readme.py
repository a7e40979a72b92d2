"""Put the tables of results/ into README.md, between their markers: no figure there is typed by hand."""

import sys
from pathlib import Path

import pandas as pd

from cmbfe.errors import InputError
from cmbfe.files import whole_file
from cmbfe.paper.tables import markdown_of, with_block
from cmbfe.paper.words import verdict
from tools.words import folds, others, unchanged

ROOT = Path(__file__).resolve().parent.parent
TABLES = {
    "table2": {
        "variant": "detector",
        "paper_ap": "AP, paper",
        "our_ap": "AP, ours",
        "paper_gain": "gain by FE, paper",
        "our_gain": "gain by FE, ours",
        "our_precision_at_90_sensitivity": "precision at 90 % sensitivity, ours",
        "our_false_positives_per_cmb": "false positives per microbleed there, ours",
    },
    "table3": {
        "variant": "detector",
        "backbone": "backbone",
        "our_recall": "recall, ours",
        "paper_precision": "precision at 90 % recall, paper",
        "our_precision": "precision at our recall",
        "our_gain": "gain by FE, ours",
        "paper_fe_time_ratio": "time with FE / without, paper",
        "our_fe_time_ratio": "time with FE / without, ours",
    },
    "table4": {
        "study": "detector",
        "after": "after",
        "paper_sensitivity": "sensitivity, paper",
        "paper_precision": "precision, paper",
        "published_sensitivity": "sensitivity, its own paper",
        "our_ap": "AP, ours",
        "our_sensitivity_at_1_per_picture": "sensitivity at 1 false positive per image, ours",
        "our_sensitivity_at_4_per_picture": "at 4, ours",
        "our_ap_over_ssd512": "AP less that of SSD-512, ours",
    },
}
"""Columns of each table in README.md, by their names in its CSV, with their headings."""


def headline(csv: Path) -> str:
    """What the study says of FE, in plain words: a sentence per detector."""
    rows = unchanged(pd.read_csv(csv)).iterrows()
    return f"**{' '.join(verdict(row['detector'], row) for _, row in rows)}**"


def renewed(text: str) -> str:
    """README.md with the tables as results/ has them now."""
    tables = ROOT / "results" / "tables"
    for name, headings in TABLES.items():
        text = with_block(text, name, markdown_of(pd.read_csv(tables / f"{name}.csv"), headings))
    text = with_block(text, "headline", headline(tables / "study.csv"))
    text = with_block(text, "crossvalidation", folds(pd.read_csv(tables / "crossvalidation.csv")))
    return with_block(text, "others", others(pd.read_csv(tables / "others.csv")))


if __name__ == "__main__":
    readme = ROOT / "README.md"
    try:
        new_text = renewed(readme.read_text(encoding="utf-8"))
    except InputError as error:
        sys.exit(f"error: {error}")
    with whole_file(readme) as temporary:
        temporary.write_text(new_text, encoding="utf-8")
