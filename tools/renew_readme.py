"""Put the tables of results/ into README.md, between their markers: no figure there is typed by hand."""

from pathlib import Path

import pandas as pd

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
}
"""Columns of each table in README.md, by their names in its CSV, with their headings."""


def markdown(csv: Path, headings: dict[str, str]) -> str:
    """A table as Markdown, intervals behind their value; a dash for what does not exist."""
    table = pd.read_csv(csv)
    rows = [[_cell(row, column) for column in headings] for _, row in table.iterrows()]
    lines = [list(headings.values()), ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _cell(row: pd.Series, column: str) -> str:
    value = row[column]
    if isinstance(value, str):
        return value
    if pd.isna(value):
        return "–"
    sign = "+" if column.endswith("gain") else ""
    low, high = row.get(f"{column}_low"), row.get(f"{column}_high")
    interval = "" if pd.isna(low) else f" ({low:{sign}.3f} to {high:{sign}.3f})"
    return f"{value:{sign}.3f}{interval}"


def with_table(text: str, name: str, table: str) -> str:
    """Replace what lies between the markers of a table."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"README.md: expected {begin} and {end} once each")
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{table}\n{end}{after}"


def renewed(text: str) -> str:
    """README.md with the tables as results/ has them now."""
    for name, headings in TABLES.items():
        text = with_table(text, name, markdown(ROOT / "results" / "tables" / f"{name}.csv", headings))
    return text


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(renewed(readme.read_text(encoding="utf-8")), encoding="utf-8")
