"""Who is in a simulated cohort (each patient's seed, split and numbers), and what making it costs."""

from collections.abc import Mapping
from pathlib import Path

import joblib
import numpy as np
import pandas as pd

from cmbfe.data.labelled.splits import TABLE_1_PATIENTS, scaled_counts, split_patients
from cmbfe.files import sha256_of
from cmbfe.params import Phantom, Splits
from cmbfe.phantom.quota import draw_quotas, shared_slices

_SHARES = 0xC0047
"""Beside the seed, so that shares are drawn apart from splits."""


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


def code_sha256() -> str:
    """Hash of the simulation's code: this folder and nothing else. Edited code must not leave patients of the old."""
    return sha256_of(Path(__file__).parent.rglob("*.py"))


def patient_plan(settings: Phantom, seed: int) -> dict[str, dict]:
    """Patient id -> what makes this patient: seed, split, size of the series, code; with exact counts, the quota too.

    Raises:
        InputError: exact counts that cannot be shared out among the patients.
    """
    patient_ids = [f"P{number:04d}" for number in range(1, settings.patients.total + 1)]
    splits = split_patients(patient_ids, settings.patients.model_dump(), seed)
    plans = {
        patient_id: {
            "seed": [seed, number],
            "split": splits[patient_id],
            "code_sha256": code_sha256(),
            **settings.model_dump(exclude={"patients", "exact"}),
        }
        for number, patient_id in enumerate(patient_ids)
    }
    for patient_id, shares in _exact_shares(settings, splits, seed).items():
        plans[patient_id] |= shares
    return plans


def _exact_shares(settings: Phantom, splits: Mapping[str, str], seed: int) -> dict[str, dict]:
    """Patient id -> slices and quota [images with microbleeds, boxes]; empty without exact counts."""
    if settings.exact is None:
        return {}
    rng = np.random.default_rng([seed, _SHARES])
    slices = shared_slices(rng, len(splits), settings.exact.images)
    shares = {patient_id: {"slices": number} for patient_id, number in zip(splits, slices, strict=True)}
    for split, images in settings.exact.images_with_cmbs:
        members = [patient_id for patient_id in splits if splits[patient_id] == split]
        boxes = getattr(settings.exact.boxes, split)
        quotas = draw_quotas(rng, len(members), images, boxes, settings.slices)
        for patient_id, quota in zip(members, quotas, strict=True):
            shares[patient_id]["quota"] = list(quota)
    return shares


def visible_microbleeds(plan: Mapping, rng: np.random.Generator) -> int:
    """Number of a patient without quota: at least one, as in the paper's cohort, Poisson beyond that."""
    return 1 + int(rng.poisson(max(plan["cmbs_per_patient"] - 1, 0)))


def request_of(plan: Mapping, rng: np.random.Generator) -> dict:
    """Arguments of `simulate_patient` for the patient of a plan; `rng` is the patient's own."""
    size = {"matrix": plan["matrix_px"], "slices": plan["slices"]}
    if "quota" in plan:
        return {**size, "quota": tuple(plan["quota"])}
    return {**size, "cmb_count": visible_microbleeds(plan, rng)}


def resized(settings: Phantom, patients: int) -> Phantom:
    """The same cohort with another number of patients, in Table 1's proportions; exact counts hold for one size only.

    One patient is for training, two are for training and test; settings in a file have patients in every split.

    Raises:
        InputError: no patient.
    """
    counts = Splits.model_construct(**scaled_counts(patients))  # unchecked: a split may be empty
    if counts == settings.patients:
        return settings
    return settings.model_copy(update={"patients": counts, "exact": None})


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
