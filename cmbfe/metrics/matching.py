"""Match detections to microbleeds: the table from which every metric is computed.

The rule is COCO's. Detections are processed in descending order of score. Each takes the free ground-truth box of its
image with the largest overlap, if that overlap is large enough. A microbleed is therefore hit once, and further
detections of it are false positives. Equal scores are ordered by image id and then by position in the file, as in
pycocotools. A detection that overlaps two boxes equally takes the later box in the file.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cmbfe.errors import InputError
from cmbfe.files import whole_file

Labels = dict[str, Any]  # a COCO file's content: lists under "images", "annotations" and "categories"
Detections = list[dict[str, Any]]
"""Content of a COCO results file: entries with `image_id`, `category_id`, `bbox` [x, y, w, h] px and `score`."""
HIT, FALSE_POSITIVE, IGNORED = 1, 0, -1  # outcomes of a detection; metrics leave out ignored detections
PAIRS_AT_ONCE = 2_000_000
"""Largest number of detection-truth pairs per block, which limits the memory to about 0.3 GiB."""
ARRAYS = {
    "outcome": np.int8,
    "truth": np.int32,
    "patient": np.uint16,
    "truth_ids": np.int32,
    "truth_patient": np.uint16,
    "images_per_patient": np.uint16,
}
"""Data type of each array of `Matches` in its file; scores are stored as `score_steps`."""
Hit = Literal["iou", "centre", "distance"]
Duplicates = Literal["false positive", "ignore"]


@dataclass(frozen=True)
class Matches:
    """Detections in descending order of score, and the outcome of each.

    D detections, T ground truths (without ignore regions), P patients. At the image level a ground truth is a box on an
    image; at the lesion level it is a microbleed (`cmbfe.metrics.lesions`).
    """

    score: np.ndarray  # float64 [D], descending
    outcome: np.ndarray  # int8 [D]: `HIT`, `FALSE_POSITIVE` or `IGNORED`
    truth: np.ndarray  # int64 [D]: index of the ground truth that the detection hits, -1 without a hit
    detection: np.ndarray  # int64 [D]: index of the detection in the input list
    patient: np.ndarray  # int64 [D]: index of the detection's patient in `patients`
    truth_ids: list[Any]  # T ids of the ground truths: annotation ids, or lesion ids at the lesion level
    truth_patient: np.ndarray  # int64 [T]: index of the ground truth's patient in `patients`
    patients: list[Any]  # P patient ids; without patients in the labels, each image counts as a patient
    images_per_patient: np.ndarray  # int64 [P], images without microbleeds included

    @property
    def truth_score(self) -> np.ndarray:
        """float64 [T]: score of the detection that hits each ground truth, -inf if it is missed."""
        scores = np.full(len(self.truth_ids), -np.inf)
        hits = self.outcome == HIT
        scores[self.truth[hits]] = self.score[hits]
        return scores


def match(
    labels: Labels,
    detections: Detections,
    iou: float = 0.5,
    *,
    hit: Hit = "iou",
    distance_mm: float | None = None,
    duplicates: Duplicates = "false positive",
) -> Matches:
    """Match COCO detections to COCO labels, image by image (Li et al. 2021, section 3; open point A14).

    `hit` defines a hit. "iou": intersection over union of at least `iou`. "centre": the centre of the detection lies
    in the box (edges included). "distance": the two centres are at most `distance_mm` apart, which needs
    `pixel_spacing_mm` of every image. "centre" and "distance" prefer the box with the nearest centre.
    Annotations with `iscrowd` or `ignore` set are ignore regions. A detection without a hit is ignored if its centre
    lies in such a region; for "iou", if at least the share `iou` of its area does. `duplicates="ignore"` also ignores
    detections that would hit only boxes which other detections have taken.

    Boxes are [x, y, w, h] in px.

    Raises:
        InputError: a detection on an image that the labels do not have, an image id used twice, a patient id written
            in two ways, boxes of more than one category, a missing key or pixel spacing, a box or score that is not
            finite.
        ValueError: impossible parameters.
    """
    near = overlaps(labels, detections, iou, hit, distance_mm)
    truth = assign(near.detection, near.truth, near.nearness, len(near.score), len(near.truths))
    return Matches(
        score=near.score,
        outcome=outcomes(truth, near.detection, near.in_region, duplicates),
        truth=truth,
        detection=near.order,
        patient=near.patient_of_image[near.image],
        truth_ids=[box.get("id") for box in near.truths],
        truth_patient=near.patient_of_image[near.truth_image],
        patients=near.patients,
        images_per_patient=np.bincount(near.patient_of_image, minlength=len(near.patients)),
    )


def save_matches(matches: Matches, path: Path) -> None:
    """Write matches as compressed NumPy arrays; equal matches give equal bytes.

    Scores are stored as float32 and ids of ground truths as integers. The field `detection` is not stored.
    Raises `InputError` for ids and numbers of patients that do not fit.
    """
    given = {name: np.asarray(getattr(matches, name)) for name in ARRAYS}
    arrays: dict[str, Any] = {name: given[name].astype(kind) for name, kind in ARRAYS.items()}
    if wrong := [name for name in ARRAYS if not np.array_equal(arrays[name], given[name])]:
        raise InputError(f"{path}: {wrong[0]} has values that do not fit {np.dtype(ARRAYS[wrong[0]])}")
    # Scores descend, so the differences of their bit patterns take half the space of the scores.
    arrays["score_steps"] = np.diff(matches.score.astype(np.float32).view(np.int32), prepend=np.int32(0))
    patients = np.array([str(patient) for patient in matches.patients], dtype=np.str_)
    with whole_file(path) as temporary:
        np.savez_compressed(temporary, **arrays, patients=patients)


def load_matches(path: Path) -> Matches:
    """Read matches that `save_matches` wrote; all values of `detection` are -1.

    Raises:
        InputError: no such file, or a file with other content.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in (*ARRAYS, "score_steps", "patients")}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise InputError(f"{path}: no file of matches: {' '.join(str(error).split())}") from None
    lists = {name: arrays.pop(name).tolist() for name in ("truth_ids", "patients")}
    bits = np.cumsum(arrays.pop("score_steps"), dtype=np.int32)
    score, outcome = bits.view(np.float32).astype(np.float64), arrays.pop("outcome")
    numbers = {name: array.astype(np.int64) for name, array in arrays.items()}
    return Matches(score=score, outcome=outcome, detection=np.full(len(score), -1), **numbers, **lists)


