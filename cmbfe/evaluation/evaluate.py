"""Evaluate a detector: two COCO files become one folder with numbers, tables, figures and a page."""

import os
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from cmbfe.data.labelled.detections import IMAGES_FILE, detections_of, images_file
from cmbfe.data.labelled.labels import (
    LARGEST_PX,
    Detections,
    Labels,
    labels_of_split,
    may_be_corners,
    plain_path,
    read_foreign_labels,
    refuse_half_characters,
    refuse_shares,
    repeats,
)
from cmbfe.errors import InputError
from cmbfe.evaluation.page import METRICS, PAGE_FILE, SENSITIVITY, Detector, write_page
from cmbfe.files import resolved, whole_folder, within_python, write_json
from cmbfe.metrics import curves, intervals
from cmbfe.metrics.agreement import bland_altman, class_agreement, counts_per_patient, icc
from cmbfe.metrics.calibration import expected_calibration_error, has_probabilities, reliability
from cmbfe.metrics.lesions import LINK_MM, check_lesion_keys, lesions_apart, match_lesions
from cmbfe.metrics.matching import FALSE_POSITIVE, is_region, match
from cmbfe.metrics.subgroups import false_positives_by_mimic, lesion_table, sensitivity_by, sensitivity_by_size

METRICS_FILE = "metrics.json"
NO_MIMIC = "none"
"""Name of the row for false positives outside all mimics, see `subgroups.false_positives_by_mimic`."""


def evaluate_files(
    truth: Path | str,
    detections: Path | str,
    out: Path | str,
    against: Path | str | None = None,
    *,
    split: str | None = None,
    mimics: Path | str | None = None,
    threshold: float | None = None,
    iou: float = 0.5,
    resamples: int = intervals.RESAMPLES,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, Any]:
    """Evaluate COCO results of any detector against COCO labels, and write the results to `out`.

    Args:
        truth: COCO labels. Metrics that need keys beyond COCO's (patients, slices, lesions) are left out if the keys
            are missing, and the result says so.
        detections: COCO results, matched to the images by id; results of `cmbfe detect` are matched by file name.
        against: COCO results of a second detector, for paired differences (first minus second).
        out: folder for metrics.json, pr.csv, froc.csv, lesions.csv, patients.csv, figures and report.html.
        split: evaluate the images of this split only. mimics: COCO labels of mimics, with a category per kind.
        threshold: operating point, chosen on other data (validation). The default is the threshold with 90 %
            sensitivity on these images, which flatters the detector; the result says so.
        iou: smallest intersection over union of a hit.

    Returns:
        The content of metrics.json, with NaN in place of null.

    Raises:
        InputError: a bad file, a split that is missing or must be named, a bad threshold or iou.
    """
    if threshold is not None and not np.isfinite(threshold):
        raise InputError(f"threshold is {threshold}; it must be a number")
    if not 0 < iou <= 1:
        raise InputError(f"iou is {iou}; it must be above 0 and at most 1")
    resolved(Path(out))  # refuses a link to itself before anything else
    every = read_foreign_labels(truth)
    labels = _of_split(every, split, str(truth))
    files = [Path(detections)] + ([Path(against)] if against else [])
    results = [_read_results(path, labels, every) for path in files]
    mimic_labels = _read_mimics(mimics, every) if mimics else None
    # An earlier result is not recognised by metrics.json, as folders in the pipeline's results/ also hold this file.
    with whole_folder(out, PAGE_FILE, [truth, *files, *([mimics] if mimics else [])]) as folder:
        pairs = zip(_names_of(files), results, strict=True)
        detectors = [_matched(name, labels, of_file, iou, threshold) for name, of_file in pairs]
        result = _compared(detectors, labels, resamples, seed, progress)
        result["notes"] += [
            f"{path}: its images are matched by UID or name, with {IMAGES_FILE} beside it."
            for path in files
            if images_file(path)
        ]
        point = "given" if threshold is not None else "90 % sensitivity on these images"
        settings = {"iou": iou, "split": split, "resamples": resamples, "seed": seed, "link_mm": LINK_MM}
        result["settings"] = settings | {"operating_point": point}
        groups = [_subgroup_tables(detector, labels, mimic_labels, iou) for detector in detectors]
        write_json(folder / METRICS_FILE, result)
        _write_tables(folder, detectors, labels, groups)
        write_page(folder, detectors, result, groups)
    return result


def _of_split(labels: Labels, split: str | None, where: str) -> Labels:
    """The labels of `split`, or all labels. A file with several splits is refused if no split is named."""
    if split is not None:
        return labels_of_split(labels, split)
    splits = sorted({image["split"] for image in labels["images"] if "split" in image})
    if len(splits) > 1:
        raise InputError(f"{where}: holds the splits {', '.join(splits)}; say which with --split")
    if not labels["images"]:
        raise InputError(f"{where}: holds no images; give labels that name some")
    return labels


