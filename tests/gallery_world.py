"""A tiny workspace to look at: two patients of three slices, labels, the detections of two detectors, a model."""

from pathlib import Path

import numpy as np
from tiny_world import BOX, SIDE, save_tiny_model, tiny_head, tiny_params

from cmbfe.data.labelled.detections import DETECTIONS_FILE
from cmbfe.data.labelled.images import save_image
from cmbfe.data.labelled.labels import CATEGORIES, LABELS_FILE, MIMICS_FILE, write_labels
from cmbfe.files import write_json
from cmbfe.params import save_params

PAIR = ("ssd512", "ssd512-fe")
ELSEWHERE = [2.0, 2.0, 5.0, 5.0]
SCORES = {"ssd512": (0.9, 0.6, 0.3), "ssd512-fe": (0.8, 0.7, 0.2)}
"""Of each detector: hit in patient A, false positive in patient B, hit in patient B."""


def tiny_workspace(root: Path) -> Path:
    """Write params.yaml, data/pictures, results/<variant>/detections.json.gz and models/ssd512-fe under `root`.

    Slices 1 of both patients hold a microbleed, slices 2 a mimic; slices 3 are in no test set.
    """
    images, boxes = [], []
    for patient, letter in enumerate("AB"):
        for index in range(3):
            name = f"{letter}/{index:03d}.png"
            pixels = (tiny_head(seed=3 * patient + index)[0] // 4).astype(np.uint8)
            save_image(root / "data" / "pictures" / name, pixels)
            place = {"patient_id": letter, "series_uid": letter, "slice_index": index, "split": "test"}
            size = {"width": SIDE, "height": SIDE, "pixel_spacing_mm": [3.75, 3.75]}
            images.append({"id": len(images) + 1, "file_name": name, **place, **size})
    for number, image in enumerate((images[0], images[3]), 1):
        boxes.append({"id": number, "image_id": image["id"], "category_id": 1, "bbox": BOX})
    mimics = [{**box, "image_id": box["image_id"] + 1} for box in boxes]
    labels = {"images": images, "annotations": boxes, "categories": CATEGORIES}
    write_labels(root / "data" / "pictures" / LABELS_FILE, labels)
    kinds = [{"id": 1, "name": "vein"}]
    write_labels(root / "data" / "pictures" / MIMICS_FILE, {**labels, "annotations": mimics, "categories": kinds})
    for variant in PAIR:
        found = [
            {"image_id": image_id, "category_id": 1, "bbox": bbox, "score": score}
            for (image_id, bbox), score in zip(((1, BOX), (4, ELSEWHERE), (4, BOX)), SCORES[variant], strict=True)
        ]
        file = root / "results" / variant / DETECTIONS_FILE
        file.parent.mkdir(parents=True)
        write_json(file, found)
    save_tiny_model(root / "models" / "ssd512-fe", "ssd512-fe")
    save_params(tiny_params(), root / "params.yaml")
    return root
