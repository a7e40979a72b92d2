"""Further results of the arm with phase: the kind of each false positive, and example images.

Its detectors start from weights that were trained on three equal channels. From scratch, a detector with phase hardly
begins to learn under the study's schedule (docs/study.md).
"""

from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd

from cmbfe import paths
from cmbfe.data.labelled.images import phase_file, read_with_phase, save_image
from cmbfe.data.labelled.labels import Labels
from cmbfe.errors import InputError
from cmbfe.files import whole_file, write_table
from cmbfe.metrics.cases import kinds
from cmbfe.metrics.matching import FALSE_POSITIVE, Matches
from cmbfe.params import Params
from cmbfe.studies.trials.patients import read_mimics, read_test_labels

CALCIFICATION = "calcification"
SIDE_PX = 48
EXAMPLES = ("cmb", CALCIFICATION)


def kinds_file(matches_file: Path) -> Path:
    """The file with the kinds of the detections of `matches_file`."""
    return matches_file.with_name(f"{matches_file.stem}-kinds.npz")


def save_kinds(of_each: list[str], path: Path) -> None:
    """Write the kind of each detection as compressed arrays."""
    names, codes = np.unique(np.array(of_each, dtype=np.str_), return_inverse=True)
    with whole_file(path) as temporary:
        np.savez_compressed(temporary, names=names, codes=codes.astype(np.uint8))


def load_kinds(path: Path) -> np.ndarray:
    """The kind of each detection, str [D]; raises `InputError` if the file is missing or not from `save_kinds`."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return file["names"][file["codes"]]
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise InputError(f"{path}: no file of kinds: {' '.join(str(error).split())}") from None


def kinds_of(matches: Matches, detections: list[dict], labels: Labels, mimics: Labels) -> list[str]:
    """The kind (`cases.kinds`) of each false positive of `matches`, with an empty text for all other detections."""
    is_false = matches.outcome == FALSE_POSITIVE
    of_false = iter(kinds([detections[index] for index in matches.detection[is_false]], labels, mimics))
    return [next(of_false) if false else "" for false in is_false]


def write_examples(params: Params, root: Path) -> None:
    """Write the images of results/study/phase/examples (each with NAME.phase.png), and test_mimics.csv beside it.

    Raises:
        InputError: as `read_test_labels`.
    """
    test, mimics = read_test_labels(params, root, params.study.phase.test_patients), read_mimics(params, root)
    write_table(count_mimics(test, mimics), paths.phase_mimics(root))
    image_of, folder = {image["id"]: image for image in test["images"]}, paths.study_data(root) / "pictures"
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
    """A typical box: the third quartile by area of the boxes in the lesions' middle slices; None without such a box.

    Lesions on an even number of slices have no middle slice and are left out: the phase changes sign at their middle.
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
    """A row per kind of mimic: the number of its `boxes` on the test images, and of `patients` with such a box."""
    patient_of = {image["id"]: image["patient_id"] for image in test["images"]}
    rows = {}
    for category in mimics["categories"]:
        boxes = boxes_of(category["name"], test, mimics)
        patients = {patient_of[box["image_id"]] for box in boxes}
        rows[category["name"]] = {"boxes": len(boxes), "patients": len(patients)}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("kind")
