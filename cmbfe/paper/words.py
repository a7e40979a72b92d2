"""Sentences that interpret a gain by its 95 % CI."""

import pandas as pd

NOTHING = 0.005
"""Below this AP a detector finds almost nothing, and its gain cannot be interpreted."""


def verdict(detector: str, row: pd.Series) -> str:
    """Say whether FE helped a detector and which gains are excluded, from a row of `cmbfe.studies.reading.gains_table`.

    An interval that includes zero is inconclusive, unless it excludes the gain that the paper prints.
    """
    if max(row["ap"], row["ap_treated"]) < NOTHING:
        return f"{detector} finds nothing, without FE or with it (AP below {NOTHING:g}, {row['seeds']} seeds)."
    low, high, paper = (100 * row[name] for name in ("gain_low", "gain_high", "paper_gain"))
    measured = f"{100 * row['gain']:+z.1f} AP points, 95 % CI {low:+z.1f} to {high:+z.1f}, {row['seeds']} seeds"
    measured += "" if pd.isna(paper) else f"; {paper:+.1f} in the paper"
    if low > 0:
        return f"FE helped {detector} ({measured})."
    if high < 0:
        return f"FE harmed {detector} ({measured})."
    said = f"FE did not help {detector}" if paper > high else f"The effect of FE on {detector} is inconclusive"
    return f"{said} ({measured}): a gain of more than {high:.1f} AP points is excluded."
