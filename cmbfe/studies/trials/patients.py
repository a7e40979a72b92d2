"""Training and test patients of the study, simulated once for all arms, and the folds of the cross-validation.

Each seed has its own training patients, and all trainings are tested on the same patients. All images carry phase,
which only arms with phase read. The files are data/study and results/study/test_cmbs.csv in the folder `root`.
"""

from collections.abc import Iterable
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from cmbfe import paths
from cmbfe.data.augment import augment_training_set
from cmbfe.data.labelled.images import read_image
from cmbfe.data.labelled.labels import LABELS_FILE, MIMICS_FILE, Labels, labels_of_split, read_labels
from cmbfe.data.labelled.splits import labels_of_fold, paper_test_set
from cmbfe.data.sources.importer import import_dicom
from cmbfe.errors import InputError
from cmbfe.files import write_table
from cmbfe.metrics.matching import tight_box
from cmbfe.params import Params, Phantom, Splits
from cmbfe.phantom.cohort import write_cohort
from cmbfe.training.batches import without_phase

PATIENTS = "patients"  # the part of the study that makes the patients
_COHORT = 0x57D1  # combined with the seed, so that the study's patients differ from the pipeline's


def study_phantom(params: Params) -> tuple[Phantom, int]:
    """Phantom settings and seed of the study's cohort: the training patients of all seeds, and the test patients."""
    study = params.study
    # The phantom's cohort has three splits; the single validation patient is not used.
    counts = {"train": study.training_patients[-1] * len(study.seeds), "test": study.test_patients, "validation": 1}
    cohort = params.phantom.model_copy(update={"patients": Splits(**counts), "exact": None})
    return cohort, int(np.random.SeedSequence([params.seed, _COHORT]).generate_state(1)[0])


def make_patients(params: Params, root: Path, jobs: int = -1, progress: bool = True) -> None:
    """Simulate the study's patients, make their images, augment the training sets, and list the test microbleeds.

    Raises:
        InputError: as `write_cohort`, `import_dicom` and `augment_training_set`.
    """
    data = paths.study_data(root)
    images = data / "pictures"
    cohort, drawn_by = study_phantom(params)
    write_cohort(data / "raw", cohort, drawn_by, jobs, progress)
    with_phase = params.images.model_copy(update={"phase": True})
    labels = import_dicom(data / "raw", images, with_phase, drawn_by, jobs, progress)
    sets = list(product(params.study.seeds, params.study.training_patients))
    for seed, patients in tqdm(sets, desc="augmenting", unit="training set", disable=not progress):
        chosen = training_labels(labels, seed, patients, params)
        target = paths.study_training_set(seed, patients, root)
        augment_training_set(chosen, images, target, params.augmentation, seed, jobs, progress=False)
    write_table(list_test_cmbs(params, root), paths.study_cmbs(root))


def training_labels(labels: Labels, seed: int, patients: int, params: Params) -> Labels:
    """The labels, in split "train", of the first `patients` training patients of a seed."""
    everybody = sorted({image["patient_id"] for image in labels_of_split(labels, "train")["images"]})
    first = (seed - 1) * params.study.training_patients[-1]
    return of_patients(labels, everybody[first : first + patients])


def of_patients(labels: Labels, patients: Iterable[str]) -> Labels:
    """The labels of the images of `patients`."""
    chosen = set(patients)
    images = [image for image in labels["images"] if image["patient_id"] in chosen]
    shown = {image["id"] for image in images}
    boxes = [box for box in labels["annotations"] if box["image_id"] in shown]
    return {**labels, "images": images, "annotations": boxes}


def read_test_labels(params: Params, root: Path, patients: int | None = None) -> Labels:
    """Labels of the test images: all with microbleeds, and the same number with mimics only (or all there are).

    Args:
        patients: how many of the first test patients to use; None for all.

    Raises:
        InputError: the patients were not made yet.
    """
    labels, mimics = _labels_and_mimics(params, root)
    test = paper_test_set(labels, mimics, params.seed, fewer=True)
    return of_patients(test, sorted({image["patient_id"] for image in test["images"]})[:patients])


def read_mimics(params: Params, root: Path) -> Labels:
    """The mimics on all images of the study; raises `InputError` if the patients were not made yet."""
    return _labels_and_mimics(params, root)[1]


def _labels_and_mimics(params: Params, root: Path) -> tuple[Labels, Labels]:
    images = paths.study_data(root) / "pictures"
    if not (images / LABELS_FILE).is_file():
        raise InputError(f"{images}: the study's patients are not there; make them: cmbfe study {PATIENTS}")
    return read_labels(images / LABELS_FILE), read_labels(images / MIMICS_FILE)


def list_test_cmbs(params: Params, root: Path) -> pd.DataFrame:
    """A row per microbleed box of the test images, by annotation id: patient, location, size and contrast."""
    test, images = without_phase(read_test_labels(params, root)), paths.study_data(root) / "pictures"
    shown = {image["id"]: read_image(images / image["file_name"]) for image in test["images"]}
    cmbs = pd.DataFrame(test["annotations"]).set_index("id")
    cmbs["patient"] = cmbs["image_id"].map({image["id"]: image["patient_id"] for image in test["images"]})
    cmbs["contrast"] = [contrast(shown[box["image_id"]], tight_box(box)) for box in test["annotations"]]
    return cmbs[["patient", "location", "visible_diameter_mm", "contrast"]]


def contrast(image: np.ndarray, box: list[float]) -> float:
    """Contrast of a microbleed to its surroundings: 1 - mean inside / median around.

    Inside means the ellipse in the box [x, y, w, h] px. Around means the band between the ellipses of 1.5 and 2.5 times
    its size. The contrast is 0 if the band is empty or black.
    """
    rows, columns = np.indices(image.shape) + 0.5
    reach = np.hypot((columns - box[0] - box[2] / 2) * 2 / box[2], (rows - box[1] - box[3] / 2) * 2 / box[3])
    around = image[(reach > 1.5) & (reach <= 2.5)]
    inside = image[reach <= max(1.0, reach.min())]
    return float(1 - inside.mean() / np.median(around)) if around.size and np.median(around) > 0 else 0.0


def fold_labels(number: int, params: Params, images: Path) -> Labels:
    """The labels in the folder `images`, with a fold's patients in split "test" and all other patients in "train".

    Raises:
        InputError: no such fold, unreadable labels, or fewer patients than folds.
    """
    folds = len(params.crossvalidation.folds)
    return labels_of_fold(read_labels(images / LABELS_FILE), number, folds, params.seed)


def fold_test_set(number: int, params: Params, images: Path) -> Labels:
    """Labels of a fold's test images: all with microbleeds, and the same number with mimics only (or all there are).

    Raises:
        InputError: the errors of `fold_labels`, or no microbleed in this fold or in all other folds together.
    """
    labels, mimics = fold_labels(number, params, images), read_labels(images / MIMICS_FILE)
    split_of = {image["id"]: image["split"] for image in labels["images"]}
    bled = {split_of[box["image_id"]] for box in labels["annotations"]}
    for split, patients in (("test", "its patients"), ("train", "the patients of the others")):
        if split not in bled:
            raise InputError(f"{images / LABELS_FILE}: fold {number}: {patients} have no microbleed; use fewer folds")
    return paper_test_set(labels, mimics, params.seed, fewer=True)
