"""Code shared by the baselines: volumes of slices, and candidates in them with boxes and classes.

A candidate is a dark voxel. Its box lies in the slice of the voxel, because detections are two-dimensional, as in SSD.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from skimage.feature import peak_local_max
from sklearn.linear_model import Ridge
from torchvision.ops import batched_nms, box_iou

from cmbfe.data.labelled.labels import Labels, xyxy
from cmbfe.data.sources.writing import SERIES_FILE
from cmbfe.errors import InputError
from cmbfe.files import read_json, within_python
from cmbfe.training.batches import ImageFiles

REACH_MM = 9.0  # radius in which a candidate's background is measured; the largest microbleed is 10 mm wide
CORE_MM = 5.0  # half the width of the largest microbleed; voxels beyond it do not belong to the candidate
LEVELS = (0.2, 0.35, 0.5)  # shares of a candidate's depth below its background, at which its extent is measured
SMOOTH_PX = 0.7  # sigma of the smoothing before the search for the darkest voxel
IOU = 0.5  # a candidate is a microbleed if its box has at least this IoU with a ground-truth box (A14)
UNCLEAR_IOU = 0.1
"""Candidates with an IoU between this and `IOU` are not used for training, because their boxes are wrong."""


@dataclass(frozen=True)
class Stack:
    """Consecutive slices of one series, not yet read from their files."""

    files: tuple[Path, ...]
    image_ids: tuple[Hashable, ...]
    boxes: tuple[np.ndarray, ...]  # float64 [K, 4] xyxy px of each slice's ground truth
    spacing_mm: tuple[float, float, float]  # slice, row, column


@dataclass(frozen=True)
class Volume:
    """The voxels of a stack, with its spacing and ground truth."""

    voxels: np.ndarray  # float32 [slices, rows, columns] in [0, 1]
    spacing_mm: tuple[float, float, float]
    boxes: tuple[np.ndarray, ...]

    def px(self, millimetres: float) -> float:
        """Convert a length in the slice plane to px, by the mean of row and column spacing."""
        return millimetres / float(np.mean(self.spacing_mm[1:]))

    def distances_mm(self, half: int) -> np.ndarray:
        """Distance in mm of each pixel of a square from the square's middle: [2 half + 1, 2 half + 1]."""
        row, column = np.mgrid[-half : half + 1, -half : half + 1]
        return np.hypot(row * self.spacing_mm[1], column * self.spacing_mm[2])


@dataclass(frozen=True)
class Candidates:
    """Candidates of a volume with their scores: the detections of a baseline."""

    slices: np.ndarray  # int64 [N]
    boxes: np.ndarray  # float64 [N, 4] xyxy px
    scores: np.ndarray  # float64 [N] in [0, 1]


def stacks_of(labels: Labels, folder: Path, slice_mm: float | None) -> list[Stack]:
    """The images of `labels` as stacks of consecutive slices; a gap in `slice_index` begins a new stack.

    Args:
        folder: base folder of the file names.
        slice_mm: as in `slice_spacings`.

    Raises:
        InputError: an image lacks `patient_id`, `slice_index` or `pixel_spacing_mm`; or an error of `slice_spacings`.
    """
    truth, series = defaultdict(list), defaultdict(list)
    for annotation in labels["annotations"]:
        truth[annotation["image_id"]].append(annotation)
    for image in labels["images"]:
        for key in ("patient_id", "slice_index", "pixel_spacing_mm"):
            if key not in image:
                raise InputError(f"image {image['id']} has no {key}, which a volume of slices needs")
        series[str(image["patient_id"]), str(image.get("series_uid"))].append(image)
    step_mm = slice_spacings(labels, folder, slice_mm)
    return [
        Stack(
            files=tuple(folder / image["file_name"] for image in run),
            image_ids=tuple(image["id"] for image in run),
            boxes=tuple(xyxy(truth[image["id"]]) for image in run),
            spacing_mm=(step_mm[run[0]["id"]], *map(float, run[0]["pixel_spacing_mm"])),
        )
        for _, images in sorted(series.items())
        for run in _runs(images)
    ]


def slice_spacings(labels: Labels, folder: Path, slice_mm: float | None) -> dict[Hashable, float]:
    """Image id -> distance in mm between the slices of its series: from series.json in `folder`, otherwise `slice_mm`.

    Raises:
        InputError: series.json is damaged, or a distance is unknown or not above 0.
    """
    file, spacings = folder / SERIES_FILE, {}
    with within_python(file):
        places = read_json(file) if file.is_file() else {}
        for image in labels["images"]:
            step = places.get(image.get("series_uid"), {}).get("slice_spacing_mm", slice_mm)
            if not (isinstance(step, int | float) and 0 < step < np.inf):
                where = f"{folder}: the distance between slices of patient {image['patient_id']}"
                raise InputError(f"{where} is {step}; give one above 0 in {SERIES_FILE} or with --slice-mm")
            spacings[image["id"]] = float(step)
    return spacings


