"""Microbleeds in three dimensions from the detections of one series, with their places; tables of both."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from pydicom.uid import generate_uid
from scipy.spatial import cKDTree

from cmbfe.data.dicom.series import to_patient_mm
from cmbfe.data.labelled.labels import Detections
from cmbfe.findings.search import Place
from cmbfe.metrics.lesions import LINK_MM, link
from cmbfe.metrics.matching import overlaps

REVIEWED_FILE = "lesions.json"
"""The lesions of a detection with all of their boxes, as a review needs them."""
IMAGE_COLUMNS = ["patient_id", "series_uid", "slice_index", "file_name"]
COLUMNS = [
    *("patient_id", "series_uid", "lesion", "score", "x_mm", "y_mm", "z_mm", "size_mm", "width_mm", "height_mm"),
    *("depth_mm", "first_slice", "last_slice", "best_slice", "boxes", "file_name", "region", "side", "struck_out"),
]
LOBAR, DEEP, INFRATENTORIAL, UNKNOWN = REGIONS = ("lobar", "deep", "infratentorial", "unknown")
SIDES = ("left", "right")


@dataclass(frozen=True)
class Lesion:
    """A microbleed as detected. Lengths in mm."""

    number: int
    """From 1, by falling score, within its series; what a reader has added comes last."""
    uid: str
    """New for each run: SR and segmentation name the lesion by it."""
    score: float | None
    """Of its best box; None where a reader has added it."""
    centre_mm: tuple[float, float, float]
    """Mean of the centres of its boxes, weighted by their scores: patient coordinates (LPS)."""
    size_mm: float
    """Square root of the area of its best box."""
    extent_mm: tuple[float, float, float]
    """Of all its boxes along rows, columns and slices."""
    boxes: dict[int, tuple[list[float], float | None]]
    """Slice index -> the best box there [x, y, w, h] px, and its score."""
    best_slice: int
    elongation: float = 0.0
    """From the middle of its first box to that of its last, over the side of the largest: so a ball has at most 1."""
    region: str = UNKNOWN
    """One of `REGIONS`."""
    side: str = UNKNOWN
    """One of `SIDES`, or unknown as the region."""
    struck_out: str = ""
    """The rule of anatomy that says that it is no microbleed; "" where none does, or none was asked for."""

    @property
    def slices(self) -> tuple[int, int]:
        """The first and the last."""
        return min(self.boxes), max(self.boxes)


def find_lesions(images: Sequence[dict], detections: Detections, place: Place, threshold: float) -> list[Lesion]:
    """Join the detections of one series that reach the threshold by the rule of `cmbfe.metrics.lesions`.

    A box below the threshold may join two slices, as in an evaluation, and is no part of the lesion otherwise.
    """
    near = _within_reach(images, detections, place, threshold)
    ordered = overlaps({"images": list(images), "annotations": []}, near)
    best, member_of = link(ordered, near)
    slice_of = {image["id"]: image["slice_index"] for image in images}
    lesions = []
    for number in range(int((ordered.score[best] >= threshold).sum())):
        members = [near[index] for index in ordered.order[member_of == number]]
        kept = [(slice_of[box["image_id"]], box) for box in members if box["score"] >= threshold]
        lesions.append(lesion_of(number + 1, kept, place))
    return lesions


def _within_reach(images: Sequence[dict], detections: Detections, place: Place, threshold: float) -> Detections:
    """Detections that reach the threshold, and those within their reach: linking compares each with each."""
    above = [detection["score"] >= threshold for detection in detections]
    if not any(above):
        return []
    row_mm, column_mm = place.pixel_spacing_mm
    boxes = np.array([detection["bbox"] for detection in detections], float)
    centres = (boxes[:, :2] + boxes[:, 2:] / 2) * [column_mm, row_mm]
    distance, _ = cKDTree(centres[above]).query(centres)
    return [detections[index] for index in np.flatnonzero(distance <= LINK_MM)]


def lesion_of(number: int, members: Sequence[tuple[int, dict]], place: Place) -> Lesion:
    """The lesion of boxes with their slices, the best one first; scores may be None."""
    row_mm, column_mm = place.pixel_spacing_mm
    indices = [index for index, _ in members]
    boxes = np.array([box["bbox"] for _, box in members], float)
    scores = np.array([box["score"] or 0 for _, box in members])
    middles = boxes[:, :2] + boxes[:, 2:] / 2
    centres = [to_patient_mm(place, index, *middle) for index, middle in zip(indices, middles.tolist(), strict=True)]
    across = (boxes[:, :2] + boxes[:, 2:]).max(axis=0) - boxes[:, :2].min(axis=0)
    depth = (max(indices) - min(indices) + 1) * place.slice_spacing_mm
    ends = centres[int(np.argmin(indices))], centres[int(np.argmax(indices))]
    largest = float(np.sqrt(boxes[:, 2:].prod(axis=1).max() * column_mm * row_mm))
    of_slice: dict[int, tuple[list[float], float | None]] = {}
    for index, box in members:
        of_slice.setdefault(index, (box["bbox"], box["score"]))
    centre = np.average(centres, axis=0, weights=scores if scores.any() else None)
    return Lesion(
        number=number,
        uid=generate_uid(),
        score=members[0][1]["score"],
        centre_mm=tuple(centre.tolist()),
        size_mm=float(np.sqrt(boxes[0, 2] * column_mm * boxes[0, 3] * row_mm)),
        extent_mm=(float(across[0] * column_mm), float(across[1] * row_mm), depth),
        boxes=of_slice,
        best_slice=indices[0],
        elongation=math.dist(*ends) / largest if largest else 0.0,
    )


def as_json(series_uid: str, lesion: Lesion) -> dict[str, Any]:
    """A lesion as lesions.json has it. Its `uid` is left out: it is another in each run, and the file is not."""
    return {"series_uid": series_uid, **{key: value for key, value in asdict(lesion).items() if key != "uid"}}


def from_json(entry: Mapping[str, Any]) -> Lesion:
    """A lesion of lesions.json, with a new `uid`. Raises `KeyError`, `TypeError` or `ValueError`: it is none."""
    boxes = {int(index): (box, score) for index, (box, score) in sorted(entry["boxes"].items())}
    known = {key: value for key, value in entry.items() if key != "series_uid"}
    return Lesion(**{**known, "uid": generate_uid(), "boxes": boxes})


def fingerprint(images: Sequence[dict], lesions: Sequence[Lesion]) -> str:
    """Hexadecimal digits by which the findings of a series are known: its slices' sizes, its lesions' boxes."""
    sizes = [(image["width"], image["height"]) for image in images]
    boxes = [(lesion.number, sorted(lesion.boxes.items())) for lesion in lesions]
    return hashlib.sha256(json.dumps([sizes, boxes]).encode()).hexdigest()[:16]


def pattern(regions: Iterable[str]) -> str:
    """Of the regions of lesions: strictly lobar, strictly deep (deep or infratentorial, none lobar), mixed, none; or
    unknown, where a lesion of unknown region might change it."""
    found = set(regions)
    is_lobar, is_deep = LOBAR in found, bool(found & {DEEP, INFRATENTORIAL})
    if is_lobar and is_deep:
        return "mixed"
    if UNKNOWN in found:
        return UNKNOWN
    return "strictly lobar" if is_lobar else "strictly deep" if is_deep else "none"


def region_counts(lesions: Sequence[Lesion]) -> dict[str, dict[str, int]]:
    """Region -> side -> how many lesions; with those of unknown region, if there are any."""
    found = Counter((lesion.region, lesion.side) for lesion in lesions)
    counts = {region: {side: found[region, side] for side in SIDES} for region in REGIONS[:-1]}
    if unknown := found[UNKNOWN, UNKNOWN]:
        counts[UNKNOWN] = {UNKNOWN: unknown}
    return counts


def regions_table(image: dict | None, lesions: Sequence[Lesion]) -> pd.DataFrame:
    """The row of a series, of which an image is given, with `region_counts` and `pattern`; None: no row."""
    columns = [f"{region}_{side}" for region in REGIONS[:-1] for side in SIDES]
    whose = ["patient_id", "series_uid"]
    if image is None:
        return pd.DataFrame(columns=[*whose, *columns, UNKNOWN, "pattern"])
    counts = region_counts(lesions)
    own = [counts[region][side] for region in REGIONS[:-1] for side in SIDES]
    unknown = counts.get(UNKNOWN, {}).get(UNKNOWN, 0)
    return pd.DataFrame(
        [[*(image[key] for key in whose), *own, unknown, pattern(lesion.region for lesion in lesions)]]
    )


def lesions_table(images: Sequence[dict], lesions: Sequence[Lesion]) -> pd.DataFrame:
    """A row per lesion, lengths rounded to 0.01 mm."""
    by_slice = {image["slice_index"]: image for image in images}
    rows = []
    for lesion in lesions:
        image = dict.fromkeys(IMAGE_COLUMNS) | by_slice[lesion.best_slice]
        lengths = [round(length, 2) for length in (*lesion.centre_mm, lesion.size_mm, *lesion.extent_mm)]
        rows.append(
            [
                *(image["patient_id"], image["series_uid"], lesion.number, lesion.score, *lengths),
                *(*lesion.slices, lesion.best_slice, len(lesion.boxes), image["file_name"]),
                *(lesion.region, lesion.side, lesion.struck_out),
            ]
        )
    return pd.DataFrame(rows, columns=COLUMNS)


def detections_table(images: Sequence[dict], detections: Detections) -> pd.DataFrame:
    """A row per detection; millimetres, from the image's corner, are missing where the pixel spacing is not known."""
    by_id = {image["id"]: image for image in images}
    own = [by_id[detection["image_id"]] for detection in detections]
    spacing_mm = np.array([image.get("pixel_spacing_mm", (np.nan, np.nan)) for image in own]).reshape(-1, 2)
    boxes_px = np.array([detection["bbox"] for detection in detections]).reshape(-1, 4)
    boxes_mm = (boxes_px * spacing_mm[:, [1, 0, 1, 0]]).round(3)
    table = pd.DataFrame({key: [image[key] for image in own] for key in IMAGE_COLUMNS})
    for unit, boxes in (("px", boxes_px), ("mm", boxes_mm)):
        table[[f"{side}_{unit}" for side in ("x", "y", "width", "height")]] = boxes
    return table.assign(score=[detection["score"] for detection in detections])


def label_map(lesions: Sequence[Lesion], shape: tuple[int, int, int], frame_of: Mapping[int, int]) -> np.ndarray:
    """uint16 [frames, rows, columns] of `shape`: number, from 1, of the lesion in whose ellipse a pixel's centre lies;
    the better one wins. A lesion too small for any centre takes the pixel in the middle of each of its boxes.
    `frame_of`: slice -> frame."""
    labels = np.zeros(shape, np.uint16)
    rows, columns = np.mgrid[: shape[1], : shape[2]] + 0.5
    for number, lesion in reversed(list(enumerate(lesions, 1))):
        for index, (box, _) in lesion.boxes.items():
            x, y, width, height = box
            across, down = (columns - x - width / 2) * 2, (rows - y - height / 2) * 2
            inside = (across * height) ** 2 + (down * width) ** 2 <= (width * height) ** 2
            middle = min(int(y + height / 2), shape[1] - 1), min(int(x + width / 2), shape[2] - 1)
            labels[frame_of[index]][inside] = labels[frame_of[index]][middle] = number
    return labels
