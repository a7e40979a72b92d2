"""Volumes from images: the slices of a series, stacked, with the ground truth of each."""

from collections import defaultdict
from collections.abc import Hashable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from cmbfe.data.labelled.labels import Labels, xyxy
from cmbfe.errors import InputError
from cmbfe.training.batches import ImageFiles


@dataclass(frozen=True)
class Stack:
    """Consecutive slices of one series, still in their files."""

    files: tuple[Path, ...]
    image_ids: tuple[Hashable, ...]
    boxes: tuple[np.ndarray, ...]
    """float64 [K, 4] xyxy px of each slice's ground truth."""
    spacing_mm: tuple[float, float, float]
    """Slice, row, column."""


@dataclass(frozen=True)
class Volume:
    """The voxels of a stack, and what the stack says of them."""

    voxels: np.ndarray
    """float32 [slices, rows, columns] in [0, 1]."""
    spacing_mm: tuple[float, float, float]
    boxes: tuple[np.ndarray, ...]

    def px(self, millimetres: float) -> float:
        """A length in the plane of the slices in px, by the mean of row and column spacing."""
        return millimetres / float(np.mean(self.spacing_mm[1:]))

    def distances_mm(self, half: int) -> np.ndarray:
        """Distance from the middle of a square of `half` px on each side in a slice: [2 half + 1, 2 half + 1]."""
        row, column = np.mgrid[-half : half + 1, -half : half + 1]
        return np.hypot(row * self.spacing_mm[1], column * self.spacing_mm[2])


def stacks_of(labels: Labels, folder: Path, slice_mm: float) -> list[Stack]:
    """The images of `labels` as stacks of consecutive slices; a gap in `slice_index` begins a new stack.

    Args:
        folder: file names are relative to it.
        slice_mm: distance between slices, which labels do not hold.

    Raises:
        InputError: an image without `patient_id`, `slice_index` or `pixel_spacing_mm`.
    """
    truth, series = defaultdict(list), defaultdict(list)
    for annotation in labels["annotations"]:
        truth[annotation["image_id"]].append(annotation)
    for image in labels["images"]:
        for key in ("patient_id", "slice_index", "pixel_spacing_mm"):
            if key not in image:
                raise InputError(f"image {image['id']} has no {key}, which a volume of slices needs")
        series[str(image["patient_id"]), str(image.get("series_uid"))].append(image)
    return [
        Stack(
            files=tuple(folder / image["file_name"] for image in run),
            image_ids=tuple(image["id"] for image in run),
            boxes=tuple(xyxy(truth[image["id"]]) for image in run),
            spacing_mm=(slice_mm, *map(float, run[0]["pixel_spacing_mm"])),
        )
        for _, images in sorted(series.items())
        for run in _runs(images)
    ]


def read_volume(stack: Stack) -> Volume:
    """Read the images of a stack.

    Raises:
        InputError: an image that cannot be read, or is of another size than the first.
    """
    voxels = ImageFiles(stack.files).decode().astype(np.float32) / 255
    return Volume(voxels, stack.spacing_mm, stack.boxes)


def _runs(images: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Images in the order of their slices, cut where a slice is missing."""
    ordered = sorted(images, key=lambda image: image["slice_index"])
    indices = [image["slice_index"] for image in ordered]
    gaps = [end for end, (index, following) in enumerate(pairwise(indices), 1) if following - index > 1]
    return [ordered[start:end] for start, end in pairwise([0, *gaps, len(ordered)])]
