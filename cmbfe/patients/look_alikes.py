"""Microbleeds and mimics as a reader sees them: crops in shuffled order, with the key in a separate file."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from cmbfe.baselines.candidates import Volume
from cmbfe.data.labelled.images import read_image
from cmbfe.data.labelled.labels import LABELS_FILE, MIMICS_FILE, read_labels
from cmbfe.errors import InputError
from cmbfe.figures.style import crops_figure, cut_out, save
from cmbfe.files import write_json
from cmbfe.metrics.lesions import check_lesion_keys, lesion_of
from cmbfe.metrics.matching import tight_box
from cmbfe.patients.blobs import blob_response

CROP_MM = 24.0
TO_CHOOSE_FROM = 10
"""Number of mimics drawn at random for each mimic that is shown."""


class Crop(NamedTuple):
    """A microbleed or a mimic in the middle of a square of `CROP_MM`."""

    pixels: np.ndarray
    """uint8 [side, side]."""
    kind: str
    """Category in annotations.json or mimics.json."""
    image: str
    """File name."""
    bbox: list[float]
    response: float
    """Largest response of the blob filter in the box; high for a dark dot."""


def draw_crops(folder: Path, count: int = 60, seed: int = 0) -> list[Crop]:
    """Draw as many microbleeds as mimics, at most `count` in total, each on its middle slice, in random order.

    For each microbleed, the mimic with the nearest blob response is chosen from a random sample of mimics.
    These are the mimics that a screening leaves over; most other mimics are fainter.

    Args:
        folder: images with annotations.json and mimics.json.

    Raises:
        InputError: no such labels or images, a missing key, no microbleed or no mimic.
    """
    rng = np.random.default_rng(seed)
    files = (folder / LABELS_FILE, folder / MIMICS_FILE)
    numbers = (count // 2, TO_CHOOSE_FROM * (count // 2))
    shown, mimics = (_drawn(file, number, rng) for file, number in zip(files, numbers, strict=True))
    for crop in shown[: len(mimics)]:
        shown.append(mimics.pop(int(np.argmin([abs(mimic.response - crop.response) for mimic in mimics]))))
    return [shown[number] for number in rng.permutation(len(shown))]


def _drawn(file: Path, number: int, rng: np.random.Generator) -> list[Crop]:
    """Crops of at most `number` microbleeds or mimics of a label file, drawn at random."""
    labels = read_labels(file)
    try:
        check_lesion_keys(labels)
    except InputError as gap:
        raise InputError(f"{file}: {gap}") from None
    if not labels["annotations"]:
        raise InputError(f"{file}: holds no box; crops need microbleeds and mimics")
    images = {image["id"]: image for image in labels["images"]}
    kinds = {category["id"]: category["name"] for category in labels["categories"]}
    lesions = defaultdict(list)
    for box in labels["annotations"]:
        lesions[lesion_of(images[box["image_id"]], box)].append(box)
    by_slice = [sorted(boxes, key=lambda box: images[box["image_id"]]["slice_index"]) for boxes in lesions.values()]
    middles = [boxes[len(boxes) // 2] for boxes in by_slice]
    drawn = [middles[lesion] for lesion in rng.permutation(len(middles))[:number]]
    return [_crop(file.parent, images[box["image_id"]], kinds[box["category_id"]], tight_box(box)) for box in drawn]


def _crop(folder: Path, image: Mapping[str, Any], kind: str, bbox: list[float]) -> Crop:
    row_mm, column_mm = image["pixel_spacing_mm"]
    side = round(2 * CROP_MM / (row_mm + column_mm))
    pixels = cut_out(read_image(folder / image["file_name"]), bbox, side)
    response = blob_response(Volume(pixels[None].astype(np.float32) / 255, (1.0, row_mm, column_mm), ()))[0]
    high, wide = (max(1, int(length / 2)) for length in (bbox[3], bbox[2]))
    middle = response[side // 2 - high : side // 2 + high + 1, side // 2 - wide : side // 2 + wide + 1]
    return Crop(pixels, kind, image["file_name"], bbox, float(middle.max()))


def write_sheet(crops: Sequence[Crop], out: Path) -> Figure:
    """Write numbered crops as `out` (PNG), and the key as JSON beside it."""
    figure = crops_figure([crop.pixels for crop in crops], CROP_MM)
    save(figure, out, svg=False)
    key = [{"number": number, **crop._asdict()} for number, crop in enumerate(crops, 1)]
    for entry in key:
        del entry["pixels"]
    write_json(out.with_suffix(".json"), key)
    return figure