@dataclass(frozen=True)
class Overlaps:
    """Detections in descending order of score, and every pair of a detection and a box that may be a hit."""

    score: np.ndarray  # float64 [D], descending
    order: np.ndarray  # int64 [D]: index of each detection in the input list
    image: np.ndarray  # int64 [D]: index of each detection's image in `images`
    detection: np.ndarray  # int64 [K]: the detection of each pair, as an index into `score`
    truth: np.ndarray  # int64 [K]: the ground truth of each pair, as an index into `truths`
    nearness: np.ndarray  # float64 [K]: a detection prefers the box with the largest value
    in_region: np.ndarray  # indices of detections that lie in an ignore region
    truths: list[dict[str, Any]]  # T annotations that are not ignore regions
    truth_image: np.ndarray  # int64 [T]: index of each ground truth's image in `images`
    images: list[dict[str, Any]]  # the labels' images by ascending id
    patients: list[Any]
    patient_of_image: np.ndarray


def overlaps(
    labels: Labels,
    detections: Detections,
    iou: float = 0.5,
    hit: Hit = "iou",
    distance_mm: float | None = None,
) -> Overlaps:
    """All pairs of a detection and a box that may become a hit; parameters and errors as in `match`."""
    _check_parameters(iou, hit, distance_mm)
    _check_one_category(labels, detections)
    images = sorted(labels["images"], key=lambda image: _sortable(image["id"]))
    position = {image["id"]: index for index, image in enumerate(images)}
    if len(position) < len(images):
        twice = next(image["id"] for index, image in enumerate(images) if position[image["id"]] != index)
        raise InputError(f"labels: image id {twice!r} is used more than once; ids must be unique")
    spacing = pixel_spacings(images) if hit == "distance" else np.ones((len(images), 2))
    regions = [box for box in labels["annotations"] if is_region(box)]
    truths = [box for box in labels["annotations"] if not is_region(box)]

    of_image, boxes = _images_and_boxes(detections, position)
    score = _numbers(detections, "score", 1)[:, 0]
    order = np.lexsort((np.arange(len(score)), of_image, -score))
    of_image, boxes = of_image[order], boxes[order]
    truth_image, truth_boxes = _images_and_boxes(truths, position)
    near = _Nearness(hit, iou, distance_mm)
    in_region = _Nearness("iou" if hit == "iou" else "centre", iou, None, of_detection=True)
    detection, truth, nearness = _pairs(of_image, boxes, truth_image, truth_boxes, spacing, near)
    patients, patient_of_image = _patients(images)
    return Overlaps(
        score=score[order],
        order=order,
        image=of_image,
        detection=detection,
        truth=truth,
        nearness=nearness,
        in_region=_pairs(of_image, boxes, *_images_and_boxes(regions, position), spacing, in_region)[0],
        truths=truths,
        truth_image=truth_image,
        images=images,
        patients=patients,
        patient_of_image=patient_of_image,
    )