def _names_of(files: list[Path]) -> list[str]:
    """Short, distinct UTF-8 names of result files: their stems, folders or paths."""
    files = [Path(os.fsencode(path).decode(errors="replace")) for path in files]
    stems, folders = [path.stem for path in files], [path.resolve().parent.name for path in files]
    for names in (stems, folders):
        if len(set(names)) == len(files) and "detections" not in names:
            return names
    return [str(path) for path in files]


def _matched(name: str, labels: Labels, detections: Detections, iou: float, threshold: float | None) -> Detector:
    """Match the boxes of a detector per image and per lesion, and set its operating point."""
    images = match(labels, detections, iou)
    lesions = None if _lesion_level_gap(labels) else match_lesions(labels, detections, iou)
    if threshold is None:
        threshold = curves.threshold_at_sensitivity(images, SENSITIVITY)
    return Detector(name, detections, images, lesions, threshold)


def _lesion_level_gap(labels: Labels) -> str:
    """The reason why the labels do not allow an evaluation per lesion; "" if they allow it."""
    try:
        check_lesion_keys(labels)
    except InputError as gap:
        return str(gap)
    return _scans_gap(labels)


def _scans_gap(labels: Labels) -> str:
    """The reason why the labels may mix several scans of a patient; "" if they cannot."""
    of_patient = defaultdict(list)
    for image in labels["images"]:
        of_patient[image["patient_id"]].append(image)
    for patient, images in of_patient.items():
        named = sum("series_uid" in image for image in images)
        if 0 < named < len(images):
            return (
                f"{named} of {len(images)} images of patient {patient} have a series_uid; give it to all or to none"
            )
        if not named and len({plain_path(str(image["file_name"])).parent for image in images}) > 1:
            return f"images of patient {patient} lie in several folders; give each scan a series_uid"
    return ""


def _read_mimics(path: Path | str, labels: Labels) -> Labels:
    """Read COCO labels of mimics. Raises `InputError` if they are invalid, a category has no name or is named
    `NO_MIMIC`, or the images do not match those of the labels."""
    mimics = read_foreign_labels(path)
    names = {image["id"]: image["file_name"] for image in labels["images"]}
    if not any(image["id"] in names for image in mimics["images"]):
        raise InputError(
            f"{path}: no image has the id of one of the labels; give mimics of these images, by their ids"
        )
    for image in mimics["images"]:
        name, other = image["file_name"], names.get(image["id"], image["file_name"])
        if plain_path(str(name)) != plain_path(str(other)):
            raise InputError(f"{path}: image {image['id']} is {name!r}, but {other!r} in the labels; correct it")
    for category in mimics["categories"]:
        name, what = category.get("name"), f"{path}: category {category['id']}: its name"
        if not isinstance(name, str):
            raise InputError(f"{what} {name!r} is not text; name the kind of mimic")
        refuse_half_characters(name, what)
        if name == NO_MIMIC:
            raise InputError(f"{what} {NO_MIMIC!r} means on no mimic; rename the kind")
    return mimics


def _read_results(path: Path | str, labels: Labels, every: Labels) -> Detections:
    """Read COCO results, and keep those for the images of `labels`, a subset of all labels (`every`).

    Raises:
        InputError: invalid results, boxes in fractions of the image, or boxes beyond `LARGEST_PX`.
    """
    with within_python(path):
        detections = detections_of(path, every if images_file(path) is None else labels, all_looked_at=True)
    counted = {image["id"] for image in labels["images"]}
    detections = [detection for detection in detections if detection["image_id"] in counted]
    refuse_shares(detections, str(path))
    boxes = np.array([detection["bbox"] for detection in detections], float).reshape(-1, 4)
    if len(beyond := np.flatnonzero(np.abs(boxes).max(axis=1, initial=0) > LARGEST_PX)):
        box = detections[beyond[0]]["bbox"]
        raise InputError(f"{path}: the box {box} lies beyond {LARGEST_PX:g} px, where no image is; correct it")
    return detections


def _compared(detectors: list[Detector], labels: Labels, resamples: int, seed: int, progress: bool) -> dict[str, Any]:
    """The content of metrics.json without its settings: the first detector, the second, and their difference."""
    result = _described(detectors[0]) | {"notes": _notes(detectors, labels)}
    matches = {"pictures": [detector.images for detector in detectors]}
    if detectors[0].lesions:
        matches["lesions"] = [detector.lesions for detector in detectors]
    if len(detectors) > 1:
        result |= {"against": _described(detectors[1]), "difference": {level: {} for level in matches}}
    tasks = [(level, name) for level in matches for name in METRICS]
    for level, name in tqdm(tasks, desc="bootstrap over patients", unit="metric", disable=not progress):
        if len(detectors) > 1:
            first, second, difference = intervals.compare(METRICS[name].of, *matches[level], resamples, seed)
            result["against"]["intervals"][level][name] = asdict(second)
            result["difference"][level][name] = asdict(difference)
        else:
            first = intervals.bootstrap(METRICS[name].of, *matches[level], resamples, seed)
        result["intervals"][level][name] = asdict(first)
    return result


