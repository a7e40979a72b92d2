"""Sentences for the README and the report, chosen by the intervals in the result tables."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from cmbfe import paths
from cmbfe.files import read_json
from cmbfe.metrics.intervals import seeds_for_half_width
from cmbfe.paper.words import NOTHING
from cmbfe.params import Params
from cmbfe.studies import reading
from cmbfe.studies.trials.arms import CROSSVALIDATION, PLAIN

HALF_WIDTH = 0.01
"""Half width of an interval, in AP, that would resolve the paper's gain of two to three points."""


def unchanged(effects: pd.DataFrame) -> pd.DataFrame:
    """The rows of FE in unchanged arms, from the CSV file of `cmbfe.studies.reading.gains_table`."""
    return effects[effects["setting"].isna() & (effects["treatment"] == "fe")]


def with_fe(study: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    """A row per detector that was trained without FE and with it, and without other changes."""
    return pd.concat([unchanged(study), others[others["treatment"] == "fe"]])


def answer(rows: pd.DataFrame) -> str:
    """A sentence on how many detectors FE helps and harms, from the rows of `with_fe`."""
    rows = rows[rows[["ap", "ap_treated"]].max(axis=1) >= NOTHING]
    helped, harmed = rows.loc[rows["gain_low"] > 0, "detector"], rows.loc[rows["gain_high"] < 0, "detector"]
    which = [f"{len(names)} ({', '.join(names)})" if len(names) else "none" for names in (helped, harmed)]
    found = f"Of the {len(rows)} detectors that find microbleeds, FE helped {which[0]} and harmed {which[1]}"
    return (
        f"{found}: their 95 % CI of the gain, over patients and seeds, excludes zero."
        if len(helped) + len(harmed)
        else f"{found}."
    )


def interval(row: pd.Series, name: str, unit: str) -> str:
    """A difference, times 100 and in `unit`, with its interval as text."""
    low, high = 100 * row[f"{name}_low"], 100 * row[f"{name}_high"]
    return f"{100 * row[name]:+z.1f} {unit}, {low:+z.1f} to {high:+z.1f}"


def intervals_without_zero(rows: pd.DataFrame, name: str, what: str, unit: str = "AP points") -> str:
    """A sentence on which intervals of `name` exclude zero. `what`: the quantity; the index of `rows` names them."""
    if rows.empty:
        return f"The interval of {what} has not been measured yet."
    clear = rows[(rows[f"{name}_low"] > 0) | (rows[f"{name}_high"] < 0)]
    everyone = {1: "The interval", 2: "Both intervals"}.get(len(rows), f"All {len(rows)} intervals")
    verb = "excludes" if len(clear) == 1 else "exclude"
    if clear.empty:
        return f"{everyone} of {what} include{'s' if len(rows) == 1 else ''} zero."
    some = everyone if len(clear) == len(rows) else f"{len(clear)} of {len(rows)} intervals"
    listed = "; ".join(f"{label} ({interval(row, name, unit)})" for label, row in clear.iterrows())
    return f"{some} of {what} {verb} zero: {listed}."


def seeds_that_would_do(plain: pd.DataFrame) -> str:
    """A sentence on how many seeds would narrow the intervals to about ± `HALF_WIDTH`."""
    plain = plain.dropna(subset="gain_seed_deviation")
    if plain.empty:
        return "The spread of the gains over seeds is not known."
    needed = [(seeds_for_half_width(row.gain_seed_deviation, HALF_WIDTH), row) for row in plain.itertuples()]
    lacking = [
        f"{seeds} seeds of {row.detector} (trained: {row.seeds})" for seeds, row in needed if seeds > row.seeds
    ]
    if not lacking:
        return f"With this spread, the seeds' part of each interval is at most about ± {100 * HALF_WIDTH:g} AP point."
    narrow = f"would narrow the seeds' part of the interval to ± {100 * HALF_WIDTH:g} AP point"
    return f"With this spread, {' or '.join(lacking)} {narrow}."


def folds(table: pd.DataFrame) -> str:
    """A sentence on the result of the cross-validation, from results/tables/crossvalidation.csv."""
    row = table.set_index("fold").loc["all"]
    without, with_fe, gain, low, high = row[["our_ap", "our_ap_fe", "our_gain", "our_gain_low", "our_gain_high"]]
    return (
        f"In the cross-validation, all {row['patients']:.0f} patients together, {row['detector']} has an AP of "
        f"{without:.3f} without FE and {with_fe:.3f} with it: {gain:+z.3f}, 95 % CI {low:+z.3f} to {high:+z.3f}."
    )


def of_earlier_patients(params: Params, root: Path) -> list[str]:
    """Names of the study's parts whose results come from an earlier set of patients."""
    cmbs = reading.read_cmbs(root)
    runs = {name: reading.read_arm(name, params, root) for name in params.study.every_arm}
    old = [name for name, of_arm in runs.items() if of_arm and not reading.is_current(of_arm, cmbs)]
    folder = paths.study_result(CROSSVALIDATION, root)
    boxes = [read_json(folder / f"{PLAIN}-{fold}.json")["cmbs"] for fold in params.crossvalidation.folds]
    of_now = pd.read_csv(paths.table("table1", root), index_col="split")["our_cmbs"]["total"]
    return old if sum(boxes) == of_now else [*old, CROSSVALIDATION]


def earlier(old: Sequence[str]) -> str:
    """A sentence on parts of the study with results from earlier patients; empty if there are none."""
    names = " and ".join(filter(None, (", ".join(old[:-1]), *old[-1:])))
    what = f"The results of {names} are from earlier patients with larger microbleeds"
    return f"{what}, and are being renewed." if old else ""