def is_region(annotation: dict[str, Any]) -> bool:
    """Whether an annotation is an ignore region rather than ground truth."""
    return bool(annotation.get("iscrowd") or annotation.get("ignore"))


def tight_box(annotation: Mapping[str, Any]) -> Sequence[float]:
    """The box [x, y, w, h] px that measures a microbleed: `tight_bbox` if given, otherwise `bbox`."""
    return annotation.get("tight_bbox", annotation["bbox"])


def of_one_category(boxes: Sequence[Mapping[str, Any]]) -> Detections:
    """The boxes as detections of one category, with their scores (0 if a box has none)."""
    keys = ("image_id", "bbox")
    return [{key: box[key] for key in keys} | {"category_id": 1, "score": box.get("score", 0.0)} for box in boxes]


def with_boxes(labels: Labels, boxes: Sequence[Mapping[str, Any]]) -> Labels:
    """The images of `labels`, with `boxes` as ground truth instead of the microbleeds."""
    return {"images": labels["images"], "annotations": of_one_category(boxes)}


def assign(
    detection: np.ndarray, truth: np.ndarray, nearness: np.ndarray, detections: int, truths: int
) -> np.ndarray:
    """Assign each ground truth to at most one detection, best score first. Returns int64 [detections]: the truth or -1.

    Candidate k: `detection[k]` (0 has the highest score) may take `truth[k]`; a larger `nearness[k]` is preferred.
    """
    order = np.lexsort((-truth, -nearness, detection))
    taken, is_free = [-1] * detections, [True] * truths
    for of_detection, of_truth in zip(detection[order].tolist(), truth[order].tolist(), strict=True):
        if taken[of_detection] < 0 and is_free[of_truth]:
            taken[of_detection], is_free[of_truth] = of_truth, False
    return np.array(taken, np.int64)


