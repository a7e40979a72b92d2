"""Images with phase for `make phase`: the study's images, and the phase of the same slices beside each.

    make_images(params, Path())

The magnitude is byte for byte that of the study, also after augmentation: detectors that see phase differ from the
study's in nothing else. Files: data/phase in the folder `root`.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from joblib import Parallel, delayed
from tqdm import tqdm

from cmbfe import paths
from cmbfe.data.augment import augment_training_set
from cmbfe.data.dicom.series import SeriesHeaders, find_series
from cmbfe.data.labelled.images import phase_entry, save_image
from cmbfe.data.labelled.labels import LABELS_FILE, MIMICS_FILE, Labels, read_labels, write_labels
from cmbfe.data.labelled.splits import paper_test_set
from cmbfe.data.phase import phase_images, phase_of
from cmbfe.errors import InputError
from cmbfe.files import whole_folder
from cmbfe.params import Params
from cmbfe.studies.patients import PATIENTS, training_labels


def phase_seeds(params: Params) -> tuple[int, ...]:
    """The seeds that are trained again with phase.

    Raises:
        InputError: no such arm of the study, one that changes something, or fewer seeds in it.
    """
    name, wanted = params.phase.arm, params.phase.seeds
    arm = params.study.arms.get(name)
    if arm is None or not arm.changes_nothing:
        plain = [other for other, known in params.study.arms.items() if known.changes_nothing]
        raise InputError(f"phase.arm: {name!r} is no arm of the study without changes; there are: {', '.join(plain)}")
    seeds = params.study.seeds_of(name)
    if wanted > len(seeds):
        raise InputError(f"phase.seeds: {wanted}, but the study's arm {name} has {len(seeds)}")
    return seeds[:wanted]


def make_images(params: Params, root: Path, jobs: int = -1, progress: bool = True) -> None:
    """Put the phase beside the study's images, in a folder of their own, and augment each seed's training set.

    Raises:
        InputError: the study's patients are not there, or as `phase_seeds`, `add_phase`, `augment_training_set`.
    """
    seeds, study, images = phase_seeds(params), paths.study_data(root), paths.phase_data(root) / "pictures"
    for folder in (study / "raw", study / "pictures"):
        if not (folder / LABELS_FILE).is_file():
            raise InputError(f"{folder}: the study's patients are not there; make them: cmbfe study {PATIENTS}")
    labels = add_phase(study / "raw", study / "pictures", images, jobs, progress)
    patients = params.study.patients_of(params.phase.arm)
    for seed in tqdm(seeds, desc="augmenting", unit="training set", disable=not progress):
        chosen = training_labels(labels, seed, patients, params)
        target = paths.phase_training_set(seed, root)
        augment_training_set(chosen, images, target, params.augmentation, seed, jobs, progress=False)


def add_phase(raw: Path, images: Path, out: Path, jobs: int = -1, progress: bool = True) -> Labels:
    """Copy images that `import_dicom` made of `raw`, with the phase of the same slices beside each.

    Args:
        out: appears whole or not at all, with images, annotations.json and mimics.json.

    Raises:
        InputError: a magnitude series without its phase, or DICOM that cannot be read.
    """
    labels = {name: _with_phase(read_labels(images / name)) for name in (LABELS_FILE, MIMICS_FILE)}
    file_of = {image["sop_instance_uid"]: image["file_name"] for image in labels[LABELS_FILE]["images"]}
    found = find_series(raw, progress)
    pairs = [(one, phase_of(one, found)) for one in found if one.kind == "magnitude"]
    with whole_folder(out, LABELS_FILE, inputs=[raw, images]) as temporary:
        shutil.copytree(images, temporary, dirs_exist_ok=True)
        tasks = (
            delayed(_write_phase)(temporary, [file_of[uid] for uid in magnitude.sop_instance_uids], phase)
            for magnitude, phase in pairs
        )
        made = Parallel(n_jobs=jobs, return_as="generator_unordered")(tasks)
        for _ in tqdm(made, total=len(pairs), desc="writing phase", unit="series", disable=not progress):
            pass
        for name, content in labels.items():
            write_labels(temporary / name, content)
    return labels[LABELS_FILE]


def _with_phase(labels: Labels) -> Labels:
    images = [{**image, **phase_entry(image["file_name"], has_phase=True)} for image in labels["images"]]
    return {**labels, "images": images}


def _write_phase(folder: Path, names: list[str], phase: SeriesHeaders) -> None:
    for name, image in zip(names, phase_images(phase), strict=True):
        save_image(folder / phase_entry(name, has_phase=True)["phase_file_name"], image)


def read_test(params: Params, root: Path) -> tuple[Labels, Labels]:
    """The test images of the first of the study's test patients, with phase, and the mimics of all images.

    Raises:
        InputError: the images with phase are not there.
    """
    folder = paths.phase_data(root) / "pictures"
    if not (folder / LABELS_FILE).is_file():
        raise InputError(f"{folder}: the images with phase are not there; make them: cmbfe phase images")
    labels, mimics = read_labels(folder / LABELS_FILE), read_labels(folder / MIMICS_FILE)
    test = paper_test_set(labels, mimics, params.seed, fewer=True)
    first = sorted({image["patient_id"] for image in test["images"]})[: params.phase.test_patients]
    return of_patients(test, first), mimics


def of_patients(labels: Labels, patients: Sequence[str]) -> Labels:
    """The labels of some patients' images."""
    images = [image for image in labels["images"] if image["patient_id"] in set(patients)]
    shown = {image["id"] for image in images}
    boxes = [box for box in labels["annotations"] if box["image_id"] in shown]
    return {**labels, "images": images, "annotations": boxes}
