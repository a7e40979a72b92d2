"""What a gain says, as a sentence: it depends on the interval."""

import pandas as pd


def verdict(detector: str, row: pd.Series) -> str:
    """Whether FE helped a detector, from a row of `cmbfe.studies.reading.gains_table`."""
    low, high = 100 * row["gain_low"], 100 * row["gain_high"]
    measured = f"{100 * row['gain']:+.1f} AP points, 95 % CI {low:+.1f} to {high:+.1f}, {row['seeds']} seeds"
    if low > 0:
        return f"FE helped {detector} ({measured})."
    if high < 0:
        return f"FE harmed {detector} ({measured})."
    return f"The effect of FE on {detector} is inconclusive ({measured})."
