"""Link boxes on slices to microbleeds in three dimensions, so that a microbleed on three slices counts once.

Detections are linked in descending order of score. Each detection that is not yet linked starts a 3-D detection. It
links all free detections of its series whose centres lie within `link_mm` of its own centre in the plane, on its slice
and on adjacent slices without a gap. A microbleed keeps its position across slices, while an oblique vessel gives
several 3-D detections. A 3-D detection has the score of its best box. It hits a microbleed if any of its boxes hits any
box of the microbleed.
"""

from collections import defaultdict
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np

from cmbfe.errors import InputError
from cmbfe.metrics.matching import (
    Detections,
    Duplicates,
    Hit,
    Labels,
    Matches,
    Overlaps,
    assign,
    is_region,
    outcomes,
    overlaps,
    pixel_spacings,
)

LINK_MM = 3.0
"""Largest in-plane distance of linked detections from the best detection; microbleeds are 2 to 10 mm wide."""


def match_lesions(
    labels: Labels,
    detections: Detections,
    iou: float = 0.5,
    *,
    hit: Hit = "iou",
    distance_mm: float | None = None,
    duplicates: Duplicates = "false positive",
    link_mm: float = LINK_MM,
) -> Matches:
    """Match detections to microbleeds in three dimensions (open point A20); parameters as in `matching.match`.

    The labels need `patient_id`, `slice_index` and `pixel_spacing_mm` of each image and `lesion_id` of each
    box. An optional `series_uid` separates the series of a patient. A `lesion_id` is valid within its series.

    Raises:
        InputError: a missing key, two images of one slice, or an error of `match`.
        ValueError: impossible parameters.
    """
    if not link_mm > 0:
        raise ValueError(f"link_mm is {link_mm}; it must be above 0")
    check_lesion_keys(labels)
    near = overlaps(labels, detections, iou, hit, distance_mm)
    best, member_of = link(near, detections, link_mm)
    lesion_ids, of_box, lesion_patient = _lesions(near)
    pairs = _pairs_of_lesions(near, member_of, of_box)
    truth = assign(*pairs, len(best), len(lesion_ids))
    return Matches(
        score=near.score[best],
        outcome=outcomes(truth, pairs[0], member_of[near.in_region], duplicates),
        truth=truth,
        detection=near.order[best],
        patient=near.patient_of_image[near.image[best]],
        truth_ids=lesion_ids,
        truth_patient=lesion_patient,
        patients=near.patients,
        images_per_patient=np.bincount(near.patient_of_image, minlength=len(near.patients)),
    )


def check_lesion_keys(labels: Labels) -> None:
    """Raise `InputError` for the first image or box without a key that the lesion level needs, or for two images of the
    same slice of a series. Such images come from several scans that the labels do not separate."""
    slices: dict[Hashable, Any] = {}
    for image in labels["images"]:
        for key in ("patient_id", "slice_index", "pixel_spacing_mm"):
            if key not in image:
                raise InputError(f"image {image['id']} has no {key}, which the lesion level needs")
        first = slices.setdefault((*series_of(image), image["slice_index"]), image["id"])
        if first != image["id"]:
            same = f"slice_index {image['slice_index']} of one patient and series"
            raise InputError(f"images {first} and {image['id']} have {same}; give each scan a series_uid of its own")
    for box in labels["annotations"]:
        if "lesion_id" not in box and not is_region(box):
            raise InputError(f"annotation {box.get('id')} has no lesion_id, which the lesion level needs")


def series_of(image: Mapping[str, Any]) -> tuple[Hashable, Hashable]:
    """The identity of an image's series: its patient, and its UID if there is one."""
    return image["patient_id"], image.get("series_uid")


def lesion_of(image: Mapping[str, Any], box: Mapping[str, Any]) -> tuple[Hashable, ...]:
    """The identity of a box's microbleed: the series of its image, and its `lesion_id`."""
    return *series_of(image), box["lesion_id"]


