"""Example images: some test images of the study, with the detections of the first seed's detectors.

python -m cmbfe.studies.examples
"""

import shutil
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from cmbfe import paths
from cmbfe.data.labelled.detections import DETECTIONS_FILE
from cmbfe.data.labelled.images import read_image
from cmbfe.data.labelled.labels import LABELS_FILE, Detections, Labels, read_detections, read_labels, write_labels
from cmbfe.errors import InputError
from cmbfe.figures.evidence import found_figure
from cmbfe.figures.style import COLOURS, GROUND_TRUTH_COLOUR
from cmbfe.files import read_json, whole_folder, write_json
from cmbfe.metrics.curves import threshold_at_false_positives
from cmbfe.metrics.matching import Matches
from cmbfe.params import Params, load_params
from cmbfe.studies.reading import FALSE_POSITIVES, Runs
from cmbfe.studies.trials.arms import FE, PLAIN, seeds_of, trained_by
from cmbfe.studies.trials.patients import read_test_labels
from cmbfe.training.batches import without_phase

MOST = 6
"""Number of example images, each from another patient."""
SHOWN = (("without FE", PLAIN, "SSD"), ("with FE", FE, "SSD-FE"))
"""Title and name of a treatment, and the detector whose colour it has in the figure."""


def folder_of(root: Path) -> Path:
    return root / "results" / "study" / "examples"


def write_examples(params: Params, root: Path) -> list[str]:
    """Write the images, their labels and, for each arm trained here, its detections as ARM-TREATMENT.json.

    Stored detections of other arms are kept if they belong to the same images.

    Returns:
        The names of the detection files, without .json.

    Raises:
        InputError: the study's patients were not made yet, or no arm is trained.
    """
    fewest = min(params.study.arms[name].test_patients or params.study.test_patients for name in params.study.arms)
    test, images = without_phase(read_test_labels(params, root, fewest)), paths.study_data(root) / "pictures"
    chosen = of_images(test, busiest(test))
    trained = {
        f"{name}-{treatment}": model
        for name in params.study.arms
        for treatment in trained_by(name, params)
        if (model := paths.study_model(name, treatment, seeds_of(name, params)[0], root) / DETECTIONS_FILE).is_file()
    }
    if not trained:
        raise InputError(f"{root / 'models' / 'study'}: no arm is trained; cmbfe study trains them")
    shown, stored = {image["id"] for image in chosen["images"]}, folder_of(root)
    same = (stored / LABELS_FILE).is_file() and read_labels(stored / LABELS_FILE) == chosen
    found = {file.stem: read_json(file) for file in sorted(stored.glob("*-*.json")) if same}
    for name, file in trained.items():
        found[name] = [each for each in read_json(file) if each["image_id"] in shown]
    with whole_folder(stored, LABELS_FILE) as folder:
        write_labels(folder / LABELS_FILE, chosen)
        for image in chosen["images"]:
            (folder / image["file_name"]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(images / image["file_name"], folder / image["file_name"])
        for name, detections in found.items():
            write_json(folder / f"{name}.json", detections)
    return list(found)


def busiest(test: Labels) -> set[int]:
    """Ids of the `MOST` images with most microbleeds, each from another patient."""
    boxes = pd.DataFrame(test["annotations"])["image_id"].value_counts().rename("boxes")
    images = pd.DataFrame(test["images"]).set_index("id").join(boxes, how="inner").sort_index()
    first = images.sort_values("boxes", ascending=False, kind="stable").drop_duplicates("patient_id")
    return set(first.index[:MOST])


def of_images(labels: Labels, chosen: set[int]) -> Labels:
    """The labels of the images whose ids are in `chosen`."""
    images = [image for image in labels["images"] if image["id"] in chosen]
    return {
        **labels,
        "images": images,
        "annotations": [box for box in labels["annotations"] if box["image_id"] in chosen],
    }


def figure_of(runs: Mapping[str, Runs], root: Path) -> Figure | None:
    """A row per arm with its detections, without and with FE, on a part of each example image; None without images.

    The figure shows only detections that reach the threshold with one false positive per test image.
    """
    folder = folder_of(root)
    if not (folder / LABELS_FILE).is_file():
        return None
    labels, rows = read_labels(folder / LABELS_FILE), {}
    for name, of_arm in runs.items():
        if all((folder / f"{name}-{treatment}.json").is_file() for _, treatment, _ in SHOWN):
            rows[name] = {"microbleed": (GROUND_TRUTH_COLOUR, labels["annotations"])} | {
                title: (COLOURS[twin], _likely(folder / f"{name}-{treatment}.json", of_arm[treatment][0], labels))
                for title, treatment, twin in SHOWN
            }
    pixels = {image["id"]: read_image(folder / image["file_name"]) for image in labels["images"]}
    return found_figure(rows, _cases(labels), pixels, labels["images"][0]["pixel_spacing_mm"][0]) if rows else None


def _likely(file: Path, matches: Matches, labels: Labels) -> Detections:
    least = threshold_at_false_positives(matches, FALSE_POSITIVES)
    return [each for each in read_detections(file, labels) if each["score"] >= least]


def _cases(labels: Labels) -> list[dict]:
    """The microbleed of median box area from each image."""
    of_image = defaultdict(list)
    for box in sorted(labels["annotations"], key=lambda box: (box["area"], box["id"])):
        of_image[box["image_id"]].append(box)
    return [boxes[len(boxes) // 2] for _, boxes in sorted(of_image.items())]


if __name__ == "__main__":
    try:
        print("\n".join(write_examples(load_params(paths.params_file()), paths.workspace())))
    except InputError as error:
        sys.exit(f"error: {error}")
