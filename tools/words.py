"""What tables of results say, as sentences of the README and the report: which one it is depends on the intervals."""

import pandas as pd

from cmbfe.metrics.intervals import seeds_for_half_width

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
    """In how many rows, and in which by their index, the interval of `name` leaves out zero; the end of a sentence."""
    if rows.empty:
        return "nothing was measured yet"
    clear = rows[(rows[f"{name}_low"] > 0) | (rows[f"{name}_high"] < 0)]
    if clear.empty:
        return "the one interval holds zero" if len(rows) == 1 else f"all {len(rows)} intervals hold zero"
    listed = "; ".join(f"{label} ({interval(row, name)})" for label, row in clear.iterrows())
    return f"{len(clear)} of {len(rows)} intervals {'leaves' if len(clear) == 1 else 'leave'} out zero: {listed}"


def seeds_that_would_do(plain: pd.DataFrame) -> str:
    """How many seeds narrow each detector's interval to `HALF_WIDTH` on either side; a sentence."""
    plain = plain.dropna(subset="gain_seed_deviation")
    if plain.empty:
        return "How far the gains of seeds lie apart is not known."
    seeds = [seeds_for_half_width(deviation, HALF_WIDTH) for deviation in plain["gain_seed_deviation"]]
    needed = " or ".join(f"{count} seeds of {name}" for count, name in zip(seeds, plain["detector"], strict=True))
    width, trained = f"± {100 * HALF_WIDTH:g} AP point", plain["seeds"].iloc[0]
    return f"With this spread, {needed} would narrow the interval to {width}; {trained} were trained."


def folds(table: pd.DataFrame) -> str:
    """What the cross-validation says, from results/tables/crossvalidation.csv."""
    row = table.set_index("fold").loc["all"]
    without, with_fe, gain, low, high = row[["our_ap", "our_ap_fe", "our_gain", "our_gain_low", "our_gain_high"]]
    return (
        f"In the cross-validation, all {row['patients']:.0f} patients together, {row['detector']} has an AP of "
        f"{without:.3f} without FE and {with_fe:.3f} with it: {gain:+.3f}, 95 % CI {low:+.3f} to {high:+.3f}."
    )