def _described(detector: Detector) -> dict[str, Any]:
    """The values of one detector: image-level values at the top level, other values grouped by topic."""
    result: dict[str, Any] = {"detector": detector.name, **curves.summary(detector.images, SENSITIVITY)}
    result["intervals"] = {"pictures": {}}
    is_calibrated = has_probabilities(detector.images)
    result["expected_calibration_error"] = expected_calibration_error(detector.images) if is_calibrated else np.nan
    result["threshold"] = detector.threshold
    if detector.has_operating_point:
        result["at_threshold"] = curves.at_threshold(detector.images, detector.threshold)
    if detector.lesions:
        result["intervals"]["lesions"] = {}
        result["lesions"] = curves.summary(detector.lesions, SENSITIVITY)
    if detector.lesions and detector.has_operating_point:
        counts = counts_per_patient(detector.lesions, detector.threshold)
        value, low, high = icc(counts[["truth", "detected"]].to_numpy())
        result["counts_per_patient"] = {
            "bland_altman": asdict(bland_altman(counts["truth"].to_numpy(), counts["detected"].to_numpy())),
            "icc": {"value": value, "low": low, "high": high},
            "classes": class_agreement(counts)[1],
        }
    return result


def _notes(detectors: list[Detector], labels: Labels) -> list[str]:
    """Notes on what is not evaluated, or only in part, and why."""
    notes = []
    if any("patient_id" not in image for image in labels["images"]):
        notes.append("The labels name no patients: each image counts as a patient of its own.")
    if gap := _lesion_level_gap(labels):
        notes.append(f"No lesion level: {gap}.")
    elif apart := lesions_apart(labels):
        which = "have two boxes on a slice, or none on one between"
        notes.append(f"{apart} microbleeds {which}: one lesion_id may stand for several.")
    if doubled := sum(map(len, repeats(labels, [box for box in labels["annotations"] if not is_region(box)]))):
        notes.append(
            f"{doubled} boxes of the labels overlap another of their image by an IoU of 0.8 or more: drawn twice?"
        )
    if not detectors[0].images.truth_ids:
        notes.append("The labels hold no microbleed: nothing that needs one has a value.")
    named = {"the labels": labels["annotations"]} | {detector.name: detector.detections for detector in detectors}
    for name in (name for name, boxes in named.items() if may_be_corners(boxes)):
        notes.append(
            f"All boxes of {name} are wider than what is left of them, and higher than what is above: two corners?"
        )
    for detector in detectors:
        if not detector.has_operating_point and detector.images.truth_ids:
            notes.append(f"{detector.name} never reaches 90 % sensitivity: no operating point; give --threshold.")
        if not has_probabilities(detector.images):
            notes.append(f"The scores of {detector.name} are no probabilities: no calibration.")
    return notes


def _subgroup_tables(
    detector: Detector, labels: Labels, mimics: Labels | None, iou: float
) -> dict[str, pd.DataFrame]:
    """Title -> table at the operating point; empty without an operating point."""
    tables: dict[str, pd.DataFrame] = {}
    if not detector.has_operating_point:
        return tables
    if detector.lesions:
        lesions = lesion_table(labels, detector.lesions)
        counts = counts_per_patient(detector.lesions, detector.threshold)
        tables["microbleeds by size"] = sensitivity_by_size(lesions, detector.threshold)
        if lesions["location"].notna().any():
            tables["microbleeds by location"] = sensitivity_by(lesions, detector.threshold, lesions["location"])
        tables["patients by number of microbleeds (rows: truth, columns: detected)"] = class_agreement(counts)[0]
    if mimics:
        matches = detector.images
        wrong = matches.detection[(matches.outcome == FALSE_POSITIVE) & (matches.score >= detector.threshold)]
        by_mimic = false_positives_by_mimic(labels, mimics, detector.detections, wrong.tolist(), iou)
        tables["false positives by mimic"] = by_mimic
    return tables


def _write_tables(
    folder: Path, detectors: list[Detector], labels: Labels, groups: list[dict[str, pd.DataFrame]]
) -> None:
    """Write curves and tables as CSV. A file holds the rows of all detectors, with the detector's name first."""
    parts = defaultdict(list)
    for detector, own in zip(detectors, groups, strict=True):
        of_groups = {title.split(" (")[0].replace(" ", "_"): table.reset_index() for title, table in own.items()}
        for name, table in (_curve_tables(detector, labels) | of_groups).items():
            parts[name].append(pd.concat({detector.name: table}, names=["detector"]).droplevel(1))
    for name, tables in parts.items():
        pd.concat(tables).to_csv(folder / f"{name}.csv")


def _curve_tables(detector: Detector, labels: Labels) -> dict[str, pd.DataFrame]:
    """File name -> table of one detector: its curves, and tables with a row per microbleed or patient."""
    tables = {"pr": curves.precision_sensitivity(detector.images), "froc": curves.froc(detector.images)}
    if has_probabilities(detector.images):
        tables["reliability"] = reliability(detector.images)
    if detector.lesions:
        tables["froc_lesions"] = curves.froc(detector.lesions, "patient")
        tables["lesions"] = lesion_table(labels, detector.lesions)
        if detector.has_operating_point:
            tables["patients"] = counts_per_patient(detector.lesions, detector.threshold).reset_index()
    return tables
