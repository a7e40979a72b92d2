"""COCO labels of other tools: what lies beyond COCO is checked too, and null is no value."""

from pathlib import Path
from typing import Any

import numpy as np

from cmbfe.data.labelled.labels import Labels, check_labels
from cmbfe.errors import InputError
from cmbfe.files import read_json, within_python

OF_IMAGES = ("patient_id", "series_uid", "sop_instance_uid", "split")
OF_BOXES = ("lesion_id", "location")
REGION_FLAGS = ("iscrowd", "ignore")
LARGEST_PX = 1e9
"""Beyond it lies no image, and areas would leave the range of numbers."""
LARGEST_SLICE = 10**9
LARGEST_SPACING_MM = 1e6


def read_foreign_labels(path: Path | str) -> Labels:
    """Read COCO labels, with what this project takes from them beyond COCO checked as well.

    Ids of patients, series and lesions, splits and locations may be numbers or text; null, NaN and blanks, which other
    tools write for what they do not know, count as a key that is not there. Splits become text.

    Raises:
        InputError: as `read_labels`; such a key with another value, a region flag that is text, or a length that is
            beyond reason.
    """
    where = str(path)
    with within_python(path):
        labels = check_labels(read_json(path), where)
    images = [_cleaned(image, OF_IMAGES, f"{where}: image {image['id']}") for image in labels["images"]]
    boxes = [_cleaned(box, OF_BOXES, f"{where}: annotation {box['id']}") for box in labels["annotations"]]
    for image in images:
        if "split" in image:
            image["split"] = str(image["split"])
        _check_lengths(image, f"{where}: image {image['id']}")
        refuse_half_characters(image["file_name"], f"{where}: image {image['id']}: file_name")
    for box in boxes:
        for flag in REGION_FLAGS:
            if not isinstance(box.get(flag, 0) or 0, int | float):
                raise InputError(f"{where}: annotation {box['id']}: {flag} {box[flag]!r} is neither 0 nor 1")
    return check_labels({**labels, "images": images, "annotations": boxes}, where)


def refuse_half_characters(value: Any, what: str) -> None:
    """Raise `InputError` for text that cannot be written: JSON's escapes may hold one half of a pair of code units."""
    if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        raise InputError(f"{what} {value!r} holds half a character, which is no text")


def _cleaned(entry: dict[str, Any], keys: tuple[str, ...], where: str) -> dict[str, Any]:
    """A copy without those of the keys that hold nothing."""
    kept = {key: value for key, value in entry.items() if key not in keys or not _is_missing(value)}
    for key in keys:
        value = kept.get(key, 0)
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise InputError(f"{where}: {key} {value!r} is neither text nor a number")
        refuse_half_characters(value, f"{where}: {key}")
    return kept


def _is_missing(value: Any) -> bool:
    return (
        value is None
        or (isinstance(value, float) and np.isnan(value))
        or (isinstance(value, str) and not value.strip())
    )


def _check_lengths(image: dict[str, Any], where: str) -> None:
    for key in ("width", "height"):
        if image[key] > LARGEST_PX:
            raise InputError(f"{where}: {key} {image[key]} is beyond {LARGEST_PX:g} px")
    if abs(image.get("slice_index", 0)) > LARGEST_SLICE:
        raise InputError(f"{where}: slice_index {image['slice_index']} is beyond {LARGEST_SLICE}")
    if max(image.get("pixel_spacing_mm", [1])) > LARGEST_SPACING_MM:
        raise InputError(f"{where}: pixel_spacing_mm {image['pixel_spacing_mm']} is beyond {LARGEST_SPACING_MM:g} mm")
