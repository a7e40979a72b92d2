"""Put the tables of results/ into README.md, between their markers: no figure there is typed by hand."""

import sys
from pathlib import Path

import pandas as pd

from cmbfe.ablation import UNCHANGED, verdict
from cmbfe.errors import InputError
from cmbfe.files import whole_file
from cmbfe.markdown import table, with_block

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
    rows = [[_cell(row, column) for column in headings] for _, row in pd.read_csv(csv).iterrows()]
    return table(list(headings.values()), rows)


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


def stages(csv: Path) -> str:
    """Wall time of each stage, and of all, as Markdown.

    Raises:
        InputError: there is no such file yet.
    """
    if not csv.is_file():
        raise InputError(f"{csv}: no such file; after `make repro`, tools/stage_times.py writes it")
    seconds = pd.read_csv(csv).set_index("stage")["seconds"]
    rows = [(stage, minutes_and_seconds(taken)) for stage, taken in seconds.items()]
    return table(["stage", "wall time"], [*rows, ("all", minutes_and_seconds(seconds.sum()))])


def headline(csv: Path) -> str:
    """What the study says of FE, in plain words: a sentence per detector."""
    effects = pd.read_csv(csv)
    plain = effects[effects["setting"] == UNCHANGED]
    return f"**{' '.join(verdict(row['detector'], row) for _, row in plain.iterrows())}**"


def folds(csv: Path) -> str:
    """What the cross-validation says, in a sentence."""
    row = pd.read_csv(csv).set_index("fold").loc["all"]
    without, with_fe, gain, low, high = row[["our_ap", "our_ap_fe", "our_gain", "our_gain_low", "our_gain_high"]]
    return (
        f"There, all {row['patients']:.0f} patients together, {row['detector']} has an AP of {without:.3f} without FE "
        f"and {with_fe:.3f} with it: {gain:+.3f}, 95 % interval {low:+.3f} to {high:+.3f}."
    )


def others(gains: Path, relatives: Path) -> str:
    """What other detectors say of FE, and which relative has the largest gain, in plain words.

    Raises:
        InputError: there is no such file yet.
    """
    for csv in (gains, relatives):
        if not csv.is_file():
            raise InputError(f"{csv}: no such file; make others writes it")
    table = pd.read_csv(gains)
    told = [verdict(row["detector"], row) for _, row in table.iterrows()]
    tried = pd.read_csv(relatives).dropna(subset="gain")
    if len(tried) < 2:  # FE alone is nothing to compare
        return " ".join(told)
    best = tried.loc[tried["gain"].idxmax()]
    interval = f"{100 * best['gain']:+.1f} AP points, {100 * best['gain_low']:+.1f} to {100 * best['gain_high']:+.1f}"
    return f"{' '.join(told)} Of FE and its relatives {best['relative']} has the largest gain ({interval})."


def minutes_and_seconds(seconds: float) -> str:
    """Such as "3 min 05 s"; hours stay minutes."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def renewed(text: str) -> str:
    """README.md with the tables as results/ has them now."""
    tables = ROOT / "results" / "tables"
    for name, headings in TABLES.items():
        text = with_block(text, name, markdown(tables / f"{name}.csv", headings))
    text = with_block(text, "headline", headline(tables / "study.csv"))
    text = with_block(text, "crossvalidation", folds(tables / "crossvalidation.csv"))
    text = with_block(text, "others", others(tables / "others.csv", tables / "others_relatives.csv"))
    return with_block(text, "stages", stages(tables / "stages.csv"))


if __name__ == "__main__":
    readme = ROOT / "README.md"
    try:
        new_text = renewed(readme.read_text(encoding="utf-8"))
    except InputError as error:
        sys.exit(f"error: {error}")
    with whole_file(readme) as temporary:
        temporary.write_text(new_text, encoding="utf-8")
