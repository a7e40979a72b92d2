"""A study in seconds: two seeds, tiny images with phase, and arms that train for two iterations."""

from pathlib import Path

from phase_world import image_with_phase
from tiny_world import BOX, SIDE, tiny_params

from cmbfe import paths
from cmbfe.data.augment import augment_training_set
from cmbfe.data.labelled.images import save_image
from cmbfe.data.labelled.labels import CATEGORIES, LABELS_FILE, MIMICS_FILE, Labels, write_labels
from cmbfe.params import CrossValidation, Params, Study
from cmbfe.studies.trials.patients import training_labels
from cmbfe.training.batches import without_phase

ARMS = {
    "ssd300": {},
    "placement-source": {"settings": {"detector.fe.placement": "source"}},
    "few": {"patients": 1},
    "ssdlite-small": {"detector": "ssdlite-small", "treatments": ("fe", "segmentation"), "iterations": 1},
}
PHASE = {
    "detector": "ssd300",
    "start": "ssd300",
    "treatments": ("phase", "fe", "fe-phase"),
    "test_patients": 2,
    "settings": {"training.frozen_blocks": 0},  # as in the profiles: the first layer has another image to learn
}


def study_params(arms: dict | None = None, **study: object) -> Params:
    """Two seeds with two training patients each, three test patients; two folds."""
    params = tiny_params(iterations=2, milestones=(1,), checkpoint_every=1)
    sizes = {"seeds": (1, 2), "training_patients": (1, 2), "test_patients": 3}
    arms = ARMS if arms is None else arms
    changed = {
        "augmentation": params.augmentation.model_copy(update={"target_images": 4}),
        "study": Study.model_validate({**sizes, "arms": arms, "phase": {**PHASE, "iterations": 2}, **study}),
        "crossvalidation": CrossValidation(detector="ssd300", folds=(1, 2)),
    }
    return params.model_copy(update=changed)


def write_patients(folder: Path, splits: list[str], bleeding: int | None = None, phase: bool = True) -> Labels:
    """Patients with an image with a microbleed and one with a calcification only; the first `bleeding` have theirs."""
    images = [
        {"id": 2 * k + j, "file_name": f"P{k}/{j}.png", "width": SIDE, "height": SIDE, "patient_id": f"P{k}"}
        | {"split": split, "phase_file_name": f"P{k}/{j}.phase.png"}
        for k, split in enumerate(splits, 1)
        for j in (0, 1)
    ]
    known = {"location": "lobar", "visible_diameter_mm": 4.0, "category_id": 1, "area": BOX[2] * BOX[3], "bbox": BOX}
    boxes = [{"id": image["id"], "image_id": image["id"], "lesion_id": image["id"], **known} for image in images]
    for image in images:
        pixels = image_with_phase(image["id"])
        save_image(folder / image["file_name"], pixels if phase else pixels[..., 0])
    labels = {"images": images, "annotations": boxes[::2][:bleeding], "categories": CATEGORIES}
    labels = labels if phase else without_phase(labels)
    write_labels(folder / LABELS_FILE, labels)
    mimics = [{"id": 1, "name": "calcification"}, {"id": 2, "name": "vein"}]
    write_labels(folder / MIMICS_FILE, {**labels, "annotations": boxes[1::2], "categories": mimics})
    return labels


def study_patients(root: Path) -> None:
    """What `make_patients` leaves."""
    folder, params = paths.study_data(root) / "pictures", study_params()
    labels = write_patients(folder, ["train"] * 4 + ["test"] * 3 + ["validation"])
    for seed in params.study.seeds:
        for patients in params.study.training_patients:
            chosen = training_labels(labels, seed, patients, params)
            out = paths.study_training_set(seed, patients, root)
            augment_training_set(chosen, folder, out, params.augmentation, seed, jobs=1, progress=False)


def write_pipeline_patients(root: Path, bleeding: int | None = None) -> Path:
    """Four patients of the pipeline, for folds; the folder of their images. They have no phase."""
    write_patients(paths.images(root), ["validation"] * 4, bleeding, phase=False)
    return paths.images(root)
