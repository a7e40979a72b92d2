"""What tables of results say, as sentences of the README and the report: which one it is depends on the intervals."""

from pathlib import Path

import pandas as pd

from cmbfe.files import read_json
from cmbfe.metrics.intervals import seeds_for_half_width

EARLIER = (1892, 360)
"""Boxes of microbleeds in the study's test images, 100 and 20 patients, before the patients of November 2026."""
HALF_WIDTH = 0.01
"""AP on either side of a gain that would settle the paper's two to three points."""


def unchanged(effects: pd.DataFrame) -> pd.DataFrame:
    """The rows of FE in arms that change nothing, from `cmbfe.studies.reading.gains_table` as read from its CSV."""
    return effects[effects["setting"].isna() & (effects["treatment"] == "fe")]


def points(value: float) -> str:
    """A difference of AP in hundredths, with its sign."""
    return f"{100 * value:+.1f} AP points"


def interval(row: pd.Series, name: str) -> str:
    """A difference of AP with its interval, as text."""
    return f"{points(row[name])}, {100 * row[f'{name}_low']:+.1f} to {100 * row[f'{name}_high']:+.1f}"


def intervals_without_zero(rows: pd.DataFrame, name: str) -> str:
    """How many intervals of `name` exclude zero, and which, by the index of their rows; the end of a sentence."""
    if rows.empty:
        return "nothing has been measured yet"
    clear = rows[(rows[f"{name}_low"] > 0) | (rows[f"{name}_high"] < 0)]
    if clear.empty:
        return "the interval includes zero" if len(rows) == 1 else f"all {len(rows)} intervals include zero"
    listed = "; ".join(f"{label} ({interval(row, name)})" for label, row in clear.iterrows())
    return f"{len(clear)} of {len(rows)} intervals {'excludes' if len(clear) == 1 else 'exclude'} zero: {listed}"


def seeds_that_would_do(plain: pd.DataFrame) -> str:
    """How many seeds narrow each detector's interval to `HALF_WIDTH` on either side; a sentence."""
    plain = plain.dropna(subset="gain_seed_deviation")
    if plain.empty:
        return "The spread of the gains over seeds is not known."
    needed = " or ".join(
        f"{seeds_for_half_width(row.gain_seed_deviation, HALF_WIDTH)} seeds of {row.detector} (trained: {row.seeds})"
        for row in plain.itertuples()
    )
    return f"With this spread, {needed} would narrow the interval to ± {100 * HALF_WIDTH:g} AP point."


def folds(table: pd.DataFrame) -> str:
    """What the cross-validation says, from results/tables/crossvalidation.csv."""
    row = table.set_index("fold").loc["all"]
    without, with_fe, gain, low, high = row[["our_ap", "our_ap_fe", "our_gain", "our_gain_low", "our_gain_high"]]
    return (
        f"In the cross-validation, all {row['patients']:.0f} patients together, {row['detector']} has an AP of "
        f"{without:.3f} without FE and {with_fe:.3f} with it: {gain:+.3f}, 95 % CI {low:+.3f} to {high:+.3f}."
    )


def earlier(rows: pd.DataFrame, results: Path) -> str:
    """Which of the study's rows are of the phantom's earlier patients; a sentence, or nothing."""
    files = {arm: next((results / "study" / arm).glob("*.json"), None) for arm in rows["arm"].unique()}
    old = [arm for arm, file in files.items() if file and read_json(file)["cmbs"] in EARLIER]
    which = "All results of the study" if len(old) == len(files) else f"Results of {', '.join(old)}"
    return (
        f"{which} are of earlier simulated patients, whose microbleeds were larger; they are being renewed."
        if old
        else ""
    )