def outcomes(truth: np.ndarray, near_truth: np.ndarray, in_region: np.ndarray, duplicates: Duplicates) -> np.ndarray:
    """The outcome of each detection, int8 [D], from the ground truth that it hits, int64 [D] with -1 for none.

    `near_truth` lists the detections near any ground truth, `in_region` those in an ignore region.
    """
    if duplicates not in ("false positive", "ignore"):
        raise ValueError(f"duplicates is {duplicates!r}; it must be 'false positive' or 'ignore'")
    outcome = np.full(len(truth), FALSE_POSITIVE, np.int8)
    if duplicates == "ignore":
        outcome[near_truth] = IGNORED
    outcome[in_region] = IGNORED
    outcome[truth >= 0] = HIT
    return outcome


@dataclass(frozen=True)
class _Nearness:
    """Nearness of a detection to a box: larger values are nearer, -inf is no hit."""

    hit: Hit
    iou: float
    distance_mm: float | None
    of_detection: bool = False  # divide by the detection's own area, as COCO does for ignore regions

    def __call__(self, boxes: np.ndarray, others: np.ndarray, spacing: np.ndarray) -> np.ndarray:
        """Nearness of `boxes` [K, 4] to `others` [K, 4], both xywh px; `spacing` [K, 2] mm row, column."""
        if self.hit == "iou":
            overlap = _overlap(boxes, others, self.of_detection)
            # pycocotools' bound, so that an IoU of 1 rounded to 1 - 1e-16 still reaches a threshold of 1.
            return np.where(overlap >= min(self.iou, 1 - 1e-10), overlap, -np.inf)
        centre = boxes[:, :2] + boxes[:, 2:] / 2
        step = (centre - others[:, :2] - others[:, 2:] / 2) * spacing[:, ::-1]
        distance = np.hypot(step[:, 0], step[:, 1])
        if self.hit == "distance":
            return np.where(distance <= self.distance_mm, -distance, -np.inf)
        inside = (centre >= others[:, :2]) & (centre <= others[:, :2] + others[:, 2:])
        return np.where(inside.all(axis=1), -distance, -np.inf)


def _overlap(boxes: np.ndarray, others: np.ndarray, of_detection: bool) -> np.ndarray:
    corner = np.minimum(boxes[:, :2] + boxes[:, 2:], others[:, :2] + others[:, 2:])
    sides = (corner - np.maximum(boxes[:, :2], others[:, :2])).clip(min=0)
    common = sides[:, 0] * sides[:, 1]
    area = boxes[:, 2] * boxes[:, 3]
    union = area if of_detection else area + others[:, 2] * others[:, 3] - common
    return np.divide(common, union, out=np.zeros_like(common), where=common > 0)


