"""Small label files and detections for the tests of matching and metrics."""

import numpy as np
from hypothesis import strategies as st

T, FAR = [10, 10, 10, 10], [60, 60, 10, 10]
"""A microbleed's box, and one that does not touch it; x, y, w, h px."""


def labels_of(images: dict, regions: dict | None = None, **image_keys) -> dict:
    """COCO labels: image id -> ground-truth boxes [x, y, w, h], and likewise the ignore regions."""
    boxes = [(image, box, 0) for image, found in images.items() for box in found]
    boxes += [(image, box, 1) for image, found in (regions or {}).items() for box in found]
    every = {"width": 100, "height": 100, **image_keys}
    annotations = [
        {"id": k, "image_id": image, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": crowd}
        for k, (image, box, crowd) in enumerate(boxes, 1)
    ]
    return {
        "images": [{"id": image, "file_name": f"{image}.png", **every} for image in images],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "cmb"}],
    }


def one_image_each(patients: int, box: list, first: int = 1) -> dict:
    """COCO labels of patients P1, P2, ... with an image each, numbered from `first`, and this microbleed on it."""
    labels = labels_of({image: [box] for image in range(first, first + patients)})
    for image in labels["images"]:
        image["patient_id"] = f"P{image['id']}"
    return labels


def detection(image: int, score: float, box: list) -> dict:
    return {"image_id": image, "category_id": 1, "bbox": box, "score": score}


@st.composite
def label_and_detection_sets(draw, regions: bool = False) -> tuple[dict, list]:
    """Random sets with ties, duplicates, overlapping truths, empty images, and often no truth or detection.

    Coordinates are small integers, so that equal overlaps and overlaps of exactly 0.5 do occur.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    images = draw(st.integers(1, 5))
    most_truths, most_detections = draw(st.sampled_from([(0, 4), (3, 0), (3, 6), (5, 12), (0, 0)]))
    ids = rng.permutation(20)[:images] + 1
    truths = {int(image): _random_boxes(rng, rng.integers(0, most_truths + 1)) for image in ids}
    crowd = {int(image): _random_boxes(rng, rng.integers(0, 2)) for image in ids} if regions else None
    detections = []
    for image in ids:
        for _ in range(rng.integers(0, most_detections + 1)):
            box = _random_boxes(rng, 1)[0]
            if truths[int(image)] and rng.random() < 0.7:
                near = truths[int(image)][rng.integers(len(truths[int(image)]))]
                box = [near[0], near[1], max(1, near[2] + int(rng.integers(-2, 3))), near[3]]
            detections.append(detection(int(image), int(rng.integers(0, 6)) / 5, box))
    return labels_of(truths, crowd), detections


def _random_boxes(rng: np.random.Generator, count: int) -> list:
    return [[int(v) for v in (*rng.integers(0, 12, 2), *rng.integers(2, 9, 2))] for _ in range(count)]