def lesions_apart(labels: Labels) -> int:
    """Number of lesion ids whose boxes skip or repeat a slice; such an id may cover several microbleeds."""
    images = {image["id"]: image for image in labels["images"]}
    slices: dict[Hashable, list[int]] = defaultdict(list)
    for box in labels["annotations"]:
        if not is_region(box):
            image = images[box["image_id"]]
            slices[lesion_of(image, box)].append(image["slice_index"])
    return sum(sorted(own) != list(range(min(own), min(own) + len(own))) for own in slices.values())


def link(near: Overlaps, detections: Detections, link_mm: float = LINK_MM) -> tuple[np.ndarray, np.ndarray]:
    """Link detections of adjacent slices by the rule in the docstring of this module.

    Returns the best detection of each of N 3-D detections, int64 [N], and the 3-D detection of each of D
    detections, int64 [D]. Both are in descending order of score.
    """
    boxes = np.array([detection["bbox"] for detection in detections], float).reshape(-1, 4)[near.order]
    spacing = pixel_spacings(near.images)[near.image]
    centre_mm = (boxes[:, :2] + boxes[:, 2:] / 2) * spacing[:, ::-1]
    slice_index = np.array([image["slice_index"] for image in near.images], np.int64)[near.image]
    leader = np.arange(len(boxes))
    for members in _by_series(near):
        leader[members] = members[_leaders(centre_mm[members], slice_index[members], link_mm)]
    return np.unique(leader, return_inverse=True)


def _leaders(centre_mm: np.ndarray, slice_index: np.ndarray, link_mm: float) -> np.ndarray:
    """For each detection of a series (best first), the index of the best detection in its 3-D detection."""
    leader = np.full(len(centre_mm), -1)
    for best in range(len(centre_mm)):
        if leader[best] < 0:
            distance = np.hypot(*(centre_mm - centre_mm[best]).T)
            near = np.flatnonzero((leader < 0) & (distance <= link_mm))
            leader[near[_touching(slice_index[near], slice_index[best])]] = best
    return leader


def _touching(slices: np.ndarray, start: int) -> np.ndarray:
    """Mask of the entries of `slices` that are connected to slice `start` without a gap."""
    present = np.unique(slices)
    run = np.cumsum(np.diff(present, prepend=present[0]) > 1)
    return run[np.searchsorted(present, slices)] == run[np.searchsorted(present, start)]


def _by_series(near: Overlaps) -> list[np.ndarray]:
    """Indices of the detections of each series, in the order of their scores."""
    names = [series_of(image) for image in near.images]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    series = np.array([numbers[name] for name in names], np.int64)[near.image]
    by_series = np.argsort(series, kind="stable")
    return np.split(by_series, np.flatnonzero(np.diff(series[by_series])) + 1) if len(series) else []


def _lesions(near: Overlaps) -> tuple[list[Any], np.ndarray, np.ndarray]:
    """Id of each lesion, lesion of each box, patient of each lesion. Lesions are in order of their first boxes."""
    pairs = zip(near.truth_image.tolist(), near.truths, strict=True)
    keys = [lesion_of(near.images[image], box) for image, box in pairs]
    number_of = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    of_box = np.array([number_of[key] for key in keys], np.int64)
    patient = np.zeros(len(number_of), np.int64)
    patient[of_box] = near.patient_of_image[near.truth_image]
    return [key[-1] for key in number_of], of_box, patient


def _pairs_of_lesions(
    near: Overlaps, member_of: np.ndarray, of_box: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of a 3-D detection and a lesion with a hit between their boxes, and the largest nearness of each pair."""
    detection, lesion = member_of[near.detection], of_box[near.truth]
    order = np.lexsort((-near.nearness, lesion, detection))
    detection, lesion, nearness = detection[order], lesion[order], near.nearness[order]
    first = np.ones(len(detection), bool)
    first[1:] = (np.diff(detection) != 0) | (np.diff(lesion) != 0)
    return detection[first], lesion[first], nearness[first]
