"""What 11_ablation shows of the test images, small enough for git: two examples, and the mimics counted.

write_examples(params, Path())
"""

from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd

from cmbfe import paths
from cmbfe.data.labelled.images import phase_file, read_with_phase, save_image
from cmbfe.data.labelled.labels import Labels
from cmbfe.paper.tables import write_table
from cmbfe.params import Params
from cmbfe.studies.phase_images import read_test

SIDE_PX = 48
EXAMPLES = ("cmb", "calcification")


def write_examples(params: Params, root: Path) -> None:
    """Write results/phase/examples (each with NAME.phase.png) and results/phase/test_mimics.csv.

    Raises:
        InputError: as `read_test`.
    """
    test, mimics = read_test(params, root)
    write_table(count_mimics(test, mimics), paths.phase_mimics(root))
    image_of, folder = {image["id"]: image for image in test["images"]}, paths.phase_data(root) / "pictures"
    for name in EXAMPLES:
        if box := typical(boxes_of(name, test, mimics)):
            file = folder / image_of[box["image_id"]]["file_name"]
            save_image(paths.phase_example(name, root), piece(read_with_phase(file, phase_file(file)), box["bbox"]))


def boxes_of(kind: str, test: Labels, mimics: Labels) -> list[dict]:
    """The boxes of a kind of mimic, or the microbleeds (`cmb`), on the test images."""
    labels = test if kind == "cmb" else mimics
    numbers = {category["id"] for category in labels["categories"] if category["name"] == kind}
    shown = {image["id"] for image in test["images"]}
    return [box for box in labels["annotations"] if box["category_id"] in numbers and box["image_id"] in shown]


def typical(boxes: list[dict]) -> dict | None:
    """The box in the middle slice of a lesion that is larger than most: at the third quartile of these boxes' areas.

    Lesions on an even number of slices have no middle one. The sign of the phase is another above and below it.
    """
    of_lesion = defaultdict(list)
    for box in sorted(boxes, key=lambda box: box["image_id"]):  # slices of a series are numbered in their order
        of_lesion[box["lesion_id"]].append(box)
    middle = [own[len(own) // 2] for own in of_lesion.values() if len(own) % 2]
    by_size = sorted(middle, key=lambda box: (box["area"], box["id"]))
    return by_size[3 * len(by_size) // 4] if by_size else None


def piece(image: np.ndarray, box: list[float]) -> np.ndarray:
    """The square of `SIDE_PX` around the middle of a box [x, y, w, h] px, moved to lie inside the image."""
    rows, columns = image.shape[:2]
    left = int(np.clip(box[0] + box[2] / 2 - SIDE_PX / 2, 0, max(columns - SIDE_PX, 0)))
    top = int(np.clip(box[1] + box[3] / 2 - SIDE_PX / 2, 0, max(rows - SIDE_PX, 0)))
    return image[top : top + SIDE_PX, left : left + SIDE_PX]


def count_mimics(test: Labels, mimics: Labels) -> pd.DataFrame:
    """By kind: `boxes` on the test images, and `patients` that have one."""
    patient_of = {image["id"]: image["patient_id"] for image in test["images"]}
    rows = {}
    for category in mimics["categories"]:
        boxes = boxes_of(category["name"], test, mimics)
        patients = {patient_of[box["image_id"]] for box in boxes}
        rows[category["name"]] = {"boxes": len(boxes), "patients": len(patients)}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("kind")
