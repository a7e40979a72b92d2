"""What a simulation would make and what it would cost, told without simulating anything."""

from collections.abc import Mapping

import joblib
import numpy as np
import pandas as pd

from cmbfe.data.labelled.splits import TABLE_1_PATIENTS
from cmbfe.phantom.cohort import visible_microbleeds

# Measured by benchmarks/phantom.py on a server's Xeon core; they hold within 10 % from 128 to 512 px.
CPU_SECONDS_PER_PROCESS = 9.0
"""The template, loaded once by each process."""
CPU_SECONDS_PER_PATIENT = 4.0
CPU_SECONDS_PER_MEGAPIXEL = 0.8
"""Beyond that, for a million pixels of the series, slices together."""
PEAK_GIB = 0.8
PEAK_GIB_PER_MEGAPIXEL = 0.09
BYTES_PER_PIXEL = 4
"""Magnitude and phase, 16 bits each."""
BYTES_PER_SLICE = 3_000
"""Headers of both files."""


def plan_table(plans: Mapping[str, Mapping]) -> pd.DataFrame:
    """One row a patient: split, slices, and the exact images and boxes; where these are not exact, microbleeds."""
    rows = {}
    for patient, plan in plans.items():
        if "quota" in plan:
            numbers = dict(zip(("images with CMBs", "boxes"), plan["quota"], strict=True))
        else:
            numbers = {"CMBs": visible_microbleeds(plan, np.random.default_rng(plan["seed"]))}
        rows[patient] = {"split": plan["split"], "slices": plan["slices"], **numbers}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("patient")


def split_table(patients: pd.DataFrame) -> pd.DataFrame:
    """One row a split, in the order of Table 1, and the total: patients and the sums of their numbers."""
    by_split = patients.groupby("split")
    table = by_split.sum().assign(patients=by_split.size()).reindex(list(TABLE_1_PATIENTS), fill_value=0)
    table.loc["total"] = table.sum()
    return table[["patients", *patients.columns.drop("split")]]


def costs(plans: Mapping[str, Mapping], cores: int) -> list[str]:
    """Lines on time, memory and disk of making these patients, `cores` of them at a time."""
    slices, matrix = np.array([(plan["slices"], plan["matrix_px"]) for plan in plans.values()]).T
    megapixels = slices * matrix**2 / 1e6
    seconds = CPU_SECONDS_PER_PATIENT + CPU_SECONDS_PER_MEGAPIXEL * megapixels
    at_a_time = min(cores, len(plans))
    minutes = (seconds.sum() + at_a_time * CPU_SECONDS_PER_PROCESS) / 60
    gib = PEAK_GIB + PEAK_GIB_PER_MEGAPIXEL * megapixels.max()
    megabytes = BYTES_PER_PIXEL * megapixels + BYTES_PER_SLICE * slices / 1e6
    return [
        f"time:   {seconds.mean():.0f} s of CPU a patient, {minutes:.1f} min in all; "
        f"{minutes / at_a_time:.1f} min with {at_a_time} at a time, a core each",
        f"memory: {gib:.1f} GiB a patient, {at_a_time * gib:.1f} GiB with {at_a_time} at a time",
        f"disk:   {megabytes.mean():.1f} MB a patient (magnitude and phase), {megabytes.sum() / 1e3:.2f} GB in all",
    ]


def report(plans: Mapping[str, Mapping], missing: int, cores: int | None = None) -> str:
    """The plan as text: a table by split, one by patient, and the arithmetic of time, memory and disk.

    Args:
        missing: patients that are still to be made.
        cores: patients made at a time; None: one per core of this machine.
    """
    patients = plan_table(plans)
    matrix = next(iter(plans.values()))["matrix_px"]
    size = f"{len(patients)} patients, {patients['slices'].sum()} slices of {matrix} x {matrix} px"
    if "boxes" in patients:
        numbers = "Exact numbers: lesions are drawn and selected until images with microbleeds (CMBs) and boxes hold."
    else:
        numbers = "Numbers of visible microbleeds (CMBs), drawn by the seed; the simulation tells on how many images."
    parts = [
        f"{size}\n{numbers}",
        split_table(patients).to_string(index_names=False),
        patients.to_string(index_names=False),
        "\n".join(costs(plans, cores or joblib.cpu_count())),
        f"Dry run: nothing was written. {len(plans) - missing} of the {len(plans)} patients are there already.",
    ]
    return "\n\n".join(parts)