def read_volume(stack: Stack) -> Volume:
    """Read the images of a stack. Raises `InputError` if an image is unreadable or differs in size from the first."""
    voxels = ImageFiles(stack.files).decode().astype(np.float32) / 255
    return Volume(voxels, stack.spacing_mm, stack.boxes)


def _runs(images: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Sort images by slice, and split them where a slice is missing."""
    ordered = sorted(images, key=lambda image: image["slice_index"])
    indices = [image["slice_index"] for image in ordered]
    gaps = [end for end, (index, following) in enumerate(pairwise(indices), 1) if following - index > 1]
    return [ordered[start:end] for start, end in pairwise([0, *gaps, len(ordered)])]


def cubes(voxels: np.ndarray, places: np.ndarray, half: tuple[int, int, int]) -> np.ndarray:
    """The neighbourhoods [N, 2 a + 1, 2 b + 1, 2 c + 1] of `places` [N, 3] for `half` (a, b, c); edges are repeated."""
    padded = np.pad(voxels, [(size, size) for size in half], mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, [2 * size + 1 for size in half])
    return windows[tuple(places.T)]


def darkest_near(voxels: np.ndarray, places: np.ndarray, reach_px: int) -> np.ndarray:
    """Move `places` [N, 3] to the darkest voxel within `reach_px` in the smoothed slice; sorted, without duplicates."""
    side = 2 * reach_px + 1
    around = cubes(_smooth(voxels), places, (0, reach_px, reach_px)).reshape(len(places), side * side)
    shift = np.stack(np.unravel_index(around.argmin(axis=1), (1, side, side)), axis=1)
    moved = places + shift - [0, reach_px, reach_px]
    return np.unique(np.clip(moved, 0, np.array(voxels.shape) - 1), axis=0)


def darkest_in(voxels: np.ndarray, label: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """The darkest voxel of each region of `label` in `numbers`, after smoothing of the slices: int64 [N, 3]."""
    places = ndimage.minimum_position(_smooth(voxels), label, numbers) if len(numbers) else []
    return np.array(places, np.int64).reshape(-1, 3)


def _smooth(voxels: np.ndarray) -> np.ndarray:
    return ndimage.gaussian_filter(voxels, (0, SMOOTH_PX, SMOOTH_PX))


def peaks_per_slice(response: np.ndarray, most: int, separation_px: int) -> np.ndarray:
    """The `most` largest local maxima above 0 of each slice, further apart than `separation_px`, best first: [N, 3]."""
    how = {"min_distance": separation_px, "threshold_abs": 0, "exclude_border": False, "num_peaks": most}
    peaks = [peak_local_max(of_slice, **how) for of_slice in response]
    return np.concatenate([np.insert(of_slice, 0, index, axis=1) for index, of_slice in enumerate(peaks)])


def extents(volume: Volume, places: np.ndarray) -> np.ndarray:
    """Extent in px of the dark region around each place [N, 3] to the left, top, right and bottom, at each of `LEVELS`.

    The region is connected to the place by voxels of its slice darker than the level, within `CORE_MM`. Extents are
    float64 [N, 4 * levels], from the middle of the place's voxel to the region's edge.
    """
    if not len(places):
        return np.zeros((0, 4 * len(LEVELS)))
    half = int(np.ceil(volume.px(REACH_MM)))
    patch = cubes(volume.voxels, places, (0, half, half))[:, 0]
    distance = volume.distances_mm(half)
    background = np.median(patch[:, (distance >= CORE_MM) & (distance <= REACH_MM)], axis=1)
    depth = np.maximum(background - patch[:, half, half], 0)
    below = [patch <= (background - level * depth)[:, None, None] for level in LEVELS]
    return np.concatenate([_reach_from_middle(dark & (distance <= CORE_MM)) for dark in below], axis=1)


def _reach_from_middle(mask: np.ndarray) -> np.ndarray:
    """Extent of the middle region of each mask [N, side, side] to the left, top, right and bottom: float64 [N, 4]."""
    half = mask.shape[1] // 2
    middle = np.zeros_like(mask)
    middle[:, half, half] = True
    cross = ndimage.generate_binary_structure(2, 1)[None]
    region = ndimage.binary_dilation(middle, cross, iterations=-1, mask=mask | middle)
    columns, rows = region.any(axis=1), region.any(axis=2)
    before = [half - side.argmax(axis=1) for side in (columns, rows)]
    after = [half - side[:, ::-1].argmax(axis=1) for side in (columns, rows)]
    return np.stack([*before, *after], axis=1) + 0.5


def fit_boxes(volumes: Iterable[Volume]) -> Ridge:
    """Fit a regression from `extents` to the sides of training boxes. Raises `InputError` without ground truth."""
    measured, wanted = [], []
    for volume in volumes:
        places, boxes = true_places(volume)
        measured.append(extents(volume, places))
        middle = places[:, [2, 1]] + 0.5
        wanted.append(np.concatenate([middle - boxes[:, :2], boxes[:, 2:] - middle], axis=1))
    if not sum(map(len, wanted)):
        raise InputError("the training patients have no microbleed: there is nothing to learn from")
    return Ridge(alpha=1.0).fit(np.concatenate(measured), np.concatenate(wanted))


def true_places(volume: Volume) -> tuple[np.ndarray, np.ndarray]:
    """The darkest voxel (smoothed) of each ground-truth box, int64 [K, 3], and the boxes, float64 [K, 4] xyxy px."""
    smooth, places = _smooth(volume.voxels), []
    for index, boxes in enumerate(volume.boxes):
        for (left, top), (right, bottom) in zip(
            boxes[:, :2].astype(int), np.ceil(boxes[:, 2:]).astype(int), strict=True
        ):
            inside = smooth[index, top : max(bottom, top + 1), left : max(right, left + 1)]
            row, column = np.unravel_index(inside.argmin(), inside.shape)
            places.append((index, top + row, left + column))
    return np.array(places, np.int64).reshape(-1, 3), np.concatenate([np.zeros((0, 4)), *volume.boxes])


def boxes_around(model: Ridge, volume: Volume, places: np.ndarray) -> np.ndarray:
    """Boxes float64 [N, 4] xyxy px around places [N, 3], inside the image and at least a pixel wide."""
    if not len(places):
        return np.zeros((0, 4))
    sides = np.maximum(model.predict(extents(volume, places)), 0.5)
    middle = places[:, [2, 1]] + 0.5
    rows, columns = volume.voxels.shape[1:]
    corners = np.concatenate([middle - sides[:, :2], middle + sides[:, 2:]], axis=1)
    return corners.clip(0, [columns, rows, columns, rows])


def classes(volume: Volume, slices: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Class of each candidate, int64 [N]: 1 microbleed, 0 no microbleed, -1 unclear (see `UNCLEAR_IOU`)."""
    best = np.zeros(len(boxes))
    for index in np.unique(slices):
        truth, here = volume.boxes[index], slices == index
        if len(truth):
            best[here] = box_iou(torch.from_numpy(boxes[here]), torch.from_numpy(truth)).amax(dim=1).numpy()
    return np.where(best >= IOU, 1, np.where(best > UNCLEAR_IOU, -1, 0))


def train_on_features(
    volumes: Callable[[], Iterable[Volume]],
    describe: Callable[[Volume], tuple[np.ndarray, np.ndarray]],
    fit: Callable[[np.ndarray, np.ndarray], Callable[[np.ndarray], np.ndarray]],
) -> Callable[[Volume], Candidates]:
    """Fit a box model and a classifier of candidates to training volumes, and return a detector for volumes.

    Args:
        volumes: yields the training volumes again at each call, so that only one volume is in memory at a time.
        describe: returns the candidates of a volume, voxels [N, 3], and their features, float64 [N, F].
        fit: trains on features and their `classes`, and returns a function from features to scores, float64 [N].

    Raises:
        InputError: no volume has ground truth, or all candidates are of one class.
    """
    box_model, features, microbleed = labelled_candidates(volumes, describe)
    check_both_kinds((microbleed == 1).sum(), (microbleed == 0).sum())
    score = fit(features, microbleed)

    def detect(volume: Volume) -> Candidates:
        places, features = describe(volume)
        scores = score(features) if len(places) else np.zeros(0)
        return Candidates(places[:, 0], boxes_around(box_model, volume, places), scores)

    return detect


def labelled_candidates(
    volumes: Callable[[], Iterable[Volume]], describe: Callable[[Volume], tuple[np.ndarray, np.ndarray]]
) -> tuple[Ridge, np.ndarray, np.ndarray]:
    """The box model that `fit_boxes` learns, and features [N, F] and `classes` [N] of all candidates of the volumes."""
    box_model = fit_boxes(volumes())
    examples, known = [], []
    for volume in volumes():
        places, features = describe(volume)
        examples.append(features)
        known.append(classes(volume, places[:, 0], boxes_around(box_model, volume, places)))
    return box_model, np.concatenate(examples), np.concatenate(known)


def check_both_kinds(hits: int, others: int) -> None:
    """Raise `InputError` unless training candidates include microbleeds and others: a classifier needs both."""
    if not hits or not others:
        raise InputError(
            f"of the candidates in the training patients {hits} are microbleeds and {others} are not: both kinds are "
            "needed to learn from; change the section baselines of params.yaml, or give more patients"
        )


def best_of_each_slice(candidates: Candidates, nms_iou: float, most: int) -> Candidates:
    """Apply non-maximum suppression at `nms_iou` in each slice, and keep the `most` best candidates of each slice."""
    slices, boxes, scores = candidates.slices, candidates.boxes, candidates.scores
    kept = batched_nms(*map(torch.from_numpy, (boxes, scores, slices)), nms_iou).numpy()
    kept = kept[np.lexsort((-scores[kept], slices[kept]))]
    kept = kept[np.arange(len(kept)) - np.searchsorted(slices[kept], slices[kept]) < most]
    return Candidates(slices[kept], boxes[kept], scores[kept])
