"""Train a baseline on the training patients, and run it on the validation and test patients."""

from collections.abc import Callable, Hashable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from cmbfe.baselines import Baseline, cascade, radial_symmetry, thresholding
from cmbfe.baselines.candidates import Candidates, Stack, Volume, best_of_each_slice, read_volume, stacks_of
from cmbfe.data.labelled.detections import DETECTIONS_FILE, VALIDATION_FILE
from cmbfe.data.labelled.labels import LABELS_FILE, Detections, Labels, labelled, labels_of_split, read_labels
from cmbfe.data.labelled.splits import read_test_set
from cmbfe.files import whole_folder, write_json, write_table
from cmbfe.metrics.curves import sensitivity_at_false_positives, summary
from cmbfe.metrics.intervals import bootstrap
from cmbfe.metrics.lesions import match_lesions
from cmbfe.metrics.matching import match
from cmbfe.params import Params
from cmbfe.training.detection import as_coco
from cmbfe.training.validation import validation_labels

SETTINGS_FILE = "baseline.json"  # settings of a baseline; marks the folder as an earlier result
METRICS_FILE = "metrics.json"
LESIONS_FILE = "lesions.csv"
PER_HEAD = (10.0, 20.0, 45.0)
"""Numbers of false positives per patient at which sensitivity is given, close to those published for whole heads."""
METHODS: dict[Baseline, Callable[..., Callable[[Volume], Candidates]]] = {
    Baseline.RADIAL_SYMMETRY: radial_symmetry.train,
    Baseline.THRESHOLDING: thresholding.train,
    Baseline.CASCADE: cascade.train,
}


def run_baseline(name: Baseline, params: Params, data: Path, out: Path) -> dict[str, Any]:
    """Train a baseline, and write its detections and its metrics on the test images.

    Volumes hold every slice of a patient, but only detections on the images of SSD's evaluation are kept.

    Args:
        data: folder of images with annotations.json and mimics.json.
        out: folder for detections.json, validation_detections.json, metrics.json and baseline.json.

    Returns:
        The metrics of `cmbfe.metrics.curves.summary`.

    Raises:
        InputError: no such labels or images, a missing split, no microbleed to learn from, images that do not form a
            volume, or a folder `out` with other content.
    """
    labels = read_labels(data / LABELS_FILE)
    test, validation = read_test_set(params, data), validation_labels(data, params.seed)
    splits = ("train", "validation", "test")
    of = {split: stacks_of(labels_of_split(labels, split), data, params.baselines.slice_mm) for split in splits}
    with whole_folder(out, SETTINGS_FILE, inputs=[data]) as folder:
        detector = METHODS[name](lambda: _volumes(of["train"], "training volumes"), params.baselines, params.seed)
        on_test = _detect(detector, of["test"], test, params)
        metrics = summary(match(test, on_test, iou=params.evaluation.iou), params.evaluation.sensitivity)
        write_json(folder / DETECTIONS_FILE, on_test)
        write_json(folder / VALIDATION_FILE, _detect(detector, of["validation"], validation, params))
        write_json(folder / METRICS_FILE, metrics)
        _write_settings(folder, name, params)
    return metrics


def run_between(name: Baseline, params: Params, train: Path, data: Path, out: Path) -> pd.DataFrame:
    """Train a baseline on all patients of one folder, and find the microbleeds of all patients of another.

    Every slice is searched, and a microbleed counts once, as in earlier work on whole heads.

    Args:
        train, data: folders of images with annotations.json; unlabelled patients are left out.
        out: folder for lesions.csv (the returned table) and baseline.json.

    Returns:
        The table of `sensitivity_per_head`.

    Raises:
        InputError: the errors of `run_baseline`, or labels without the keys that link boxes over slices.
    """
    seen, unseen = (labelled(read_labels(folder / LABELS_FILE)) for folder in (train, data))
    to_learn, to_search = (
        stacks_of(labels, folder, params.baselines.slice_mm) for labels, folder in ((seen, train), (unseen, data))
    )
    with whole_folder(out, SETTINGS_FILE, inputs=[train, data]) as folder:
        detector = METHODS[name](lambda: _volumes(to_learn, "training volumes"), params.baselines, params.seed)
        found = _detect(detector, to_search, unseen, params)
        table = sensitivity_per_head(unseen, found, params.evaluation.bootstrap_samples, params.seed)
        write_table(table, folder / LESIONS_FILE)
        _write_settings(folder, name, params)
    return table


def sensitivity_per_head(labels: Labels, found: Detections, resamples: int, seed: int) -> pd.DataFrame:
    """Sensitivity for microbleeds linked over slices, at `PER_HEAD` false positives per patient, with 95 % CI.

    A detection is a hit if its centre lies in a box of the microbleed. Further hits of a microbleed do not count.
    """
    matches = match_lesions(labels, found, hit="centre", duplicates="ignore")
    rows = {}
    for most in PER_HEAD:
        metric = partial(sensitivity_at_false_positives, false_positives=most, per="patient")
        rows[most] = asdict(bootstrap(metric, matches, resamples, seed))
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("false_positives_per_patient")
    counts = {"microbleeds": len(matches.truth_ids), "patients": len(matches.patients)}
    return table[["value", "low", "high"]].rename(columns={"value": "sensitivity"}).assign(**counts)


def _write_settings(folder: Path, name: Baseline, params: Params) -> None:
    settings = {"baseline": str(name), "seed": params.seed, **params.baselines.model_dump(mode="json")}
    write_json(folder / SETTINGS_FILE, settings)


def _volumes(stacks: list[Stack], task: str) -> Iterator[Volume]:
    return map(read_volume, tqdm(stacks, desc=task, unit="volume", mininterval=1, leave=False))


def _detect(
    detector: Callable[[Volume], Candidates], stacks: list[Stack], labels: Labels, params: Params
) -> Detections:
    """Detections in the stacks, limited to the images of `labels` and in their order."""
    of_image: dict[Hashable, Detections] = {}
    settings = params.detector
    for stack, volume in zip(stacks, _volumes(stacks, "detecting"), strict=True):
        best = best_of_each_slice(detector(volume), settings.nms_threshold, settings.detections_per_image)
        for index, image_id in enumerate(stack.image_ids):
            here = best.slices == index
            of_image[image_id] = as_coco(image_id, best.boxes[here], best.scores[here])
    return [detection for image in labels["images"] for detection in of_image[image["id"]]]
