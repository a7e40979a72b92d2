"""Split patients into training, validation and test sets or folds; a patient is never in two of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cmbfe import paths
from cmbfe.data.labelled.labels import LABELS_FILE, MIMICS_FILE, Labels, labels_of_split, read_labels
from cmbfe.errors import InputError
from cmbfe.params import Params

TABLE_1_PATIENTS = {"train": 33, "test": 17, "validation": 8}
"""Patients per split in the paper's Table 1."""


def scaled_counts(patients: int, proportions: Mapping[str, int] = TABLE_1_PATIENTS) -> dict[str, int]:
    """Scale the number of patients per split to a total of `patients`: by largest remainders, at least one per split.

    With fewer patients than splits, the first splits get one patient each.

    >>> scaled_counts(58)
    {'train': 33, 'test': 17, 'validation': 8}
    >>> scaled_counts(2)
    {'train': 1, 'test': 1, 'validation': 0}
    """
    if patients < 1:
        raise InputError(f"{patients} patients: give at least 1")
    if patients < len(proportions):
        return {name: int(place < patients) for place, name in enumerate(proportions)}
    total = sum(proportions.values())
    exact = {name: patients * share / total for name, share in proportions.items()}
    counts = {name: max(1, int(value)) for name, value in exact.items()}
    while (left := patients - sum(counts.values())) != 0:
        step = 1 if left > 0 else -1
        movable = [name for name in counts if counts[name] + step >= 1]
        furthest = max(movable, key=lambda name: step * (exact[name] - counts[name]))
        counts[furthest] += step
    return counts


def split_patients(patient_ids: Sequence[str], counts: Mapping[str, int], seed: int) -> dict[str, str]:
    """Patient id -> split, drawn with `counts[name]` patients per split; the order of ids does not matter. Raises
    `InputError` if a patient id occurs twice, or if the counts do not add up to the number of patients."""
    if sum(counts.values()) != len(patient_ids):
        raise InputError(f"the splits ask for {sum(counts.values())} patients, but there are {len(patient_ids)}")
    names = [name for name, count in counts.items() for _ in range(count)]
    return dict(zip(_shuffled(patient_ids, [seed, 0x5B117]), names, strict=True))


def _shuffled(patient_ids: Sequence[str], seed: Sequence[int]) -> list[str]:
    if len(set(patient_ids)) != len(patient_ids):
        raise InputError("a patient id occurs twice; splits and folds are by patient")
    return [str(patient) for patient in np.random.default_rng(seed).permutation(sorted(patient_ids))]


def patient_folds(patient_ids: Sequence[str], folds: int, seed: int) -> dict[str, int]:
    """Patient id -> fold from 1 to `folds`. Sizes differ by at most one, and the order of ids does not matter. Raises
    `InputError` if an id occurs twice, for fewer than two folds, or for fewer patients than folds."""
    if not 2 <= folds <= len(patient_ids):
        raise InputError(f"{folds} folds of {len(patient_ids)} patients: give two folds or more, a patient to each")
    return {patient: place % folds + 1 for place, patient in enumerate(_shuffled(patient_ids, [seed, 0xF01D]))}


def labels_of_fold(labels: Labels, number: int, folds: int, seed: int) -> Labels:
    """The labels with the patients of fold `number` as split "test", and all others as "train". Raises `InputError` if
    there is no such fold, or if the patients cannot be divided into folds (see `patient_folds`)."""
    if number not in range(1, folds + 1):
        raise InputError(f"no fold {number}; there are 1 to {folds}")
    if nameless := [image["id"] for image in labels["images"] if "patient_id" not in image]:
        raise InputError(f"image {nameless[0]} has no patient_id, and folds are by patient")
    fold_of = patient_folds(sorted({str(image["patient_id"]) for image in labels["images"]}), folds, seed)
    images = [
        {**image, "split": "test" if fold_of[str(image["patient_id"])] == number else "train"}
        for image in labels["images"]
    ]
    return {**labels, "images": images}


def paper_test_set(labels: Labels, mimics: Labels, seed: int, fewer: bool = False) -> Labels:
    """The test images with microbleeds, and equally many with mimics only (the paper's Figures 4 and 5).

    Args:
        labels, mimics: labels of the microbleeds and of the mimics in the same images.
        fewer: if there are too few images with mimics only, take all of them instead of raising.

    Raises:
        InputError: no image in the test split, or fewer images with mimics only than with microbleeds (unless
            `fewer`).
    """
    test = labels_of_split(labels, "test")
    with_cmbs = {box["image_id"] for box in test["annotations"]}
    with_mimics = {box["image_id"] for box in mimics["annotations"]}
    mimics_only = sorted({image["id"] for image in test["images"]} & with_mimics - with_cmbs)
    if len(mimics_only) < len(with_cmbs) and not fewer:
        counts = f"{len(with_cmbs)} images with microbleeds but {len(mimics_only)} with mimics only"
        raise InputError(f"the test split has {counts}; raise phantom.slices or lower phantom.cmbs_per_patient")
    wanted = min(len(with_cmbs), len(mimics_only))
    drawn = np.random.default_rng([seed, 0x7E57]).choice(mimics_only, wanted, replace=False)
    chosen = with_cmbs | set(drawn.tolist())
    return {**test, "images": [image for image in test["images"] if image["id"] in chosen]}


def read_test_set(params: Params, folder: Path | None = None) -> Labels:
    """The test images of `folder` (default: the workspace's) with microbleeds, and equally many with mimics only.

    If no mimics are labelled, images without a microbleed are taken instead: most show vessels, which are mimics.
    """
    labels, mimics = (read_labels((folder or paths.images()) / name) for name in (LABELS_FILE, MIMICS_FILE))
    if mimics["categories"]:
        return paper_test_set(labels, mimics, params.seed)
    shown = {box["image_id"] for box in labels["annotations"]}
    others = [{"image_id": image["id"]} for image in labels["images"] if image["id"] not in shown]
    return paper_test_set(labels, {**mimics, "annotations": others}, params.seed, fewer=True)
