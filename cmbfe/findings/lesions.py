"""3-D microbleeds from the detections of one series, with their positions; tables of lesions and detections."""

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
"""File of the lesions with all of their boxes, which a review reads."""
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
    """Number within the series, from 1, by decreasing score; lesions that a reader added come last."""
    uid: str
    """Tracking UID in SR and segmentation, new in each run."""
    score: float | None
    """Score of its best box; None if a reader added the lesion."""
    centre_mm: tuple[float, float, float]
    """Mean of the centres of its boxes, weighted by their scores: patient coordinates (LPS)."""
    size_mm: float
    """Square root of the area of its best box."""
    extent_mm: tuple[float, float, float]
    """Extent of all its boxes along rows, columns and slices."""
    boxes: dict[int, tuple[list[float], float | None]]
    """Slice index -> the best box there [x, y, w, h] px, and its score."""
    best_slice: int
    elongation: float = 0.0
    """Distance between the centres of first and last box, over the side of its largest box. At most 1 for a ball."""
    region: str = UNKNOWN
    """One of `REGIONS`."""
    side: str = UNKNOWN
    """One of `SIDES`; unknown if the region is unknown."""
    struck_out: str = ""
    """The rule of anatomy that strikes the lesion out; "" if no rule does, or if no rules are applied."""

    @property
    def slices(self) -> tuple[int, int]:
        """Indices of the first and last slice of the lesion."""
        return min(self.boxes), max(self.boxes)


def find_lesions(images: Sequence[dict], detections: Detections, place: Place, threshold: float) -> list[Lesion]:
    """Join the detections of one series that reach the threshold into lesions, by the rule of `cmbfe.metrics.lesions`.

    As in an evaluation, a box below the threshold may link two slices, but it is not part of the lesion.
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
    """Only the detections within `LINK_MM`, in the plane, of one that reaches the threshold: fewer pairs to compare."""
    above = [detection["score"] >= threshold for detection in detections]
    if not any(above):
        return []
    row_mm, column_mm = place.pixel_spacing_mm
    boxes = np.array([detection["bbox"] for detection in detections], float)
    centres = (boxes[:, :2] + boxes[:, 2:] / 2) * [column_mm, row_mm]
    distance, _ = cKDTree(centres[above]).query(centres)
    return [detections[index] for index in np.flatnonzero(distance <= LINK_MM)]


def lesion_of(number: int, members: Sequence[tuple[int, dict]], place: Place) -> Lesion:
    """The lesion that consists of `members`, which are pairs of slice index and box, best first. Scores may be None."""
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
    """The entry of a lesion in lesions.json. The `uid` is left out, because it changes with each run."""
    return {"series_uid": series_uid, **{key: value for key, value in asdict(lesion).items() if key != "uid"}}


def from_json(entry: Mapping[str, Any]) -> Lesion:
    """The lesion of an entry of lesions.json, with a new `uid`. Raises `KeyError`, `TypeError` or `ValueError`."""
    boxes = {int(index): (box, score) for index, (box, score) in sorted(entry["boxes"].items())}
    known = {key: value for key, value in entry.items() if key != "series_uid"}
    return Lesion(**{**known, "uid": generate_uid(), "boxes": boxes})


def fingerprint(images: Sequence[dict], lesions: Sequence[Lesion]) -> str:
    """A hexadecimal hash of the findings of a series, from the sizes of its slices and the boxes of its lesions."""
    sizes = [(image["width"], image["height"]) for image in images]
    boxes = [(lesion.number, sorted(lesion.boxes.items())) for lesion in lesions]
    return hashlib.sha256(json.dumps([sizes, boxes]).encode()).hexdigest()[:16]


def pattern(regions: Iterable[str]) -> str:
    """The pattern of the lesions' regions: strictly lobar, strictly deep (deep or infratentorial only), mixed, none or
    unknown. It is unknown if a lesion of unknown region might change the pattern."""
    found = set(regions)
    is_lobar, is_deep = LOBAR in found, bool(found & {DEEP, INFRATENTORIAL})
    if is_lobar and is_deep:
        return "mixed"
    if UNKNOWN in found:
        return UNKNOWN
    return "strictly lobar" if is_lobar else "strictly deep" if is_deep else "none"


def region_counts(lesions: Sequence[Lesion]) -> dict[str, dict[str, int]]:
    """Region -> side -> number of lesions; the region `UNKNOWN` is included only if it has lesions."""
    found = Counter((lesion.region, lesion.side) for lesion in lesions)
    counts = {region: {side: found[region, side] for side in SIDES} for region in REGIONS[:-1]}
    if unknown := found[UNKNOWN, UNKNOWN]:
        counts[UNKNOWN] = {UNKNOWN: unknown}
    return counts


def regions_table(image: dict | None, lesions: Sequence[Lesion]) -> pd.DataFrame:
    """A one-row table of a series: `region_counts` and `pattern`. `image`: any image of the series; None for no row."""
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
    """A row per detection. Positions in mm start at the image's corner, and are NaN if the pixel spacing is unknown."""
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
    """Label map, uint16 [frames, rows, columns] of `shape`: pixels in the ellipses of a lesion hold its number, from 1.
    Where ellipses overlap, the better lesion wins. The middle pixel of a box always belongs to the lesion, even if
    the ellipse contains no pixel centre. `frame_of`: slice -> frame."""
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