def _pairs(
    image: np.ndarray,
    boxes: np.ndarray,
    truth_image: np.ndarray,
    truth_boxes: np.ndarray,
    spacing: np.ndarray,
    nearness: _Nearness,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All hits (detection, truth, nearness) of all images; a detection hits only boxes of its own image."""
    blocks = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    for detection, truth in _pairs_of_one_image(image, truth_image, len(spacing)):
        value = nearness(boxes[detection], truth_boxes[truth], spacing[image[detection]])
        kept = value > -np.inf
        blocks.append((detection[kept], truth[kept], value[kept]))
    detection, truth, value = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    return detection, truth, value


def _pairs_of_one_image(
    image: np.ndarray, truth_image: np.ndarray, images: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of all (detection, truth) index pairs that share an image."""
    by_image = np.argsort(truth_image, kind="stable")
    truths = np.bincount(truth_image, minlength=images)
    first = np.cumsum(truths) - truths
    busy = np.flatnonzero(truths[image]) if len(image) else np.zeros(0, np.int64)
    partners = truths[image[busy]]
    block = np.cumsum(partners) // PAIRS_AT_ONCE
    for part in np.split(np.arange(len(busy)), np.flatnonzero(np.diff(block)) + 1):
        detection = np.repeat(busy[part], partners[part])
        turn = np.arange(len(detection)) - np.repeat(np.cumsum(partners[part]) - partners[part], partners[part])
        yield detection, by_image[first[image[detection]] + turn]


def _images_and_boxes(
    entries: Sequence[dict[str, Any]], position: dict[Hashable, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Image indices [N] and boxes xywh px [N, 4] of annotations or detections."""
    try:
        image = np.array([position[image_id] for image_id in _column(entries, "image_id")], np.int64)
    except KeyError as error:
        raise InputError(f"a box is on image {error.args[0]!r}, which the labels do not have") from None
    return image, _numbers(entries, "bbox", 4)


def _column(entries: Sequence[dict[str, Any]], key: str) -> list[Any]:
    try:
        return [entry[key] for entry in entries]
    except KeyError:
        image = next(entry.get("image_id") for entry in entries if key not in entry)
        raise InputError(f"a box on image {image!r} has no {key}; add it") from None


def _numbers(entries: Sequence[dict[str, Any]], key: str, count: int) -> np.ndarray:
    """The values of each entry under `key`: float64 [N, count], all finite."""
    values = _column(entries, key)
    with suppress(TypeError, ValueError, OverflowError):
        numbers = np.array(values, float).reshape(len(values), count)
        if np.isfinite(numbers).all():
            return numbers
    if len(values) > 1:  # find the faulty entry by bisection
        half = len(values) // 2
        return np.concatenate([_numbers(part, key, count) for part in (entries[:half], entries[half:])])
    where = f"a box on image {entries[0].get('image_id')!r}"
    raise InputError(f"{where}: its {key} {values[0]!r} is not {count} finite number{'s'[: count - 1]}; correct it")


def _patients(images: list[dict[str, Any]]) -> tuple[list[Any], np.ndarray]:
    """Sorted patient ids, and the index of each image's patient; an image without patient id counts as a patient."""
    spellings: dict[str, Any] = {}
    for image in images:
        name = image.get("patient_id", "")
        if (other := spellings.setdefault(str(name).strip(), name)) != name:
            raise InputError(f"image {image['id']}: patient_id {name!r} is elsewhere {other!r}; write it in one way")
    without = [image["id"] for image in images if image.get("patient_id") is None]
    if 0 < len(without) < len(images):
        raise InputError(f"image {without[0]!r} has no patient_id, others have; give all images one, or none")
    names = [image["id"] if without else image["patient_id"] for image in images]
    patients = sorted(set(names), key=_sortable)
    index = {name: number for number, name in enumerate(patients)}
    return patients, np.array([index[name] for name in names], np.int64)


def pixel_spacings(images: list[dict[str, Any]]) -> np.ndarray:
    """Pixel spacings [images, 2], row and column, in mm."""
    for image in images:
        if "pixel_spacing_mm" not in image:
            raise InputError(f"image {image['id']} has no pixel_spacing_mm, which distances in mm need")
    return np.array([image["pixel_spacing_mm"] for image in images], float).reshape(-1, 2)


def _check_parameters(iou: float, hit: str, distance_mm: float | None) -> None:
    if not 0 < iou <= 1:
        raise ValueError(f"iou is {iou}; it must be above 0 and at most 1")
    if hit not in ("iou", "centre", "distance"):
        raise ValueError(f"hit is {hit!r}; it must be 'iou', 'centre' or 'distance'")
    if (distance_mm is not None) != (hit == "distance") or (distance_mm is not None and not distance_mm > 0):
        raise ValueError(f"distance_mm is {distance_mm}; hit='distance' needs one above 0, others need none")


def _check_one_category(labels: Labels, detections: Detections) -> None:
    categories = {*_column(labels["annotations"], "category_id"), *_column(detections, "category_id")}
    if len(categories) > 1:
        names = ", ".join(map(repr, sorted(categories, key=_sortable)))
        raise InputError(f"boxes of more than one category ({names}); keep one category in labels and detections")


def _sortable(identity: Any) -> tuple[bool, Any]:
    """Sort key that puts integers before strings, since ids of a COCO file may be either."""
    return isinstance(identity, str), identity
