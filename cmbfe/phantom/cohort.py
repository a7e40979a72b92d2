"""Who is in a simulated cohort: each patient's seed, split and numbers, before anything is simulated."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cmbfe.data.labelled.splits import scaled_counts, split_patients
from cmbfe.files import sha256_of
from cmbfe.params import Patients, Phantom
from cmbfe.phantom.quota import draw_quotas, shared_slices

_SHARES = 0xC0047
"""Beside the seed, so that shares are drawn apart from splits."""


def patient_plan(settings: Phantom, seed: int) -> dict[str, dict]:
    """Patient id -> what makes this patient: seed, split, size of the series, code; with exact counts, the quota too.

    Raises:
        InputError: exact counts that cannot be shared out among the patients.
    """
    patient_ids = [f"P{number:04d}" for number in range(1, settings.patients.total + 1)]
    splits = split_patients(patient_ids, settings.patients.model_dump(), seed)
    code_sha256 = sha256_of(Path(__file__).parent.glob("*.py"))  # edited code must not leave patients of the old
    plans = {
        patient_id: {
            "seed": [seed, number],
            "split": splits[patient_id],
            "code_sha256": code_sha256,
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
    counts = Patients.model_construct(**scaled_counts(patients))  # unchecked: a split may be empty
    if counts == settings.patients:
        return settings
    return settings.model_copy(update={"patients": counts, "exact": None})
