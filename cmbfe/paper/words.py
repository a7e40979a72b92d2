"""What tables of results say, as sentences: which one it is depends on the intervals."""

import pandas as pd

from cmbfe.metrics.intervals import seeds_for_half_width

UNCHANGED = "as in params.yaml"
"""The setting of an arm of the study that changes nothing, in `cmbfe.studies.ablation.effects_table`."""

HALF_WIDTH = 0.01
"""AP on either side of a gain that would settle the paper's two to three points."""


def verdict(detector: str, row: pd.Series) -> str:
    """Whether FE helped in an arm, from its row of `cmbfe.studies.ablation.effects_table`."""
    low, high = 100 * row["gain_low"], 100 * row["gain_high"]
    interval = f"{100 * row['gain']:+.1f} AP points, 95 % interval {low:+.1f} to {high:+.1f}, {row['seeds']} seeds"
    if low > 0:
        return f"FE helped {detector} ({interval})."
    if high < 0:
        return f"FE harmed {detector} ({interval})."
    return f"FE's effect on {detector} is inconclusive ({interval})."


def points(value: float) -> str:
    """A difference of AP in hundredths, with its sign."""
    return f"{100 * value:+.1f} AP points"


def interval(row: pd.Series, name: str) -> str:
    """A difference of AP with its interval, as text."""
    return f"{points(row[name])}, {100 * row[f'{name}_low']:+.1f} to {100 * row[f'{name}_high']:+.1f}"


def intervals_without_zero(rows: pd.DataFrame, name: str) -> str:
    """In how many rows the interval of `name` leaves out zero, and in which, by their index; the rest of a sentence."""
    if rows.empty:
        return "nothing was measured yet"
    found = rows[(rows[f"{name}_low"] > 0) | (rows[f"{name}_high"] < 0)]
    if found.empty:
        return "the one interval holds zero" if len(rows) == 1 else f"all {len(rows)} intervals hold zero"
    listed = "; ".join(f"{label} ({interval(row, name)})" for label, row in found.iterrows())
    verb = "leaves" if len(found) == 1 else "leave"
    return f"{len(found)} of {len(rows)} intervals {verb} out zero: {listed}"


def seeds_that_would_do(plain: pd.DataFrame) -> str:
    """How many seeds narrow each detector's interval to `HALF_WIDTH` on either side; a sentence."""
    needed = [
        f"{seeds_for_half_width(row['gain_seed_deviation'], HALF_WIDTH)} seeds of {row['detector']}"
        for _, row in plain.iterrows()
    ]
    return (
        f"With this spread, {' or '.join(needed)} would narrow the interval to ± {100 * HALF_WIDTH:g} AP point; "
        f"{plain['seeds'].iloc[0]} were trained."
    )


def folds(table: pd.DataFrame) -> str:
    """What the cross-validation says, from results/tables/crossvalidation.csv."""
    row = table.set_index("fold").loc["all"]
    without, with_fe, gain, low, high = row[["our_ap", "our_ap_fe", "our_gain", "our_gain_low", "our_gain_high"]]
    return (
        f"There, all {row['patients']:.0f} patients together, {row['detector']} has an AP of {without:.3f} without FE "
        f"and {with_fe:.3f} with it: {gain:+.3f}, 95 % interval {low:+.3f} to {high:+.3f}."
    )


def others(gains: pd.DataFrame, relatives: pd.DataFrame) -> str:
    """What other detectors say of FE, and which relative has the largest gain, from results/tables/others*.csv."""
    told = [verdict(row["detector"], row) for _, row in gains.iterrows()]
    tried = relatives.dropna(subset="gain")
    if len(tried) < 2:  # FE alone is nothing to compare
        return " ".join(told)
    best = tried.loc[tried["gain"].idxmax()]
    told.append(f"Of FE and its relatives {best['relative']} has the largest gain ({interval(best, 'gain')}).")
    return " ".join(told)
