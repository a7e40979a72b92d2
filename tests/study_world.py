"""A study in seconds: two seeds, tiny images, and arms that train for two iterations."""

from pathlib import Path

import numpy as np
from tiny_world import BOX, SIDE, tiny_head, tiny_params

from cmbfe import paths
from cmbfe.data.augment import augment_training_set
from cmbfe.data.labelled.images import save_image
from cmbfe.data.labelled.labels import CATEGORIES, LABELS_FILE, MIMICS_FILE, write_labels
from cmbfe.params import Params, Study
from cmbfe.studies.trials.patients import training_labels

ARMS = {
    "ssd300": {},
    "placement-source": {"settings": {"detector.fe.placement": "source"}},
    "few": {"patients": 1},
}


def study_params(arms: dict | None = None) -> Params:
    """Two seeds with two training patients each, three test patients."""
    params = tiny_params(iterations=2, milestones=(1,), checkpoint_every=1)
    study = {"seeds": (1, 2), "training_patients": (1, 2), "test_patients": 3, "arms": ARMS if arms is None else arms}
    changed = {
        "augmentation": params.augmentation.model_copy(update={"target_images": 4}),
        "study": Study.model_validate(study),
    }
    return params.model_copy(update=changed)


def study_images(root: Path) -> None:
    """What `make_patients` leaves: each patient has an image with a microbleed and one with a mimic only."""
    folder = paths.study_data(root) / "pictures"
    splits = ["train"] * 4 + ["test"] * 3 + ["validation"]
    images = [
        {"id": 2 * k + j, "file_name": f"P{k}/{j}.png", "width": SIDE, "height": SIDE, "patient_id": f"P{k}"}
        | {"split": split}
        for k, split in enumerate(splits, 1)
        for j in (0, 1)
    ]
    known = {"location": "lobar", "visible_diameter_mm": 4.0, "category_id": 1, "area": BOX[2] * BOX[3], "bbox": BOX}
    boxes = [{"id": image["id"], "image_id": image["id"], **known} for image in images]
    for image in images:
        save_image(folder / image["file_name"], (tiny_head(seed=image["id"])[0] // 4).astype(np.uint8))
    labels = {"images": images, "annotations": boxes[::2], "categories": CATEGORIES}
    write_labels(folder / LABELS_FILE, labels)
    mimics = {**labels, "annotations": boxes[1::2], "categories": [{"id": 1, "name": "vein"}]}
    write_labels(folder / MIMICS_FILE, mimics)
    params = study_params()
    for seed in params.study.seeds:
        for patients in params.study.training_patients:
            chosen = training_labels(labels, seed, patients, params)
            out = paths.study_training_set(seed, patients, root)
            augment_training_set(chosen, folder, out, params.augmentation, seed, jobs=1, progress=False)
