"""Put the tables of results/ into README.md, between their markers: no figure there is typed by hand."""

from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
HEADINGS = {
    "variant": "detector",
    "paper_ap": "AP, paper",
    "our_ap": "AP, ours",
    "our_ap_11_point": "AP 11-point, ours",
    "our_precision_at_90_sensitivity": "precision at 90 % sensitivity, ours",
    "our_false_positives_per_cmb": "false positives per microbleed there, ours",
}


def table2_markdown(csv: Path) -> str:
    """Table 2 as Markdown; a value that does not exist (90 % sensitivity never reached) is a dash."""
    table = pd.read_csv(csv)[list(HEADINGS)]
    rows = [[row.iloc[0], *("–" if pd.isna(v) else f"{v:.3f}" for v in row.iloc[1:])] for _, row in table.iterrows()]
    lines = [list(HEADINGS.values()), ["---"] * len(HEADINGS), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def with_table(text: str, name: str, table: str) -> str:
    """Replace what lies between the markers of a table."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{table}\n{end}{after}"


def renewed(text: str) -> str:
    """README.md with the tables as results/ has them now."""
    return with_table(text, "table2", table2_markdown(ROOT / "results" / "tables" / "table2.csv"))


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(renewed(readme.read_text(encoding="utf-8")), encoding="utf-8")
